"""Collection: files as chunks with vectors in a folder, searched by meaning and by words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Self

from tessera_onnx.checks import check_items, check_limit
from tessera_onnx.collection.documents import (
    Document,
    Filter,
    Found,
    Reading,
    absolute,
    checked,
    find_files,
    is_inside,
)
from tessera_onnx.collection.place import find_place
from tessera_onnx.collection.resources import Resources
from tessera_onnx.collection.settings import Wanted
from tessera_onnx.errors import ConfigError, about_item
from tessera_onnx.models.spec import Kind
from tessera_onnx.text.tokenizer import check_text

if TYPE_CHECKING:
    from tessera_onnx.collection.indexing import Report


class Collection:
    """Documents, cut into chunks and searched by a dense and a sparse model together.

    >>> collection = Collection("notes.index")
    >>> collection.sync(["notes/"])
    >>> collection.search("how long does bread keep?", top_k=5)

    It is kept in a folder, or in a Qdrant or PostgreSQL server. One process writes at a time, and
    any number read, also meanwhile. A process that was killed while it wrote loses the chunks since
    its last commit, and the same call goes on behind them.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        store: str | None = None,
        url: str | None = None,
        model: str | None = None,
        sparse: str | None = None,
        multi_vector: str | None = None,
        language: str | None = None,
        chunk_tokens: int | None = None,
        overlap: int | None = None,
        threads: int | None = None,
    ) -> None:
        """Name a folder; it is made by the first call that adds documents.

        Models and sizes are those of the collection, once there is one. Raises ConfigError for a
        store that is not known, or has no URL.

        Args:
            folder: of this collection alone; with `store` the name of a collection or table.
            store: "qdrant" or "pgvector" (extras of these names); None is a folder.
            url: of the store, such as "http://host:6333" or "postgresql://host/db".
            model: id or folder of a dense model; None takes the first installed one.
            sparse: the same of a sparse model; None takes "bm25", and "none" leaves words out.
            multi_vector: the same of a multi-vector model, which ranks the best chunks anew.
            language: of a lexical model such as bm25; None is English.
            chunk_tokens: the most tokens of a chunk, as the dense model counts them; None takes
                256, or as many as the model reads.
            overlap: the most tokens at the end of a chunk that the next one repeats; None takes 32.
            threads: CPU threads of the models.
        """
        self.folder = absolute([folder])[0] if store is None else None
        models: dict[Kind, str | None] = {"dense": model, "sparse": sparse}
        models["multi-vector"] = multi_vector
        wanted = Wanted(models, chunk_tokens, overlap, language, threads)
        self._resources = Resources(lambda: find_place(folder, store, url), wanted)

    def sync(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        text_fields: Sequence[str] = ("text",),
        id_field: str | None = None,
        password: str | None = None,
        tell: Callable[[Report], None] = lambda _: None,
    ) -> Report:
        """Make the collection hold what the files hold now: add, replace and remove documents.

        Files are .txt, .md, .pdf, .jsonl, .parquet and .arrow; a row of a table and a page of a PDF
        are a document each. What has not changed, by its hash, is not encoded again. Documents of
        files that are no longer in a folder of `paths` are removed. A file or row that cannot be
        read is in the report; of such a file, what is stored stays.

        Args:
            paths: files and folders.
            text_fields: keys or columns of the text of a row, joined by ends of lines.
            id_field: key or column of an id, so that a row is known wherever it stands.
            password: opens encrypted PDFs.
            tell: called with the report so far after each commit.

        Raises:
            FileError: a path is not there, or the folder cannot be written; another process writes.
            StoreError: the store does not answer or refuses; another process writes.
            ConfigError: a setting is not that of the collection, or cannot work.
            LoadError: a model cannot be opened. ImportError: a package is missing (extra `index`).
        """
        self._resources.place()
        places = absolute(paths)
        check_items(text_fields, "text_fields", "names of keys or columns")
        if not text_fields:
            raise ConfigError("text_fields must name a key or column, got none")
        reading = Reading(tuple(text_fields), id_field, password)
        files = find_files(places, self.folder)
        with self._resources.writer(tell) as writer:
            writer.report.ignored = files.ignored
            writer.report.failed += files.unreadable.values()
            failed = writer.add_files(files.known, reading)
            writer.flush()
            kept = [*files.unreadable]
            writer.remove_gone(
                lambda file: (
                    file not in failed and is_inside(file, places) and not is_inside(file, kept)
                )
            )
        return writer.report

    def add(self, documents: Iterable[Document]) -> Report:
        """Add documents that no file holds; one whose source is stored already is replaced.

        Raises the errors of `sync`, and TypeError, TokenizationError or ConfigError with the
        `index` of a document that is wrong or has the source of another.
        """
        with self._resources.writer(lambda _: None) as writer:
            for i, document in enumerate(documents):
                with about_item(i):
                    writer.check_new(checked(document))
                writer.add(document)
            writer.flush()
        return writer.report

    def remove(
        self, paths: Iterable[str | os.PathLike[str]] = (), *, sources: Iterable[str] = ()
    ) -> int:
        """Remove the documents of files, and of folders, which need not exist; how many.

        `sources` names further documents. Raises the errors of `sync`, and FileError where the
        folder holds no collection.
        """
        places = absolute(paths)
        if not isinstance(sources, AbstractSet):  # whose order does not matter here
            check_items(sources, "sources", "sources (str)")
        self._resources.parts()
        with self._resources.writer(lambda _: None) as writer:
            writer.remove_gone(lambda file: is_inside(file, places))
            writer.remove(sources)
        return writer.report.removed

    def search(
        self,
        query: str,
        top_k: int = 10,
        *,
        filter: Filter | None = None,  # noqa: A002
        rerank: str | None = None,
        candidates: int = 100,
    ) -> list[Found]:
        """The chunks that answer a query best, best first.

        The `candidates` best chunks of the dense and of the sparse model are fused by reciprocal
        ranks (k = 60). The multi-vector model of the collection, if it has one, ranks the
        `candidates` best of these by MaxSim, and the model `rerank` ranks them at last. All
        comparisons are exact.

        Args:
            query: a text.
            top_k: chunks to return, at most.
            filter: values that fields must have; of a list, one of them. Dates and times are those
                that `isoformat` gives.
            rerank: id or folder of a reranker, or of a multi-vector model.
            candidates: of each model; raised to `top_k`.

        A chunk or query of which the dense model knows no word has a vector of zeros, and so no
        place in the dense ranking where that goes by cosine.

        Raises:
            FileError, StoreError: there is no collection, or the store does not answer.
            ConfigError: another model is installed in the place of one of the collection.
            TypeError, TokenizationError: the query is no text; the filter is no dict of values.
        """
        check_limit(top_k, "top_k")
        check_limit(candidates, "candidates")
        check_text(query, "query")
        opened = self._resources.parts()
        from tessera_onnx.collection import searching

        model = None if rerank is None else self._resources.reranker(rerank)
        snapshot = opened.store.snapshot()
        most = min(max(top_k, candidates), max(len(snapshot), 1))
        ranked = searching.ranked(query, snapshot, opened.models, most, filter)
        if model is not None:
            ranked = searching.reranked(query, snapshot, ranked, model)
        return searching.found(query, snapshot, ranked[:top_k], opened.models)

    def close(self) -> None:
        """Close the models and the connection; a later call opens them again."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """The number of chunks."""
        return len(self._resources.parts().store.snapshot())
