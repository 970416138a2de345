"""Read the modules after an encoder: sentence-transformers' and PyLate's, ColBERT's projection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera_onnx.errors import LoadError
from tessera_onnx.models.foreign.files import (
    MODULES,
    Weights,
    headers,
    is_file,
    module_folder,
    no_weights,
    read_table,
    read_weights,
)
from tessera_onnx.models.spec import Activation

# Classes of torch.nn, and the names of the specification.
ACTIVATIONS: dict[str, Activation] = {
    "Identity": "identity", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu",
    "Sigmoid": "sigmoid",
}  # fmt: skip
# Where the classes of sentence-transformers have stood; PyLate has its own Dense.
PACKAGES = re.compile(
    r"sentence_transformers\.(models|(base|sentence_transformer|sparse_encoder|cross_encoder|"
    r"multi_vector_encoder)\.(models|modules))(\.\w+)?"
)
PYLATE = ("pylate.models.Dense.Dense", "pylate.models.Dense", "pylate.models.dense.Dense")


@dataclass(frozen=True, slots=True)
class Layer:
    """y = activation(W x + b) + residual; W is (out_features, in_features).

    The residual is nothing, x itself, or R x with R of W's shape. Tensors are named as in their
    safetensors file, "" = not there. `activation` is a class of torch.nn.
    """

    file: Path
    weight: str
    bias: str
    activation: str
    residual: bool
    residual_weight: str
    in_features: int
    out_features: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors by name."""
        shape = (self.out_features, self.in_features)
        shapes = {self.weight: shape, self.bias: shape[:1], self.residual_weight: shape}
        return {name: shape for name, shape in shapes.items() if name}


def stanford_layer(weights: Weights) -> Layer:
    """The projection of a Stanford ColBERT: `linear.weight` beside the encoder, no bias.

    Source: stanford-futuredata/ColBERT, colbert/modeling/colbert.py.
    """
    shape = weights.shapes.get("linear.weight", ())
    if len(shape) != 2:
        raise LoadError("the weights hold no matrix linear.weight, a ColBERT's projection")
    if "linear.bias" in weights.shapes:
        raise LoadError("linear.bias is there although a ColBERT's projection has no bias")
    file = weights.owner["linear.weight"]
    return Layer(
        file=file,
        weight="linear.weight",
        bias="",
        activation="Identity",
        residual=False,
        residual_weight="",
        in_features=shape[1],
        out_features=shape[0],
    )


def check_types(folder: Path, modules: list[dict[str, Any]]) -> None:
    """Raises LoadError for a module that is no class of sentence-transformers or PyLate, and for
    two of one name.
    """
    path = folder / MODULES
    names = [str(module.get("name", "")) for module in modules]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise LoadError(
            f"{path} lists two modules of the name {twice!r:.80}, of which sentence-transformers "
            "drops the first: give each a name of its own",
            path=str(path),
        )
    for module in modules:
        name = str(module.get("type", ""))
        package, _, _ = name.rpartition(".")
        if not PACKAGES.fullmatch(package) and name not in PYLATE:
            raise LoadError(
                f"{path} lists the module {name!r:.200}, which is no class of "
                "sentence-transformers: it is Python code of a repository, which is not run. "
                "What it computes is unknown here",
                path=str(path),
            )


def dense_layer(folder: Path, module: Mapping[str, Any]) -> Layer:
    """A Dense module of modules.json and its tensors.

    Raises LoadError as `dense_settings` does, and for tensors that do not fit the configuration.
    """
    layer = dense_settings(folder, module)
    place = module_folder(folder, module)
    weights = read_weights(place)
    check_tensors(place, weights, layer.tensors())
    return layer


def check_tensors(place: Path, weights: Weights, expected: dict[str, tuple[int, ...]]) -> None:
    """Raises LoadError unless a module has exactly the tensors that its config.json asks for."""
    if weights.shapes != expected:
        raise LoadError(
            f"the tensors in {place} are {weights.shapes}, its config.json asks for {expected}",
            path=str(place),
        )


