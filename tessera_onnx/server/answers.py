"""Write vectors into an answer: as JSON, as JSON with base64, or as one safetensors file.

In JSON an array is a list of numbers, in base64 {"base64", "dtype", "shape"}: its numbers row by
row, little-endian. The raw form is a safetensors file (huggingface/safetensors: eight bytes with
the length of a JSON header, the header, the numbers), in which the arrays of all inputs are joined:
one vector an input as a matrix, several as a matrix of all rows beside the number of rows of each
input in NAME.rows.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.models.spec import Kind
from tessera_onnx.results import BinaryTokens, Int8Vectors, SparseVector
from tessera_onnx.server.fields import Fields
from tessera_onnx.server.http import Answer
from tessera_onnx.server.openapi import RAW
from tessera_onnx.server.served import Job
from tessera_onnx.text import heads
from tessera_onnx.vectors import tensors

Encoding = Literal["json", "base64", "raw"]
Numbers = Literal["float32", "float16", "int8", "binary"]
Parts = dict[str, NDArray[Any]]  # of one result, by name; "" for the only one


@dataclass(frozen=True, slots=True)
class Form:
    """How an answer holds its vectors.

    Attributes:
        encoding: "json", "base64" or "raw".
        numbers: float32; float16, rounded to nearest; int8 and binary as `output_dtype` of the
            library.
        pool_factor: one row in so many is kept of multi-vectors.
        most: entries that are kept of a sparse vector; None = all.
    """

    encoding: Encoding
    numbers: Numbers = "float32"
    pool_factor: int = 1
    most: int | None = None

    @classmethod
    def of(cls, fields: Fields) -> Form:
        """What a request asks for. Raises BadRequest."""
        return cls(
            encoding=fields.word("encoding", get_args(Encoding), "json"),
            numbers=fields.word("output_dtype", get_args(Numbers), "float32"),
            pool_factor=fields.whole("pool_factor", 1) or 1,
            most=fields.whole("max_active_dims"),
        )

    def parts(self, kind: Kind, result: Any) -> Parts:
        """The arrays of one result. Raises QuantizationError."""
        if isinstance(result, SparseVector):
            kept = result if self.most is None else heads.largest_weights(result, self.most)
            values = kept.values.astype(np.float16) if self.numbers == "float16" else kept.values
            return {"indices": kept.indices, "values": values}
        half = self.numbers == "float16"
        numbers: Any = "float32" if half else self.numbers
        fixed = 0 if kind == "vision" else 1
        pooled = self.pool_factor if result.ndim == 2 else 1
        found = heads.convert_tokens(result, numbers, pooled, fixed=fixed)
        if isinstance(found, Int8Vectors):
            return {"codes": found.codes, "scale": found.scale[..., 0]}
        if isinstance(found, BinaryTokens):
            return {"bits": found.bits}
        return {"": found.astype(np.float16) if half else found}


def vectors(
    job: Job, kinds: Sequence[Kind], results: Sequence[Any], form: Form, *, counted: bool
) -> Answer:
    """The answer of /v1/encode; with several `kinds` a result is a tuple of each.

    `counted` is whether the numbers of tokens are those of a tokenizer.
    """
    rows = [
        {
            kind: form.parts(kind, part)
            for kind, part in zip(kinds, result if len(kinds) > 1 else (result,), strict=True)
        }
        for result in results
    ]
    head: dict[str, Any] = {
        "model": job.model.name,
        "output_dtype": form.numbers,
        "dimensions": _dimensions(kinds, results),
    }
    cut = job.cut
    if form.encoding == "raw":
        arrays = {
            name: array
            for kind in kinds
            for name, array in joined(kind, [row[kind] for row in rows]).items()
        }
        if counted:
            arrays["tokens"] = np.array(job.tokens, np.int64)
            arrays["count"] = np.array(job.counts, np.int64)
        return raw(arrays, {**head, "kinds": kinds, "warnings": job.told})
    data = []
    for i, row in enumerate(rows):
        item: dict[str, Any] = {"index": i}
        if counted:
            item |= {"tokens": job.tokens[i], "count": job.counts[i], "truncated": i in cut}
        for kind, parts in row.items():
            shown = {name: shown_array(array, form.encoding) for name, array in parts.items()}
            item[kind] = shown.get("", shown)
        data.append(item)
    return Answer.of({**head, "data": data, "truncated": cut, "warnings": job.told})


def _dimensions(kinds: Sequence[Kind], results: Sequence[Any]) -> dict[str, int]:
    """The width of the vectors of each kind, without sparse ones."""
    if not results:
        return {}
    first = results[0] if len(kinds) > 1 else (results[0],)
    pairs = zip(kinds, first, strict=True)
    return {kind: part.shape[-1] for kind, part in pairs if not isinstance(part, SparseVector)}


def joined(kind: str, rows: Sequence[Mapping[str, NDArray[Any]]]) -> Parts:
    """The arrays of all inputs as one array each, and the rows of each input in `KIND.rows`."""
    found: Parts = {}
    for part in rows[0] if rows else ():
        name = f"{kind}.{part}" if part else kind
        arrays = [row[part] for row in rows]
        if kind == "dense":
            found[name] = np.stack(arrays)
        else:
            found[name] = np.concatenate(arrays)
            found[f"{kind}.rows"] = np.array([len(array) for array in arrays], np.int64)
    return found


def shown_array(array: NDArray[Any], encoding: Encoding) -> Any:
    """An array in JSON."""
    if encoding == "json":
        return np.ascontiguousarray(array)
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {
        "base64": base64.b64encode(little.tobytes()).decode(),
        "dtype": array.dtype.name,
        "shape": array.shape,
    }


def raw(arrays: Parts, facts: Mapping[str, Any]) -> Answer:
    """The answer as a safetensors file, whose metadata are the facts, each as JSON."""
    metadata = {name: Answer.of(value).body.decode() for name, value in facts.items()}
    return Answer(tensors.write(arrays, metadata), media_type=RAW)
