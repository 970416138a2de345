"""Types of results: a ranked document, sparse vectors, sign bits, int8 codes, all kinds at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import check_top_k
from tessera_onnx.errors import ConfigError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class _Ranked(NamedTuple):
    index: int  # type: ignore[assignment]  # hides the method tuple.index
    score: float


class Ranked(_Ranked):
    """One document of a ranking: its index in the caller's list, and its score.

    `id` is the document's id where an index (PackedTokens, PackedSparse) was given ids, else None.
    It is an attribute and no part of the tuple, so `index, score = row` works for every ranking.
    """

    id: str | None = None

    def __new__(cls, index: int, score: float, id: str | None = None) -> Self:  # noqa: A002
        """Make the pair (index, score); the attribute is set only if there is an id."""
        found = super().__new__(cls, index, score)
        if id is not None:
            found.id = id
        return found

    def _replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, the id included."""
        fields = {"index": self.index, "score": self.score, "id": self.id}
        return type(self)(**fields | changes)

    def __repr__(self) -> str:
        last = "" if self.id is None else f", id={self.id!r}"
        return f"Ranked(index={self.index!r}, score={self.score!r}{last})"


class QdrantVector(TypedDict):
    """The JSON form of a Qdrant sparse vector."""

    indices: list[int]
    values: list[float]


class SparseVector(NamedTuple):
    """A sparse vector: vocabulary ids and their weights; two empty arrays if all weights are 0.

    indices (k,) int32, ascending; values (k,) float32, above 0; of miniCOIL, of either sign.
    """

    indices: NDArray[np.int32]
    values: NDArray[np.float32]

    def to_dict(self) -> dict[int, float]:
        """The vector as {vocabulary id: weight}."""
        return dict(zip(self.indices.tolist(), self.values.tolist(), strict=True))

    def to_qdrant(self) -> QdrantVector:
        """The JSON form of a Qdrant sparse vector: {"indices": [...], "values": [...]}."""
        return {"indices": self.indices.tolist(), "values": self.values.tolist()}

    def to_scipy(self, vocab_size: int) -> csr_matrix:
        """The vector as a (1, vocab_size) scipy CSR matrix; scipy must be installed.

        Raises TypeError unless `vocab_size` is an integer, ConfigError unless it exceeds every id.
        """
        if isinstance(vocab_size, bool) or not isinstance(vocab_size, int | np.integer):
            raise TypeError(f"vocab_size must be int, got {type(vocab_size).__name__}")
        least = int(self.indices.max(initial=0)) + 1
        if vocab_size < least:  # scipy would read and write outside the matrix
            raise ConfigError(f"vocab_size must be at least {least}, got {vocab_size}")
        from scipy.sparse import csr_matrix

        pointers = [0, len(self.indices)]
        parts = (self.values, self.indices, pointers)
        return csr_matrix(parts, shape=(1, int(vocab_size)), copy=True)  # else scipy changes these


class Embeddings(NamedTuple):
    """n texts in every kind that a model has; None for a kind that it does not have."""

    dense: NDArray[np.float32] | None  # (n, dimension)
    multi_vector: list[NDArray[np.float32]] | None  # n arrays (n_tokens, dimension)
    sparse: list[SparseVector] | None


class Chunks(NamedTuple):
    """The vectors of the n chunks of a text, and where the chunks lie in it."""

    vectors: NDArray[np.float32]  # (n, dimension)
    spans: NDArray[np.int64]  # (n, 2): chunk i is text[spans[i, 0] : spans[i, 1]]


@dataclass(frozen=True, slots=True, eq=False)
class BinaryTokens:
    """Sign bits of vectors, 32 times smaller than float32.

    bits (n, ceil(dim / 8)), or (ceil(dim / 8),) for one vector, uint8, most significant bit first
    as in np.packbits, FAISS and Qdrant; unused low bits of the last byte are 0.
    """

    bits: NDArray[np.uint8]
    dim: int

    def __post_init__(self) -> None:
        if isinstance(self.dim, np.integer):  # NumPy integers of few bits may overflow
            object.__setattr__(self, "dim", int(self.dim))

    def __len__(self) -> int:
        return len(self.bits)

    def unpack(self) -> NDArray[np.float32]:
        """The vectors as +1 and -1: (n, dim) or (dim,) float32."""
        bits = np.unpackbits(self.bits, axis=-1, count=self.dim)
        return bits.astype(np.float32) * 2 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Int8Vectors:
    """int8 codes of vectors; the vectors are `codes * scale + offset`."""

    codes: NDArray[np.int8]  # (n, dim), or (dim,) for one vector
    scale: NDArray[np.float32]  # broadcasts against codes
    offset: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.codes)

    def dequantize(self) -> NDArray[np.float32]:
        """The vectors in float32, each component within half a scale step of the original."""
        with np.errstate(under="ignore"):
            return self.codes.astype(np.float32) * self.scale + self.offset


