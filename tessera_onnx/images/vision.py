"""Page images and photographs, and the texts that find them, in one space."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.base import Model, Options
from tessera_onnx.checks import check_top_k, is_text
from tessera_onnx.errors import (
    ConfigError,
    EncodingError,
    LoadError,
    TesseraError,
    TruncationWarning,
    about_item,
    callers_level,
)
from tessera_onnx.images import pdf as pdf_pages
from tessera_onnx.images import sources
from tessera_onnx.images.decode import MAX_PIXELS
from tessera_onnx.images.encoder import EMPTY, ImageEncoder, check_iterable, checked
from tessera_onnx.images.graphs import PixelEncoder, VisionLanguageModel, open_encoder
from tessera_onnx.images.page_text import Word
from tessera_onnx.images.queries import OtherModelsQueries, OwnQueries
from tessera_onnx.images.similarity_map import Answer, Region, answer, check_file, save_map
from tessera_onnx.images.sources import Source
from tessera_onnx.models.spec import Kind, Vision
from tessera_onnx.progress import progress_bar
from tessera_onnx.results import Ranked, ranking
from tessera_onnx.runtime.session import Session
from tessera_onnx.runtime.workers import Event, Limit
from tessera_onnx.search.token_index import PackedTokens
from tessera_onnx.text import heads, tokenizer
from tessera_onnx.vectors import bounds, scoring
from tessera_onnx.vectors.forms import floats, is_vectors
from tessera_onnx.vectors.quantization import OutputDtype

Float = NDArray[np.float32]
logger = logging.getLogger("tessera_onnx")

SCORED = 32  # documents whose float vectors are in memory at once while a list is scored


class TesseraVision(Model):
    """Images as vectors and texts that find them, compared by MaxSim.

    An image is a file's name, the bytes of a file, an open binary file, a data: URI, a dict of
    "bytes" and "path" (as Hugging Face's datasets hold images), a PIL image, or a uint8 or uint16
    array (height, width) or (height, width, 1, 3 or 4). It becomes (n_patches, dim) float32 unit
    rows; the text around an image, which language models read with it, has rows too, as upstream
    has it, unless `image_only` is set. A model of one vector an image (CLIP, SigLIP) gives one row,
    for texts too. A model that finds words alone gives an empty page no row.

    An image more than twice as long as wide, which the model would shrink to less than 4/5 of
    its size, is read in views that overlap and as a whole: its rows are those of all of them. A
    model of one vector an image warns of it. Of a file of several pages or frames the first is
    read, with a TruncationWarning; `encode_pages` reads all.

    Images run through the graphs one by one: the vectors of one never depend on the others.
    """

    _kind: ClassVar[Kind] = "vision"
    _recipe: Vision

    def __init__(
        self,
        model_id: str | None = None,
        *,
        on_long: tokenizer.OnLong = "warn",
        image_only: bool = False,
        max_pixels: int = MAX_PIXELS,
        **options: Unpack[Options],
    ) -> None:
        """Open a model; `options` are those of `Model`, and its errors are raised.

        Args:
            model_id: id or alias; None takes the first installed model of this kind.
            on_long: of queries: "warn" (once a call, with counts), "truncate" or "error".
            image_only: leave out the vectors of the text that stands around an image.
            max_pixels: a larger image is refused before it is decoded.
            **options: path, device, precision, threads, cache_dir and offline.
        """
        super().__init__(model_id, **options)
        own = {"on_long": on_long, "image_only": image_only, "max_pixels": max_pixels}
        self._options |= own
        self._max_pixels = max_pixels
        self._sessions: list[Session] = []
        try:
            tower = self._open_graphs()
            self._encoder = ImageEncoder(
                self._recipe, tower, image_only=image_only, max_pixels=max_pixels
            )
            self._texts = self._open_texts(tower.texts)
        except (TesseraError, TypeError):
            self._close_sessions()
            raise

    def encode_document(
        self, image: Source, *, output_dtype: OutputDtype = "float32", pool_factor: int = 1
    ) -> Any:
        """The vectors of one image: (n_patches, dim) float32, unit rows.

        output_dtype="int8" gives Int8Vectors, "binary" BinaryTokens. `pool_factor` 3 keeps about a
        third of the rows: like rows are merged (see pooling.pool_tokens; arXiv:2407.01449).

        Raises TypeError for what is no image, FileError for a file that cannot be read,
        EncodingError for one that is no image or larger than `max_pixels`, or when a graph fails.
        """
        heads.check_output(output_dtype, pool_factor)
        if isinstance(image, list | tuple):
            raise TypeError(
                f"image must be one image, got {type(image).__name__}: `encode_documents` takes "
                "several"
            )
        return heads.convert_tokens(
            self._encoder.one(image, "image"), output_dtype, pool_factor, fixed=0
        )

    def encode_documents(
        self,
        images: Iterable[Source],
        *,
        progress: bool = False,
        output_dtype: OutputDtype = "float32",
        pool_factor: int = 1,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> list[Any]:
        """What `encode_document` gives for each image, in order; [] for no images.

        The types of all are checked before the first is read; errors name images[i]. After
        `timeout` seconds, or when another thread sets the event `cancel`, no further image is begun
        and TimedOut or Cancelled is raised; the model can be used as before.
        """
        limit = Limit(timeout, cancel)
        items = checked(images, "images")
        limit.check()
        return list(self._iter(items, progress, output_dtype, pool_factor, limit))

    def encode_iter(
        self,
        images: Iterable[Source],
        *,
        progress: bool = False,
        output_dtype: OutputDtype = "float32",
        pool_factor: int = 1,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Iterator[Any]:
        """The same for a stream of images, in bounded memory.

        Reads ahead as many images as there are workers. When an image is wrong or `images` itself
        raises, the vectors of everything before it are yielded first. `timeout` counts from this
        call; after it, or when `cancel` is set, the next result is TimedOut or Cancelled.
        """
        return self._iter(images, progress, output_dtype, pool_factor, Limit(timeout, cancel))

    def _iter(
        self,
        images: Iterable[Source],
        progress: bool,  # noqa: FBT001
        output_dtype: OutputDtype,
        pool_factor: int,
        limit: Limit,
    ) -> Iterator[Any]:
        heads.check_output(output_dtype, pool_factor)
        check_iterable(images, "images")
        bar = progress_bar(images, "image") if progress else None
        found = self._encoder.stream(images, "images[{}]".format, bar, limit)
        return (
            heads.convert_tokens(vectors, output_dtype, pool_factor, fixed=0) for vectors in found
        )

    def encode_pages(
        self,
        pdf: Source,
        *,
        dpi: float | None = None,
        pages: Iterable[int] | str | None = None,
        password: str | None = None,
        output_dtype: OutputDtype = "float32",
        pool_factor: int = 1,
        max_pages: int = pdf_pages.MAX_PAGES,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Iterator[Any]:
        """What `encode_document` gives for each page of a PDF, in order, a page at a time.

        Needs the extra `pdf`. `pdf` is a path, the bytes of a file, an open binary file, {"bytes":
        ..., "path": ...} or a data: URI. Of a TIFF and other files of images, and of a PIL image,
        which need no extra, it gives every page or frame. A page is drawn at `dpi`, else as large
        as the model reads it, and where its recipe says the height of letters, no larger than makes
        most letters of the page that high. `pages` are the numbers wanted, from 1: a list or a str
        as "1-3,7".

        A page without size has no rows, with a TruncationWarning. Raises FileError (EncodingError
        for what is no path) for a PDF that cannot be read, or that has more than `max_pages`
        pages, EncodingError with the number of a page that fails, ConfigError for a page that is
        not there, TimedOut and Cancelled as `encode_iter`.
        """
        limit = Limit(timeout, cancel)
        heads.check_output(output_dtype, pool_factor)
        made = pdf_pages.read_pages(
            pdf, dpi=dpi, recipe=self._recipe.image, pages=pages, password=password,
            max_pages=max_pages, max_pixels=self._max_pixels,
        )  # fmt: skip
        drawn: list[int] = []

        def images() -> Iterator[Any]:
            for page in made:
                drawn.append(page.number)
                yield EMPTY if page.image is None else page.image

        found = self._encoder.stream(
            images(), lambda i: f"page {drawn[i]}", limit=limit, index=lambda i: drawn[i] - 1
        )
        return (
            heads.convert_tokens(vectors, output_dtype, pool_factor, fixed=0) for vectors in found
        )

    def encode_query(
        self,
        text: str | Iterable[str],
        *,
        output_dtype: OutputDtype = "float32",
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Any:
        """A text's vectors, (n_tokens, dim) float32 unit rows, or a list of them for an iterable.

        Raises TypeError for anything but str, TokenizationError for a lone surrogate, InputTooLong
        with on_long="error", EncodingError when the graph fails, TimedOut and Cancelled as
        `encode_documents`.
        """
        limit = Limit(timeout, cancel)
        heads.check_output(output_dtype, 1)
        found = self._texts.encode(text, limit)
        if is_text(text):
            return heads.convert_tokens(found[0], output_dtype, 1)
        return [heads.convert_tokens(vectors, output_dtype, 1) for vectors in found]

    def query_tokens(self, text: str) -> list[str]:
        """The tokens that the rows of `encode_query(text)` stand for; one name for a lone row."""
        return self._texts.tokens(text)

    def search(self, query: str | Any, document: Source | Any) -> float:
        """MaxSim of a text with an image, in [-n, n] for n query rows.

        Either may be vectors made earlier: a float array (n, dim), Int8Vectors or BinaryTokens.
        An image without any vector scores -n, the least there is.
        """
        return float(self.score(query, [document])[0])

    def search_document(self, text: str, path: Source) -> float:
        """`search` of a text in the image of that name."""
        return self.search(text, path)

    def score(
        self,
        query: str | Any,
        documents: Sequence[Any] | PackedTokens,
        *,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Float:
        """What `search` gives for each of a list of images or vectors: (len(documents),) float32.

        Images are encoded on the way and forgotten, so that memory stays bounded. The bits of
        BinaryTokens count as unit vectors and are compared with the floats of the query, which
        keeps more of the order than bits against bits; PackedTokens score as they do themselves.
        `timeout` and `cancel` as for `encode_documents`.
        """
        limit = Limit(timeout, cancel)
        limit.check()
        dim = self.embedding_dim()
        left = self._query(query)
        if isinstance(documents, PackedTokens):
            return documents.score(left)
        items = checked(documents, "documents", is_vectors)
        places = [i for i, item in enumerate(items) if not is_vectors(item)]
        encoded = self._encoder.stream(
            (items[i] for i in places),
            lambda k: f"documents[{places[k]}]",
            limit=limit,
            index=places.__getitem__,
        )
        scores = np.full(len(items), -len(left), dtype=np.float32)
        for start in range(0, len(items), SCORED):
            block = {}
            for i, item in enumerate(items[start : start + SCORED], start):
                known = is_vectors(item)
                with about_item(i if known else None):
                    vectors = floats(item, dim, f"documents[{i}]") if known else next(encoded)
                if len(vectors):
                    block[i] = vectors
            found = scoring.maxsim_scores(left, list(block.values()))
            for k, (i, vectors) in enumerate(block.items()):
                if abs(found[k]) > len(left):  # of int8 codes
                    forms = ([query], [items[i]])
                    bounds.limit_sums(found[None, k : k + 1], [left], [vectors], forms)
            scores[list(block)] = found
        next(encoded, None)  # its end tells what was left unread
        return scores

    def rank(
        self,
        query: str | Any,
        documents: Sequence[Any] | PackedTokens,
        top_k: int | None = None,
        *,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> list[Ranked]:
        """Documents, images or their vectors, by falling score: the first `top_k` or all.

        All is as `score` takes it; the documents of PackedTokens bring their ids.
        """
        check_top_k(top_k, 0)
        Limit(timeout, cancel).check()
        if isinstance(documents, PackedTokens):
            return documents.rank(self._query(query), top_k)
        scores = self.score(query, documents, timeout=timeout, cancel=cancel)
        return ranking(scores, top_k)

    def similarity_map(
        self,
        query: str | Any,
        document: Source,
        *,
        page: int | None = None,
        dpi: float | None = None,
        password: str | None = None,
    ) -> Float:
        """Where an image answers a text: (n_tokens, rows, cols) float32 dot products.

        The grid is that of the image: ColPali's 32 x 32, 8 x 8 a tile in the order of the page (the
        whole view is left out), or cells of a fixed size. NaN marks a cell without a vector.
        Of a PDF or a TIFF `page` is read, from 1; None = the first.
        Raises ConfigError for a model of one vector an image.
        """
        return self.locate(query, document, page=page, dpi=dpi, password=password).map

    def regions(
        self,
        query: str | Any,
        document: Source,
        *,
        page: int | None = None,
        dpi: float | None = None,
        password: str | None = None,
    ) -> list[Region]:
        """The part of an image that answers each token of a text best, as a box in its pixels.

        A token has none where the image has no vectors. Of a PDF `page` is read (None = the first),
        drawn as `encode_pages` draws it, and `words` are those of its text layer in the box.
        Raises ConfigError for a model of one vector an image.
        """
        found = self.locate(query, document, page=page, dpi=dpi, password=password)
        return list(found.regions)

    def locate(
        self,
        query: str | Any,
        document: Source,
        *,
        page: int | None = None,
        dpi: float | None = None,
        password: str | None = None,
    ) -> Answer:
        """What `similarity_map` and `regions` give, and the image that they lie on, in one run."""
        image, words = self._drawn(document, page, dpi, password)
        if self._recipe.vectors == "one":
            raise ConfigError(
                f"model {self._spec.id!r} gives an image one vector, which lies nowhere on it"
            )
        left = self._query(query)
        names = self.query_tokens(query) if isinstance(query, str) else []
        found = self._encoder.located(image, "document")
        return answer(left, names, image, found, words, form=query)

    def save_similarity_map(
        self,
        query: str | Any,
        document: Source,
        file: str | os.PathLike[str],
        *,
        token: int | None = None,
        page: int | None = None,
        dpi: float | None = None,
        password: str | None = None,
    ) -> Float:
        """Draw the similarity map of one query token, or the mean of all, over the image.

        `file` ends in .png, .jpg or .webp and is written whole or not at all. Red is where the
        similarity is high, within this map alone. Gives the map of all tokens, as
        `similarity_map` does. Raises ConfigError for another name or a token outside the query,
        FileError when the file cannot be written.
        """
        check_file(file)
        found = self.locate(query, document, page=page, dpi=dpi, password=password)
        save_map(found, token, file)
        return found.map

    def embedding_dim(self) -> int:
        """Components of a vector."""
        return self._recipe.dimension

    def num_patches(self) -> int | None:
        """Vectors that come of the pixels of an image; None where its size decides."""
        fixed = self._recipe.image.resize in {"stretch", "crop"}
        return self._recipe.image.tokens if fixed else None

    def close(self) -> None:
        """Free the graphs; running calls finish, later ones raise EncodingError. Idempotent."""
        self._close_sessions()
        self._texts.close()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(model={self._spec.id!r}, embedding_dim={self.embedding_dim()})"
        )

    def _open_graphs(self) -> PixelEncoder | VisionLanguageModel:
        """All graphs on one device; "auto" falls back with all of them."""
        facts = self._spec.text
        self._tokenizer = None
        if facts is not None:
            self._tokenizer = tokenizer.Tokenizer(self._artifact.read(facts.tokenizer), facts)
        *others, last = self._devices()
        for device in others:
            try:
                return self._open_tower(device)
            except LoadError as error:  # DeviceError is one
                self._close_sessions()
                logger.warning("falling back from %s to %s: %s", device, last, error)
        return self._open_tower(last)

    def _open_tower(self, device: str) -> PixelEncoder | VisionLanguageModel:
        opened = functools.partial(self._opened, device)
        tower = open_encoder(opened, self._spec, self._recipe, self._tokenizer)
        self._session = tower.session
        return tower

    def _open_texts(self, graphs: tokenizer.Runnable | None) -> OwnQueries | OtherModelsQueries:
        recipe, options = self._recipe, self._options
        if recipe.text_model:
            shared = ("device", "threads", "cache_dir", "offline", "on_long")
            return OtherModelsQueries(recipe, **{name: options[name] for name in shared})
        if graphs is None or self._tokenizer is None or recipe.query is None:
            raise LoadError(f"model {self._spec.id!r} has nothing that reads texts")
        return OwnQueries(self._tokenizer, graphs, recipe, recipe.query, options["on_long"])

    def _opened(
        self, device: str, outputs: Any, probe: Any, table: Any, workers: int | None
    ) -> Session:
        session = self._open(outputs, probe, table=table, device=device, workers=workers)
        self._sessions.append(session)
        return session

    def _close_sessions(self) -> None:
        for session in self._sessions:
            session.close()

    def _query(self, query: str | Any) -> Float:
        """A text's vectors, or vectors made earlier, as floats."""
        made = self.encode_query(query) if is_text(query) else query
        if not is_vectors(made):
            raise TypeError(
                "query must be one text, or its vectors as a float array (n, dim), Int8Vectors or "
                f"BinaryTokens, got {type(query).__name__}: one query at a time"
            )
        return floats(made, self.embedding_dim(), "query")

    def _drawn(
        self, document: Source, page: int | None, dpi: float | None, password: str | None
    ) -> tuple[Any, Sequence[Word]]:
        """An image, or a page of a PDF or TIFF with the words of its text layer."""
        content = sources.resolved(document, "document")
        (number,) = pdf_pages.page_numbers([1 if page is None else page])
        is_array = isinstance(content, np.ndarray)
        if is_array and number > 1:
            raise ConfigError(f"document has no page {number}: an array is one page")
        if is_array or (page is None and not pdf_pages.is_pdf(content)):
            if dpi is not None:
                raise ConfigError("dpi is for PDFs: an image has its own pixels")
            return self._encoder.read(content, "document"), ()
        (found,) = pdf_pages.read_pages(
            content, dpi=dpi, recipe=self._recipe.image, pages=[number],
            password=password, max_pixels=self._max_pixels, words=True,
        )  # fmt: skip
        if page is None and found.of > 1:
            warnings.warn(
                f"document has {found.of} pages; only the first was read: `page=` takes another",
                TruncationWarning,
                stacklevel=callers_level(),
            )
        if found.image is None:
            raise EncodingError(f"document: page {found.number} has no size")
        return found.image, found.words
