"""Small tokenizers of every family, saved by transformers: what their tokenizer.json holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import tokenizers
import transformers
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tessera_export.texts import sample_groups, samples

SIZE = 700  # entries of a trained vocabulary


def corpus() -> list[str]:
    """Texts of many scripts, none of which is compared with upstream later."""
    groups = [text[:300] for group in sample_groups.GROUPS for text in group.measured]
    return [*samples.TEXTS, *groups] * 3


def write_tokenizer(place: Path, name: str, minilm: Path) -> tuple[int, int]:
    """Save the tokenizer of that name; gives the size of its vocabulary and its padding's id."""
    place.mkdir(parents=True, exist_ok=True)
    if name in {"minilm", "cased"}:
        for file in (
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
            "special_tokens_map.json",
        ):
            shutil.copy(minilm / file, place)
        if name == "cased":
            _cased(place)
        return 30522, 0
    made, special = {"bytes": _bytes, "bytes-bert": _bytes, "bytes-end": _bytes_end,
                     "unigram": _unigram}[name](name)  # fmt: skip
    saved = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=128, **special
    )
    saved.save_pretrained(place)
    return len(saved), saved.pad_token_id


def _cased(place: Path) -> None:
    """MiniLM's words with a normalizer that keeps upper case, as in a cased BERT."""
    document = json.loads((place / "tokenizer.json").read_text("utf-8"))
    document["normalizer"]["lowercase"] = False
    (place / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    config = json.loads((place / "tokenizer_config.json").read_text("utf-8"))
    config |= {"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"}
    (place / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (place / "vocab.txt").unlink()


def _bytes(name: str) -> tuple[tokenizers.Tokenizer, dict]:
    """Byte-level BPE as RoBERTa has it, or as ModernBERT has it."""
    if name == "bytes":
        names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    else:
        names = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
    first, pad, last, unknown, mask = names
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if name != "bytes":
        made.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=names, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(corpus(), trainer)
    ends = ((first, made.token_to_id(first)), (last, made.token_to_id(last)))
    if name == "bytes":
        made.post_processor = processors.RobertaProcessing(ends[1], ends[0], add_prefix_space=False)
    else:
        made.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}", pair=f"{first} $A {last} $B {last}",
            special_tokens=list(ends),
        )  # fmt: skip
    special = {"unk_token": unknown, "pad_token": pad, "cls_token": first, "sep_token": last}
    if name == "bytes":
        special |= {"bos_token": first, "eos_token": last}
    special["mask_token"] = AddedToken(mask, lstrip=True, special=True)
    return made, special


def _bytes_end(_: str) -> tuple[tokenizers.Tokenizer, dict]:
    """Byte-level BPE with one token after the text, as Qwen3-Embedding has it."""
    end = "<|endoftext|>"
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=[end, "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(corpus(), trainer)
    made.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(
            single=f"$A {end}", pair=f"$A {end} $B {end}",
            special_tokens=[(end, made.token_to_id(end))],
        ),
    ])  # fmt: skip
    return made, {"pad_token": end, "eos_token": "<|im_end|>"}


def _unigram(_: str) -> tuple[tokenizers.Tokenizer, dict]:
    """Unigram with metaspaces and NFKC, as XLM-R has it."""
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    made = tokenizers.Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=SIZE, special_tokens=names, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(corpus(), trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )  # fmt: skip
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    special |= {"cls_token": "<s>", "sep_token": "</s>"}
    special["mask_token"] = AddedToken("<mask>", lstrip=True, special=True)
    return made, special