class SupportsArray(Protocol):
    """An object that NumPy reads as an array: a NumPy array, a tensor, a column of a data frame."""

    def __array__(self) -> NDArray[Any]:
        """The object as a NumPy array."""


# One vector (dim,) or several (n, dim), as an earlier call gave them or from elsewhere.
Vectors: TypeAlias = (
    SupportsArray | Sequence[float] | Sequence[Sequence[float]] | Int8Vectors | BinaryTokens
)


def check_binary(tokens: Any, name: str, least: int = 1) -> None:
    """Check that `tokens` are BinaryTokens of (n, ceil(dim / 8)) bits, n at least `least`.

    Raises TypeError for another type, ConfigError for another shape or dtype, no dimensions, fewer
    rows, or a bit after the last dimension that is 1. Messages begin with `name`.
    """
    if not isinstance(tokens, BinaryTokens):
        raise TypeError(
            f"{name} must be BinaryTokens, got {type(tokens).__name__}: "
            'output_dtype="binary" gives them'
        )
    whole = isinstance(tokens.dim, int) and not isinstance(tokens.dim, bool)
    if not isinstance(tokens.bits, np.ndarray) or not whole:
        raise TypeError(f"{name} must hold an array of bits and a whole number of dimensions")
    if tokens.bits.ndim != 2 or len(tokens) < least:
        raise ConfigError(
            f"{name} must hold bits (n, bytes), n at least {least}, got shape {tokens.bits.shape}"
        )
    n_bytes = -(-tokens.dim // 8)
    if tokens.dim < 1 or tokens.bits.dtype != np.uint8 or tokens.bits.shape[1] != n_bytes:
        raise ConfigError(f"{name}: {tokens.bits.shape} bytes do not hold {tokens.dim} bits")
    # Hamming distances would count these bits.
    if (tokens.bits[:, -1] & (0xFF >> (tokens.dim - 1) % 8 + 1)).any():
        raise ConfigError(f"{name} has bits after its {tokens.dim} dimensions, which must be 0")


def check_int8(vectors: Any, name: str) -> None:
    """Check that Int8Vectors hold codes (n, dim) or (dim,), and a scale and offset that broadcast.

    Raises TypeError for other dtypes, ConfigError for other shapes. Messages begin with `name`.
    """
    parts = (vectors.codes, vectors.scale, vectors.offset)
    kinds = [part.dtype.kind if isinstance(part, np.ndarray | np.generic) else "" for part in parts]
    if kinds != ["i", "f", "f"] or vectors.codes.dtype != np.int8:
        raise TypeError(f"{name} must hold an array of int8 codes, and float scale and offset")
    try:
        fits = np.broadcast_shapes(*(part.shape for part in parts)) == vectors.codes.shape
    except ValueError:
        fits = False
    if not fits or vectors.codes.ndim not in (1, 2):
        shapes = ", ".join(str(part.shape) for part in parts)
        raise ConfigError(f"{name} must hold codes (n, dim), a scale and an offset, got {shapes}")


def ranking(
    scores: NDArray[Any],
    top_k: int | None,
    numbers: NDArray[np.int64] | None = None,
    ids: Sequence[str | None] = (),
) -> list[Ranked]:
    """The `top_k` documents of the highest scores (all for None), highest first.

    Documents of equal scores keep their order. `numbers` are the documents to rank, all of them by
    default; `ids` holds the id of each document by its number.
    """
    numbers = np.arange(len(scores)) if numbers is None else numbers
    found = scores[numbers]
    n = check_top_k(top_k, len(found))
    if 0 < n < len(found) // 8:  # sort those alone that may be among the best
        least = np.partition(found, len(found) - n)[len(found) - n]
        kept = np.flatnonzero(found >= least)
        numbers, found = numbers[kept], found[kept]
    order = np.argsort(-found, kind="stable")[:n]
    picked = zip(numbers[order].tolist(), found[order].tolist(), strict=True)
    return [Ranked(number, score, ids[number] if ids else None) for number, score in picked]
