"""Encode images and their queries at a server.

Images are read, and pages of PDFs drawn, on this machine, as a local model does it, and sent as
PNG without any loss: the server sees the same pixels.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import is_text
from tessera_onnx.errors import ConfigError, EncodingError
from tessera_onnx.images.decode import MAX_PIXELS
from tessera_onnx.images.encoder import ImageEncoder, Located
from tessera_onnx.images.vision import TesseraVision
from tessera_onnx.models.spec_media import Vision
from tessera_onnx.remote.base import RemoteModel
from tessera_onnx.remote.encoder import RemoteEncoder, RemoteRole, kind_head
from tessera_onnx.remote.link import Link
from tessera_onnx.runtime.workers import ENDLESS, Limit
from tessera_onnx.text.tokenizer import OnLong

if TYPE_CHECKING:
    from PIL import Image

Float = NDArray[np.float32]
REQUESTS = 4  # images that are sent at the same time
FASTEST = 1  # zlib's level


class _Graphs:
    """In the place of the graphs of a local model."""

    workers = REQUESTS

    def __init__(self) -> None:
        self.session = self
        self.closed = False

    def check_open(self) -> None:
        """Raises EncodingError after `close`."""
        if self.closed:
            raise EncodingError("this model is closed: make a new object")


class _RemoteImages(ImageEncoder):
    """The images of a model at a server."""

    def __init__(self, recipe: Vision, link: Link, model: str, max_pixels: int) -> None:
        self.graphs = _Graphs()
        super().__init__(recipe, cast("Any", self.graphs), image_only=False, max_pixels=max_pixels)
        self._link, self._model = link, model

    def located(self, image: Image.Image, where: str, *, parallel: bool = False) -> Located:  # noqa: ARG002
        """The vectors of an RGB image; where they lie on it is not known here."""
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=FASTEST)
        listed = [base64.b64encode(file.getvalue()).decode()]
        try:
            arrays, _ = self._link.arrays("/v1/encode", {"model": self._model, "images": listed})
        except EncodingError as error:
            raise EncodingError(f"{where}: {error}") from error
        nowhere = np.zeros((0, 0), np.int64)
        return Located(arrays["vision"].copy(), nowhere, (0, 0, 0, 0))


class _RemoteQueries:
    """The texts that look for images."""

    def __init__(self, link: Link, model: str) -> None:
        self._encoder = RemoteEncoder(link, model, "truncate")

    def encode(self, text: str | Iterable[str], limit: Limit = ENDLESS) -> list[Float]:
        """(n_tokens, dim) unit rows of each text."""
        role: Any = RemoteRole("query", 0)
        found = self._encoder.one_or_many(text, role, kind_head("vision"), limit)
        return [found] if is_text(text) else found

    def tokens(self, text: str) -> list[str]:  # noqa: ARG002
        """Raises ConfigError."""
        raise ConfigError("the tokens of a query are known where the model is: open it there")

    def close(self) -> None:
        """Later calls raise EncodingError."""
        self._encoder.close()


class RemoteVision(RemoteModel, TesseraVision):
    """A vision model at a server. Similarity maps are made where the model is."""

    def _start(
        self, *, on_long: OnLong = "truncate", max_pixels: int = MAX_PIXELS, **more: Any
    ) -> None:
        if more or on_long != "truncate":
            name = next(iter(more), "on_long")
            raise TypeError(f"{name} is no option of a vision model at a server")
        self._max_pixels, self._sessions = max_pixels, []
        name = self._server_name
        self._encoder = _RemoteImages(self._recipe, self._link, name, max_pixels)
        self._texts = cast("Any", _RemoteQueries(self._link, name))

    def locate(self, *_: Any, **__: Any) -> Any:
        """Raises ConfigError: no server tells where on an image its vectors lie."""
        raise ConfigError("similarity maps are made where the model is: open it with TesseraVision")

    def close(self) -> None:
        """Later calls raise EncodingError."""
        cast("Any", self._encoder).graphs.closed = True
        self._texts.close()
