"""Hold what transformers would make of a tokenizer against the tokenizer.json that is run here.

transformers takes some settings from tokenizer_config.json although tokenizer.json says them too.
Where both differ its ids are not those of the file, and one of the two is another model's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera_onnx.errors import LoadError
from tessera_onnx.models.foreign.files import is_file, read_table, read_text
from tessera_onnx.models.foreign.tokenizer_file import CONFIG, TokenizerFile, configured, special

ADDED = "added_tokens.json"
# Classes of transformers that read BERT's settings, and the model_type that stands for them where
# tokenizer_config.json names no class (models/bert/tokenization_bert.py and its copies).
CLASSES = {
    "BertTokenizer", "ConvBertTokenizer", "DistilBertTokenizer", "ElectraTokenizer",
    "FunnelTokenizer", "LayoutLMTokenizer", "LxmertTokenizer", "MPNetTokenizer",
    "MobileBertTokenizer", "SqueezeBertTokenizer",
}  # fmt: skip
TYPES = {"bert", "convbert", "distilbert", "electra", "mobilebert", "mpnet", "squeezebert"}
SAMPLE = 200  # tokens of a vocabulary that are compared
AGAIN = "save the tokenizer with transformers again, or download the whole folder of one model"


def check_code(places: Sequence[Path]) -> None:
    """Raises LoadError for a tokenizer that is Python code of a repository."""
    code, path = configured(places, "auto_map")
    if code:
        raise LoadError(
            f"{path} makes token ids with Python code of a repository (auto_map), which is not "
            "run: save the tokenizer with transformers as a tokenizer.json without it",
            path=str(path),
        )


def check(found: TokenizerFile, config: Mapping[str, Any]) -> None:
    """Raises LoadError where transformers would make other ids than tokenizer.json.

    `config` is the config.json of the model.
    """
    _check_added(found)
    _check_vocabulary(found)
    if _is_bert(found, config):
        _check_normalizer(found)
        _check_around(found)


def _is_bert(found: TokenizerFile, config: Mapping[str, Any]) -> bool:
    named, _ = configured(found.places, "tokenizer_class")
    if named is None:
        return config.get("model_type") in TYPES
    return str(named).removesuffix("Fast") in CLASSES


def _check_normalizer(found: TokenizerFile) -> None:
    """Compare the three settings that transformers takes for BERT's normalizer, with
    values of its own for absent keys.
    """
    backend = json.loads(found.tokenizer.to_str())["normalizer"]
    named, path = configured(found.places, "tokenizer_class")
    if backend is None and path is not None:
        raise LoadError(
            f"{path} names the tokenizer_class {named!s:.80}, and {found.path.name} has no "
            f"normalizer: {AGAIN}",
            path=str(path),
        )
    if not isinstance(backend, dict) or backend.get("type") != "BertNormalizer":
        return  # another normalizer is left as it is
    lower, stripped = backend.get("lowercase"), backend.get("strip_accents")
    said = {
        "do_lower_case": lower,
        "strip_accents": lower if stripped is None else stripped,
        "tokenize_chinese_chars": backend.get("handle_chinese_chars"),
    }
    defaults = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
    wanted = {key: _setting(found, key, value) for key, value in defaults.items()}
    if wanted["strip_accents"] is None:
        wanted["strip_accents"] = wanted["do_lower_case"]
    for key, value in said.items():
        if bool(wanted[key]) != bool(value):
            path = configured(found.places, key)[1] or found.places[0] / CONFIG
            raise LoadError(
                f"{path} makes {key} {str(bool(wanted[key])).lower()}, with which transformers "
                f"reads texts, but {found.path.name} has {str(bool(value)).lower()}: {AGAIN}",
                path=str(path),
            )


def _setting(found: TokenizerFile, key: str, default: Any) -> Any:
    value, path = configured(found.places, key)
    return default if path is None else value


def _check_around(found: TokenizerFile) -> None:
    """Compare the tokens around a text: transformers takes those of the configuration."""
    text = found.text
    for role, ids in (("cls", text.prefix_ids), ("sep", text.suffix_ids)):
        number = special(found.places, found.tokenizer, role)
        if number is not None and number not in ids:
            raise LoadError(
                f"{found.places[0] / CONFIG} has a {role}_token with the id {number}, which "
                f"{found.path.name} does not put around a text: {AGAIN}",
                path=str(found.places[0] / CONFIG),
            )


def _check_vocabulary(found: TokenizerFile) -> None:
    """Compare BERT's vocab.txt beside the file, which holds one token a line: some tokens of it.

    A few may differ, such as those that were renamed; of another model's tokenizer most do.
    """
    path = found.path.with_name("vocab.txt")
    if not is_file(path):
        return
    lines = read_text(path).split("\n")
    sample = range(0, len(lines) - 1, max(len(lines) // SAMPLE, 1))
    other = sum(found.tokenizer.token_to_id(lines[i].rstrip("\r")) != i for i in sample)
    if other * 2 > len(sample):
        raise LoadError(
            f"{path} and {found.path.name} hold the vocabularies of two models: download the "
            "whole folder of one, or remove vocab.txt where it is not the model's",
            path=str(path),
        )


def _check_added(found: TokenizerFile) -> None:
    """Compare added tokens: transformers adds those that tokenizer.json does not have."""
    backend = found.tokenizer
    added = {token.content: number for number, token in backend.get_added_tokens_decoder().items()}
    for path, content, number in _listed(found.places):
        here = added.get(content, backend.token_to_id(content) if number is None else None)
        if here is None or (number is not None and here != number):
            has = "does not have" if here is None else f"gives the id {here}"
            which = "an added token" if number is None else f"the added token {number}"
            raise LoadError(
                f"{path} lists {which}, which {found.path.name} {has}: {AGAIN}", path=str(path)
            )


def _listed(places: Sequence[Path]) -> Iterator[tuple[Path, str, int | None]]:
    """The added tokens of the configuration: file, content, and id where the file says one."""
    value, path = configured(places, "added_tokens_decoder")
    for number, token in _items(value):
        content = token.get("content") if isinstance(token, dict) else token
        if path is not None and isinstance(content, str) and number.isdecimal():
            yield path, content, int(number[:9])
    for place in places[:1]:
        for content, number in read_table(place / ADDED).items():
            if isinstance(number, int):
                yield place / ADDED, content, number
    for key in ("additional_special_tokens", "extra_special_tokens"):
        value, path = configured(places, key)
        for _, token in _items(value):
            content = token.get("content") if isinstance(token, dict) else token
            if path is not None and isinstance(content, str):
                yield path, content, None


def _items(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return [("", token) for token in value] if isinstance(value, list) else []
