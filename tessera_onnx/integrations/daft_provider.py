"""Daft: a provider for its functions `embed_text` and `embed_image`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tessera_onnx.batch import outcomes
from tessera_onnx.batch.encoder import Encoder
from tessera_onnx.batch.outcomes import Outcome
from tessera_onnx.errors import ConfigError, install_hint
from tessera_onnx.integrations.daft import rows_of_a_batch

try:
    from daft import DataType
    from daft.ai.protocols import ImageEmbedderDescriptor, TextEmbedderDescriptor
    from daft.ai.provider import Provider
    from daft.ai.typing import EmbeddingDimensions
except ImportError as error:
    raise ImportError(f"Daft needs daft: {install_hint('daft')}") from error

logger = logging.getLogger("tessera_onnx.daft")
UDF_OPTIONS = ("batch_size", "max_retries", "on_error", "concurrency", "num_gpus")


class TesseraProvider(Provider):
    """Models with one vector a text or image, for Daft's `embed_text` and `embed_image`.

    Texts are read as documents; `role="query"` reads queries. A null, and a text or image that
    cannot be encoded, has a null in place of its vector; of the latter the log says why, and
    `tessera_onnx.integrations.daft.encode` says it row by row.

    Options of all calls, to which a call may add, are those of `Encoder` (such as `path`, a folder)
    and batch_size, max_retries, on_error, concurrency and num_gpus of Daft.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options

    @property
    def name(self) -> str:
        """The name of the provider in a session of Daft."""
        return "tessera"

    def get_text_embedder(
        self, model: str | None = None, dimensions: int | None = None, **options: Any
    ) -> TextDescriptor:
        """The embedder of a call of `embed_text`; `dimensions` cuts vectors (Matryoshka)."""
        given = {} if dimensions is None else {"dimension": dimensions}
        return TextDescriptor(model, {**self._options, **given, **options})

    def get_image_embedder(self, model: str | None = None, **options: Any) -> ImageDescriptor:
        """The embedder of a call of `embed_image`."""
        return ImageDescriptor(model, {**self._options, **options})


class _Descriptor:
    """The arguments of an embedder, and itself: an Encoder opens its model when it is used."""

    reads: ClassVar[str]

    def __init__(self, model: str | None, options: dict[str, Any]) -> None:
        self._model = model
        self._udf = {name: options.pop(name) for name in UDF_OPTIONS if name in options}
        self._role = options.get("role", "document")
        self._encoder = Encoder(model, self.reads, **options)

    def get_provider(self) -> str:
        """The name of the provider."""
        return "tessera"

    def get_model(self) -> str:
        """The id of the model; empty where none was given."""
        return self._model or ""

    def get_options(self) -> dict[str, Any]:
        """The options of the call in Daft."""
        return {"batch_size": self._facts[1], **self._udf}

    def get_dimensions(self) -> EmbeddingDimensions:
        """Size and type of a vector.

        Raises ConfigError for a model that reads or gives something else, or options that make it
        so; opening raises what `Tessera` raises.
        """
        return EmbeddingDimensions(self._facts[0], DataType.float32())

    def instantiate(self) -> Any:
        """The embedder."""
        return self

    @functools.cached_property
    def _facts(self) -> tuple[int, int]:
        """Size of a vector, and rows of a call."""
        try:
            row = self._encoder.opened()[1]
            reads = "texts" if row.reads == "images" and self._role == "query" else row.reads
            if reads != self.reads:
                raise ConfigError(
                    f"the column holds {self.reads} and the model reads {reads}: choose another "
                    "model; one of images reads texts with role='query'"
                )
            fields = self._encoder.fields
            size = getattr(fields[0].type, "list_size", 0)
            if fields[0].type != pa.list_(pa.float32(), size) or fields[1].name != "tokens":
                raise ConfigError(
                    "Daft takes one float32 vector a row here: leave out kinds and output_dtype, "
                    "choose another model, or call tessera_onnx.integrations.daft.encode"
                )
            return size, rows_of_a_batch(self._encoder)
        finally:
            self._encoder.close()

    def _vectors(self, found: Sequence[Outcome], items: Sequence[Any]) -> list[NDArray[Any] | None]:
        pairs = zip(found, items, strict=True)
        failed = [each.error for each, item in pairs if each.error and item is not None]
        if failed:
            told = "%d of %d %s have no vector; the first: %s"
            logger.warning(told, len(failed), len(found), self.reads, failed[0])
        return [None if each.result is None else np.ravel(each.result) for each in found]


class TextDescriptor(_Descriptor, TextEmbedderDescriptor):
    """A call of `embed_text`."""

    reads = "texts"

    def embed_text(self, text: list[str | None]) -> list[NDArray[Any] | None]:
        """A vector (dimension,) float32 for each text; None for a null, and where it fails."""
        cells = pa.chunked_array([pa.array(text, pa.large_string())])
        return self._vectors(self._encoder.outcomes(cells), text)


class ImageDescriptor(_Descriptor, ImageEmbedderDescriptor):
    """A call of `embed_image`."""

    reads = "images"

    def embed_image(self, images: list[NDArray[Any] | None]) -> list[NDArray[Any] | None]:
        """A vector (dimension,) float32 for each image, an array of uint8; None as for texts."""
        model: Any = self._encoder.opened()[0]
        nulls = [None if image is not None else "the cell is null" for image in images]
        found = [Outcome(error=null) for null in nulls]
        outcomes.of_each(model.encode_document, found, images)
        return self._vectors(found, images)
