"""Read from an image model's folder how images become pixels, and prompts and queries token ids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tessera_export import refused
from tessera_export.errors import ExportError, as_export_error
from tessera_export.files import read_table, read_weights
from tessera_onnx.models.foreign import tokenizer_file
from tessera_onnx.models.foreign.tokenizer_file import TokenizerFile
from tessera_onnx.models.spec import TokenizerSpec
from tessera_onnx.models.spec_media import ImagePrompt, ImageQuery, ImageSpec, Vision

# By model_type: transformers' own retrieval classes, which hold the model that reads images.
RETRIEVERS = {
    "colpali": "ColPaliForRetrieval",
    "colmodernvbert": "ColModernVBertForRetrieval",
    "colqwen2": "ColQwen2ForRetrieval",
}
# By model_type: colpali-engine's folders, whose projection lies beside that model.
READERS = ("paligemma", "idefics3", "modernvbert", "qwen2_vl")
PAIRS = ("clip", "siglip")
QWEN = ("colqwen2", "qwen2_vl")  # images of any size, positions in two dimensions
VECTORS = "embeddings"  # output of the main graph: of pages and images
# The classes of transformers, less the suffixes of their implementations.
SIGLIP, IDEFICS, CLIP = "SiglipImageProcessor", "Idefics3ImageProcessor", "CLIPImageProcessor"
QWEN_IMAGES = "Qwen2VLImageProcessor"
FILTERS: dict[int, Literal["lanczos", "bilinear", "bicubic"]] = {
    1: "lanczos", 2: "bilinear", 3: "bicubic",
}  # fmt: skip
BUFFERS = 10  # augmentation tokens after a query, in colpali-engine and transformers
DESCRIBE = "Describe the image."
PAD = "<|endoftext|>"  # of Qwen2


def check(folder: Path) -> None:
    """Raises ExportError for what files alone can say, before torch is imported."""
    refused.check(folder, ["vision"])
    kind_of(read_table(folder / "config.json").get("model_type"))
    read_weights(folder)
    with as_export_error():
        tokenizer_file.check_file(folder)


def config(folder: Path) -> Any:
    """The folder's configuration. Raises ExportError for what transformers cannot read."""
    refused.check(folder, ["vision"])
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{folder / 'config.json'} cannot be read: {error}") from error


def kind_of(model_type: Any) -> str:
    """The model_type, when it is exported. Raises ExportError when it is not, with the reason."""
    if model_type in (*RETRIEVERS, *READERS, *PAIRS):
        return str(model_type)
    reasons = {
        "siglip2": "its images keep their aspect in patches of any number (NaFlex), which no "
        "recipe here describes; the SigLIP 2 models of a fixed size are of the type siglip",
        "nomic_bert": "transformers has no class for its image tower, it is code of its repository",
    }
    raise ExportError(
        f"the model_type {model_type!r} is not exported as vision: "
        + reasons.get(str(model_type), f"known are {', '.join((*RETRIEVERS, *READERS, *PAIRS))}")
    )


def tokenizer(folder: Path, settings: Any) -> TokenizerFile:
    """The tokenizer's facts, with the language model's positions. Raises ExportError."""
    text = settings.get_text_config()
    with as_export_error():
        return tokenizer_file.read(folder, {**text.to_dict(), "model_type": text.model_type})


def recipe(
    folder: Path,
    settings: Any,
    found: TokenizerFile,
    dimension: int,
    query: ImageQuery | str | None,
) -> tuple[Vision, TokenizerSpec]:
    """Everything but the graphs' files.

    `query` is the catalogue's, or the text before a query. Raises ExportError naming the fact
    that is missing.
    """
    kind = kind_of(settings.model_type)
    whole = getattr(settings, "vlm_config", settings)
    text, pair = found.text, kind in PAIRS
    said = read_table(folder / "processor_config.json")
    around, asked = None, _query(kind, said, found, query)
    if not pair:
        around = prompt(whole, said, found)
        if whole.model_type != "paligemma":  # whose processor turns the tokenizer's own ids off
            before, after = (_spelled(found, ids) for ids in (text.prefix_ids, text.suffix_ids))
            around = replace(around, text=before + around.text + after)
            if query is None or isinstance(query, str):
                asked = ImageQuery(before + asked.prefix, asked.suffix + after, asked.max_length)
        text = replace(text, prefix_ids=(), suffix_ids=())
    elif kind == "siglip":
        # Its vector is the last position's, padding or not, of those that it was trained with.
        text = replace(text, fixed_length=text.max_positions)
    vision = Vision(
        vectors="one" if pair else "patches",
        pooling="graph",
        output=VECTORS,
        keep="",
        dimension=dimension,
        image=image(folder, kind, whole),
        prompt=around,
        query=asked,
        text_model="",
        tile_graph=None,
        token_graph=None,
        text_graph=None,
    )
    return vision, text


