"""Run the graphs of a vision model: from the pixels of an image to its vectors.

A PixelEncoder is one graph (CLIP, SigLIP, page models). A VisionLanguageModel is three: one embeds
tiles of pixels, one embeds tokens, and a language model reads both together (ColPali and others).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import EncodingError
from tessera_onnx.images.preprocess import Pixels
from tessera_onnx.images.prompt_ids import positions
from tessera_onnx.models.spec_media import Vision
from tessera_onnx.runtime.session import Array, Port, Session, select
from tessera_onnx.text.tokenizer import Runnable
from tessera_onnx.vectors import pooling

Float = NDArray[np.float32]
Ids = NDArray[np.int64]
# Tiles in one run of the tile graph. More need more memory and are no faster on CPUs.
TILES = 4


@dataclass(frozen=True, slots=True, eq=False)
class PatchVectors:
    """An image's vectors, (n, dim) float32 unit rows, and where on the image they lie.

    `cells` (rows, cols) is the grid of cells of the image: each holds the number of its row in
    `vectors`, or -1 where it has none. Rows without a cell belong to the text around the image, or
    to the whole view of an image that was cut into tiles. For a long image, which is read in views,
    cells are (layers, rows, cols), and the views of a layer do not overlap.
    """

    vectors: Float
    cells: Ids


class PixelEncoder:
    """One graph from pixels to the vectors of an image."""

    def __init__(self, session: Session, recipe: Vision, texts: Session | None) -> None:
        """`texts` is the graph that reads texts; None where another model reads them."""
        self.session = session
        self.texts: Runnable | None = texts
        self._recipe = recipe
        self.workers = session.workers

    def encode(self, pixels: Pixels, *, image_only: bool, parallel: bool) -> PatchVectors:
        """The vectors of one image. It has no prompt, so `image_only` changes nothing."""
        del image_only
        recipe = self._recipe
        found = self.session.run({"pixel_values": pixels.tiles}, parallel=parallel)
        states = dict(zip(self.session.outputs, found, strict=True))
        vectors = states[recipe.output]
        if recipe.vectors == "one":
            pooled = vectors[:, 0] if recipe.pooling == "cls" else vectors
            return PatchVectors(pooling.l2_normalize(pooled), np.zeros((1, 1), dtype=np.int64))
        height, width = pixels.tiles.shape[2:]
        squares = (height // recipe.image.size, width // recipe.image.size)
        rows, cols = _grid(vectors.shape[1], *squares)
        kept = np.ones(rows * cols, dtype=bool)
        if recipe.keep:
            kept = states[recipe.keep][0] > 0
        cells = np.where(kept, np.cumsum(kept) - 1, -1).reshape(rows, cols)
        return PatchVectors(pooling.l2_normalize(vectors[0][kept]), cells)


class VisionLanguageModel:
    """A language model that reads embeddings, and the graphs that embed tokens and tiles.

    For texts it behaves like one session that takes token ids.
    """

    inputs = dict.fromkeys(("input_ids", "attention_mask"), Port(np.int64, (None, None)))

    def __init__(
        self,
        tiles: Session,
        tokens: Session,
        model: Session,
        image_token: int,
        prompt_ids: Callable[[int, int, int], Ids],
    ) -> None:
        """`prompt_ids(n_tokens, rows, columns)` gives the prompt of a grid of tiles.

        `n_tokens` is the number of image tokens of each tile.
        """
        self.session = model
        self._tiles = tiles
        self._tokens = tokens
        self._image_token = image_token
        self._prompt_ids = prompt_ids
        self.workers = model.workers

    @property
    def texts(self) -> Runnable:
        """What reads texts: this object, by `run`."""
        return self  # no attribute: a reference cycle would free the graphs late

    def check_open(self) -> None:
        """Raises EncodingError when the model is closed or belongs to a parent process."""
        self.session.check_open()

    def run(
        self,
        feeds: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        parallel: bool = False,
    ) -> list[Array]:
        """Read texts, given as input_ids and attention_mask (b, n) int64."""
        embeddings = self._embeddings(feeds["input_ids"], parallel=parallel)
        inputs = language_feeds(self.session.inputs, embeddings, feeds["attention_mask"])
        return self.session.run(inputs, outputs=outputs, parallel=parallel)

    def encode(self, pixels: Pixels, *, image_only: bool, parallel: bool) -> PatchVectors:
        """The vectors of one image in its prompt; `image_only` leaves out those of the text."""
        ids = self._prompt_ids(math.prod(pixels.cells), pixels.rows, pixels.columns)
        places = np.flatnonzero(ids == self._image_token)
        features = self._features(pixels.tiles, parallel=parallel)
        if len(features) != len(places):
            raise EncodingError(
                f"the tile graph gives {len(features)} vectors for {len(pixels.tiles)} tiles, the "
                f"prompt of model.toml has places for {len(places)}"
            )
        embeddings = self._embeddings(ids[None], parallel=parallel)
        embeddings[0, places] = features
        attention = np.ones((1, len(ids)), dtype=np.int64)
        inputs = language_feeds(self.session.inputs, embeddings, attention)
        if "position_ids" in inputs:
            grid = positions(ids, self._image_token, *pixels.cells)
            inputs["position_ids"] = grid[:, None]
        (states,) = self.session.run(inputs, parallel=parallel)
        kept = places if image_only else np.arange(len(ids))
        cells = _tile_cells(places, pixels)
        return PatchVectors(pooling.l2_normalize(states[0][kept]), np.searchsorted(kept, cells))

    def _features(self, tiles: Float, *, parallel: bool) -> Float:
        """Embed tiles (n, 3, h, w), a few at a time: (n x tokens, hidden)."""
        parts = [
            self._tiles.run({"pixel_values": tiles[i : i + TILES]}, parallel=parallel)[0]
            for i in range(0, len(tiles), TILES)
        ]
        features = np.concatenate(parts)
        return features.reshape(-1, features.shape[-1])

    def _embeddings(self, ids: Ids, *, parallel: bool) -> Array:
        return self._tokens.run({"input_ids": ids}, parallel=parallel)[0]


def language_feeds(
    inputs: Mapping[str, Port], embeddings: Array, attention: Ids
) -> dict[str, Array]:
    """The inputs of a language model, by name, for embeddings (b, n, hidden) of texts."""
    known: dict[str, Array] = {
        "inputs_embeds": embeddings,
        "attention_mask": attention,
        # 0: attention in both directions, for prompts and queries alike (PaliGemma).
        "token_type_ids": np.zeros_like(attention),
        # Time, row and column; the tokens of a text count on in all three (Qwen2-VL).
        "position_ids": np.tile(np.arange(attention.shape[1]), (3, len(attention), 1)),
    }
    return select(known, inputs, "the language model's graph")


def _grid(n_vectors: int, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of cells, where each of `rows` x `columns` squares of pixels has k x k."""
    per_edge = math.isqrt(max(1, n_vectors // (rows * columns)))
    if rows * columns * per_edge**2 != n_vectors:
        raise EncodingError(
            f"the graph gives {n_vectors} vectors for {rows} x {columns} squares of pixels, "
            "expected k x k vectors for each square"
        )
    return rows * per_edge, columns * per_edge


def _tile_cells(places: Ids, pixels: Pixels) -> Ids:
    """Arrange the positions of image tokens, tile after tile, as one grid over the page.

    The whole view, which follows several tiles, is left out.
    """
    rows, columns, (down, across) = pixels.rows, pixels.columns, pixels.cells
    cells = places[: rows * columns * down * across].reshape(rows, columns, down, across)
    return cells.transpose(0, 2, 1, 3).reshape(rows * down, columns * across)
