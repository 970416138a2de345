"""Made-up images, the catalogue's recipes and a small tokenizer, the same in every environment.

The golden values for them come from `make_image_goldens.py`; tests/export compares directly.
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tessera_onnx.models import catalogue

PAGES = Path(__file__).parents[2] / "shared" / "data" / "docpages" / "pages"
# Portrait, landscape, small, wide, A4 without a text layer: all with palettes.
PAGE_NAMES = ("p01", "p21", "p22", "p28", "p35")

# Pillow 13 shrinks the height first where it shrinks more than the width, and rounds in between:
# upstream's pixels differ between the two, and so do ours.
GOLDEN = (
    Path(__file__).parent
    / "artifacts"
    / ("images-pillow-12.npz" if int(PIL.__version__.split(".")[0]) < 13 else "images.npz")
)

# A model of the catalogue for each way of resizing, and each filter.
MODELS = (
    "colpali-v1.2",
    "clip-vit-b-32",
    "siglip2-base-patch16-224",
    "colsmol-256m",
    "colqwen2-v1.0",
)


# Those with a prompt, and page sizes: portrait, landscape, narrow, wide, A4, one tile high.
PROMPTED = ("colpali-v1.2", "colpali-v1.3-hf", "colsmol-500m", "colmodernvbert", "colqwen2-v1.0")
SIZES = ((850, 1100), (1100, 850), (550, 850), (1400, 850), (827, 1170), (1, 1), (2048, 300))

CLEAR = (
    "palette, one colour clear",
    "palette, alpha each",
    "rgb, one colour clear",
    "rgba",
    "grey and alpha",
)


@cache
def spec(model_id):
    return next(spec for spec in catalogue.catalogue() if spec.id == model_id)


def picture(width, height, channels=3, seed=0):
    """Uint8 levels: a slope, edges and noise, so that every filter shows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    slope = (x * 5 + y * 3)[..., None] // np.arange(1, channels + 1) % 256
    edges = ((x // 7 + y // 5) % 2 * 120)[..., None]
    noise = rng.integers(0, 60, (height, width, channels))
    return ((slope + edges + noise) % 256).astype(np.uint8)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rotated(orientation, kind="PNG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(picture(90, 60)), kind, exif=exif)


@cache
def files():
    """Name -> the bytes of a file, all of formats without loss."""
    colour = Image.fromarray(picture(300, 200))
    clear = Image.fromarray(picture(120, 160, 4))
    palette = colour.quantize(64)
    made = {
        "rgb": encoded(colour),
        "grey": encoded(Image.fromarray(picture(640, 500, 1)[..., 0])),
        "bilevel": encoded(colour.convert("1")),
        "palette": encoded(palette),
        "palette, one colour clear": encoded(palette, transparency=3),
        "palette, alpha each": encoded(palette, transparency=bytes(range(0, 256, 4))),
        "rgb, one colour clear": encoded(
            Image.new("RGB", (40, 30), "red"), transparency=(255, 0, 0)
        ),
        "rgba": encoded(clear),
        "grey and alpha": encoded(Image.fromarray(picture(77, 55, 2))),
        "cmyk": encoded(colour.convert("CMYK"), "TIFF"),
        "on its side": rotated(6),
        "gif": encoded(palette, "GIF"),
        "bmp": encoded(colour, "BMP"),
        "ppm": encoded(colour, "PPM"),
        "webp": encoded(colour, "WebP", lossless=True),
    }
    sizes = [(1, 1), (3, 5), (1, 150), (2, 400), (900, 5), (511, 513), (1000, 1001), (1700, 20)]
    for width, height in sizes:
        made[f"{width} x {height}"] = encoded(Image.fromarray(picture(width, height)))
    return made


def places(shape, n=48):
    """Indices of n places all over an array of that shape."""
    return np.unravel_index(np.linspace(0, np.prod(shape) - 1, n).astype(int), shape)


WORDS = ["Describe", "Ġthe", "Ġimage", "User", "Assistant", "user", "Query", "Question", "ĊĊ"]


def tokenizer():
    """A byte-level BPE of a few words, in which two line ends are one token, as SmolLM2's are."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = dict.fromkeys(alphabet)
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocabulary:
                merges.append((word[: end - 1], word[end - 1]))
                vocabulary[word[:end]] = None
    ids = {token: number for number, token in enumerate(vocabulary)}
    backend = Tokenizer(models.BPE(ids, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<image>", "<fake_token_around_image>", "<global-img>"]
    special += ["<end_of_utterance>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>"]
    special += ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|endoftext|>"]
    special += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return backend


def encode(backend):
    return lambda text: backend.encode(text, add_special_tokens=False).ids


def qwen_patches(tile, *, patch=14, merge=2):
    """One tile (3, h, w) as Qwen2-VL's image processor gives it: (n, 3 * 2 * patch * patch).

    Row by row of squares of merge x merge patches, in a square row by row again; each patch twice,
    for the encoder reads pairs of frames.
    """
    channels, height, width = tile.shape
    down, across = height // (patch * merge), width // (patch * merge)
    parts = tile.reshape(channels, down, merge, patch, across, merge, patch)
    parts = parts.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    pairs = np.broadcast_to(parts, (*parts.shape[:5], 2, *parts.shape[6:]))
    return pairs.reshape(down * across * merge * merge, -1)
