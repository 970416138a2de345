"""Make the token ids of the prompt in which a language model reads an image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import LoadError
from tessera_onnx.models.spec_media import ImagePrompt

Encode = Callable[[str], list[int]]


def image_id(prompt: ImagePrompt, encode: Encode) -> int:
    """The token id that stands for one vector of an image in the prompt.

    Raises LoadError when the tokenizer does not know the token.
    """
    ids = encode(prompt.token)
    if len(ids) != 1:
        raise LoadError(
            f"the image token {prompt.token!r} is {len(ids)} tokens and not one: "
            "the tokenizer is not that of this model"
        )
    return ids[0]


def document_ids(
    prompt: ImagePrompt, tokens: int, rows: int, columns: int, encode: Encode
) -> NDArray[np.int64]:
    """The token ids of the prompt of one image, (n,), with image tokens in the order of tiles.

    tokens: image tokens of one tile. rows, columns: the grid of tiles, 1 and 1 for an image that is
    not cut. encode: gives the ids of a text; it adds no special tokens but reads those spelled out.
    The whole prompt is encoded as one text, since tokens may join across its parts: two line ends
    are one token of SmolLM2. The result equals the processors of ColPali, Idefics3 and Qwen2-VL in
    transformers. Raises LoadError when the ids hold another number of image tokens.
    """
    run = prompt.token * tokens
    grid = ""
    if rows * columns > 1:
        for row in range(1, rows + 1):
            for column in range(1, columns + 1):
                place = prompt.tile.replace("{row}", str(row)).replace("{column}", str(column))
                grid += place + run
            grid += prompt.row_end
        grid += prompt.grid_end
    image = grid + prompt.whole + run + prompt.end
    ids = np.array(encode(prompt.text.replace("{image}", image)), dtype=np.int64)
    wanted = tokens * (rows * columns + (rows * columns > 1))
    found = int((ids == image_id(prompt, encode)).sum())
    if found != wanted:
        raise LoadError(
            f"the prompt has {found} image tokens, expected {wanted}: the prompt or the "
            "tokenizer is not that of this model"
        )
    return ids


def positions(ids: NDArray[np.int64], image: int, rows: int, columns: int) -> NDArray[np.int64]:
    """The position of each token in time, row and column, (3, n), as Qwen2-VL takes it.

    Tokens of text count on in all three. Image tokens, those with the id `image`, share one time
    and form a grid of rows x columns that starts at the next position; the text after them counts
    on from the farthest position of the grid. Equals get_rope_index of Qwen2-VL in transformers.
    """
    places = np.tile(np.arange(len(ids)), (3, 1))
    where = np.flatnonzero(ids == image)
    if len(where):
        start, end = where[0], where[-1] + 1
        across = np.arange(rows * columns)
        places[:, start:end] = start + np.stack([0 * across, across // columns, across % columns])
        places[:, end:] += max(rows, columns) - (end - start)
    return places
