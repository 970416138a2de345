"""Read the linear layers after an encoder: sentence-transformers' and PyLate's Dense, ColBERT's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera_export.errors import ExportError
from tessera_export.files import Weights, module_folder, read_table, read_weights

ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")


@dataclass(frozen=True, slots=True)
class Layer:
    """y = activation(W x + b) + residual; W is (out_features, in_features).

    The residual is nothing, x itself, or R x with R of W's shape. Tensors are named as in their
    safetensors file, "" = not there.
    """

    file: Path
    weight: str
    bias: str
    activation: str
    residual: bool
    residual_weight: str
    in_features: int
    out_features: int


def stanford_layer(weights: Weights) -> Layer:
    """The projection of a Stanford ColBERT: `linear.weight` beside the encoder, no bias.

    Source: stanford-futuredata/ColBERT, colbert/modeling/colbert.py.
    """
    shape = weights.shapes.get("linear.weight", ())
    if len(shape) != 2:
        raise ExportError("the weights hold no matrix linear.weight, a ColBERT's projection")
    if "linear.bias" in weights.shapes:
        raise ExportError("linear.bias is there although a ColBERT's projection has no bias")
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


def dense_layer(folder: Path, module: dict[str, Any]) -> Layer:
    """A Dense module of modules.json.

    An absent key takes the default of the class that modules.json names: bias true, no residual,
    activation Tanh in sentence_transformers/base/modules/dense.py and Identity in PyLate's
    pylate/models/Dense.py. Raises ExportError for an activation that is not of torch.nn or not
    in ACTIVATIONS, and for tensors that do not fit the configuration.
    """
    place = module_folder(folder, module)
    config = read_table(place / "config.json")
    weights = read_weights(place)
    default = "Identity" if str(module.get("type", "")).startswith("pylate.") else "Tanh"
    named = config.get("activation_function", f"torch.nn.{default}")
    activation = str(named).rsplit(".", 1)[-1]
    if not str(named).startswith("torch.nn.") or activation not in ACTIVATIONS:
        raise ExportError(
            f"{place / 'config.json'} has the activation_function {named!r}, "
            f"known are torch.nn's {', '.join(ACTIVATIONS)}"
        )
    try:
        shape = (int(config["out_features"]), int(config["in_features"]))
    except KeyError as error:
        raise ExportError(f"{place / 'config.json'} does not say {error.args[0]}") from error
    has_bias = bool(config.get("bias", True))
    residual = bool(config.get("use_residual", False))
    own_residual = residual and shape[0] != shape[1]
    expected: dict[str, tuple[int, ...]] = {"linear.weight": shape}
    if has_bias:
        expected["linear.bias"] = shape[:1]
    if own_residual:
        expected["residual.weight"] = shape
    if weights.shapes != expected:
        raise ExportError(
            f"the tensors in {place} are {weights.shapes}, its config.json asks for {expected}"
        )
    return Layer(
        file=weights.files[0],
        weight="linear.weight",
        bias="linear.bias" if has_bias else "",
        activation=activation,
        residual=residual,
        residual_weight="residual.weight" if own_residual else "",
        in_features=shape[1],
        out_features=shape[0],
    )


def width(layers: tuple[Layer, ...], hidden: int) -> int:
    """Size of the vectors that leave the layers. Raises ExportError when one does not fit."""
    size = hidden
    for layer in layers:
        if layer.in_features != size:
            raise ExportError(f"a Dense layer reads {layer.in_features} features, it gets {size}")
        size = layer.out_features
    return size


def hidden_size(config: dict[str, Any]) -> int:
    """Size of the encoder's token vectors. Raises ExportError when config.json does not say it."""
    # The other names are DistilBERT's, T5's and (its own code) Nomic's.
    names = ("hidden_size", "dim", "d_model", "n_embd")
    size = next((config[name] for name in names if name in config), None)
    if not isinstance(size, int):
        raise ExportError("config.json does not say hidden_size")
    return size