def dense_settings(folder: Path, module: Mapping[str, Any]) -> Layer:
    """A Dense module of modules.json, as its config.json describes it.

    An absent key takes the default of the class that modules.json names: bias true, no residual,
    activation Tanh in sentence_transformers/base/modules/dense.py and Identity in PyLate's
    pylate/models/Dense.py. Raises LoadError for an activation that is not of torch.nn or not in
    ACTIVATIONS, and for sizes that are missing.
    """
    place = module_folder(folder, module)
    path = place / "config.json"
    config = read_table(path)
    default = "Identity" if str(module.get("type", "")).startswith("pylate.") else "Tanh"
    named = config.get("activation_function", f"torch.nn.{default}")
    activation = str(named).rsplit(".", 1)[-1]
    if not str(named).startswith("torch.nn.") or activation not in ACTIVATIONS:
        raise LoadError(
            f"{path} has the activation_function {named!r:.100}, "
            f"known are torch.nn's {', '.join(ACTIVATIONS)}",
            path=str(path),
        )
    shape = (size_of(path, config, "out_features"), size_of(path, config, "in_features"))
    has_bias = bool(config.get("bias", True))
    residual = bool(config.get("use_residual", False))
    return Layer(
        file=place / "model.safetensors",
        weight="linear.weight",
        bias="linear.bias" if has_bias else "",
        activation=activation,
        residual=residual,
        residual_weight="residual.weight" if residual and shape[0] != shape[1] else "",
        in_features=shape[1],
        out_features=shape[0],
    )


def size_of(path: Path, config: Mapping[str, Any], *keys: str) -> int:
    """The whole number above 0 under the first of the keys that is there. Raises LoadError."""
    key = next((key for key in keys if key in config), None)
    if key is None:
        raise LoadError(f"{path} does not say {keys[0]}", path=str(path))
    size = config[key]
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise LoadError(f"{path} has the {key} {size!r:.40}, which is no size", path=str(path))
    return size


def module_weights(
    folder: Path,
    module: Mapping[str, Any],
    expected: dict[str, tuple[int, ...]],
    sizes: Mapping[str, int],
) -> str:
    """The name of the module's safetensors file inside `folder`, its tensors checked.

    `sizes` lists the files that the model has. One that is not downloaded yet is not checked.
    Raises LoadError for a file that is missing or a pickle.
    """  # fmt: skip
    place = module_folder(folder, module)
    path = place / "model.safetensors"
    name = path.relative_to(folder).as_posix()
    if name not in sizes:
        pickle = (place / "pytorch_model.bin").relative_to(folder).as_posix()
        raise LoadError(
            no_weights(place, "model.safetensors", pickled=pickle in sizes), path=str(path)
        )
    if is_file(path):
        check_tensors(place, headers([path]), expected)
    return name


def width(layers: tuple[Layer, ...], hidden: int) -> int:
    """Size of the vectors that leave the layers. Raises LoadError when one does not fit."""
    size = hidden
    for layer in layers:
        if layer.in_features != size:
            raise LoadError(
                f"{layer.file.parent}: a Dense layer reads {layer.in_features} features, it gets "
                f"{size}",
                path=str(layer.file.parent),
            )
        size = layer.out_features
    return size


def hidden_size(config: Mapping[str, Any]) -> int:
    """Size of the encoder's token vectors. Raises LoadError when config.json does not say it."""
    size = said_hidden_size(config)
    if size is None:
        raise LoadError("config.json does not say hidden_size")
    return size


def said_hidden_size(config: Mapping[str, Any]) -> int | None:
    """Size of the encoder's token vectors; None when config.json does not say it."""
    # The other names are DistilBERT's, T5's and (its own code) Nomic's. EmbeddingGemma 2 has a last
    # layer that makes vectors of another size.
    names: tuple[str, ...] = ("hidden_size", "dim", "d_model", "n_embd")
    if "hidden_size_per_layer_input" in config:
        names = ("embedding_dim", *names)
    size = next((config[name] for name in names if name in config), None)
    nested = config.get("text_config")
    if size is None and isinstance(nested, dict):
        return said_hidden_size(nested)
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None
