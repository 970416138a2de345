"""A pack of token vectors as a file (see mapped_file), whose tokens are mapped, not read.

The index: the shapes of the blocks (k, 2), their documents' lengths, numbers and scales (n,), and
in version 2 the numbers of removed documents and the ids as JSON. The content: the tokens of all
blocks, flat. A pack without ids and gaps is written as version 1.
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
from tessera_onnx.search.index_file import Content, Format
from tessera_onnx.search.numbering import Numbering
from tessera_onnx.vectors.quantization import OutputDtype

COUNTS = ("dim", "blocks", "documents", "elements", "tokens_crc32")
TOKENS = Format(
    "tessera-onnx packed tokens",
    "pack of tokens",
    "PackedTokens.save",
    {1: COUNTS, 2: (*COUNTS, "removed", "ids")},
)


def write_index(
    path: Path, packed: Sequence[Block], output_dtype: OutputDtype, dim: int, numbering: Numbering
) -> None:
    """Raises FileError when the file cannot be written; then what was there is still there."""
    shapes = [(len(block.places), _length(block)) for block in packed]
    index = [
        np.array(shapes, dtype="<i8"),
        np.concatenate([block.lengths for block in packed]).astype("<i8"),
        np.concatenate([block.places for block in packed]).astype("<i8"),
        np.concatenate([block.scales for block in packed]).astype("<f4"),
    ]
    more = {}
    if numbering.named or len(numbering.removed):
        index += [numbering.removed.astype("<i8"), index_file.pack_ids(numbering)]
        more = {"removed": len(index[4]), "ids": len(index[5])}
    tokens = Content(blocks.dtype(output_dtype), [block.tokens for block in packed])
    facts = {
        "version": 2 if more else 1,
        "output": output_dtype,
        "dim": dim,
        "blocks": len(packed),
        "documents": len(index[1]),
        "elements": tokens.size,
        "index_crc32": index_file.crc(index),
        "tokens_crc32": index_file.crc(tokens.parts),
        **more,
    }
    index_file.write(path, TOKENS, facts, index, [tokens])


def read_index(path: Path, *, verify: bool) -> tuple[list[Block], OutputDtype, int, Numbering]:
    """The blocks, their form, dim and numbering. Tokens are mapped; `verify` reads them once.

    Raises FileError when there is no such file, LoadError when it is another kind of file or of a
    later version, IntegrityError when it is damaged.
    """

    def parse(stream: BinaryIO) -> tuple[list[Block], OutputDtype, int, Numbering]:
        facts = index_file.header(stream, path, TOKENS)
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
        index = index_file.index(stream, path, facts, arrays)
        removed, ids = index[4:] or (np.empty(0, dtype=np.int64), None)
        checksum = facts["tokens_crc32"] if verify else None
        tokens = ("tokens", blocks.dtype(output), facts["elements"])
        (flat,) = index_file.mapped(stream, path, [tokens], checksum)
        _check_index(index[:4], removed, facts, path)
        numbering = index_file.unpack_ids(path, n + len(removed), removed, ids)
        return _blocks(flat, index[:4], output, facts["dim"]), output, facts["dim"], numbering

    return index_file.opened(path, parse)


def _check_index(
    index: Sequence[NDArray[Any]], removed: NDArray[Any], facts: dict[str, Any], path: Path
) -> None:
    """Raises IntegrityError unless the blocks hold each document once and fill the tokens."""
    shapes, lengths, places, scales = index
    n = facts["documents"]
    # As Python's numbers: products of hostile ones would wrap around.
    pairs = [(int(count), int(length)) for count, length in shapes]
    width = blocks.width(facts["output"], facts["dim"])
    filled = (
        facts["dim"] > 0
        and n > 0
        and all(count > 0 and length > 0 for count, length in pairs)
        and sum(count for count, _ in pairs) == n
        and sum(count * length for count, length in pairs) * width == facts["elements"]
    )
    if not filled or not (
        ((lengths >= 0) & (lengths <= np.repeat(shapes[:, 1], shapes[:, 0]))).all()
        and (np.sort(np.concatenate([places, removed])) == np.arange(n + len(removed))).all()
        and (removed[1:] > removed[:-1]).all()
        and (np.isfinite(scales) & (scales > 0)).all()
    ):
        raise IntegrityError(f"{path} is damaged: its index contradicts itself")


def _blocks(
    flat: NDArray[Any], index: Sequence[NDArray[Any]], output_dtype: OutputDtype, dim: int
) -> list[Block]:
    shapes, lengths, places, scales = index
    width = blocks.width(output_dtype, dim)
    found = []
    document = element = 0
    for count, length in shapes.tolist():
        shape = (width, count, length) if output_dtype == "binary" else (count, length, width)
        tokens = flat[element : element + math.prod(shape)].reshape(shape)
        picked = slice(document, document + count)
        found.append(Block(tokens, lengths[picked], places[picked], scales[picked]))
        document += count
        element += tokens.size
    return found


def _length(block: Block) -> int:
    return int(block.tokens.shape[2 if block.tokens.dtype == blocks.WORD else 1])
