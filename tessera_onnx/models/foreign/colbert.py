"""Read the facts of a ColBERT folder: Stanford's, PyLate's or sentence-transformers' layout."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tessera_onnx.errors import LoadError
from tessera_onnx.models.foreign.files import SETTINGS, Weights, class_of, module_folder, read_list, read_table
from tessera_onnx.models.foreign import layers, prompts, tokenizer_file
from tessera_onnx.models.foreign.layers import Layer
from tessera_onnx.models.foreign.prompts import Prompts
from tessera_onnx.models.foreign.tokenizer_file import TokenizerFile
from tessera_onnx.models.spec import MultiVector, TokenRole

OUTPUT = "token_embeddings"
MASK = "MultiVectorMask"
Expansion = Literal["none", "unattended", "attended"]


class Said(NamedTuple):
    """What the caller says in place of the folder; None = ask the folder."""

    query_length: int | None
    document_length: int | None
    query_prompt: str | None
    document_prompt: str | None


class Roles(NamedTuple):
    """How a query, a document and a text of neither role are read; None = as a document."""

    query: TokenRole
    document: TokenRole
    plain: TokenRole | None


def read(
    folder: Path,
    weights: Weights,
    tokenizer: TokenizerFile,
    config: dict[str, Any],
    *,
    said: Said,
) -> tuple[MultiVector, tuple[Layer, ...]]:
    """The recipe of a ColBERT folder and the layers on its token vectors.

    Raises LoadError for a folder in no such layout: nothing there says how its tokens are used.
    """
    metadata = read_table(folder / "artifact.metadata")
    settings = read_table(folder / SETTINGS)
    # Upstream takes no other name than "document" here.
    before = prompts.read(folder, said.query_prompt, said.document_prompt, ("document",))
    stack: tuple[Layer, ...]
    if metadata and (before.default is not None or any((settings.get("prompts") or {}).values())):
        raise LoadError(
            f"{folder} has Stanford's artifact.metadata, whose queries and documents have markers "
            f"and no prompts, and prompts in {SETTINGS}: remove one of the two"
        )
    if metadata:
        stack = (layers.stanford_layer(weights),)
        roles = _stanford(metadata, tokenizer, said, before)
    elif settings.get("model_type") == "MultiVectorEncoder":
        stack = _own_layers(folder)
        roles = _own(folder, tokenizer, said, before)
    elif "query_prefix" in settings or settings.get("model_type") == "ColBERT":
        stack = _pylate_layers(folder)
        roles = _pylate(folder, settings, tokenizer, said, before)
    else:
        raise LoadError(
            f"{folder} does not say how its token vectors are used: it has neither Stanford's "
            "artifact.metadata nor, in config_sentence_transformers.json, PyLate's query_prefix or "
            "the model_type MultiVectorEncoder"
        )
    for role, what in zip(roles, ("query_length", "document_length", "max_length"), strict=True):
        if role is not None:
            tokenizer_file.check_length(role.max_length, what, tokenizer.text.max_positions)
    recipe = MultiVector(
        output=OUTPUT,
        drop_first=False,
        dimension=layers.width(stack, layers.hidden_size(config)),
        matryoshka=(),
        score="mean" if settings.get("similarity_fn_name") == "meanmaxsim" else "sum",
        query=roles.query,
        document=roles.document,
        plain=None if roles.plain == roles.document else roles.plain,
    )
    if metadata.get("dim", recipe.dimension) != recipe.dimension:
        raise LoadError(
            f"artifact.metadata says dim {metadata['dim']}, linear.weight gives {recipe.dimension}"
        )
    if roles.query.expansion != "none" and tokenizer.text.mask_id < 0:
        raise LoadError("the queries are expanded but the tokenizer names no mask token")
    return recipe, stack


def _stanford(
    metadata: dict[str, Any], tokenizer: TokenizerFile, said: Said, before: Prompts
) -> Roles:
    # Where a key is absent its default stands in colbert/infra/config/settings.py; doc_maxlen
    # alone has no default here, because 220 there contradicts the 180 that PyLate takes.
    for key, only in (("similarity", "cosine"), ("interaction", "colbert")):
        if metadata.get(key, only) != only:
            raise LoadError(
                f"artifact.metadata has {key} {metadata[key]!r}, known is only {only}"
            )
    length = metadata.get("doc_maxlen") if said.document_length is None else said.document_length
    if length is None:
        raise LoadError("document_length is missing: artifact.metadata has no doc_maxlen")
    attend = bool(metadata.get("attend_to_mask_tokens", False))
    skip: set[int] = set()
    if metadata.get("mask_punctuation", True):
        # The first id of what the symbol becomes as a text, as colbert/modeling/colbert.py does.
        skip = {tokenizer.ids(symbol)[0] for symbol in string.punctuation}
    query_token = metadata.get("query_token_id") or "[unused0]"
    document_token = metadata.get("doc_token_id") or "[unused1]"
    query = TokenRole(
        prompt=before.query,
        max_length=_length(said.query_length, metadata, "query_maxlen", 32),
        marker_ids=(tokenizer.id_of(query_token, "query_token_id"),),
        expansion="attended" if attend else "unattended",
        skip_ids=(),
    )
    document = TokenRole(
        prompt=before.document,
        max_length=int(length),
        marker_ids=(tokenizer.id_of(document_token, "doc_token_id"),),
        expansion="none",
        skip_ids=tuple(sorted(skip)),
    )
    return Roles(query, document, None)


def _pylate(
    folder: Path,
    settings: dict[str, Any],
    tokenizer: TokenizerFile,
    said: Said,
    before: Prompts,
) -> Roles:
    # Absent keys: pylate/models/colbert.py takes "[Q] ", "[D] ", 32, 180, expansion, no attention
    # to it, and string.punctuation.
    expand = _default(settings, "do_query_expansion", default=True)
    attend = _default(settings, "attend_to_expansion_tokens", default=False)
    expansion: Expansion = "none" if not expand else "attended" if attend else "unattended"
    words = _default(settings, "skiplist_words", list(string.punctuation))
    query = TokenRole(
        prompt=before.query,
        max_length=_length(said.query_length, settings, "query_length", 32),
        marker_ids=_marker(_default(settings, "query_prefix", "[Q] "), tokenizer),
        expansion=expansion,
        skip_ids=(),
    )
    document = TokenRole(
        prompt=before.document,
        max_length=_length(said.document_length, settings, "document_length", 180),
        marker_ids=_marker(_default(settings, "document_prefix", "[D] "), tokenizer),
        expansion="none",
        skip_ids=_skip_ids(words, tokenizer),
    )
    # sentence-transformers makes the marker a part of the prompt of that name.
    markers = {"query": query.marker_ids, "document": document.marker_ids}
    plain = _plain(folder, tokenizer, said, before, document.skip_ids)
    if plain is not None:
        plain = replace(plain, marker_ids=markers.get(before.name, ()))
    return Roles(query, document, plain)


def _plain(
    folder: Path,
    tokenizer: TokenizerFile,
    said: Said,
    before: Prompts,
    skipped: tuple[int, ...],
) -> TokenRole | None:
    """A text of neither role, as sentence-transformers reads it: a document, but of the length of
    the Transformer module, and after the prompt of default_prompt_name.
    """
    if before.default is None:
        return None
    length = tokenizer_file.max_length(folder, said.document_length, tokenizer.text.max_positions)
    return TokenRole(before.default, length, (), "none", skipped)


def _own(folder: Path, tokenizer: TokenizerFile, said: Said, before: Prompts) -> Roles:
    """Roles of sentence_transformers' MultiVectorEncoder, whose markers are prompts."""
    transformer = read_table(folder / "sentence_bert_config.json")
    expansion: Expansion = "none"
    query_length = said.query_length
    wanted = transformer.get("query_expansion")
    if wanted is not None:
        token = wanted.get("token")
        if wanted.get("strategy") != "fixed" or (
            token is not None
            and tokenizer.id_of(token, "query_expansion") != tokenizer.text.mask_id
        ):
            raise LoadError(
                f"query_expansion is {wanted}; known is mask tokens to a fixed length"
            )
        expansion = "attended" if wanted.get("attend") else "unattended"
        query_length = wanted["length"] if query_length is None else query_length
    (masking,) = (m for m in _modules(folder) if class_of(m) == MASK)
    mask = read_table(module_folder(folder, masking) / "config.json")
    if mask.get("keep_only_token_ids"):
        raise LoadError("MultiVectorMask keeps some token ids only, which is for images")
    skipped = _skip_ids(mask.get("skiplist_words") or [], tokenizer)
    tasks = _default(mask, "skiplist_tasks", ["document"])
    if "query" in tasks and skipped and expansion != "none":
        raise LoadError("skiplist_tasks names queries, whose expansion is kept whole here")

    def role(name: str, prompt: str, length: int | None, expansion: Expansion) -> TokenRole:
        length = transformer.get(f"{name}_length") if length is None else length
        return TokenRole(
            prompt=prompt,
            max_length=tokenizer_file.max_length(folder, length, tokenizer.text.max_positions),
            marker_ids=(),
            expansion=expansion,
            skip_ids=skipped if name in tasks else (),
        )

    query = role("query", before.query, query_length, expansion)
    document = role("document", before.document, said.document_length, "none")
    return Roles(query, document, _plain(folder, tokenizer, said, before, document.skip_ids))


