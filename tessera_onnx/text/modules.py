"""The steps after a graph and its pooling, in NumPy: dense layers, layer norms, L2 and cuts.

sentence-transformers exports a model's Transformer alone to ONNX; its other modules keep their
weights in safetensors files of their own. Sources: sentence_transformers/base/modules/dense.py and
the modules of the same name there; pylate/models/Dense.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import LoadError
from tessera_onnx.models.spec import Module
from tessera_onnx.vectors import pooling, tensors
from tessera_onnx.vectors.activations import ACTIVATIONS

Float = NDArray[np.float32]
# Other tensors of a file, such as those of an encoder that the layer lies beside, are not read.
NAMES = {"linear.weight", "linear.bias", "residual.weight", "norm.weight", "norm.bias"}
Step = Callable[[Float], Float]


def load(modules: Sequence[Module], read: Callable[[str], bytes], size: int) -> Step:
    """The steps as one function of vectors (..., size) float32; `read` gives a file's content.

    Raises LoadError for weights that are not there or do not fit.
    """
    steps = []
    for module in modules:
        steps.append(_step(module, read, size))
        size = module.dimension

    def run(vectors: Float) -> Float:
        for step in steps:
            vectors = step(vectors)
        return vectors

    return run


def reads(modules: Sequence[Module], read: Callable[[str], bytes]) -> int:
    """The size of the vectors that the first module with weights reads; 0 without such a module."""
    for module in modules:
        if module.file:
            shapes = [t.shape for t in tensors.read(read(module.file), module.file, NAMES).values()]
            return max((shape[-1] for shape in shapes if len(shape) == 2), default=0) or max(
                (shape[0] for shape in shapes), default=0
            )
    return 0


def _step(module: Module, read: Callable[[str], bytes], size: int) -> Step:
    if module.type == "dense":
        return _dense(module, tensors.read(read(module.file), module.file, NAMES), size)
    if module.type == "layer-norm":
        return _layer_norm(module, tensors.read(read(module.file), module.file, NAMES), size)
    if module.dimension > size or (module.type == "normalize" and module.dimension != size):
        raise LoadError(f"a {module.type} module gives {module.dimension} of {size} numbers")
    if module.type == "truncate":
        return lambda vectors: np.ascontiguousarray(vectors[..., : module.dimension])
    return pooling.l2_normalize


def _dense(module: Module, found: dict[str, Float], size: int) -> Step:
    own = module.residual and module.dimension != size
    shape = (module.dimension, size)
    optional = {"linear.bias": shape[:1]} if "linear.bias" in found else {}
    _check(
        module,
        found,
        {"linear.weight": shape, **({"residual.weight": shape} if own else {}), **optional},
    )
    weight, bias = found["linear.weight"].T.copy(), found.get("linear.bias", np.float32(0))
    activation = ACTIVATIONS[module.activation]
    beside = found["residual.weight"].T.copy() if own else None

    def run(vectors: Float) -> Float:
        result = activation(vectors @ weight + bias)
        if module.residual:
            result = result + (vectors if beside is None else vectors @ beside)
        return np.asarray(result, np.float32)

    return run


def _layer_norm(module: Module, found: dict[str, Float], size: int) -> Step:
    _check(module, found, {"norm.weight": (size,), "norm.bias": (size,)})
    if module.dimension != size:
        raise LoadError(f"{module.file}: a layer norm gives as many numbers as it gets, {size}")

    def run(vectors: Float) -> Float:
        normed = pooling.layer_norm(vectors)
        return np.asarray(normed * found["norm.weight"] + found["norm.bias"], np.float32)

    return run


def _check(module: Module, found: dict[str, Float], expected: dict[str, tuple[int, ...]]) -> None:
    shapes = {name: tensor.shape for name, tensor in found.items()}
    if shapes != expected:
        raise LoadError(
            f"{module.file} holds tensors of the shapes {shapes!s:.300}, a {module.type} module of "
            f"this model has {expected}",
            path=module.file,
        )
