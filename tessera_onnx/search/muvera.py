"""Muvera: one vector for all token vectors of a text; dot products of them estimate MaxSim."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import check_limit
from tessera_onnx.errors import ConfigError, DimensionMismatch
from tessera_onnx.results import Vectors
from tessera_onnx.vectors import scoring

Float = NDArray[np.float32]
MOST_PLANES = 12  # 4,096 buckets a repetition; more would be empty for every text


class Muvera:
    """Fixed dimensional encodings (FDEs) of token vectors (MUVERA, arXiv:2405.19504).

    >>> coarse = PackedDense(map(Muvera(128).encode_document, tokens), output_dtype="int8")

    Each of `r_reps` repetitions puts a text's token vectors into 2^k_sim buckets by the sides of
    `k_sim` random planes, and projects the vector of each bucket to `dim_proj` numbers. A bucket of
    a document has the mean of its vectors, and an empty one the first vector of the bucket nearest
    in Hamming distance, the lowest of several. A bucket of a query has the sum; an empty one is
    zero. Their dot products order documents about as MaxSim does. That is a first search: MaxSim of
    its candidates gives the ranking.

    Encodings equal those of fastembed's Muvera with the same arguments. The code of the paper's
    authors (google/graph-mining) draws its planes from another random stream, so its encodings
    cannot be compared with these.
    """

    def __init__(
        self, dim: int, *, k_sim: int = 5, dim_proj: int = 16, r_reps: int = 20, seed: int = 42
    ) -> None:
        """Draw the planes and projections for token vectors of `dim` dimensions.

        With `dim_proj` equal to `dim`, nothing is projected. Raises TypeError or ConfigError for a
        size below 1, `k_sim` above 12, `dim_proj` above `dim` or a negative `seed`.
        """
        sizes = {"dim": dim, "k_sim": k_sim, "dim_proj": dim_proj, "r_reps": r_reps}
        for name, size in sizes.items():
            check_limit(size, name)
        if k_sim > MOST_PLANES:
            raise ConfigError(f"k_sim must be at most {MOST_PLANES}, got {k_sim}")
        if dim_proj > dim:
            raise ConfigError(f"dim_proj must be at most dim, which is {dim}, got {dim_proj}")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed must be int, got {type(seed).__name__}")
        if seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {seed}")
        self._dim, self._buckets, self._width, self._reps = dim, 1 << k_sim, dim_proj, r_reps
        random = np.random.default_rng(seed)
        planes = [random.normal(size=(dim, k_sim)) for _ in range(r_reps)]
        # In float64: in float32 a token near a plane might fall into another bucket.
        self._planes = np.concatenate(planes, axis=1)
        signs = random.choice([-1, 1], size=(r_reps, dim, dim_proj))
        if dim_proj == dim:
            self._signs = None
        else:
            scaled = (signs / np.sqrt(dim_proj)).astype(np.float32)
            self._signs = np.ascontiguousarray(scaled.transpose(1, 0, 2).reshape(dim, -1))
        self._powers = 1 << np.arange(k_sim)
        ids = np.arange(self._buckets)
        self._distances = np.bitwise_count(ids[:, None] ^ ids)

    def dimension(self) -> int:
        """Numbers in an encoding: r_reps x 2^k_sim x dim_proj, which is 10,240 by default."""
        return self._reps * self._buckets * self._width

    def encode_query(self, tokens: Vectors) -> Float:
        """Encode the token vectors of one query, (n_tokens, dim): (dimension,) float32.

        Raises TypeError or ConfigError for anything else, no rows, NaN or infinity,
        DimensionMismatch for another dim.
        """
        rows = self._rows(tokens, 1)
        found = np.zeros((self._reps, self._buckets, self._width), np.float32)
        projected, ids = self._project(rows)
        for row, bucket in zip(projected, ids, strict=True):  # a query has few tokens
            found[np.arange(self._reps), bucket] += row
        return found.reshape(-1)

    def encode_document(self, tokens: Vectors) -> Float:
        """Encode the token vectors of one document, (n_tokens, dim): (dimension,) float32.

        A document without tokens, such as a blank page, has zeros. Raises as `encode_query`.
        """
        return self._document(self._rows(tokens, 0))

    def _rows(self, tokens: Vectors, least: int) -> Float:
        rows = scoring.matrix("tokens", tokens, least=least)
        if rows.shape[1] != self._dim:
            raise DimensionMismatch(f"tokens have {rows.shape[1]} dims, this encoder {self._dim}")
        return rows

    def _project(self, rows: Float) -> tuple[Float, NDArray[np.int64]]:
        """Each row projected, (n, reps, width), and its buckets, (n, reps)."""
        sides = (rows.astype(np.float64) @ self._planes > 0).reshape(len(rows), self._reps, -1)
        ids = sides @ self._powers
        if self._signs is None:
            return np.broadcast_to(rows[:, None], (len(rows), self._reps, self._dim)), ids
        return (rows @ self._signs).reshape(len(rows), self._reps, -1), ids

    def _document(self, rows: Float) -> Float:
        if not len(rows):
            return np.zeros(self.dimension(), np.float32)
        projected, ids = self._project(rows)
        # The bucket of every token as a 1 in (reps, buckets, n): one product then sums all buckets.
        member = (ids.T[:, None, :] == np.arange(self._buckets)[:, None]).astype(np.float32)
        counts = member.sum(axis=2)
        means = member @ projected.transpose(1, 0, 2)
        means /= np.maximum(counts, 1)[:, :, None]
        rep, empty = np.nonzero(counts == 0)
        far = np.uint8(self._distances.max() + 1)
        distances = np.where(counts[rep] == 0, far, self._distances[empty])
        nearest = distances.argmin(axis=1)
        first = member.argmax(axis=2)  # of each bucket's tokens
        means[rep, empty] = projected[first[rep, nearest], rep]
        return np.asarray(means.reshape(-1))

    def __repr__(self) -> str:
        return f"Muvera(dim={self._dim}, dimension={self.dimension()})"
