"""Open a vision model, and encode images, pages and queries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.base import Model, Options
from tessera_onnx.checks import is_text
from tessera_onnx.errors import TesseraError
from tessera_onnx.images import pdf as pdf_pages
from tessera_onnx.images.decode import MAX_PIXELS
from tessera_onnx.images.encoder import EMPTY, ImageEncoder, check_iterable, checked
from tessera_onnx.images.opening import open_graphs, open_queries
from tessera_onnx.images.sources import Source
from tessera_onnx.models.spec import Kind
from tessera_onnx.models.spec_media import Vision
from tessera_onnx.progress import progress_bar
from tessera_onnx.results import BinaryTokens, Int8Vectors
from tessera_onnx.runtime.workers import Event, Limit
from tessera_onnx.text import heads
from tessera_onnx.text.tokenizer import OnLong, Tokenizer
from tessera_onnx.vectors.quantization import OutputDtype

Float = NDArray[np.float32]
ImageVectors = Float | Int8Vectors | BinaryTokens  # of one image or text, by output_dtype


class ImageModel(Model):
    """An open vision model that encodes images and queries."""

    _kind: ClassVar[Kind] = "vision"
    _recipe: Vision

    def __init__(
        self,
        model_id: str | None = None,
        *,
        on_long: OnLong = "warn",
        image_only: bool = False,
        max_pixels: int = MAX_PIXELS,
        **options: Unpack[Options],
    ) -> None:
        """Open a model; `options` are those of `Model`, and its errors are raised.

        Args:
            model_id: id or alias; None takes the first installed model of this kind.
            on_long: what happens to a query that is too long: "warn" cuts it and warns once a call,
                "truncate" cuts it, "error" raises InputTooLong.
            image_only: leave out the vectors of the text that surrounds an image in its prompt.
            max_pixels: a larger image is refused before it is decoded.
            **options: path, device, precision, threads, cache_dir and offline.
        """
        super().__init__(model_id, **options)
        self._options |= {"on_long": on_long, "image_only": image_only, "max_pixels": max_pixels}
        self._max_pixels = max_pixels
        facts = self._spec.text
        tokenizer = None
        if facts is not None:
            tokenizer = Tokenizer(self._artifact.read(facts.tokenizer), facts)
        graphs = open_graphs(self._open, self._devices(), self._spec, self._recipe, tokenizer)
        self._sessions, self._session = graphs.sessions, graphs.encoder.session
        try:
            self._encoder = ImageEncoder(
                self._recipe, graphs.encoder, image_only=image_only, max_pixels=max_pixels
            )
            self._texts = open_queries(
                graphs.encoder.texts, self._spec, self._recipe, tokenizer, self._options
            )
        except (TesseraError, TypeError):
            graphs.close()
            raise

    # fmt: off
    @overload
    def encode_document(
        self, image: Source, *, output_dtype: Literal["float32"] = ..., pool_factor: int = ...,
    ) -> Float: ...

    @overload
    def encode_document(
        self, image: Source, *, output_dtype: Literal["int8"], pool_factor: int = ...,
    ) -> Int8Vectors: ...

    @overload
    def encode_document(
        self, image: Source, *, output_dtype: Literal["binary"], pool_factor: int = ...,
    ) -> BinaryTokens: ...
    # fmt: on

    def encode_document(
        self, image: Source, *, output_dtype: OutputDtype = "float32", pool_factor: int = 1
    ) -> ImageVectors:
        """Encode one image: (n_patches, dim) float32 unit rows.

        output_dtype="int8" gives Int8Vectors, "binary" BinaryTokens. `pool_factor` 3 keeps about a
        third of the rows: similar rows are merged (pooling.pool_tokens; arXiv:2407.01449).

        Raises TypeError unless `image` is an image (see TesseraVision), FileError for a file that
        cannot be read, EncodingError for damaged content, for more than `max_pixels` pixels, and
        where a graph fails.
        """
        heads.check_output(output_dtype, pool_factor)
        if isinstance(image, list | tuple):
            raise TypeError(
                f"image must be one image, got {type(image).__name__}: `encode_documents` takes "
                "several"
            )
        return _convert(self._encoder.one(image, "image"), output_dtype, pool_factor)

    # fmt: off
    @overload
    def encode_documents(
        self, images: Iterable[Source], *, output_dtype: Literal["float32"] = ...,
        progress: bool = ..., pool_factor: int = ...,
        timeout: float | None = ..., cancel: Event | None = ...,
    ) -> list[Float]: ...

    @overload
    def encode_documents(
        self, images: Iterable[Source], *, output_dtype: Literal["int8"],
        progress: bool = ..., pool_factor: int = ...,
        timeout: float | None = ..., cancel: Event | None = ...,
    ) -> list[Int8Vectors]: ...

    @overload
    def encode_documents(
        self, images: Iterable[Source], *, output_dtype: Literal["binary"],
        progress: bool = ..., pool_factor: int = ...,
        timeout: float | None = ..., cancel: Event | None = ...,
    ) -> list[BinaryTokens]: ...
    # fmt: on

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
        """Encode a list of images: what `encode_document` gives for each, in order; [] for [].

        The types of all images are checked before the first is read. Errors have the `index` of the
        image. After `timeout` seconds, or once another thread sets the event `cancel`, no further
        image is begun and TimedOut or Cancelled is raised; the model can be used as before.
        """
        limit = Limit(timeout, cancel)
        items = checked(images, "images")
        limit.check()
        return list(self._iter(items, progress, output_dtype, pool_factor, limit))

    # fmt: off
    @overload
    def encode_iter(
        self, images: Iterable[Source], *, output_dtype: Literal["float32"] = ...,
        progress: bool = ..., pool_factor: int = ...,
        timeout: float | None = ..., cancel: Event | None = ...,
    ) -> Iterator[Float]: ...

    @overload
    def encode_iter(
        self, images: Iterable[Source], *, output_dtype: Literal["int8"],
        progress: bool = ..., pool_factor: int = ...,
        timeout: float | None = ..., cancel: Event | None = ...,
    ) -> Iterator[Int8Vectors]: ...

    @overload
    def encode_iter(
        self, images: Iterable[Source], *, output_dtype: Literal["binary"],
        progress: bool = ..., pool_factor: int = ...,
        timeout: float | None = ..., cancel: Event | None = ...,
    ) -> Iterator[BinaryTokens]: ...
    # fmt: on

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
        """Encode a stream of images in bounded memory, one result at a time.

        It reads ahead as many images as there are workers. When an image is wrong or `images`
        itself raises, the results before it are yielded first. `timeout` counts from this call;
        after it, or once `cancel` is set, the next result is TimedOut or Cancelled.
        """
        return self._iter(images, progress, output_dtype, pool_factor, Limit(timeout, cancel))

    def _iter(
        self,
        images: Iterable[Source],
        progress: bool,  # noqa: FBT001
        output_dtype: OutputDtype,
        pool_factor: int,
        limit: Limit,
    ) -> Iterator[ImageVectors]:
        heads.check_output(output_dtype, pool_factor)
        check_iterable(images, "images")
        bar = progress_bar(images, "image") if progress else None
        found = self._encoder.stream(images, "images[{}]".format, bar, limit)
        return (_convert(vectors, output_dtype, pool_factor) for vectors in found)

    # fmt: off
    @overload
    def encode_pages(
        self, pdf: Source, *, dpi: float | None = ..., pages: Iterable[int] | str | None = ...,
        password: str | None = ..., output_dtype: Literal["float32"] = ..., pool_factor: int = ...,
        max_pages: int = ..., timeout: float | None = ..., cancel: Event | None = ...,
    ) -> Iterator[Float]: ...

    @overload
    def encode_pages(
        self, pdf: Source, *, dpi: float | None = ..., pages: Iterable[int] | str | None = ...,
        password: str | None = ..., output_dtype: Literal["int8"], pool_factor: int = ...,
        max_pages: int = ..., timeout: float | None = ..., cancel: Event | None = ...,
    ) -> Iterator[Int8Vectors]: ...

    @overload
    def encode_pages(
        self, pdf: Source, *, dpi: float | None = ..., pages: Iterable[int] | str | None = ...,
        password: str | None = ..., output_dtype: Literal["binary"], pool_factor: int = ...,
        max_pages: int = ..., timeout: float | None = ..., cancel: Event | None = ...,
    ) -> Iterator[BinaryTokens]: ...
    # fmt: on

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
        """Encode the pages of a PDF, in order: what `encode_document` gives for each.

        `pdf` is a path, the bytes of a file, an open binary file, {"bytes": ..., "path": ...} or a
        data: URI; PDFs need the extra `pdf`. TIFF and other files of images, and PIL images, are
        read too: each page or frame is a page. `pages` are the numbers wanted, from 1, as a list or
        a str such as "1-3,7"; None takes all.

        A page is drawn at `dpi`; for None as large as the model reads it, but with most letters no
        higher than the recipe says, where it says a height. A page without size has no rows, with a
        TruncationWarning.

        Raises FileError (EncodingError where `pdf` is no path) for a PDF that cannot be read or has
        more than `max_pages` pages, EncodingError for a page that fails, ConfigError for a page
        that is not there, TimedOut and Cancelled as `encode_iter`. An error about a page says its
        number, and its `index` is the place of the page among the results.
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

        found = self._encoder.stream(images(), lambda i: f"page {drawn[i]}", limit=limit)
        return (_convert(vectors, output_dtype, pool_factor) for vectors in found)

    # fmt: off
    @overload
    def encode_query(  # type: ignore[overload-overlap]
        self, text: str, *, output_dtype: Literal["float32"] = ...,
        timeout: float | None = ..., cancel: Event | None = ...,
    ) -> Float: ...

    @overload
    def encode_query(  # type: ignore[overload-overlap]
        self, text: str, *, output_dtype: Literal["int8"],
        timeout: float | None = ..., cancel: Event | None = ...,
    ) -> Int8Vectors: ...

    @overload
    def encode_query(  # type: ignore[overload-overlap]
        self, text: str, *, output_dtype: Literal["binary"],
        timeout: float | None = ..., cancel: Event | None = ...,
    ) -> BinaryTokens: ...

    @overload
    def encode_query(
        self, text: Iterable[str], *, output_dtype: Literal["float32"] = ...,
        timeout: float | None = ..., cancel: Event | None = ...,
    ) -> list[Float]: ...

    @overload
    def encode_query(
        self, text: Iterable[str], *, output_dtype: Literal["int8"],
        timeout: float | None = ..., cancel: Event | None = ...,
    ) -> list[Int8Vectors]: ...

    @overload
    def encode_query(
        self, text: Iterable[str], *, output_dtype: Literal["binary"],
        timeout: float | None = ..., cancel: Event | None = ...,
    ) -> list[BinaryTokens]: ...
    # fmt: on

    def encode_query(
        self,
        text: str | Iterable[str],
        *,
        output_dtype: OutputDtype = "float32",
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> ImageVectors | list[Any]:
        """Encode a text: (n_tokens, dim) float32 unit rows. An iterable of texts gives a list.

        Raises TypeError unless each is a str, TokenizationError for a lone surrogate, InputTooLong
        with on_long="error", EncodingError where the graph fails, TimedOut and Cancelled as
        `encode_documents`.
        """
        limit = Limit(timeout, cancel)
        heads.check_output(output_dtype, 1)
        found = self._texts.encode(text, limit)
        if is_text(text):
            return _convert(found[0], output_dtype)
        return [_convert(vectors, output_dtype) for vectors in found]

    def query_tokens(self, text: str) -> list[str]:
        """The tokens that the rows of `encode_query(text)` belong to.

        Raises ConfigError for a model of one vector a text.
        """
        return self._texts.tokens(text)

    def embedding_dim(self) -> int:
        """The number of components of a vector."""
        return self._recipe.dimension

    def num_patches(self) -> int | None:
        """The number of vectors of an image's pixels; None where it depends on the image's size."""
        fixed = self._recipe.image.resize in {"stretch", "crop"}
        return self._recipe.image.tokens if fixed else None

    def close(self) -> None:
        """Free the graphs; running calls finish, later ones raise EncodingError. Idempotent."""
        for session in self._sessions:
            session.close()
        self._texts.close()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(model={self._spec.id!r}, embedding_dim={self.embedding_dim()})"
        )


def _convert(vectors: Float, output_dtype: OutputDtype, pool_factor: int = 1) -> ImageVectors:
    found: ImageVectors = heads.convert_tokens(vectors, output_dtype, pool_factor, fixed=0)
    return found
