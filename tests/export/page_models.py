"""Folders of small random-weight image models of the true classes, as their authors save them."""

import importlib
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

CORPUS = """what is the late interaction of pages? a table of rain in spain, figures and charts:
which page shows the sales of cats? Question: Query: Describe the image.

User: Assistant: a photo of a cat and of a dog; the weather now in new york!""".replace("\n", " ")
GRID = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
ENGINE = find_spec("colpali_engine")  # before `engine` puts modules in the package's place
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
DECODER = {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 512}
TOWER = TEXT | {"image_size": 32, "patch_size": 4}


def engine(name):
    """colpali-engine's class, from its module alone: ColPali, or ColPaliProcessor.

    The package itself imports every model it knows, and with them torchvision.
    """
    if ENGINE is None:
        raise ModuleNotFoundError("pip install --no-deps colpali-engine")
    place = Path(ENGINE.submodule_search_locations[0])
    model = name.removesuffix("Processor")
    family, folder = {
        "ColPali": ("paligemma", "colpali"),
        "ColIdefics3": ("idefics3", "colidefics3"),
        "ColModernVBert": ("modernvbert", "colmodernvbert"),
        "ColQwen2": ("qwen2", "colqwen2"),
    }[model]
    parts = ["colpali_engine", "models", family, folder]
    for end in range(1, len(parts) + 1):
        module = types.ModuleType(".".join(parts[:end]))
        module.__path__ = [str(place.joinpath(*parts[1:end]))]
        sys.modules.setdefault(module.__name__, module)
    kind = "modeling" if name == model else "processing"
    return getattr(importlib.import_module(".".join([*parts, f"{kind}_{folder}"])), name)


def lively(model, seed):
    """Random weights with which every token and pixel matters; the classes start nearly linear."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1 and "norm" not in name:
                weight.normal_(std=0.1)
            elif "embed" in name and weight.dim() == 2:
                weight.normal_(std=0.5)
            elif weight.dim() > 1:
                weight.normal_(std=1.2 * weight[0].numel() ** -0.5)
    return model.eval()


def gemma_tokenizer():
    """Gemma's shape: a space is part of the word after it, <bos> before every text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    alphabet = sorted({*CORPUS.replace(" ", "▁"), "\n"})
    trainer = BpeTrainer(vocab_size=250, special_tokens=specials, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([CORPUS.replace(" ", "▁")] * 2, trainer)
    tokenizer.add_special_tokens([AddedToken("<image>", normalized=False, special=True)])
    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        **names,
    )


def smol_tokenizer(start="<|im_start|>"):
    """SmolLM's shape: bytes, two line breaks are one token, nothing around a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", start, "<|im_end|>", "<fake_token_around_image>", "<image>"]
    specials += ["<end_of_utterance>", "<global-img>", *GRID]
    trainer = BpeTrainer(vocab_size=260, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator([CORPUS, "a\n\nb\n\nc \n", "0123456789"] * 2, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        bos_token=start,
        eos_token="<|im_end|>",
        extra_special_tokens={"image_token": "<image>"},
    )


def clip_tokenizer():
    """CLIP's shape: lower case, padded with the token that ends every text."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = BpeTrainer(
        vocab_size=200,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS.lower()] * 2, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("<|startoftext|>", "<|endoftext|>")]
    tokenizer.post_processor = TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        model_max_length=32,
    )


def siglip_tokenizer():
    """SigLIP 2's shape: lower case, an end token, padding of its own."""
    tokenizer = gemma_tokenizer().backend_tokenizer
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), replace])
    tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=16,
        model_input_names=["input_ids"],
    )


def paligemma_config(tokenizer):
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    text = {"model_type": "gemma", "vocab_size": len(tokenizer), **TEXT, **DECODER, **ids}
    tower = TEXT | {"image_size": 56, "patch_size": 14, "projection_dim": 32}
    return transformers.PaliGemmaConfig(
        text_config=text,
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **tower},
        projection_dim=32,
        hidden_size=32,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )


def colpali(folder, seed=1):
    """transformers' ColPaliForRetrieval and its processor."""
    tokenizer = gemma_tokenizer()
    config = transformers.ColPaliConfig(
        vlm_config=paligemma_config(tokenizer).to_dict(), embedding_dim=16
    )
    model = lively(transformers.ColPaliForRetrieval(config), seed)
    model.save_pretrained(folder)
    images = SiglipImageProcessorPil(size={"height": 56, "width": 56})
    images.image_seq_length = 16
    processor = transformers.ColPaliProcessor(images, tokenizer)
    processor.save_pretrained(folder)
    gemma_tokenizer().save_pretrained(folder)  # without the 1,152 tokens that the class adds
    return model, processor


