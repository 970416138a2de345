"""Read folders of static models: model2vec's, and sentence-transformers' StaticEmbedding.

Both libraries open the same folders and make other vectors of them. The folder says whose recipe it
is: model2vec saves config.json and the tensor "embeddings"; sentence-transformers saves
"embedding.weight". Sources: model2vec/model.py, model2vec/persistence/persistence.py (0.10);
sentence_transformers/sentence_transformer/modules/static_embedding.py (6.2).
"""

from __future__ import annotations

import json
import statistics
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tessera_onnx.errors import ConfigError, LoadError
from tessera_onnx.models.foreign import card, dense, layers, prompts, transformer
from tessera_onnx.models.foreign.files import (
    MODULES,
    SETTINGS,
    Weights,
    class_of,
    headers,
    is_file,
    module_folder,
    no_weights,
    read_json,
    read_list,
    read_table,
)
from tessera_onnx.models.foreign.found import NotHere
from tessera_onnx.models.rules import MAX_LENGTH
from tessera_onnx.models.spec import (
    UNPINNED,
    Dense,
    File,
    Kind,
    ModelSpec,
    Module,
    Role,
    Similarity,
    Static,
    TokenizerSpec,
)

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
STATIC = "StaticEmbedding"
MODEL2VEC, TORCH = "embeddings", "embedding.weight"  # the table's tensor, as each library names it
CUT = 512  # tokens that model2vec reads where config.json has no max_length
# Keys that model2vec writes to config.json, and no encoder has.
KEYS = {"embedding_dtype", "vocabulary_quantization"}


@dataclass(frozen=True, slots=True)
class _Found:
    """A folder of a static model that is being read."""

    folder: Path
    sizes: Mapping[str, int]
    place: Path  # of the table and the tokenizer
    modules: list[dict[str, Any]]
    weights: Weights
    config: dict[str, Any]
    settings: dict[str, Any]
    tokenizer: Tokenizer
    truncation: Any  # of tokenizer.json

    @property
    def is_model2vec(self) -> bool:
        """Whether model2vec's recipe makes the vectors."""
        return MODEL2VEC in self.weights.shapes and is_file(self.folder / CONFIG)

    def name(self, file: str) -> str:
        """The name of a file beside the table, inside the folder."""
        return (self.place / file).relative_to(self.folder).as_posix()

    def error(self, path: Path, message: str) -> LoadError:
        """An error about a file."""
        return LoadError(f"{path} {message}", path=str(path))


def is_static(folder: Path) -> bool:
    """Whether a folder without model.toml holds a static model. Raises LoadError for bad JSON."""
    modules = read_list(folder / MODULES)
    if modules:
        return class_of(modules[0]) == STATIC
    config = read_table(folder / CONFIG)
    named = config.get("model_type") == "model2vec" or config.get("architectures") == [
        "StaticModel"
    ]
    return named or (bool(KEYS & set(config)) and "architectures" not in config)


def may_be_static(names: Collection[str]) -> bool:
    """Whether a repository of files of these names may hold a static model, graphs aside."""
    tables = {name.removesuffix(WEIGHTS) for name in names if name.endswith(WEIGHTS)}
    known = {"", f"0_{STATIC}/"} & tables
    return any(f"{place}{TOKENIZER}" in names for place in known) and not any(
        name.startswith("1_Pooling/") for name in names
    )


def read(
    folder: Path, sizes: Mapping[str, int], kind: Kind | None, *, file: object, pooling: object
) -> tuple[ModelSpec, dict[str, str]]:
    """The facts of a static model, and where each comes from.

    Raises LoadError for facts that are missing, contradictory or not computed here; ConfigError for
    an argument that is about graphs.
    """
    for option, value in (("file", file), ("pooling", pooling)):
        if value is not None:
            raise ConfigError(
                f"{option}= is for models with a graph, and {folder} holds a table of token "
                f"vectors: leave {option} out"
            )
    if kind not in (None, "dense"):
        raise LoadError(f"{folder} is a model of kind dense, not {kind}", path=str(folder))
    found = _find(folder, sizes)
    sources: dict[str, str] = {}
    table = _table(found, sources)
    text = TokenizerSpec(
        tokenizer=found.name(TOKENIZER),
        lowercase=False,
        prefix_ids=(),
        suffix_ids=(),
        pad_id=0,
        mask_id=-1,
        max_positions=MAX_LENGTH,
        fixed_length=0,
    )
    spec = ModelSpec(
        id="model",  # the reader's
        aliases=(),
        kinds=("dense",),
        source="",
        revision=UNPINNED,
        licence=card.licence(folder) or "unknown",
        unverified=(),
        files=tuple(
            File(name, UNPINNED, sizes.get(name, -1)) for name in (table.file, text.tokenizer)
        ),
        hub=None,
        graph=None,
        text=text,
        dense=_dense(found, table, sources),
        multi_vector=None,
        sparse=None,
        vision=None,
        time_series=None,
        export=None,
        static=table,
    )
    return spec, sources


