"""Search images and pages by text: scores, rankings, and where on a page the answer is."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import check_top_k, is_text
from tessera_onnx.errors import ConfigError
from tessera_onnx.images.base import ImageModel
from tessera_onnx.images.locating import read_page
from tessera_onnx.images.scoring import VectorRows, score_documents
from tessera_onnx.images.similarity_map import Answer, Region, answer, check_file, save_map
from tessera_onnx.images.sources import Source
from tessera_onnx.results import Ranked, ranking
from tessera_onnx.runtime.workers import Event, Limit
from tessera_onnx.search.token_index import PackedTokens
from tessera_onnx.vectors.forms import floats, is_vectors

Float = NDArray[np.float32]


class TesseraVision(ImageModel):
    """Encode images and queries with a ColPali-like or CLIP-like model, and compare by MaxSim.

    An image is the path of a file, the bytes of a file, an open binary file, a data: URI, a dict of
    "bytes" and "path" (as Hugging Face's datasets hold images), a PIL image, or a uint8 or uint16
    array (height, width) or (height, width, 1, 3 or 4). Its vectors are (n_patches, dim) float32
    unit rows. Language models such as ColPali read an image inside a prompt, whose text has rows
    too, as upstream, unless `image_only` is set. A model of one vector an image (CLIP, SigLIP)
    gives one row for an image and for a text. A model whose rows stand for words gives an empty
    page no rows.

    A long image, more than twice as long as wide, is read in views that overlap and as a whole
    where the model would shrink it to less than 4/5 of its size; its rows are those of all views. A
    model of one vector an image warns instead. Of a file of several pages or frames the first is
    read, with a TruncationWarning; `encode_pages` reads all.

    Images run through the graphs one by one, so the vectors of an image never depend on others.
    """

    def search(self, query: str | VectorRows, document: Source | VectorRows) -> float:
        """MaxSim of a query and an image, in [-n, n] for n rows of the query.

        Either may be vectors that were encoded earlier: a float array (n, dim), Int8Vectors or
        BinaryTokens. An image without rows scores -n, the least that MaxSim can be. Raises as
        `score` does.
        """
        return float(self.score(query, [document])[0])

    def search_document(self, text: str, path: Source) -> float:
        """The same as `search`, under the name of the original bindings."""
        return self.search(text, path)

    def score(
        self,
        query: str | VectorRows,
        documents: Sequence[Source | VectorRows] | PackedTokens,
        *,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Float:
        """MaxSim of a query with each image or vectors: (len(documents),) float32; [] for [].

        Images are encoded on the way and their vectors not kept, so memory stays bounded.
        BinaryTokens are compared as unit vectors with the floats of the query, which keeps more of
        the order than to compare bits with bits; PackedTokens score by their own method.

        Raises TypeError for what is neither an image nor vectors, DimensionMismatch and ConfigError
        for vectors of another dimension and for NaN or infinity, all with the `index` of the
        document; what `encode_documents` raises for images; TimedOut and Cancelled.
        """
        limit = Limit(timeout, cancel)
        limit.check()
        vectors = self._query(query)
        if isinstance(documents, PackedTokens):
            return documents.score(vectors)
        return score_documents(self._encoder, vectors, documents, given=query, limit=limit)

    def rank(
        self,
        query: str | VectorRows,
        documents: Sequence[Source | VectorRows] | PackedTokens,
        top_k: int | None = None,
        *,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> list[Ranked]:
        """The `top_k` documents of highest score, in falling order; None ranks all.

        Documents are as in `score`, whose errors are raised. Those of PackedTokens bring their ids.
        """
        check_top_k(top_k, 0)
        Limit(timeout, cancel).check()
        if isinstance(documents, PackedTokens):
            return documents.rank(self._query(query), top_k)
        scores = self.score(query, documents, timeout=timeout, cancel=cancel)
        return ranking(scores, top_k)

    def similarity_map(
        self,
        query: str | VectorRows,
        document: Source,
        *,
        page: int | None = None,
        dpi: float | None = None,
        password: str | None = None,
    ) -> Float:
        """Similarity of each token of a query and each cell of an image: (n_tokens, rows, cols).

        The values are float32 dot products of unit vectors, in [-1, 1]; NaN marks a cell without a
        vector. The grid of cells depends on the model: 32 x 32 for ColPali; 8 x 8 for each tile,
        joined in the order of the page and without the whole view; or cells of a fixed size.

        `page`, from 1, is the page of a PDF or TIFF to read; None reads the first. `dpi` and
        `password` are as for `encode_pages`. Raises ConfigError for a model of one vector an image,
        and what `encode_document`, `encode_pages` and `encode_query` raise.
        """
        return self.locate(query, document, page=page, dpi=dpi, password=password).map

    def regions(
        self,
        query: str | VectorRows,
        document: Source,
        *,
        page: int | None = None,
        dpi: float | None = None,
        password: str | None = None,
    ) -> list[Region]:
        """The part of an image that answers each token of a query best, as a box in pixels.

        Of a page of a PDF, `words` are the words of the text layer inside the box. A token has no
        region where the image has no vectors. Arguments and errors are those of `similarity_map`.
        """
        found = self.locate(query, document, page=page, dpi=dpi, password=password)
        return list(found.regions)

    def locate(
        self,
        query: str | VectorRows,
        document: Source,
        *,
        page: int | None = None,
        dpi: float | None = None,
        password: str | None = None,
    ) -> Answer:
        """Similarity map, regions and the image that they lie on, from one run of the model.

        Arguments and errors are those of `similarity_map`.
        """
        image, words = read_page(
            document, page, self._encoder.read, recipe=self._recipe.image,
            dpi=dpi, password=password, max_pixels=self._max_pixels,
        )  # fmt: skip
        if self._recipe.vectors == "one":
            raise ConfigError(
                f"model {self._spec.id!r} has one vector per image, so there is no similarity map: "
                "use a ColPali-like model"
            )
        vectors = self._query(query)
        names = self.query_tokens(query) if isinstance(query, str) else []
        found = self._encoder.located(image, "document")
        return answer(vectors, names, image, found, words, given=query)

    def save_similarity_map(
        self,
        query: str | VectorRows,
        document: Source,
        file: str | os.PathLike[str],
        *,
        token: int | None = None,
        page: int | None = None,
        dpi: float | None = None,
        password: str | None = None,
    ) -> Float:
        """Draw the similarity map of one query token, or the mean of all, over the image.

        `file` ends in .png, .jpg, .jpeg or .webp and is written whole or not at all. Red marks the
        highest similarity of this map. Returns the map of all tokens, as `similarity_map` does, and
        raises as it does; ConfigError for another ending or a token outside the query, FileError
        where the file cannot be written.
        """
        check_file(file)
        found = self.locate(query, document, page=page, dpi=dpi, password=password)
        save_map(found, token, file)
        return found.map

    def _query(self, query: str | VectorRows) -> Float:
        """The vectors of a query, encoded now or earlier, as float32."""
        made = self.encode_query(query) if is_text(query) else query
        if not is_vectors(made):
            raise TypeError(
                "query must be one text, or its vectors as a float array (n, dim), Int8Vectors or "
                f"BinaryTokens, got {type(query).__name__}: one query at a time"
            )
        return floats(made, self.embedding_dim(), "query")
