"""Read the facts of a ColBERT folder, in the layout of any of four libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tessera_onnx.errors import LoadError
from tessera_onnx.models.foreign import colbert_roles, prompts, tokenizer_file
from tessera_onnx.models.foreign.colbert_roles import MASK, METADATA, PLAID, Roles, Said
from tessera_onnx.models.foreign.files import (
    MODULES,
    SETTINGS,
    class_of,
    module_folder,
    read_list,
    read_table,
)
from tessera_onnx.models.foreign.tokenizer_file import TokenizerFile
from tessera_onnx.models.spec import MultiVector, TokenRole

TOKENS = "token_embeddings"
# Keys by which sentence-transformers knows an older config_sentence_transformers.json of PyLate's
# (sentence_transformers/multi_vector_encoder/model.py, _parse_model_config).
PYLATE = {
    "query_prefix", "document_prefix", "do_query_expansion", "attend_to_expansion_tokens",
    "attend_to_mask_tokens",
}  # fmt: skip
Layout = Literal["stanford", "own", "pylate", "plaid"]


def layout(folder: Path) -> Layout | None:
    """Whose layout a ColBERT folder has; None for another folder.

    next-plaid's own onnx_config.json counts only where no other file says how tokens are used.
    """
    settings = read_table(folder / SETTINGS)
    if read_table(folder / METADATA):
        return "stanford"
    if settings.get("model_type") == "MultiVectorEncoder":
        return "own"
    if settings.get("model_type") == "ColBERT" or PYLATE & set(settings):
        return "pylate"
    plaid = read_table(folder / PLAID)
    return "plaid" if {"query_prefix", "query_length", "embedding_dim"} & set(plaid) else None


def read_roles(
    folder: Path,
    tokenizer: TokenizerFile,
    said: Said,
    found: Layout | None,
    sources: dict[str, str] | None = None,
    *,
    ask: bool = False,
) -> Roles:
    """How the texts of a ColBERT folder of the layout `found` are read.

    `ask` as in `prompts.read`. Raises LoadError for a folder in no such layout: nothing there says
    how its tokens are used.
    """
    metadata = read_table(folder / METADATA)
    settings = read_table(folder / SETTINGS)
    # Upstream takes no other name than "document" here.
    before = prompts.read(folder, said.query_prompt, said.document_prompt, ("document",), ask=ask)
    if metadata and (before.default is not None or any((settings.get("prompts") or {}).values())):
        raise LoadError(
            f"{folder} has Stanford's {METADATA}, whose queries and documents have markers "
            f"and no prompts, and prompts in {SETTINGS}: remove one of the two",
            path=str(folder / METADATA),
        )
    if found == "stanford":
        roles, file = colbert_roles.stanford(metadata, tokenizer, said, before), METADATA
    elif found == "own":
        roles, file = (
            colbert_roles.own(folder, tokenizer, said, before),
            tokenizer_file.TRANSFORMER[0],
        )
    elif found == "pylate":
        roles, file = colbert_roles.pylate(settings, tokenizer, said, before), SETTINGS
    elif found == "plaid":
        roles, file = colbert_roles.plaid(read_table(folder / PLAID), tokenizer, said), PLAID
    else:
        raise LoadError(
            f"{folder} does not say how its token vectors are used: it has neither Stanford's "
            f"{METADATA} nor, in {SETTINGS}, PyLate's query_prefix or the model_type "
            "MultiVectorEncoder",
            path=str(folder),
        )
    names = ("query_length", "document_length", "max_length")
    for role, what in zip(roles[:3], names, strict=True):
        if isinstance(role, TokenRole):
            tokenizer_file.check_length(role.max_length, what, tokenizer.text.max_positions)
    if roles.query.expansion != "none" and roles.fill is None and tokenizer.text.mask_id < 0:
        raise LoadError(
            "the queries are expanded but the tokenizer names no mask token", path=str(folder)
        )
    if sources is not None:
        keys = {
            "own": ("query_length", "document_length", "query_expansion"),
            "stanford": ("query_maxlen", "doc_maxlen", "attend_to_mask_tokens"),
        }
        default = ("query_length", "document_length", "do_query_expansion")
        query, document, expansion = keys.get(found, default)
        sources["multi_vector.query.max_length"] = f"{file}: {query}"
        sources["multi_vector.document.max_length"] = f"{file}: {document}"
        sources["multi_vector.query.expansion"] = f"{file}: {expansion}"
    return roles


def recipe(
    folder: Path, roles: Roles, dimension: int, sources: dict[str, str] | None = None
) -> MultiVector:
    """The recipe of token vectors of `dimension` numbers."""
    name = read_table(folder / SETTINGS).get("similarity_fn_name")
    if sources is not None and name is not None:
        sources["multi_vector.score"] = f"{SETTINGS}: similarity_fn_name"
    return MultiVector(
        output="",
        drop_first=False,
        dimension=dimension,
        matryoshka=(),
        score="mean" if name == "meanmaxsim" else "sum",
        query=roles.query,
        document=roles.document,
        plain=None if roles.plain == roles.document else roles.plain,
    )


def check_dimension(folder: Path, dimension: int) -> None:
    """Raises LoadError where artifact.metadata or onnx_config.json says another dimension."""
    for name, key in ((METADATA, "dim"), (PLAID, "embedding_dim")):
        said = read_table(folder / name).get(key, dimension)
        if said != dimension:
            raise LoadError(
                f"{name} says {key} {said!s:.40}, linear.weight gives {dimension}",
                path=str(folder / name),
            )


def dense_modules(folder: Path, found: Layout) -> list[dict[str, Any]]:
    """The Dense modules after the Transformer, of a folder that sentence-transformers reads.

    Raises LoadError for a list of modules that is not computed here.
    """
    modules = read_list(folder / MODULES)
    kinds = [class_of(module) for module in modules]
    if found == "pylate" and {"Normalize", MASK} & set(kinds):
        found = "own"  # PyLate 4 lists all of its modules
    if found == "pylate":
        whole = kinds[:1] == ["Transformer"] and kinds[1:] == ["Dense"] * (len(kinds) - 1)
        if not whole or len(kinds) < 2:
            raise LoadError(
                f"{folder / MODULES} lists {kinds or 'nothing'!s:.300}; "
                "a PyLate model is one Transformer and then Dense modules",
                path=str(folder / MODULES),
            )
        return modules[1:]
    dense = modules[1:-2]
    # Rows are scaled one by one, so that they may be left out before or after.
    first, last = ["Transformer", *["Dense"] * len(dense)], ["Normalize", MASK]
    if kinds not in (first + last, first + last[::-1]):
        raise LoadError(
            f"{folder / MODULES} lists {kinds or 'nothing'!s:.300}; a MultiVectorEncoder is one "
            "Transformer, then Dense modules, and last Normalize and MultiVectorMask",
            path=str(folder / MODULES),
        )
    for module in modules[1:]:
        if class_of(module) == MASK:
            continue
        path = module_folder(folder, module) / "config.json"
        config = read_table(path)
        # Dense modules of older saves do not name their input, which is then the tokens.
        named = config.get("module_input_name", TOKENS if class_of(module) == "Dense" else None)
        if named != TOKENS or config.get("module_output_name") not in (None, TOKENS):
            raise LoadError(
                f"{module.get('path')!s:.100} does not work on token_embeddings", path=str(path)
            )
    return dense