def _skip_ids(words: list[str], tokenizer: TokenizerFile) -> tuple[int, ...]:
    # A word that is no token is dropped, as sentence-transformers' MultiVectorMask does; PyLate
    # would put the unknown token in its place and lose every real unknown token.
    found = {tokenizer.tokenizer.token_to_id(word) for word in words}
    return tuple(sorted(number for number in found if number is not None))


def _default(settings: dict[str, Any], key: str, default: Any) -> Any:
    value = settings.get(key)
    return default if value is None else value  # PyLate reads null as absent


def _length(wanted: int | None, settings: dict[str, Any], key: str, default: int) -> int:
    return int(_default(settings, key, default)) if wanted is None else wanted


def _marker(prefix: str, tokenizer: TokenizerFile) -> tuple[int, ...]:
    # PyLate would add a token that is not there, with a random row: no export can reproduce that.
    return (tokenizer.id_of(prefix, "the marker"),) if prefix else ()


def _modules(folder: Path) -> list[dict[str, Any]]:
    return read_list(folder / "modules.json")


def _pylate_layers(folder: Path) -> tuple[Layer, ...]:
    modules = _modules(folder)
    kinds = [class_of(module) for module in modules]
    if kinds[:1] != ["Transformer"] or kinds[1:] != ["Dense"] * (len(kinds) - 1) or len(kinds) < 2:
        raise LoadError(
            f"{folder / 'modules.json'} lists {kinds or 'nothing'}; "
            "a PyLate model is one Transformer and then Dense modules"
        )
    return tuple(layers.dense_layer(folder, module) for module in modules[1:])


def _own_layers(folder: Path) -> tuple[Layer, ...]:
    modules = _modules(folder)
    kinds = [class_of(module) for module in modules]
    dense = modules[1:-2]
    # Rows are scaled one by one, so that they may be left out before or after.
    first, last = ["Transformer", *["Dense"] * len(dense)], ["Normalize", MASK]
    if kinds not in (first + last, first + last[::-1]):
        raise LoadError(
            f"{folder / 'modules.json'} lists {kinds or 'nothing'}; a MultiVectorEncoder is one "
            "Transformer, then Dense modules, and last Normalize and MultiVectorMask"
        )
    for module in modules[1:]:
        if class_of(module) == MASK:
            continue
        config = read_table(module_folder(folder, module) / "config.json")
        if config.get("module_input_name") != "token_embeddings":
            raise LoadError(f"{module.get('path')} does not work on token_embeddings")
    return tuple(layers.dense_layer(folder, module) for module in dense)
