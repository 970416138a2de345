"""Encode images: read each one, run it through the graphs alone, and yield streams in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import check_items, check_limit, is_single
from tessera_onnx.errors import EncodingError, TruncationWarning, about_item, tell
from tessera_onnx.images import sources, views
from tessera_onnx.images.decode import open_image
from tessera_onnx.images.graphs import PatchVectors, PixelEncoder, VisionLanguageModel
from tessera_onnx.images.preprocess import pixels
from tessera_onnx.images.resize import Box
from tessera_onnx.images.sources import Source
from tessera_onnx.models.spec_media import Vision
from tessera_onnx.runtime import batching, workers
from tessera_onnx.runtime.workers import ENDLESS, Limit

if TYPE_CHECKING:
    from PIL import Image

Float = NDArray[np.float32]
EMPTY = object()  # in a stream: a page without size


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """An image's vectors, its grid of cells (see graphs.PatchVectors), and where the grid lies.

    `box` is the part of the image that the cells divide evenly, in the image's pixels. It is
    smaller than the image where edges were cut off, and larger where the image was padded.
    """

    vectors: Float
    cells: NDArray[np.int64]
    box: Box


@dataclass(slots=True)
class _Left:
    """What one call of the user left unread: the warnings at its end tell it."""

    frames: list[tuple[str, str]] = field(default_factory=list)  # names of images, and the fact
    long: list[tuple[str, str]] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)  # pages without size
    # PIL images that stood at their first frame, by id; None when the caller moved to another.
    pil: dict[int, tuple[str, str] | None] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Warn, also when the call failed or was left early."""
        for message in self._messages():
            try:
                tell(message, TruncationWarning)
            except TruncationWarning:  # warnings are errors; an error of the call goes first
                if kind is None:
                    raise

    @staticmethod
    def _first(found: list[tuple[str, str]], more: str) -> str:
        """The first image, in the order of the call, and the number of further ones."""
        where, what = min(found, key=lambda each: (len(each[0]), each[0]))
        return f"{where}{what}" + f", and {len(found) - 1} more {more}" * (len(found) > 1)

    def _messages(self) -> Iterator[str]:
        if frames := [*self.frames, *filter(None, self.pil.values())]:
            found = self._first(frames, "images have several")
            yield f"{found}; only the first was read: encode_pages reads all of them"
        if self.long:
            found = self._first(self.long, "images are as long")
            yield (
                f"{found}: this model has one vector for an image and reads little of so long an "
                "image: cut it into parts"
            )
        if self.empty:
            yield f"{', '.join(self.empty[:20])} of the PDF: no size, and so no vectors"


