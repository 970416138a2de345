"""Refuse tokenizers of which tokenizer.json says something else than the files beside it.

transformers puts what tokenizer_config.json says above tokenizer.json, so that upstream would make
other token ids than the file alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tessera_onnx.errors import LoadError
from tessera_onnx.models.foreign.files import is_file, read_table, read_text

CONFIG = "tokenizer_config.json"
MAP = "special_tokens_map.json"
ADDED = "added_tokens.json"  # of older versions: numbers by token
SAMPLE = 200  # tokens of a vocabulary that are compared
AGAIN = "save the tokenizer with transformers again"
# Roles of special tokens in transformers.
ROLES = ("pad", "mask", "cls", "sep", "bos", "eos", "unk")
EXTRAS = ("additional_special_tokens", "extra_special_tokens")
# Classes that take a tokenizer.json as it is.
GENERIC = {"PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend"}
# Models whose class builds BERT's normalizer anew, of these keys and defaults
# (transformers/models/bert/tokenization_bert.py and its copies).
BERTS = {
    "bert", "convbert", "distilbert", "electra", "ernie", "layoutlm", "megatron-bert", "mobilebert",
    "mpnet", "nezha", "nomic_bert", "qdqbert", "retribert", "squeezebert",
}  # fmt: skip
# Classes that set add_prefix_space of a byte-level tokenizer, which is false where none is said.
BYTES = {
    "BartTokenizer", "DebertaTokenizer", "GPT2Tokenizer", "LEDTokenizer", "LongformerTokenizer",
    "RobertaTokenizer",
}  # fmt: skip
CLASSES = {"BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer"}
NORMALIZER = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
    "clean_text": ("clean_text", True),
}


def configured(places: Sequence[Path], key: str) -> tuple[Any, Path | None]:
    """A key of tokenizer_config.json and the file that has it; (None, None) where none has."""
    for place in places:
        value = read_table(place / CONFIG).get(key)
        if value is not None:
            return value, place / CONFIG
    return None, None


def content(token: Any) -> str:
    """The text of a special token, which is a string or an object; "" without one."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""


def special(places: Sequence[Path], tokenizer: Tokenizer, role: str) -> int | None:
    """Id of the token that the tokenizer's configuration names for `role`: "pad", "mask", ..."""
    for place in places:
        for name in (CONFIG, MAP):
            token = content(read_table(place / name).get(f"{role}_token"))
            if token:
                number = tokenizer.token_to_id(token)
                if number is None:
                    raise LoadError(
                        f"{name} names the {role} token {token!r:.100}: not in the vocabulary",
                        path=str(place / name),
                    )
                return int(number)
    return None


def check(
    places: Sequence[Path],
    tokenizer: Tokenizer,
    around: tuple[tuple[int, ...], tuple[int, ...]],
    normalizer: Any,
    model_type: object,
) -> None:
    """Raises LoadError for settings of transformers that make other ids than tokenizer.json.

    `around` are the ids before and after a text, `normalizer` is that of tokenizer.json, and
    `model_type` that of config.json.
    """
    side, path = configured(places, "truncation_side")
    if side not in (None, "right"):
        raise LoadError(
            f"{path} cuts long texts on the {side!r:.20} (truncation_side), and only an end that "
            "is cut on the right is known",
            path=str(path),
        )
    for key, role, ids in (
        ("add_bos_token", "bos", around[0]),
        ("add_eos_token", "eos", around[1]),
    ):
        wanted, path = configured(places, key)
        number = special(places, tokenizer, role) if isinstance(wanted, bool) else None
        if number is not None and (number in ids) != wanted:
            raise LoadError(
                f"{path} has {key} {str(wanted).lower()}, but tokenizer.json "
                f"{'does not put' if wanted else 'puts'} that token around a text: {AGAIN}",
                path=str(path),
            )
    _check_tokens(places, tokenizer)
    _check_vocabulary(places, tokenizer)
    _check_spaces(places, tokenizer)
    if _is_bert(places, model_type):
        _check_normalizer(places, normalizer)
        _check_around(places, tokenizer, around)


def check_code(places: Sequence[Path]) -> None:
    """Raises LoadError for a tokenizer that is Python code of a repository."""
    code, path = configured(places, "auto_map")
    if code:
        raise LoadError(
            f"{path} makes token ids with Python code of a repository (auto_map), which is not "
            "run: save the tokenizer with transformers as a tokenizer.json without it",
            path=str(path),
        )


