"""Read the facts of a sparse model's folder: SPLADE, and models whose queries are looked up."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors.numpy import load_file

from tessera_onnx.errors import LoadError
from tessera_onnx.models.foreign.files import class_of, module_folder, read_list, read_table
from tessera_onnx.models.foreign.tokenizer_file import TokenizerFile
from tessera_onnx.models.spec import Role, Sparse

IDF = "idf.json"
OUTPUT = "sparse_embedding"
ACTIVATIONS: dict[str, Literal["log1p", "log1p-log1p"]] = {
    "relu": "log1p",
    "log1p_relu": "log1p-log1p",
}


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
    modules = read_list(folder / "modules.json")
    if [class_of(module) for module in modules] != ["Router"]:
        return None
    config = read_table(module_folder(folder, modules[0]) / "router_config.json")
    types, structure = config.get("types", {}), config.get("structure", {})

    def kinds(name: str) -> list[str]:
        return [class_of({"type": types.get(path, "")}) for path in structure.get(name, [])]

    document = kinds("document")
    if (
        set(structure) != {"query", "document"}
        or kinds("query") != ["SparseStaticEmbedding"]
        or document[:1] not in (["Transformer"], ["MLMTransformer"])
        or document[1:] != ["SpladePooling"]
    ):
        raise LoadError(
            f"{folder} routes {structure}; known are queries to a SparseStaticEmbedding and "
            "documents to a Transformer with SpladePooling"
        )
    encoder, pooling = (folder / path for path in structure["document"])
    return Route(encoder, pooling, folder / structure["query"][0])


def read(
    folder: Path,
    config: dict[str, Any],
    roles: tuple[Role, Role, Role | None],
    head: Literal["graph", "logits"],
    routed: Route | None,
) -> Sparse:
    """The recipe of a SPLADE folder whose encoder's configuration is `config`.

    Queries run through the graph; `with_table` changes that. Raises LoadError for a model
    without a vocabulary head and a pooling that is not SPLADE's.
    """
    # A bare masked language model: SparseEncoder makes it max and relu
    # (sentence_transformers/sparse_encoder/model.py, "Detected MLM architecture").
    settings: dict[str, Any] = {"pooling_strategy": "max", "activation_function": "relu"}
    modules = read_list(folder / "modules.json")
    names = [class_of(module) for module in modules]
    if routed is not None:
        settings |= read_table(routed.pooling / "config.json")
    elif names:
        if names[0] not in ("MLMTransformer", "Transformer") or names[1:] != ["SpladePooling"]:
            raise LoadError(
                f"{folder / 'modules.json'} lists {', '.join(names)}; "
                "a sparse model is a Transformer and SpladePooling"
            )
        # Absent keys take the same two values (sparse_encoder/modules/splade_pooling.py).
        settings |= read_table(module_folder(folder, modules[1]) / "config.json")
    elif not any(str(name).endswith("ForMaskedLM") for name in config.get("architectures") or []):
        raise LoadError(
            f"config.json names the architectures {config.get('architectures')}; "
            "a sparse model needs a ...ForMaskedLM with its vocabulary head"
        )
    if settings["pooling_strategy"] != "max":
        raise LoadError(
            f"SpladePooling takes the {settings['pooling_strategy']}, known is the max"
        )
    if settings["activation_function"] not in ACTIVATIONS:
        raise LoadError(
            f"SpladePooling has the activation {settings['activation_function']!r}, "
            f"known are {', '.join(ACTIVATIONS)}"
        )
    return Sparse(
        output="logits" if head == "logits" else OUTPUT,
        head=head,
        activation=ACTIVATIONS[settings["activation_function"]],
        vocab_size=int(config["vocab_size"]),
        zero_ids=(),
        query_weights="model",
        idf="",
        query=roles[0],
        document=roles[1],
        plain=roles[2],
    )


def static_table(place: Path, tokenizer: TokenizerFile) -> str:
    """The weights of a SparseStaticEmbedding as JSON {token: weight}.

    Raises LoadError for weights that are not there, and one whose id is no token.
    """
    path = place / "model.safetensors"
    if not path.is_file():
        raise LoadError(
            f"{place} has no model.safetensors with the query's weights; if the repository has an "
            "idf.json, give it with --idf"
        )
    weights = load_file(path).get("weight")
    if weights is None or weights.ndim != 1:
        raise LoadError(f"{path} holds no vector 'weight'")
    table = {}
    for number in weights.nonzero()[0].tolist():
        token = tokenizer.tokenizer.id_to_token(number)
        if token is None:
            raise LoadError(f"{path} weighs the id {number}, which is not in the vocabulary")
        table[token] = float(weights[number])
    return json.dumps(table, ensure_ascii=False)


def check_table(text: str, tokenizer: TokenizerFile) -> None:
    """Raises LoadError unless `text` is JSON {token: weight}, tokens known and weights >= 0."""
    try:
        table = json.loads(text)
    except ValueError as error:
        raise LoadError(f"the idf table is not valid JSON: {error}") from error
    if not isinstance(table, dict):
        raise LoadError(f"the idf table must be a JSON object, got {type(table).__name__}")
    for token, weight in table.items():
        tokenizer.id_of(token, "the idf table's")
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise LoadError(f"the idf table gives {token!r} a weight that is no number")
        if not 0 <= weight < math.inf:
            raise LoadError(f"the idf table gives {token!r} the weight {weight}")
