"""Documents' token vectors as rectangular blocks of like length: the layout that MaxSim reads.

A document shorter than its block is padded with copies of its own first token, which cannot change
a maximum: no mask is needed, and a block is one product. One without a token (a blank page) is
padded with zeros, and PackedTokens knows its score. Measured on two cores, that reaches nine
tenths of the matrix product's speed, where padding at each call takes four times as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError, DimensionMismatch, about_item
from tessera_onnx.results import BinaryTokens, check_binary
from tessera_onnx.vectors import quantization, scoring
from tessera_onnx.vectors.quantization import OutputDtype

# Tokens of a full block: the products with 32 query tokens are 2 MB, which the cache takes.
BLOCK_TOKENS = 16384
LEAST_TOKENS = 1024  # a smaller product is slower than some padding
SLACK = 0.9  # a document shorter than this share of its block's length begins the next block
SEGMENT_TOKENS = 1 << 19  # documents are sorted by length within so many tokens
CODE_ZERO = 128  # an int8 document's code for 0: processors multiply unsigned by signed bytes
WORD = np.dtype("<u8")  # of sign bits


class Rows(NamedTuple):
    """One document in the form in which it is kept."""

    place: int  # its number in the pack
    tokens: NDArray[Any]  # (n_tokens, width)
    scale: float  # of its int8 codes, else 1


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Documents padded to one length.

    tokens: float32 (n, length, dim); uint8 codes of the same shape, 128 for 0; or 64-bit words of
    sign bits, (words, n, length), so that each word of all tokens lies together.
    """

    tokens: NDArray[Any]
    lengths: NDArray[np.int64]  # (n,) real tokens, 0 for a blank page
    places: NDArray[np.int64]  # (n,) each document's number in the pack
    scales: NDArray[np.float32]  # (n,), of int8 codes

    def unpack(self) -> Iterator[Rows]:
        """The documents without their padding."""
        tokens = self.tokens
        if tokens.dtype == WORD:
            tokens = tokens.transpose(1, 2, 0)
        facts = (self.places.tolist(), tokens, self.lengths, self.scales.tolist())
        for place, rows, length, scale in zip(*facts, strict=True):
            yield Rows(place, rows[:length], scale)

    def take(self, picked: NDArray[np.intp]) -> Block:
        """Some of its documents, in memory of their own."""
        axis = 1 if self.tokens.dtype == WORD else 0
        tokens = np.take(self.tokens, picked, axis=axis)
        return Block(tokens, self.lengths[picked], self.places[picked], self.scales[picked])


def without(segment: Sequence[Block], gone: NDArray[np.bool_]) -> list[Block]:
    """The blocks without the documents whose numbers are True in `gone`."""
    left = []
    for block in segment:
        stay = ~gone[block.places]
        if stay.all():
            left.append(block)
        elif stay.any():
            left.append(block.take(np.flatnonzero(stay)))
    held = sum(int(block.lengths.sum()) for block in left)
    if len(left) < 2 or 2 * held >= LEAST_TOKENS * len(left):
        return left
    return pack([row for block in left for row in block.unpack()])  # what is left is too small


def among(blocks: Sequence[Block], wanted: NDArray[np.bool_]) -> list[Block]:
    """Blocks with the documents whose numbers are True in `wanted`, and perhaps some more.

    To copy some documents of a block costs about as much as to score all of it.
    """
    found = []
    for block in blocks:
        picked = np.flatnonzero(wanted[block.places])
        if 2 * len(picked) > len(block.places):
            found.append(block)
        elif len(picked):
            found.append(block.take(picked))
    return found


