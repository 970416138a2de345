"""The tables of models.toml and model.toml about images and time series; spec.py says the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How an image becomes pixel values: RGB, resized, scaled to 0..1, normalised."""

    size: int  # edge of the square that the encoder reads, of a tile, or of a cell ("fit")
    # "stretch": resize to the square, without regard to the aspect ratio.
    # "crop": resize the shortest edge to `size`, then cut out the centre.
    # "tiles": resize the longest edge to `longest`, cut into tiles of `size`, add the whole image.
    # "dynamic": resize both edges to multiples of `size`, with an area of `least_pixels` to
    # `most_pixels`.
    # "fit": resize the longest edge to at most `longest`, pad with white on the right and below to
    # multiples of `size`.
    resize: Literal["stretch", "crop", "tiles", "dynamic", "fit"]
    longest: int  # 0 where neither "tiles" nor "fit"
    least_pixels: int  # 0 where not "dynamic"
    most_pixels: int
    resample: Literal["bilinear", "bicubic", "lanczos"]
    # How transparency is removed. "dropped": the alpha channel is ignored, so the colour that the
    # file holds there shows. "white": on white. A file with one transparent colour and no alpha
    # channel gets white in both cases, as in transformers.
    alpha: Literal["dropped", "white"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokens: int  # vectors per square or per tile; 0 = one per cell ("dynamic" and "fit")
    # For a "fit" model that was trained on small letters: the largest font size that it reads, in
    # pixels. Pages of a PDF are drawn so that most of their letters have that height. Absent for a
    # model that reads letters of all sizes; its pages are drawn as large as the model reads them.
    letters: int | None = None


@dataclass(frozen=True, slots=True)
class SubGraph:
    """A further graph of a vision model, with a file in each precision of the main graph."""

    output: str
    fp32: str
    fp16: str
    int8: str
    int4: str | None = None


@dataclass(frozen=True, slots=True)
class ImagePrompt:
    """The text around an image in the input of a language model, special tokens written out."""

    text: str  # "{image}" stands for the tokens of the image
    token: str  # the vocabulary entry whose embeddings are replaced by the image features
    tile: str  # before the tokens of a tile; "{row}" and "{column}" count from 1; "" = no tiles
    row_end: str  # after the last tile of a row
    grid_end: str  # after the last row; an image that is not cut has none of these
    whole: str  # before the tokens of the whole view
    end: str  # after them


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """How a text that searches for images is read; prefix and suffix have their special tokens."""

    prefix: str
    suffix: str
    max_length: int  # in tokens, prefix and suffix included; only the text between is cut


@dataclass(frozen=True, slots=True)
class Vision:
    """Images and the texts that search for them.

    A model has one of two forms. Without a prompt, the graph makes the vectors of an image from
    pixel_values; texts are read by a graph of their own (`text_graph`) or by another model
    (`text_model`). With a prompt, the graph is a language model with inputs_embeds: it reads the
    features of the tiles (from `tile_graph`) among the embeddings of the prompt's tokens (from
    `token_graph`), and a text as embeddings of tokens only. One graph of both parts, which needs
    pixels for a text too, is not supported: export the model again.
    """

    vectors: Literal["one", "patches"]  # one vector per image, or one per patch and query token
    pooling: Literal["graph", "cls"]  # "cls": the first state is the vector of the image
    output: str  # of [model.graph]
    keep: str  # output (batch, patches): patches with a value <= 0 have no vector; "" = all have
    dimension: int
    image: ImageSpec
    prompt: ImagePrompt | None  # present exactly if the graph reads an image among token ids
    query: ImageQuery | None  # absent if text_model reads the texts
    text_model: str  # id of the model that encodes the queries in the same space; "" = this one
    tile_graph: SubGraph | None
    token_graph: SubGraph | None
    text_graph: SubGraph | None

    def parts(self) -> list[SubGraph]:
        """The graphs beside the main one."""
        return [part for part in (self.tile_graph, self.token_graph, self.text_graph) if part]


@dataclass(frozen=True, slots=True)
class TimeSeries:
    """Forecasts of quantiles, or of one value a step, from a scaled series.

    A graph with the input future_patches forecasts as many output patches as it is given; a graph
    without that input forecasts one. With the input group_ids, a forecast uses all series of its
    group.
    """

    # Graph output, (batch, quantiles, steps), of the scaled series; with reads = "context" it is
    # (batch, steps, quantiles), of the series itself. "" = the only one.
    output: str
    context_length: int  # number of latest values that are read of a series
    patch_size: int  # values that the graph reads as one position
    output_patch_size: int  # steps
    prediction_length: int  # longest horizon of one pass; a longer one takes several passes
    quantiles: tuple[float, ...]  # levels of the output, rising, with 0.5 among them; see point
    arcsinh: bool  # whether arcsinh is applied after the scaling
    time_scale: int  # divisor of the time channel of a patch; -1 = patches have no time channel
    # Levels whose paths continue a longer horizon; [] = missing values do, or the values of point.
    rollout_quantiles: tuple[float, ...]
    rollout_weights: Literal["equal", "mass"]  # of a path: 1, or the probability around its level
    # What the graph reads; absent = patches, with their channels. "window": context_length values,
    # scaled by the root of their variance plus 1e-5, where a missing value is 0 before the scaling.
    # "context": the values themselves, NaN where one is missing, which the graph scales.
    reads: Literal["window", "context"] | None
    # What the one value a step is, for a model without quantiles; absent = it has quantiles.
    point: Literal["mean", "median"] | None
