"""Dense vectors in the forms that Cohere and Jina have.

float    the float32 numbers
base64   the same, little-endian
int8     round(127 x / the largest |x| of this vector): the cosine is kept, the length is not
uint8    int8 + 128
ubinary  a bit a number, 1 above 0, most significant bit first; 8 of them are a number 0..255
binary   ubinary - 128
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError
from tessera_onnx.vectors import quantization

Form = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
FORMS: tuple[Form, ...] = ("float", "int8", "uint8", "binary", "ubinary", "base64")


def one_each(found: Sequence[Any]) -> list[Any]:
    """The vector (dim,) of each input. Raises ConfigError where a model gives several for one."""
    for i, vectors in enumerate(found):
        if np.ndim(vectors) == 2 and len(vectors) != 1:
            raise ConfigError(
                f"the model gives {len(vectors)} vectors for input {i}, and this route gives one: "
                "use /v1/encode"
            )
    return [vectors[0] if np.ndim(vectors) == 2 else vectors for vectors in found]


def in_base64(vector: Any) -> str:
    """The float32 numbers of a vector, little-endian, in base64."""
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()


def convert(vectors: NDArray[np.float32], form: Form) -> Any:
    """Vectors (n, dim) in one of FORMS, as Answer.of takes them: an array, or a list of base64.

    Raises QuantizationError for a vector that is not finite.
    """
    if form == "float" or not len(vectors):
        return vectors
    if form == "base64":
        return [in_base64(vector) for vector in vectors]
    if form in {"int8", "uint8"}:
        codes = quantization.int8(vectors).codes
        return codes if form == "int8" else (codes.astype(np.int16) + 128).astype(np.uint8)
    bits = quantization.binary(vectors).bits
    return bits if form == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
