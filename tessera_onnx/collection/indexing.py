"""Bring a collection up to date: documents become chunks, chunks become rows, rows are committed.

Chunks are committed in order, so what is stored of a document that was interrupted is its first
chunks, and the next run goes on behind them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tessera_onnx.collection import chunks
from tessera_onnx.collection.documents import Document, Reading, read_documents
from tessera_onnx.collection.opening import Parts
from tessera_onnx.collection.place import Row, Stored, tag
from tessera_onnx.errors import ConfigError, EncodingError, FileError, TesseraError

WINDOW = 256  # chunks of a commit, which is what a kill may cost
NEW: dict[str, Stored] = {}


@dataclass
class Report:
    """What a call did to a collection.

    documents: that were read. unchanged: of these, how many were stored already. empty: of these,
    how many have no text. failed: messages about files and rows that could not be read.
    """

    documents: int = 0
    unchanged: int = 0
    chunks: int = 0  # that were encoded
    removed: int = 0  # documents
    empty: int = 0
    ignored: int = 0  # files of folders, by their ending
    failed: list[str] = field(default_factory=list)


class _Chunk(NamedTuple):
    document: Document
    sha256: str
    number: int
    is_last: bool
    span: chunks.Span


class Writer:
    """Adds documents to a store; it holds the lock of the store's writer while it is used."""

    def __init__(self, parts: Parts, tell: Callable[[Report], None]) -> None:
        """`tell` is called with the report so far after each commit."""
        settings, self._models, self._store = parts
        self._tell = tell
        self._limit, self._overlap = settings.chunk_tokens, settings.overlap
        self._known, self._files = self._store.state()
        self._seen: set[str] = set()
        self._waiting: list[_Chunk] = []
        self.report = Report()

    def add_files(self, files: Iterable[Path], reading: Reading) -> set[str]:
        """Add the documents of files; the names of those that could not be read to their end."""
        failed = set()
        for path in files:
            documents = read_documents(path, reading)
            while True:
                try:
                    found = next(documents, None)
                except (FileError, EncodingError) as error:
                    failed.add(str(path))
                    self.report.failed.append(str(error))
                    break
                if found is None:
                    break
                if isinstance(found, TesseraError):
                    self.report.failed.append(str(found))
                elif found.source in self._seen:
                    self.report.failed.append(f"{found.source}: an earlier row has this id")
                elif (refusal := self._refusal(found)) is not None:
                    self.report.failed.append(refusal)
                else:
                    self.add(found)
        return failed

    def _refusal(self, document: Document) -> str | None:
        """Why the place cannot keep a document."""
        try:
            self._store.check(document)
        except EncodingError as error:
            return str(error)
        return None

    def check_new(self, document: Document) -> None:
        """Raises ConfigError for a document whose source was added before.

        Raises EncodingError for one that the place cannot keep.
        """
        if document.source in self._seen:
            raise ConfigError("two documents have the same source: give each another one")
        self._store.check(document)

    def add(self, document: Document) -> None:
        """Add a document, or what is not stored of it; older versions go with its last chunk."""
        source, sha256 = document.source, document.sha256()
        self._seen.add(source)
        self.report.documents += 1
        known = self._known.get(source, NEW)
        stored = known.get(sha256, Stored())
        if stored.is_whole:
            self.report.unchanged += 1
            if len(known) > 1:
                self._store.remove([], but={source: sha256})
            return
        found = _with_last(
            chunks.split(document.text, self._models.count, self._limit, self._overlap)
        )
        is_empty = True
        for number, (span, is_last) in enumerate(found):
            is_empty = False
            if number >= stored.chunks:
                self._waiting.append(_Chunk(document, sha256, number, is_last, span))
            if len(self._waiting) >= WINDOW:
                self.flush()
        if is_empty:
            self.report.empty += 1
            if known:
                self._store.remove([source])

    def remove(self, sources: Iterable[str]) -> None:
        """Remove documents that are stored; other sources are left out."""
        gone = [source for source in sources if source in self._files]
        self._store.remove(gone)
        self.report.removed += len(gone)

    def remove_gone(self, is_inside: Callable[[str], bool]) -> None:
        """Remove the documents of files that were not seen and of which `is_inside` is true."""
        files = self._files.items()
        self.remove([s for s, file in files if s not in self._seen and is_inside(file)])

    def flush(self) -> None:
        """Encode and commit the chunks that wait.

        Raises EncodingError that names the source of a chunk on which a model fails.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        rows = [_row(each) for each in waiting]
        try:
            vectors = self._models.encode([row["text"] for row in rows])
        except EncodingError as error:
            if error.index is None:
                raise
            source = waiting[error.index].document.source
            raise EncodingError(f"a chunk of {source} cannot be encoded: {error}") from error
        replaced = {
            each.document.source: each.sha256
            for each in waiting
            if each.is_last and self._known.get(each.document.source, {}).keys() - {each.sha256}
        }
        self._store.write(rows, vectors, replaced)
        self.report.chunks += len(waiting)
        self._tell(self.report)


def _row(chunk: _Chunk) -> Row:
    """The columns of a chunk that are no vectors."""
    document, span = chunk.document, chunk.span
    return {
        "source": document.source,
        "file": document.file,
        "sha256": chunk.sha256,
        "number": chunk.number,
        "last": chunk.is_last,
        "start": span.start,
        "stop": span.stop,
        "text": document.text[span.start : span.stop],
        "fields": json.dumps(dict(document.fields)),
        "tags": [tag(key, value) for key, value in document.fields.items()],
    }


def _with_last(spans: Iterator[chunks.Span]) -> Iterator[tuple[chunks.Span, bool]]:
    """Each span, and whether it is the last one."""
    before = next(spans, None)
    for span in spans:
        if before is not None:
            yield before, False
        before = span
    if before is not None:
        yield before, True
