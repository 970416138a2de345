"""Write and read the files of PackedTokens and PackedDense (format in index_file).

The arrays before the vectors: the shapes of the blocks (k, 2), the lengths, numbers and scales of
their documents (n,), and in version 2 the numbers of removed documents and the ids as JSON. The
vectors: the tokens of all blocks, flat. An index without ids and removed documents is written as
version 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import IntegrityError
from tessera_onnx.search import blocks, index_file
from tessera_onnx.search.blocks import Block
from tessera_onnx.search.document_ids import DocumentIds
from tessera_onnx.search.index_file import Content, Format
from tessera_onnx.vectors.quantization import OutputDtype

COUNTS = ("dim", "blocks", "documents", "elements", "tokens_crc32")
TOKENS = Format(
    "tessera-onnx packed tokens",
    "index of token vectors",
    "PackedTokens.save",
    {1: COUNTS, 2: (*COUNTS, "removed", "ids")},
)
DENSE = Format(
    "tessera-onnx packed vectors",
    "index of dense vectors",
    "PackedDense.save",
    TOKENS.counts,
)


def write_index(
    path: Path,
    kind: Format,
    documents: Sequence[Block],
    output_dtype: OutputDtype,
    dim: int,
    *,
    ids: DocumentIds,
) -> None:
    """Write the blocks and ids. Raises FileError as `index_file.write`."""
    shapes = [(len(block.numbers), _length(block)) for block in documents]
    index = [
        np.array(shapes, dtype="<i8"),
        np.concatenate([block.lengths for block in documents]).astype("<i8"),
        np.concatenate([block.numbers for block in documents]).astype("<i8"),
        np.concatenate([block.scales for block in documents]).astype("<f4"),
    ]
    more = {}
    if ids.has_ids or len(ids.removed):
        index += [ids.removed.astype("<i8"), index_file.ids_to_bytes(ids)]
        more = {"removed": len(index[4]), "ids": len(index[5])}
    tokens = Content(blocks.stored_dtype(output_dtype), [block.tokens for block in documents])
    facts = {
        "version": 2 if more else 1,
        "output": output_dtype,
        "dim": dim,
        "blocks": len(documents),
        "documents": len(index[1]),
        "elements": tokens.size,
        "index_crc32": index_file.crc(index),
        "tokens_crc32": index_file.crc(tokens.parts),
        **more,
    }
    index_file.write(path, kind, facts, index, [tokens])


def read_index(
    path: Path, kind: Format, *, verify: bool
) -> tuple[list[Block], OutputDtype, int, DocumentIds]:
    """Read a file: its blocks, whose tokens are mapped, their dtype and dim, and the ids.

    `verify` reads the tokens for their checksum. Raises FileError when the file cannot be read,
    LoadError when it is another kind of file or of a later version, IntegrityError when it is
    damaged.
    """

    def parse(stream: BinaryIO) -> tuple[list[Block], OutputDtype, int, DocumentIds]:
        facts = index_file.read_header(stream, path, kind)
        if facts.get("output") not in get_args(OutputDtype):
            raise IntegrityError(f"{path} is damaged: its header has a missing or wrong field")
        output: OutputDtype = facts["output"]
        n = facts["documents"]
        arrays: list[tuple[str, str, tuple[int, ...]]] = [
            ("blocks", "<i8", (facts["blocks"], 2)),
            ("lengths", "<i8", (n,)),
            ("numbers", "<i8", (n,)),
            ("scales", "<f4", (n,)),
        ]
        if facts["version"] > 1:
            arrays += [("removed", "<i8", (facts["removed"],)), ("ids", "|u1", (facts["ids"],))]
        index = index_file.read_arrays(stream, path, facts, arrays)
        removed, id_bytes = index[4:] or (np.empty(0, dtype=np.int64), None)
        checksum = facts["tokens_crc32"] if verify else None
        tokens = ("tokens", blocks.stored_dtype(output), facts["elements"])
        (flat,) = index_file.map_arrays(stream, path, [tokens], checksum)
        _check_index(index[:4], removed, facts, path)
        if kind is DENSE and not ((index[1] == 1).all() and (index[0][:, 1] == 1).all()):
            raise IntegrityError(f"{path} is damaged: a document has several vectors")
        ids = index_file.ids_from_bytes(path, n + len(removed), removed, id_bytes)
        return _blocks(flat, index[:4], output, facts["dim"]), output, facts["dim"], ids

    return index_file.parse_file(path, parse)


def _check_index(
    index: Sequence[NDArray[Any]], removed: NDArray[Any], facts: dict[str, Any], path: Path
) -> None:
    """Raises IntegrityError unless the blocks hold each document once and fill the tokens."""
    shapes, lengths, numbers, scales = index
    n = facts["documents"]
    # Python's integers: products of hostile int64 numbers would overflow.
    pairs = [(int(count), int(length)) for count, length in shapes]
    width = blocks.stored_width(facts["output"], facts["dim"])
    filled = (
        facts["dim"] > 0
        and n > 0
        and all(count > 0 and length > 0 for count, length in pairs)
        and sum(count for count, _ in pairs) == n
        and sum(count * length for count, length in pairs) * width == facts["elements"]
    )
    if not filled or not (
        ((lengths >= 0) & (lengths <= np.repeat(shapes[:, 1], shapes[:, 0]))).all()
        and (np.sort(np.concatenate([numbers, removed])) == np.arange(n + len(removed))).all()
        and (removed[1:] > removed[:-1]).all()
        and (np.isfinite(scales) & (scales > 0)).all()
    ):
        raise IntegrityError(f"{path} is damaged: parts of its index do not fit each other")


def _blocks(
    flat: NDArray[Any], index: Sequence[NDArray[Any]], output_dtype: OutputDtype, dim: int
) -> list[Block]:
    shapes, lengths, numbers, scales = index
    width = blocks.stored_width(output_dtype, dim)
    found = []
    document = element = 0
    for count, length in shapes.tolist():
        shape = (width, count, length) if output_dtype == "binary" else (count, length, width)
        tokens = flat[element : element + math.prod(shape)].reshape(shape)
        picked = slice(document, document + count)
        found.append(Block(tokens, lengths[picked], numbers[picked], scales[picked]))
        document += count
        element += tokens.size
    return found


def _length(block: Block) -> int:
    return int(block.tokens.shape[2 if block.tokens.dtype == blocks.WORD else 1])
