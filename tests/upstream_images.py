"""What transformers' own processors make of an image, for the golden values and tests/export.

The slow Pillow classes: the others need torchvision, whose resampling differs by a level or two.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from image_cases import spec, tokenizer
from PIL import Image, ImageOps
from transformers import (
    CLIPImageProcessorPil,
    ColModernVBertProcessor,
    ColPaliProcessor,
    ColQwen2Processor,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    SiglipImageProcessorPil,
)

SQUARE = {"height": 448, "width": 448}
PROCESSORS = {
    "colpali-v1.2": SiglipImageProcessorPil(size=SQUARE, image_seq_length=1024),
    "clip-vit-b-32": CLIPImageProcessorPil(),
    "siglip2-base-patch16-224": SiglipImageProcessorPil(resample=Image.Resampling.BILINEAR),
    "colsmol-256m": Idefics3ImageProcessorPil(
        size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}
    ),
    "colqwen2-v1.0": Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=768 * 28 * 28),
}


def pixels(model_id, image):
    """Pixel values of a path, of which transformers drops alpha, or of a PIL image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of palettes with alpha, which Pillow warns of
        found = PROCESSORS[model_id](image, return_tensors="np")["pixel_values"]
    return found[0] if model_id == "colsmol-256m" else found


def upright(content):
    """The file as a PIL image that still has its alpha."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(content)))


def document_ids(model_id, size, longest=2048):
    """Ids that the processor gives a page of `size` pixels, with the tests' small tokenizer."""
    backend = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(), bos_token="<bos>", pad_token="<pad>"
    )
    image = Image.new("RGB", size, "white")
    prompt = spec(model_id).vision.prompt.text.replace("{image}", "<image>")
    if model_id.startswith("colpali"):
        found = ColPaliProcessor(PROCESSORS["colpali-v1.2"], backend)(images=[image])
    elif model_id.startswith("colqwen2"):
        backend.add_special_tokens({"pad_token": "<|endoftext|>"})
        found = ColQwen2Processor(PROCESSORS["colqwen2-v1.0"], backend)(images=[image])
    else:
        cut = Idefics3ImageProcessorPil(
            size={"longest_edge": longest}, max_image_size={"longest_edge": 512}
        )
        if model_id == "colmodernvbert":
            found = ColModernVBertProcessor(cut, backend).process_images(images=[image])
        else:
            whole = Idefics3Processor(cut, backend, image_seq_len=64)
            found = whole(images=[image], text=[prompt])
    return np.array([int(number) for number in found["input_ids"][0]])
