"""Read the facts of a sparse model's folder: SPLADE, and models whose queries are looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tessera_onnx.errors import LoadError
from tessera_onnx.models.foreign.files import (
    MODULES,
    class_of,
    is_file,
    module_folder,
    read_list,
    read_table,
)
from tessera_onnx.models.spec import Role, Sparse

ACTIVATIONS: dict[str, Literal["log1p", "log1p-log1p"]] = {
    "relu": "log1p",
    "log1p_relu": "log1p-log1p",
}
ENCODERS = ("Transformer", "MLMTransformer")
# Router's own files; the second name is that of sentence-transformers before 5.0, whose class was
# Asym (sentence_transformers/base/modules/router.py).
ROUTERS = {"Router": "router_config.json", "Asym": "router_config.json"}
TABLE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Route:
    """Folders of a model whose documents run through the encoder and whose queries do not."""

    encoder: Path
    pooling: Path
    table: Path  # of the query's weights


def route(folder: Path) -> Route | None:
    """The routes of a sentence-transformers Router folder, None for any other folder.

    Raises LoadError for routes that are not SparseStaticEmbedding for queries and a Transformer
    with SpladePooling for documents (the layout of OpenSearch's inference-free models).
    """
    modules = read_list(folder / MODULES)
    names = [class_of(module) for module in modules]
    if len(names) != 1 or names[0] not in ROUTERS:
        return None
    place = module_folder(folder, modules[0])
    path = place / ROUTERS[names[0]]
    if not is_file(path) and is_file(place / "config.json"):
        path = place / "config.json"
    config = read_table(path)
    types, structure = config.get("types", {}), config.get("structure", {})
    if not isinstance(types, dict) or not isinstance(structure, dict):
        raise LoadError(f"{path} has no types and structure of routes", path=str(path))

    def kinds(name: str) -> list[str]:
        listed = structure.get(name, [])
        return [class_of({"type": types.get(part, "")}) for part in listed]

    document = kinds("document")
    if (
        set(structure) != {"query", "document"}
        or kinds("query") != ["SparseStaticEmbedding"]
        or document[:1] not in (["Transformer"], ["MLMTransformer"])
        or document[1:] != ["SpladePooling"]
    ):
        raise LoadError(
            f"{folder} routes {structure!s:.300}; known are queries to a SparseStaticEmbedding and "
            "documents to a Transformer with SpladePooling",
            path=str(path),
        )
    parts = [*structure["document"], *structure["query"]]
    encoder, pooling, table = (module_folder(place, {"path": part}) for part in parts)
    return Route(encoder, pooling, table)


def is_sparse(modules: list[dict[str, Any]]) -> bool:
    """Whether modules.json lists a sparse model."""
    names = {class_of(module) for module in modules}
    return bool(names & {"SpladePooling", "SparseAutoEncoder", "MLMTransformer", *ROUTERS})


def read(
    folder: Path,
    config: Mapping[str, Any],
    roles: tuple[Role, Role, Role | None],
    routed: Route | None,
    sources: dict[str, str] | None = None,
) -> Sparse:
    """The recipe of a SPLADE folder whose encoder's configuration is `config`.

    The form of the output is that of logits, and queries run through the graph. Raises LoadError
    for a model without a vocabulary head and a pooling that is not SPLADE's.
    """
    # A bare masked language model: SparseEncoder makes it max and relu
    # (sentence_transformers/sparse_encoder/model.py, "Detected MLM architecture").
    settings: dict[str, Any] = {"pooling_strategy": "max", "activation_function": "relu"}
    modules = read_list(folder / MODULES)
    names = [class_of(module) for module in modules]
    path = folder / "config.json"
    source = "config.json: architectures"
    if routed is not None:
        path = routed.pooling / "config.json"
        settings |= read_table(path)
        source = f"{path.relative_to(folder).as_posix()}: activation_function"
    elif names:
        if names[0] not in ENCODERS or names[1:] != ["SpladePooling"]:
            raise LoadError(
                f"{folder / MODULES} lists {', '.join(names)!s:.300}; "
                "a sparse model is a Transformer and SpladePooling",
                path=str(folder / MODULES),
            )
        # Absent keys take the same two values (sparse_encoder/modules/splade_pooling.py).
        path = module_folder(folder, modules[1]) / "config.json"
        settings |= read_table(path)
        source = f"{path.relative_to(folder).as_posix()}: activation_function"
    elif not any(str(name).endswith("ForMaskedLM") for name in config.get("architectures") or []):
        raise LoadError(
            f"{path} names the architectures {config.get('architectures')!s:.200}; "
            "a sparse model needs a ...ForMaskedLM with its vocabulary head",
            path=str(path),
        )
    if settings["pooling_strategy"] != "max":
        raise LoadError(
            f"{path}: SpladePooling takes the {settings['pooling_strategy']!s:.40}, known is the "
            "max",
            path=str(path),
        )
    if settings["activation_function"] not in ACTIVATIONS:
        raise LoadError(
            f"{path}: SpladePooling has the activation {settings['activation_function']!r:.80}, "
            f"known are {', '.join(ACTIVATIONS)}",
            path=str(path),
        )
    if sources is not None:
        sources["sparse.activation"] = source
    return Sparse(
        output="",
        head="logits",
        activation=ACTIVATIONS[settings["activation_function"]],
        vocab_size=vocabulary(config),
        zero_ids=(),
        query_weights="model",
        idf="",
        query=roles[0],
        document=roles[1],
        plain=roles[2],
    )


def vocabulary(config: Mapping[str, Any]) -> int:
    """The number of entries of the encoder's vocabulary. Raises LoadError without it."""
    size = config.get("vocab_size")
    if size is None and isinstance(config.get("text_config"), dict):
        size = config["text_config"].get("vocab_size")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise LoadError("config.json does not say vocab_size")
    return size