def _check_tokens(places: Sequence[Path], tokenizer: Tokenizer) -> None:
    """Raises LoadError for a special token that transformers would add to the tokenizer's.

    A text that spells the token would become that one id there, and pieces here.
    """
    known = {
        token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()
    }
    for place in places:
        for name in (CONFIG, MAP):
            table = read_table(place / name)
            wanted = {content(table.get(f"{role}_token")) for role in ROLES}
            for key in EXTRAS:
                extra = table.get(key) or []
                extra = extra.values() if isinstance(extra, dict) else extra
                wanted |= (
                    {content(token) for token in extra} if not isinstance(extra, str) else set()
                )
            listed = table.get("added_tokens_decoder")
            listed = listed if isinstance(listed, dict) else {}
            if name == CONFIG:
                older = read_table(place / ADDED)
                listed = listed | {number: token for token, number in older.items()}
            other = [
                content(token)
                for number, token in listed.items()
                if str(known.get(content(token))) != str(number)
            ]
            missing = [*other, *sorted(wanted - {""} - known.keys())]
            if missing:
                raise LoadError(
                    f"{place / name} lists the token {missing[0]!r:.80}, which tokenizer.json does "
                    f"not list among its added tokens: {AGAIN}",
                    path=str(place / name),
                )


def _check_vocabulary(places: Sequence[Path], tokenizer: Tokenizer) -> None:
    """Compare BERT's vocab.txt, which holds one token a line: some of its tokens.

    A few may differ, such as those that were renamed; of another model's tokenizer most do.
    """
    path = next((place / "vocab.txt" for place in places if is_file(place / "vocab.txt")), None)
    if path is None:
        return
    lines = read_text(path).split("\n")
    sample = range(0, len(lines) - 1, max(len(lines) // SAMPLE, 1))
    other = sum(tokenizer.token_to_id(lines[i].rstrip("\r")) != i for i in sample)
    if other * 2 > len(sample):
        raise LoadError(
            f"{path} and tokenizer.json hold the vocabularies of two models: download the whole "
            "folder of one, or remove vocab.txt where it is not the model's",
            path=str(path),
        )


def _check_spaces(places: Sequence[Path], tokenizer: Tokenizer) -> None:
    """Raises LoadError where transformers gives a byte-level tokenizer another add_prefix_space."""
    name, path = configured(places, "tokenizer_class")
    own = None if tokenizer.pre_tokenizer is None else tokenizer.pre_tokenizer.__getstate__()
    state = {} if own is None else json.loads(own)
    if str(name).removesuffix("Fast") not in BYTES or state.get("type") != "ByteLevel":
        return
    value, file = configured(places, "add_prefix_space")
    if state.get("add_prefix_space") != bool(value):
        raise LoadError(
            f"{file or path} makes add_prefix_space {str(bool(value)).lower()}, and tokenizer.json "
            f"has the opposite in its pre_tokenizer: {AGAIN}",
            path=str(file or path),
        )


def _is_bert(places: Sequence[Path], model_type: object) -> bool:
    """Whether transformers takes the settings of BERT's tokenizer for this one."""
    name, _ = configured(places, "tokenizer_class")
    return name not in GENERIC and (name is not None or model_type in BERTS)


def _check_normalizer(places: Sequence[Path], normalizer: Any) -> None:
    """Raises LoadError where transformers gives BERT's normalizer other settings."""
    if not isinstance(normalizer, Mapping) or normalizer.get("type") != "BertNormalizer":
        return
    _, path = configured(places, "tokenizer_class")
    for key, (own, default) in NORMALIZER.items():
        value, file = configured(places, key)
        wanted, here = default if file is None else value, normalizer.get(own)
        if key == "strip_accents":  # None is what the lower case is, which was compared before
            lower = normalizer.get("lowercase")
            wanted, here = (lower if each is None else each for each in (wanted, here))
        if here != wanted:
            said = "leaves it out, for which transformers takes" if file is None else "says"
            raise LoadError(
                f"tokenizer.json has the {own} {here} in its normalizer, and "
                f"{CONFIG} {said} {key} {wanted}: {AGAIN}",
                path=str(file or path or places[0] / CONFIG),
            )


def _check_around(
    places: Sequence[Path],
    tokenizer: Tokenizer,
    around: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    """Compare the tokens around a text: BERT's class takes those of the configuration."""
    name, path = configured(places, "tokenizer_class")
    if name is not None and str(name).removesuffix("Fast") not in CLASSES:
        return
    for role, ids in (("cls", around[0]), ("sep", around[1])):
        number = special(places, tokenizer, role)
        if number is not None and number not in ids:
            raise LoadError(
                f"{path or places[0] / CONFIG} has a {role}_token with the id {number}, which "
                f"tokenizer.json does not put around a text: {AGAIN}",
                path=str(path or places[0] / CONFIG),
            )