def _find(folder: Path, sizes: Mapping[str, int]) -> _Found:
    modules = read_list(folder / MODULES)
    layers.check_types(folder, modules)
    transformer.check_requirements(folder)
    place = module_folder(folder, modules[0]) if modules else folder
    for name in (WEIGHTS, TOKENIZER):
        listed = (place / name).relative_to(folder).as_posix()
        if listed not in sizes:
            pickled = (place / "pytorch_model.bin").relative_to(folder).as_posix() in sizes
            raise LoadError(
                no_weights(place, name, pickled=pickled and name == WEIGHTS),
                path=str(place / name),
            )
    if not is_file(place / WEIGHTS):
        path = place / WEIGHTS
        raise NotHere(
            f"{path} tells the size of the vectors and is not downloaded yet: `tessera pull` "
            "fetches it",
            name=path.relative_to(folder).as_posix(),
            path=str(path),
        )
    document = read_json(place / TOKENIZER)
    if not isinstance(document, dict):
        raise LoadError(f"{place / TOKENIZER} must hold a JSON object", path=str(place / TOKENIZER))
    try:
        tokenizer = Tokenizer.from_str(json.dumps(document))
    except Exception as error:  # tokenizers raises bare Exception from Rust
        raise LoadError(
            f"{place / TOKENIZER} is not a tokenizer that `tokenizers` reads: {error}",
            path=str(place / TOKENIZER),
        ) from error
    return _Found(
        folder,
        sizes,
        place,
        modules,
        headers([place / WEIGHTS]),
        read_table(folder / CONFIG),
        read_table(folder / SETTINGS),
        tokenizer,
        document.get("truncation"),
    )


def _table(found: _Found, sources: dict[str, str]) -> Static:
    """The table and how it is read. Raises LoadError for one that the library refuses as well."""
    shapes, path = found.weights.shapes, found.place / WEIGHTS
    name = MODEL2VEC if found.is_model2vec or TORCH not in shapes else TORCH
    if len(shapes.get(name, ())) != 2:
        raise found.error(path, f"has no matrix {MODEL2VEC!r} or {TORCH!r}, a static model's table")
    extra = {"weights", "mapping"} & set(shapes) if name == MODEL2VEC else set()
    if not found.is_model2vec and found.weights.dtypes[name] == "I8" and "weights" not in extra:
        raise found.error(
            path, f"has {name!r} in int8, which sentence-transformers does not average"
        )
    sources["static.rows"] = f"{found.name(WEIGHTS)}: {name}"
    drop: tuple[int, ...] = ()
    characters = 0
    if found.is_model2vec:
        drop = _unknown(found.tokenizer)
        sources["static.drop_ids"] = f"{found.name(TOKENIZER)}: model.unk_token"
        vocabulary = found.tokenizer.get_vocab(with_added_tokens=True)
        characters = int(statistics.median(map(len, vocabulary))) if vocabulary else 0
        sources["static.characters_per_token"] = f"{found.name(TOKENIZER)}: median of model.vocab"
        if "mapping" not in extra and shapes[name][0] != len(vocabulary):
            raise found.error(
                path,
                f"has {shapes[name][0]} rows for the {len(vocabulary)} tokens of {TOKENIZER}, and "
                "no mapping: model2vec refuses it too, since the rows of tokens are unknown",
            )
        if characters < 1:
            raise found.error(found.place / TOKENIZER, "has tokens of no characters")
    return Static(
        file=found.name(WEIGHTS),
        rows=name,
        weights="weights" if "weights" in extra else "",
        mapping="mapping" if "mapping" in extra else "",
        drop_ids=drop,
        characters_per_token=characters,
    )


