"""A pack of sparse vectors as a file (see mapped_file), whose entries' documents are mapped.

The index: the vocabulary entries that occur (k,), where the documents of each start (k + 1,), the
number of entries of each document (n,), the numbers of removed documents, and the ids as JSON. The
content: the numbers of the documents of all entries, and their values.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import IntegrityError
from tessera_onnx.search import index_file
from tessera_onnx.search.index_file import Content, Format
from tessera_onnx.search.numbering import Numbering
from tessera_onnx.search.sparse_index import Postings

DOCUMENT, VALUE = np.dtype("<i4"), np.dtype("<f4")
COUNTS = ("entries", "documents", "removed", "ids", "postings", "postings_crc32")
SPARSE = Format(
    "tessera-onnx packed sparse vectors",
    "pack of sparse vectors",
    "PackedSparse.save",
    {1: COUNTS},
)


def write_index(path: Path, packed: Postings, numbering: Numbering) -> None:
    """Raises FileError when the file cannot be written; then what was there is still there."""
    index = [
        packed.entries.astype("<i4"),
        packed.starts.astype("<i8"),
        np.bincount(packed.documents, minlength=numbering.count).astype("<i4"),
        numbering.removed.astype("<i8"),
        index_file.pack_ids(numbering),
    ]
    content = [
        Content(DOCUMENT, [packed.documents.astype(DOCUMENT)]),
        Content(VALUE, [packed.values.astype(VALUE)]),
    ]
    facts = {
        "version": 1,
        "entries": len(index[0]),
        "documents": numbering.count,
        "removed": len(index[3]),
        "ids": len(index[4]),
        "postings": len(packed.values),
        "index_crc32": index_file.crc(index),
        "postings_crc32": index_file.crc([*content[0].parts, *content[1].parts]),
    }
    index_file.write(path, SPARSE, facts, index, content)


def read_index(path: Path, *, verify: bool) -> tuple[Postings, Numbering]:
    """The documents by entry and their numbering; the former mapped, `verify` reads them once.

    Raises FileError when there is no such file, LoadError when it is another kind of file or of a
    later version, IntegrityError when it is damaged.
    """

    def parse(stream: BinaryIO) -> tuple[Postings, Numbering]:
        facts = index_file.header(stream, path, SPARSE)
        index = index_file.index(
            stream,
            path,
            facts,
            [
                ("entries", "<i4", (facts["entries"],)),
                ("starts", "<i8", (facts["entries"] + 1,)),
                ("lengths", "<i4", (facts["documents"],)),
                ("removed", "<i8", (facts["removed"],)),
                ("ids", "|u1", (facts["ids"],)),
            ],
        )
        n = facts["postings"]
        checksum = facts["postings_crc32"] if verify else None
        arrays = [("documents", DOCUMENT, n), ("values", VALUE, n)]
        documents, values = index_file.mapped(stream, path, arrays, checksum)
        _check_index(index, n, path)
        entries, starts, lengths, removed, ids = index
        numbering = index_file.unpack_ids(path, len(lengths), removed, ids)
        return Postings(entries, starts, documents, values), numbering

    return index_file.opened(path, parse)


def _check_index(index: Sequence[NDArray[Any]], postings: int, path: Path) -> None:
    """Raises IntegrityError unless the parts of the index fit each other and the content."""
    entries, starts, lengths, removed, _ = index
    inside = (removed >= 0) & (removed < len(lengths))
    if not (
        len(lengths) > len(removed)
        and (entries[:1] >= 0).all()
        and (entries[1:] > entries[:-1]).all()
        and starts[0] == 0
        and (starts[1:] > starts[:-1]).all()
        and starts[-1] == postings
        and (lengths >= 0).all()
        and int(lengths.sum(dtype=np.int64)) == postings
        and inside.all()
        and (removed[1:] > removed[:-1]).all()
        and not lengths[removed].any()
    ):
        raise IntegrityError(f"{path} is damaged: its index contradicts itself")
