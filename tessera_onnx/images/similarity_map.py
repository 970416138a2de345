"""Where on an image the vectors of a query are answered."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.vectors import bounds
from tessera_onnx.vectors.forms import Float


def cell_map(query: Float, vectors: Float, cells: NDArray[np.int64], form: Any = None) -> Float:
    """Dot products of each query row with the vector of each cell: (n, rows, cols) float32.

    query (n, dim), vectors (m, dim), cells (rows, cols) rows of `vectors`; NaN where a cell is -1.
    Of cells (layers, rows, cols) the highest of all layers counts. Products of unit rows lie in
    [-1, 1]; `form` is that in which the query was given.
    """
    products = np.full((len(query), len(vectors) + 1), np.nan, dtype=np.float32)
    scores = query @ vectors.T
    bounds.limit(scores, query, vectors, (form, None))
    products[:, :-1] = scores
    found: Float = products[:, cells]
    return found if cells.ndim == 2 else np.fmax.reduce(found, axis=1)