def width(output_dtype: OutputDtype, dim: int) -> int:
    """Elements of a token as it is kept."""
    return -(-dim // 64) if output_dtype == "binary" else dim


def dtype(output_dtype: OutputDtype) -> np.dtype[Any]:
    """Their type."""
    return np.dtype({"float32": "<f4", "int8": "u1", "binary": WORD.str}[output_dtype])


def rows(document: Any, output_dtype: OutputDtype, place: int, name: str) -> tuple[Rows, int]:
    """One document's (n, dim) token vectors in the form in which they are kept, and its dim.

    n may be 0. The binary form takes BinaryTokens too. Raises as `scoring.matrix`, with `name`.
    """
    if isinstance(document, BinaryTokens):
        if output_dtype != "binary":
            raise ConfigError(
                f"{name} holds sign bits, the pack is {output_dtype}: pass float vectors"
            )
        check_binary(document, name, least=0)
        return Rows(place, words(document), 1.0), document.dim
    tokens = scoring.matrix(name, document, least=0)
    dim = tokens.shape[1]
    if output_dtype == "binary":
        return Rows(place, words(quantization.binary(tokens)), 1.0), dim
    if output_dtype == "float32":
        return Rows(place, tokens, 1.0), dim
    peak = float(np.abs(tokens).max(initial=0))
    # A scale a document: it comes after the maximum, which is then one over integers.
    scale = np.float32(max(peak / 127, float(np.finfo(np.float32).tiny)))
    with np.errstate(under="ignore"):
        codes = np.rint(tokens / scale) + CODE_ZERO
    return Rows(place, np.clip(codes, 1, 255).astype(np.uint8), float(scale)), dim


def _own(kept: Rows, document: Any) -> Rows:
    """The rows in memory that is not the document's."""
    if isinstance(document, BinaryTokens | list | tuple):
        return kept
    shared = np.may_share_memory(kept.tokens, np.asarray(document))
    return kept._replace(tokens=kept.tokens.copy()) if shared else kept


def words(tokens: BinaryTokens) -> NDArray[np.uint64]:
    """Sign bits (n, ceil(dim / 8)) as 64-bit words (n, ceil(dim / 64)), the last filled with 0."""
    count = -(-tokens.dim // 64)
    filled = np.zeros((len(tokens), 8 * count), dtype=np.uint8)
    filled[:, : tokens.bits.shape[1]] = tokens.bits
    return filled.view(WORD)


def read_blocks(
    documents: Iterable[Any], output_dtype: OutputDtype, first: int, dim: int | None
) -> Iterator[tuple[list[Rows], int]]:
    """Segments of the documents and their dim; the first document's number is `first`.

    Raises TypeError or ConfigError naming the document, DimensionMismatch when dims differ.
    """
    segment: list[Rows] = []
    tokens = 0
    stream = not isinstance(documents, list | tuple)
    for i, document in enumerate(documents):
        with about_item(i):
            kept, found = rows(document, output_dtype, first + i, f"documents[{i}]")
            if dim not in (None, found):
                raise DimensionMismatch(f"documents[{i}] has {found} dims, those before it {dim}")
        if stream:  # which may fill one buffer again and again, before a segment is packed
            kept = _own(kept, document)
        dim = found
        segment.append(kept)
        tokens += max(1, len(kept.tokens))
        if tokens >= SEGMENT_TOKENS:
            yield segment, dim
            segment, tokens = [], 0
    if segment and dim is not None:
        yield segment, dim


def pack(documents: Sequence[Rows]) -> list[Block]:
    """The documents, sorted by length, as blocks; ties keep their order."""
    ordered = sorted(documents, key=lambda document: -len(document.tokens))
    lengths = np.array([len(document.tokens) for document in ordered])
    blocks = []
    start = 0
    while start < len(ordered):
        longest = max(1, int(lengths[start]))
        loose = int(np.searchsorted(-lengths, -SLACK * longest, side="right"))
        least = start + max(1, LEAST_TOKENS // longest)
        most = start + max(1, BLOCK_TOKENS // longest)
        end = min(most, max(loose, least))
        blocks.append(_block(ordered[start:end]))
        start = end
    return blocks


def _block(documents: Sequence[Rows]) -> Block:
    lengths = np.array([len(document.tokens) for document in documents], dtype=np.int64)
    first = documents[0].tokens
    shape = (len(documents), max(1, int(lengths[0])), first.shape[1])
    tokens = np.empty(shape, dtype=first.dtype)
    for target, document in zip(tokens, documents, strict=True):
        target[: len(document.tokens)] = document.tokens
        target[len(document.tokens) :] = document.tokens[0] if len(document.tokens) else 0
    if tokens.dtype == WORD:
        tokens = np.ascontiguousarray(tokens.transpose(2, 0, 1))
    return Block(
        tokens,
        lengths,
        np.array([document.place for document in documents], dtype=np.int64),
        np.array([document.scale for document in documents], dtype=np.float32),
    )