class ImageEncoder:
    """The recipe of a vision model's pixels, and the graphs that read them."""

    def __init__(
        self,
        recipe: Vision,
        graphs: PixelEncoder | VisionLanguageModel,
        *,
        image_only: bool,
        max_pixels: int,
    ) -> None:
        """Raises TypeError or ConfigError for a wrong `image_only` or `max_pixels`."""
        if not isinstance(image_only, bool):
            raise TypeError(f"image_only must be bool, got {type(image_only).__name__}")
        check_limit(max_pixels, "max_pixels")
        self._recipe = recipe
        self._graphs = graphs
        self._image_only = image_only
        self._max_pixels = max_pixels

    def read(self, source: Source, where: str) -> Image.Image:
        """An image as RGB; `where` names it in messages."""
        with _Left() as left:
            return self._rgb(source, where, left)

    def located(self, image: Image.Image, where: str, *, parallel: bool = False) -> Located:
        """The vectors of an RGB image, and where on it they lie.

        A long image is read in views that overlap (see views.py); its vectors are those of all.
        """
        late = self._recipe.vectors == "patches"
        try:
            parts = views.cut(image.size, self._recipe.image) if late else []
            if not parts:
                found, box = self._patches(image, parallel=parallel)
                return Located(found.vectors, found.cells, box)
            vectors: list[Float] = []
            placed = []
            for view in parts:
                found, box = self._patches(image.crop(view.box), parallel=parallel)
                first = sum(map(len, vectors))
                cells = np.where(found.cells < 0, -1, found.cells + first)
                placed.append((view, cells, box))
                vectors.append(found.vectors)
        except EncodingError as error:
            self._graphs.session.check_open()  # that a model was closed is no fault of an image
            raise EncodingError(f"{where}: {error}") from error
        return Located(np.concatenate(vectors), *views.joined(image.size, placed))

    def one(self, source: Source, where: str, *, parallel: bool = False) -> Float:
        """The vectors of one image, which errors call by `where`: (n_patches, dim) float32."""
        with _Left() as left:
            image = self._rgb(source, where, left)
            return self._vectors(image, where, left, parallel=parallel)

    def stream(
        self,
        images: Iterable[Any],
        where: Callable[[int], str],
        bar: Any = None,
        limit: Limit = ENDLESS,
        index: Callable[[int], int] = int,
    ) -> Iterator[Float]:
        """The vectors of each image, in order; as many images run at a time as there are workers.

        `where` gives the name that errors call an image by, from its place in the stream, and
        `index` their index, which is that place if not given. EMPTY has no vectors. Whatever stops
        the stream, every earlier result is yielded first.
        """
        first = 0
        with _Left() as left:
            stable = self._stable(images, where, index, left)
            try:
                windows = batching.windows(limit.over(stable), self._graphs.workers, lambda _: 0)
                for window in windows:
                    found = self._window(window, first, where, index, left, bar=bar, limit=limit)
                    for vectors in found:
                        limit.check()
                        yield vectors
                    first += len(window)
            finally:
                if bar is not None:
                    bar.close()

    def _stable(
        self,
        images: Iterable[Any],
        where: Callable[[int], str],
        index: Callable[[int], int],
        left: _Left,
    ) -> Iterator[Any]:
        """The images; those that the caller may change or share are read as RGB at once.

        A window of images is taken before it is encoded, and a stream may give one buffer, or one
        animation, again and again.
        """
        for i, source in enumerate(images):
            found = source
            if source is not EMPTY and sources.is_shared(source):
                self._graphs.session.check_open()
                with about_item(index(i)):
                    found = self._rgb(source, where(i), left)
            yield found

    def _window(
        self,
        window: list[Any],
        first: int,
        where: Callable[[int], str],
        index: Callable[[int], int],
        left: _Left,
        *,
        bar: Any,
        limit: Limit,
    ) -> Iterator[Float]:
        """The vectors of some images that are encoded at the same time."""
        results: list[Any] = [None] * len(window)

        def work(picked: NDArray[np.intp]) -> None:
            i = int(picked[0])
            self._graphs.session.check_open()
            with about_item(index(first + i)):
                results[i] = self._item(window[i], where(first + i), left, len(window) > 1)
            if bar is not None:
                bar.update()

        batches = [np.array([i]) for i in range(len(window))]
        failure = workers.run_batches(work, batches, self._graphs.workers, limit=limit)
        yield from results[: failure.row]
        failure.check()

    def _item(self, item: Any, where: str, left: _Left, parallel: bool) -> Float:  # noqa: FBT001
        """The vectors of an item of a stream: an image, one that was read already, or EMPTY."""
        from PIL import Image

        if item is EMPTY:
            left.empty.append(where)
            return np.zeros((0, self._recipe.dimension), dtype=np.float32)
        image = item if isinstance(item, Image.Image) else self._rgb(item, where, left)
        return self._vectors(image, where, left, parallel=parallel)

    def _rgb(self, source: Source, where: str, left: _Left) -> Image.Image:
        """An image as RGB. Notes that it has further pages or frames, which are not read."""
        from PIL import Image

        self._graphs.session.check_open()

        def note(count: int) -> None:
            name = ""
            if isinstance(source, str | os.PathLike) and not sources.is_data(source):
                name = f" ({sources.named(source)})"
            found = (where, f"{name} has {count} pages or frames")
            if isinstance(source, Image.Image):
                left.pil.setdefault(id(source), found)
            else:
                left.frames.append(found)

        if isinstance(source, Image.Image) and source.tell():
            left.pil[id(source)] = None
        return open_image(
            source,
            where=where,
            alpha=self._recipe.image.alpha,
            max_pixels=self._max_pixels,
            on_frames=note,
        )

    def _patches(self, image: Image.Image, *, parallel: bool) -> tuple[PatchVectors, Box]:
        prepared = pixels(image, self._recipe.image)
        found = self._graphs.encode(prepared, image_only=self._image_only, parallel=parallel)
        return found, prepared.box

    def _vectors(self, image: Image.Image, where: str, left: _Left, *, parallel: bool) -> Float:
        found = self.located(image, where, parallel=parallel).vectors
        if self._recipe.vectors == "one" and views.is_long(*image.size):
            left.long.append((where, f" is {image.width} x {image.height} pixels"))
        return found


def check_iterable(items: Any, name: str, expected: str = "images") -> None:
    """Raises TypeError for one image where several are expected, and for what is not iterable.

    The array of one image has 2 or 3 dimensions; its rows would pass for narrow grey images.
    """
    one = isinstance(items, np.ndarray) and items.dtype.kind == "u" and items.ndim < 4
    single = isinstance(items, str | bytes | bytearray | memoryview | type | os.PathLike)
    single = single or callable(getattr(items, "read", None))  # an open file, whose rows are bytes
    if isinstance(items, Mapping | set | frozenset) or hasattr(items, "columns"):
        raise TypeError(
            f"{name} must be a list of {expected}, got {type(items).__name__}: pass its values, or "
            "the column of images, as a list"
        )
    if one or single or is_single(items):
        raise TypeError(f"{name} must be a list of {expected}, got {type(items).__name__}")
    check_items(items, name, expected)


def checked(
    items: Iterable[Any], name: str, other: Callable[[Any], bool] | None = None
) -> list[Any]:
    """`items` as a list of images, or of what `other` accepts too, before any of them is read.

    Raises TypeError for an item that is neither, with its index.
    """
    check_iterable(items, name, "images or vectors" if other else "images")
    found = list(items)
    for i, item in enumerate(found):
        if not sources.is_source(item) and not (other is not None and other(item)):
            with about_item(i):
                raise TypeError(f"{name}[{i}] must be {sources.IMAGES}, got {type(item).__name__}")
    return found
