"""Vectors of chunks as columns of Arrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tessera_onnx.collection.vectors import Models
from tessera_onnx.models.spec import Kind
from tessera_onnx.results import SparseVector


def fields(models: Models) -> list[pa.Field]:
    """The columns of the vectors of some models."""
    found = []
    for kind, model in models.by_kind.items():
        width = getattr(model, "dimension", int)()
        if kind == "dense":
            found.append(pa.field("dense", pa.list_(pa.float32(), width)))
        elif kind == "sparse":
            found.append(pa.field("sparse_indices", pa.list_(pa.int32())))
            found.append(pa.field("sparse_values", pa.list_(pa.float32())))
        else:
            found.append(pa.field("multi_vector", pa.list_(pa.list_(pa.float16(), width))))
    return found


def columns(vectors: Mapping[Kind, Any]) -> list[pa.Array]:
    """The vectors of `Models.encode` as `fields` says."""
    arrays: list[pa.Array] = []
    for kind, found in vectors.items():
        if kind == "dense":
            arrays.append(_lists(np.asarray(found)))
        elif kind == "sparse":
            arrays += _sparse(found)
        else:
            arrays.append(_multi(found))
    return arrays


def _lists(rows: NDArray[Any]) -> pa.Array:
    """Rows (n, width) as an array of n fixed-size lists."""
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])


def _offsets(lengths: Sequence[int]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _sparse(vectors: Sequence[SparseVector]) -> list[pa.Array]:
    offsets = _offsets([len(vector.indices) for vector in vectors])
    indices = np.concatenate([vector.indices for vector in vectors])
    values = np.concatenate([vector.values for vector in vectors])
    return [
        pa.ListArray.from_arrays(offsets, pa.array(indices.astype(np.int32))),
        pa.ListArray.from_arrays(offsets, pa.array(values.astype(np.float32))),
    ]


def _multi(vectors: Sequence[NDArray[np.float32]]) -> pa.Array:
    offsets = _offsets([len(vector) for vector in vectors])
    return pa.ListArray.from_arrays(offsets, _lists(np.concatenate(vectors).astype(np.float16)))