def _spelled(found: TokenizerFile, ids: Sequence[int]) -> str:
    """The tokens that the tokenizer puts around every text: upstream's processors let it."""
    return "".join(str(found.tokenizer.id_to_token(number)) for number in ids)


def pair_dimension(settings: Any) -> int:
    """Size of the vectors of a CLIP or SigLIP configuration."""
    size = getattr(settings, "projection_dim", settings.vision_config.hidden_size)
    return int(size)


def processor(folder: Path) -> Any:
    """The folder's image processor, as transformers completes it, of the kind without torch.

    Raises ExportError when there is none.
    """
    from transformers import AutoImageProcessor

    factory: Any = AutoImageProcessor  # its methods carry no annotations
    try:
        return factory.from_pretrained(folder, backend="pil", local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ExportError(f"transformers finds no image processor in {folder}: {error}") from error


def image(folder: Path, kind: str, settings: Any) -> ImageSpec:
    """The pixels' recipe, from the folder's image processor.

    `settings` is the configuration of the model that reads images. Raises ExportError for a step
    that no recipe describes, and where the processor and the model disagree.
    """
    table = processor(folder).to_dict()
    # The processors of transformers lay a clear image on white; those of colpali-engine, and
    # ColModernVBertProcessor after them, call Pillow's convert("RGB") before.
    alpha: Literal["white", "dropped"] = "white" if kind in ("colpali", *PAIRS) else "dropped"
    try:
        found = _image(table, settings, alpha)
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(f"the image processor of {folder} is not exported: {error}") from error
    if found.resize == "dynamic":
        return found
    size, count = settings.vision_config.image_size, found.tokens
    if found.size != size:
        raise ExportError(f"the processor makes squares of {found.size}, the model reads {size}")
    said = read_table(folder / "processor_config.json").get("image_seq_len", count)
    said = table.get("image_seq_length", said)
    if said != count:
        raise ExportError(f"the processor counts {said} tokens an image, the model makes {count}")
    return found


def _image(table: dict[str, Any], settings: Any, alpha: Literal["white", "dropped"]) -> ImageSpec:
    name = table["image_processor_type"].removesuffix("Fast").removesuffix("Pil")
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if table[step] is not True:
            raise ValueError(f"{step} is {table[step]}, every recipe here does it")
    if not math.isclose(table["rescale_factor"], 1 / 255):
        raise ValueError(f"rescale_factor is {table['rescale_factor']}, not 1/255")
    steps = _steps(name, table, settings)
    if steps.size is None or table["resample"] not in FILTERS:
        raise ValueError(f"size {table['size']} or resample {table['resample']} is unknown")
    mean, std = (tuple(map(float, table[name])) for name in ("image_mean", "image_std"))
    if not (len(mean) == len(std) == 3 and np.isfinite([mean, std]).all() and min(std) > 0):
        raise ValueError(f"image_mean is {mean} and image_std {std}, three numbers each are due")
    return ImageSpec(
        size=steps.size,
        resize=steps.resize,
        longest=steps.longest,
        least_pixels=steps.least_pixels,
        most_pixels=steps.most_pixels,
        resample=FILTERS[table["resample"]],
        alpha=alpha,
        mean=mean,
        std=std,
        tokens=_count(settings),
    )


class _Steps(NamedTuple):
    """How an image gets its size, as in Image."""

    resize: Literal["stretch", "crop", "tiles", "dynamic"]
    size: int | None
    longest: int = 0
    least_pixels: int = 0
    most_pixels: int = 0


def _steps(name: str, table: dict[str, Any], settings: Any) -> _Steps:
    size = table["size"]
    if name == CLIP and table["do_center_crop"]:
        crop = _square(table["crop_size"])
        if size != {"shortest_edge": crop}:
            raise ValueError(f"the image is resized to {size}, the crop is {crop}")
        return _Steps("crop", crop)
    if name == IDEFICS:
        if not table["do_image_splitting"]:
            raise ValueError("do_image_splitting is off, pages were cut into tiles in training")
        return _Steps("tiles", table["max_image_size"]["longest_edge"], size["longest_edge"])
    if name == QWEN_IMAGES:
        tower = settings.vision_config
        ours = (tower.patch_size, tower.spatial_merge_size, tower.temporal_patch_size)
        theirs = (table["patch_size"], table["merge_size"], table["temporal_patch_size"])
        if ours != theirs or ours != (14, 2, 2):
            raise ValueError(f"its patches are {theirs}, the model's {ours}, known are (14, 2, 2)")
        return _Steps("dynamic", 28, 0, size["shortest_edge"], size["longest_edge"])  # in pixels
    if name not in (SIGLIP, CLIP):
        raise ValueError(f"its image_processor_type is {name}")
    return _Steps("stretch", _square(size))


def _square(size: dict[str, int]) -> int | None:
    """The side of a square, None for any other size."""
    height, width = size.get("height"), size.get("width")
    return height if height == width else None


def _count(settings: Any) -> int:
    """Vectors of one square image or tile."""
    if settings.model_type in PAIRS:
        return 1
    if settings.model_type in QWEN:
        return 0
    vision = settings.vision_config
    patches: int = (vision.image_size // vision.patch_size) ** 2
    factor = getattr(settings, "scale_factor", getattr(settings, "pixel_shuffle_factor", 1))
    return patches // int(factor) ** 2


@as_export_error()
def prompt(settings: Any, said: dict[str, Any], found: TokenizerFile) -> ImagePrompt:
    """The text around an image: processor_config.json's, else that of upstream's class.

    Sources: ColPaliProcessor and ColModernVBertProcessor of transformers; the classes of these
    names and ColIdefics3Processor of colpali-engine. Raises ExportError for a special token that
    the vocabulary lacks, and for an image token other than the model's.
    """
    image_token, fake = "<image>", "<fake_token_around_image>"
    if settings.model_type in QWEN:
        image_token = "<|image_pad|>"  # noqa: S105 (no password)
    if found.id_of(image_token, "the image's token") != settings.image_token_id:
        raise ExportError(
            f"{image_token} is not the token {settings.image_token_id} of config.json"
        )
    describe = said.get("visual_prompt_prefix")
    if settings.model_type == "paligemma":
        found.id_of("<bos>", "the prompt's")
        # One <bos>, as in training (colpali-engine 0.2) and in transformers. Later versions of
        # colpali-engine spell one out where PaliGemmaProcessor adds another: 1,031 rows a page.
        return ImagePrompt(
            f"{{image}}<bos>{describe or DESCRIBE}\n", image_token, "", "", "", "", ""
        )
    if settings.model_type in QWEN:
        for token in ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|im_end|>", PAD):
            found.id_of(token, "the prompt's")
        around = "<|im_start|>user\n<|vision_start|>{image}<|vision_end|>"
        describe = describe.replace(image_token, "{image}") if describe else None
        text = describe or f"{around}{DESCRIBE}<|im_end|>{PAD}"
        return ImagePrompt(text, image_token, "", "", "", "", "")
    start = "<|begin_of_text|>" if settings.model_type == "modernvbert" else "<|im_start|>"
    for token in (start, fake, "<global-img>", "<end_of_utterance>", "<row_1_col_1>"):
        found.id_of(token, "the prompt's")
    text = describe or f"{start}User:{image_token}{DESCRIBE}<end_of_utterance>\nAssistant:"
    return ImagePrompt(
        text=text.replace(image_token, "{image}"),
        token=image_token,
        tile=f"{fake}<row_{{row}}_col_{{column}}>",
        row_end="\n",
        grid_end="\n",
        whole=f"{fake}<global-img>",
        end=fake,
    )


def _query(
    kind: str, said: dict[str, Any], found: TokenizerFile, known: ImageQuery | str | None
) -> ImageQuery:
    if isinstance(known, ImageQuery):
        return known
    length = found.text.max_positions
    if kind in PAIRS:
        return ImageQuery(known or "", "", length)
    if known is None and kind in RETRIEVERS:  # what transformers does with the folder
        default = {"colpali": "Question: ", "colqwen2": "Query: "}.get(kind, "")
        known = str(said.get("query_prefix") or default)
    if known is None:
        raise ExportError(
            'the text before a query is missing: colpali-engine put "Question: ", "Query: " and '
            "nothing there at different times; give --query-prompt as the model was trained"
        )
    if kind == "colpali":
        return ImageQuery(f"<bos>{known}", f"{'<pad>' * BUFFERS}\n", length)
    if kind == "paligemma":
        return ImageQuery(f"<bos>{known}", "<pad>" * BUFFERS, length)
    return ImageQuery(known, (PAD if kind in QWEN else "<end_of_utterance>") * BUFFERS, length)
