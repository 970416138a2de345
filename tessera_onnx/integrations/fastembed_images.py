"""The classes of fastembed that read images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import is_text
from tessera_onnx.errors import ConfigError
from tessera_onnx.images.sources import Source, is_source
from tessera_onnx.integrations.fastembed_base import Base
from tessera_onnx.models.spec import Kind

Float = NDArray[np.float32]


class LateInteractionMultimodalEmbedding(Base):
    """TesseraVision under the name of fastembed: (n, dimension) float32 an image or a text."""

    _kind: ClassVar[Kind] = "vision"

    def embed_image(
        self,
        images: Source | Iterable[Source],
        batch_size: int = 2,  # noqa: ARG002
        parallel: int | None = None,  # noqa: ARG002
        **options: Any,
    ) -> Iterator[Float]:
        """The vectors of each image, in order; options and errors are those of `encode_iter`."""
        several: Any = [images] if is_source(images) else images
        yield from self.model.encode_iter(several, **options)

    def embed_text(
        self,
        documents: str | Iterable[str],
        batch_size: int = 256,  # noqa: ARG002
        parallel: int | None = None,  # noqa: ARG002
        **options: Any,
    ) -> Iterator[Float]:
        """The vectors of each text that looks for images, as `TesseraVision.encode_query`."""
        yield from self.model.encode_query(
            [documents] if is_text(documents) else documents, **options
        )


class ImageEmbedding(Base):
    """TesseraVision under the name of fastembed, for models of one vector an image (CLIP)."""

    _kind: ClassVar[Kind] = "vision"

    def embed(
        self,
        images: Source | Iterable[Source],
        batch_size: int = 16,  # noqa: ARG002
        parallel: int | None = None,  # noqa: ARG002
        **options: Any,
    ) -> Iterator[Float]:
        """The vector (dimension,) of each image, in order; errors of `TesseraVision.encode_iter`.

        Raises ConfigError for a model of several vectors an image.
        """
        if self.model.spec.vision.vectors != "one":
            raise ConfigError(
                f"model {self.model.model()!r} has several vectors an image: use "
                "LateInteractionMultimodalEmbedding"
            )
        several: Any = [images] if is_source(images) else images
        for vectors in self.model.encode_iter(several, **options):
            yield vectors[0]
