"""Images on their way through the graphs, one by one, and streams of them in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import batching
from tessera_onnx.batching import ENDLESS, Limit
from tessera_onnx.containers import check_items
from tessera_onnx.errors import EncodingError, is_single
from tessera_onnx.images import Pixels, Source, check_limit, open_image, pixels
from tessera_onnx.schema import Image as Recipe
from tessera_onnx.towers import LanguageTower, Patches, PixelTower

if TYPE_CHECKING:
    from PIL import Image

Float = NDArray[np.float32]


class ImageEncoder:
    """A recipe of pixels and the graphs that read them."""

    def __init__(
        self,
        recipe: Recipe,
        tower: PixelTower | LanguageTower,
        *,
        image_only: bool,
        max_pixels: int,
    ) -> None:
        """Raises TypeError and ConfigError for the last two, which are the caller's."""
        if not isinstance(image_only, bool):
            raise TypeError(f"image_only must be bool, got {type(image_only).__name__}")
        check_limit(max_pixels, "max_pixels")
        self._recipe = recipe
        self._tower = tower
        self._image_only = image_only
        self._max_pixels = max_pixels

    def read(self, source: Source, where: str) -> tuple[Image.Image, Pixels]:
        """An image, and what the graphs read of it; `where` names it in messages."""
        image = self._rgb(source, where)
        return image, self._pixels(image, where)

    def patches(self, prepared: Pixels, where: str, *, parallel: bool = False) -> Patches:
        """The vectors of an image that was read."""
        try:
            return self._tower.patches(prepared, image_only=self._image_only, parallel=parallel)
        except EncodingError as error:
            raise EncodingError(f"{where}: {error}") from error

    def one(self, source: Source, where: str, *, parallel: bool = False) -> Float:
        """The vectors of one image: (n_patches, dim) float32."""
        return self._vectors(self._rgb(source, where), where, parallel=parallel)

    def stream(
        self,
        images: Iterable[Any],
        where: Callable[[int], str],
        bar: Any = None,
        limit: Limit = ENDLESS,
    ) -> Iterator[Float]:
        """The vectors of each image, in order, as many images at a time as there are workers.

        `where` names an image by its place. Whatever stops the stream, every earlier result is
        yielded first.
        """
        first = 0
        drawn = self._drawn(images, where)
        try:
            for window in batching.windows(limit.over(drawn), self._tower.workers, lambda _: 0):
                for vectors in self._window(window, first, where, bar, limit):
                    limit.check()
                    yield vectors
                first += len(window)
        finally:
            if bar is not None:
                bar.close()

    def _drawn(self, images: Iterable[Any], where: Callable[[int], str]) -> Iterator[Any]:
        """The images, and as RGB those that the caller may change or share: as they are now.

        A window is drawn before it is encoded, and a stream may give one buffer, or one animation,
        again and again.
        """
        from PIL import Image

        for i, source in enumerate(images):
            shared = isinstance(source, bytearray | memoryview | np.ndarray | Image.Image)
            yield self._rgb(source, where(i)) if shared else source

    def _window(
        self, window: list[Any], first: int, where: Callable[[int], str], bar: Any, limit: Limit
    ) -> Iterator[Float]:
        from PIL import Image

        results: list[Float | None] = [None] * len(window)

        def work(picked: NDArray[np.intp]) -> None:
            (i,) = picked
            item, name = window[i], where(first + int(i))
            image = item if isinstance(item, Image.Image) else self._rgb(item, name)
            results[i] = self._vectors(image, name, parallel=len(window) > 1)
            if bar is not None:
                bar.update()

        alone = [np.array([i]) for i in range(len(window))]
        _, failed = batching.run(work, alone, self._tower.workers, limit=limit)
        for result in results:
            if result is None:
                break
            yield result
        if failed:
            raise failed.pop()

    def _rgb(self, source: Source, where: str) -> Image.Image:
        self._tower.session.check_open()
        alpha = self._recipe.alpha
        return open_image(source, where=where, alpha=alpha, max_pixels=self._max_pixels)

    def _pixels(self, image: Image.Image, where: str) -> Pixels:
        try:
            return pixels(image, self._recipe)
        except EncodingError as error:
            raise EncodingError(f"{where}: {error}") from error

    def _vectors(self, image: Image.Image, where: str, *, parallel: bool) -> Float:
        return self.patches(self._pixels(image, where), where, parallel=parallel).vectors


def check_iterable(items: Any, name: str, expected: str = "images") -> None:
    """Raises TypeError for one image where several are due, and for what cannot be iterated.

    One image's array is of 2 or 3 dimensions, whose rows would pass for narrow greys.
    """
    one = isinstance(items, np.ndarray) and items.dtype == np.uint8 and items.ndim < 4
    single = isinstance(items, str | bytes | type | os.PathLike)
    if one or single or is_single(items):
        raise TypeError(f"{name} must be a list of {expected}, got {type(items).__name__}")
    check_items(items, name, expected)


def checked(
    items: Iterable[Any], name: str, other: Callable[[Any], bool] | None = None
) -> list[Any]:
    """`items` as a list of images, or of what `other` allows too, before any of them is read.

    Raises TypeError naming the place of what is neither.
    """
    check_iterable(items, name, "images or vectors" if other else "images")
    from PIL import Image

    found = list(items)
    sources = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Image.Image)
    for i, item in enumerate(found):
        if not isinstance(item, sources) and not (other is not None and other(item)):
            raise TypeError(
                f"{name}[{i}] must be a path, the bytes of a file, a PIL image or a uint8 array, "
                f"got {type(item).__name__}"
            )
    return found