def _unknown(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The id that stands for what the vocabulary lacks, as model2vec finds it; () without one."""
    model = json.loads(tokenizer.to_str())["model"]
    if model["type"] == "Unigram":  # by number, whatever token has that number
        number = model.get("unk_id")
    else:
        token = model.get("unk_token")
        number = None if token is None else tokenizer.token_to_id(token)
    return () if number is None else (int(number),)


def _dense(found: _Found, table: Static, sources: dict[str, str]) -> Dense:
    """The recipe of the vector."""
    width = found.weights.shapes[table.rows][1]
    modules = _modules(found, width, sources)
    length = _length(found, sources)
    said = prompts.read(found.folder)
    if found.is_model2vec and (said.any or found.settings.get("truncate_dim") is not None):
        raise found.error(
            found.folder / SETTINGS,
            "has prompts or a truncate_dim, which model2vec does not follow, and config.json makes "
            "this a model of model2vec: remove the one or the other",
        )
    plain = None if said.default in (None, said.document) else Role(said.default or "", length)
    sources.update({f"dense.{role}.prompt": source for role, source in said.keys.items()})
    sources["dense.dimension"] = sources["static.rows"]
    return Dense(
        output="",
        pooling="graph",
        dimension=modules[-1].dimension if modules else width,
        matryoshka=(),
        matryoshka_layer_norm=False,
        tasks=said.tasks,
        query=Role(said.query, length),
        document=Role(said.document, length),
        plain=plain,
        modules=modules,
        similarity=_similarity(found),
    )


def _modules(found: _Found, width: int, sources: dict[str, str]) -> tuple[Module, ...] | None:
    """The steps after the mean; None = L2 alone."""
    if found.is_model2vec:
        wanted = found.config.get("normalize", False)
        sources["dense.modules"] = f"{CONFIG}: normalize"
        if wanted not in (True, False, None):
            raise found.error(
                found.folder / CONFIG, f"has normalize {wanted!r:.40}, expected true or false"
            )
    else:
        names = [class_of(module) for module in found.modules[1:]]
        sources["dense.modules"] = MODULES
        unknown = next((name for name in names if name != "Normalize"), None)
        if unknown is not None:
            raise found.error(
                found.folder / MODULES,
                f"lists {unknown:.80} after {STATIC}; only Normalize is computed there",
            )
        wanted = bool(names)
    size = found.settings.get("truncate_dim")
    if size is None:
        return None if wanted else ()
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= width:
        raise found.error(
            found.folder / SETTINGS, f"has the truncate_dim {size!r:.40}, not in 1..{width}"
        )
    unit = (Module("normalize", "", "identity", residual=False, dimension=width),)
    cut = Module("truncate", "", "identity", residual=False, dimension=size)
    return (*(unit if wanted else ()), cut)


def _length(found: _Found, sources: dict[str, str]) -> int:
    """The tokens that are read of a text: what the library cuts at, else the most that we read."""
    path, key = found.folder / CONFIG, "max_length"
    if found.is_model2vec:
        length = found.config.get(key, CUT)
        said = f"{CONFIG}: {key}" if key in found.config else f"model2vec, which cuts at {CUT}"
        sources["dense.document.max_length"] = said
    else:
        cut = found.truncation
        path, key = found.place / TOKENIZER, "truncation.max_length"
        if cut is None:
            return MAX_LENGTH
        usual = {"direction": "Right", "strategy": "LongestFirst"}
        odd = next((k for k, v in usual.items() if cut.get(k, v) != v), None)
        if odd is not None:
            raise found.error(path, f"has the truncation {odd} {cut[odd]!r:.40}, not {usual[odd]}")
        length = cut.get("max_length")
        sources["dense.document.max_length"] = f"{found.name(TOKENIZER)}: {key}"
    if length is None and found.is_model2vec:
        return MAX_LENGTH
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise found.error(path, f"has the {key} {length!r:.40}, which is no number of tokens")
    return min(length, MAX_LENGTH)


def _similarity(found: _Found) -> Similarity | None:
    name = found.settings.get("similarity_fn_name")
    if name is None or name in dense.MULTI_VECTOR_SCORES:
        return None
    if name not in dense.SIMILARITIES:
        raise found.error(
            found.folder / SETTINGS,
            f"has the similarity_fn_name {name!r:.80}, known are {', '.join(dense.SIMILARITIES)}",
        )
    return typing.cast("Similarity", name)
