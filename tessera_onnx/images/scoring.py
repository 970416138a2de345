"""Score images, and vectors of images, by MaxSim with the vectors of one query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import about_item
from tessera_onnx.images.encoder import ImageEncoder, checked
from tessera_onnx.images.sources import Source
from tessera_onnx.results import BinaryTokens, Int8Vectors
from tessera_onnx.runtime.workers import Limit
from tessera_onnx.vectors import bounds, scoring
from tessera_onnx.vectors.forms import floats, is_vectors

Float = NDArray[np.float32]
# Vectors that were encoded earlier, (n, dim), in any of the output dtypes.
VectorRows: TypeAlias = "NDArray[np.floating[Any]] | Int8Vectors | BinaryTokens"

BLOCK = 32  # documents whose float vectors are in memory at the same time


def score_documents(
    encoder: ImageEncoder,
    query: Float,
    documents: Sequence[Source | VectorRows],
    *,
    given: object,
    limit: Limit,
) -> Float:
    """MaxSim of a query (n, dim) with each image or vectors: (len(documents),) float32.

    Images are encoded on the way, a few at a time. A document without rows scores -n, the least
    that MaxSim can be. `given` is the query as the caller gave it: its dtype decides how far
    rounding may lift a score above n.
    """
    items = checked(documents, "documents", is_vectors)
    images = [i for i, item in enumerate(items) if not is_vectors(item)]
    encoded = encoder.stream(
        (items[i] for i in images),
        lambda k: f"documents[{images[k]}]",
        limit=limit,
        index=images.__getitem__,
    )
    scores = np.full(len(items), -len(query), dtype=np.float32)
    for start in range(0, len(items), BLOCK):
        block = {}
        for i, item in enumerate(items[start : start + BLOCK], start):
            if is_vectors(item):
                with about_item(i):
                    vectors = floats(item, query.shape[1], f"documents[{i}]")
            else:
                vectors = next(encoded)
            if len(vectors):
                block[i] = vectors
        found = scoring.maxsim_scores(query, list(block.values()))
        for k, (i, vectors) in enumerate(block.items()):
            if abs(found[k]) > len(query):  # possible for int8 codes
                dtypes = ([given], [items[i]])
                bounds.limit_sums(found[None, k : k + 1], [query], [vectors], dtypes)
        scores[list(block)] = found
    next(encoded, None)  # at its end the stream warns of what was left unread
    return scores
