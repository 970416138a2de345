"""Write and read the file of a PackedSparse index (format in index_file).

The arrays before the vectors: the vocabulary entries that occur (k,), where the postings of each
start (k + 1,), the number of entries of each document (n,), the numbers of removed documents, and
the ids as JSON. The vectors: the document number of each posting, and its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import IntegrityError
from tessera_onnx.search import index_file
from tessera_onnx.search.document_ids import DocumentIds
from tessera_onnx.search.index_file import Content, Format
from tessera_onnx.search.postings import Postings

DOCUMENT, VALUE = np.dtype("<i4"), np.dtype("<f4")
COUNTS = ("entries", "documents", "removed", "ids", "postings", "postings_crc32")
SPARSE = Format(
    "tessera-onnx packed sparse vectors",
    "index of sparse vectors",
    "PackedSparse.save",
    {
        1: COUNTS,
        2: (*COUNTS, "idf"),
    },  # 2 only for an index with IDF, so that 1 stays the common form
)


def write_index(path: Path, postings: Postings, ids: DocumentIds, *, idf: bool) -> None:
    """Write the postings and ids. Raises FileError as `index_file.write`."""
    index = [
        postings.entries.astype("<i4"),
        postings.starts.astype("<i8"),
        np.bincount(postings.documents, minlength=ids.count).astype("<i4"),
        ids.removed.astype("<i8"),
        index_file.ids_to_bytes(ids),
    ]
    content = [
        Content(DOCUMENT, [postings.documents.astype(DOCUMENT)]),
        Content(VALUE, [postings.values.astype(VALUE)]),
    ]
    facts = {
        **({"version": 2, "idf": 1} if idf else {"version": 1}),
        "entries": len(index[0]),
        "documents": ids.count,
        "removed": len(index[3]),
        "ids": len(index[4]),
        "postings": len(postings.values),
        "index_crc32": index_file.crc(index),
        "postings_crc32": index_file.crc([*content[0].parts, *content[1].parts]),
    }
    index_file.write(path, SPARSE, facts, index, content)


def read_index(path: Path, *, verify: bool) -> tuple[Postings, DocumentIds, bool]:
    """Read a file: its postings, which are mapped, the ids, and whether queries are IDF-weighed.

    `verify` reads the postings for their checksum. Raises FileError when the file cannot be read,
    LoadError when it is another kind of file or of a later version, IntegrityError when it is
    damaged.
    """

    def parse(stream: BinaryIO) -> tuple[Postings, DocumentIds, bool]:
        facts = index_file.read_header(stream, path, SPARSE)
        index = index_file.read_arrays(
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
        documents, values = index_file.map_arrays(stream, path, arrays, checksum)
        _check_index(index, n, path)
        entries, starts, lengths, removed, id_bytes = index
        ids = index_file.ids_from_bytes(path, len(lengths), removed, id_bytes)
        return Postings(entries, starts, documents, values), ids, bool(facts.get("idf", 0))

    return index_file.parse_file(path, parse)


def _check_index(index: Sequence[NDArray[Any]], postings: int, path: Path) -> None:
    """Raises IntegrityError unless the arrays fit each other and the number of postings."""
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
        raise IntegrityError(f"{path} is damaged: parts of its index do not fit each other")