def engine_colpali(folder, seed=1):
    """colpali-engine's ColPali."""
    tokenizer = gemma_tokenizer()
    model = lively(engine("ColPali")(paligemma_config(tokenizer)), seed)
    model.save_pretrained(folder)
    images = SiglipImageProcessorPil(size={"height": 56, "width": 56})
    images.image_seq_length = 16
    images.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, transformers.PaliGemmaProcessor(images, gemma_tokenizer())


def idefics_processor(tokenizer, folder):
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 128},
        max_image_size={"longest_edge": 32},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    processor = transformers.Idefics3Processor(images, tokenizer, image_seq_len=4)
    processor.save_pretrained(folder)
    return processor


def colidefics3(folder, seed=2):
    """colpali-engine's ColIdefics3, the class of ColSmol."""
    tokenizer = smol_tokenizer()
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "pad_token_id": 0}
    config = transformers.Idefics3Config(
        text_config={**text, **TEXT, **DECODER},
        vision_config=TOWER,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=4,
    )
    model = lively(engine("ColIdefics3")(config), seed)
    model.save_pretrained(folder)
    return model, idefics_processor(tokenizer, folder)


def colmodernvbert(folder, seed=3):
    """colpali-engine's ColModernVBert."""
    tokenizer = smol_tokenizer("<|begin_of_text|>")
    ids = dict.fromkeys(("bos_token_id", "cls_token_id"), 1)
    ids |= dict.fromkeys(("eos_token_id", "sep_token_id"), 2) | {"pad_token_id": 0}
    text = {"model_type": "modernbert", "vocab_size": len(tokenizer), "local_attention": 16}
    layers = {"num_hidden_layers": 3, "max_position_embeddings": 512}
    config = transformers.ModernVBertConfig(
        text_config={**text, **TEXT, **ids, **layers},
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **TOWER},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pixel_shuffle_factor=4,
    )
    model = lively(engine("ColModernVBert")(config), seed)
    model.save_pretrained(folder)
    return model, idefics_processor(tokenizer, folder)


def qwen_tokenizer():
    """Qwen2's shape: bytes, special tokens that stand around an image."""
    tokenizer = smol_tokenizer().backend_tokenizer
    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer.add_special_tokens(
        [AddedToken(mark, normalized=False, special=True) for mark in marks]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    )


def qwen_config(tokenizer):
    text = {"model_type": "qwen2_vl_text", "vocab_size": len(tokenizer), **TEXT, **DECODER}
    ids = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    tower = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return transformers.Qwen2VLConfig(
        text_config={**text, **ids, "rope_parameters": rope},
        vision_config=tower,
        **{key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()},
    )


def colqwen2(folder, seed=6):
    """colpali-engine's ColQwen2."""
    tokenizer = qwen_tokenizer()
    model = lively(engine("ColQwen2")(qwen_config(tokenizer)), seed)
    model.save_pretrained(folder)
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 4 * 784, "longest_edge": 24 * 784})
    images.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, images


def clip(folder, seed=4):
    """transformers' CLIPModel."""
    tokenizer = clip_tokenizer()
    config = transformers.CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 32,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
            **TEXT,
        },
        vision_config=TOWER,
        projection_dim=24,
    )
    model = lively(transformers.CLIPModel(config), seed)
    model.save_pretrained(folder)
    images = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    images.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, transformers.CLIPProcessor(images, tokenizer)


def siglip(folder, seed=5):
    """transformers' SiglipModel, of SigLIP and of SigLIP 2 with a fixed size."""
    tokenizer = siglip_tokenizer()
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_size": 32}
    config = transformers.SiglipConfig(text_config={**text, **TEXT, **ids}, vision_config=TOWER)
    model = lively(transformers.SiglipModel(config), seed)
    model.save_pretrained(folder)
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32}, resample=2)
    images.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, transformers.SiglipProcessor(images, tokenizer)


def page(width, height, seed):
    """A page of coloured blocks, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 255, np.uint8)
    for _ in range(12):
        x, y = rng.integers(0, width - 8), rng.integers(0, height - 8)
        right, bottom = x + rng.integers(4, width // 2), y + rng.integers(3, height // 3)
        pixels[y:bottom, x:right] = rng.integers(0, 256, 3)
    return pixels
