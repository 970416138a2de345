"""Read a tokenizer: its file without truncation and padding, special ids, and lengths."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tessera_export.errors import ExportError
from tessera_export.files import read_json, read_table
from tessera_onnx.models import spec

FILE_NAME = "tokenizer.json"
# Positions of these start at pad_token_id + 1, so that much of the table is never reached.
# Source: create_position_ids_from_input_ids in transformers' modeling_roberta.py and its copies.
OFFSET_POSITIONS = {
    "camembert", "data2vec-text", "ibert", "luke", "mpnet", "roberta", "roberta-prelayernorm",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip
# Only their encoder is exported. Their positions are relative, so that no table ends anywhere.
ENCODER_DECODERS = {"t5", "mt5", "umt5"}
PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "Two plus two is four; three plus three is six",
)


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """A tokenizer.json without truncation and padding of its own, and its recipe."""

    json: str
    tokenizer: Tokenizer
    text: spec.TokenizerSpec

    def id_of(self, token: str, what: str) -> int:
        """The id of a whole token. Raises ExportError, naming `what` wants it, if there is none."""
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise ExportError(f"{what} {token!r} is not a token of the vocabulary")
        return int(number)

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that the file marks as special: padding, separators, mask, unknown."""
        added = self.tokenizer.get_added_tokens_decoder()
        return tuple(sorted(number for number, token in added.items() if token.special))

    def ids(self, text: str) -> list[int]:
        """Ids of the bare text, nothing put around it."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)


def read(folder: Path, config: dict[str, Any]) -> TokenizerFile:
    """The tokenizer of a model folder whose config.json is `config`.

    Raises ExportError without a tokenizer.json, for one that puts anything but fixed ids before
    and after a text, for one without a padding token, and for a model that says no positions.
    """
    check_file(folder)
    path = folder / FILE_NAME
    document = read_json(path)
    if not isinstance(document, dict):
        raise ExportError(f"{path} must hold a JSON object")
    # The runtime truncates and pads; what the file says would silently cut texts at another length.
    document["truncation"] = document["padding"] = None
    if wants_lower(read_table(folder / "sentence_bert_config.json")):
        _lower(document)
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception from Rust
        raise ExportError(f"{path} is not a tokenizer that `tokenizers` reads: {error}") from error
    prefix, suffix = _around(tokenizer)
    mask = special(folder, tokenizer, "mask")
    return TokenizerFile(
        json=text,
        tokenizer=tokenizer,
        text=spec.TokenizerSpec(
            tokenizer=FILE_NAME,
            lowercase=False,  # tokenizer.json does it where it is wanted
            prefix_ids=prefix,
            suffix_ids=suffix,
            pad_id=_pad_id(folder, tokenizer),
            mask_id=-1 if mask is None else mask,
            max_positions=positions(folder, config),
            fixed_length=0,
        ),
    )


def check_file(folder: Path) -> None:
    """Raises ExportError without a tokenizer.json."""
    if not (folder / FILE_NAME).is_file():
        raise ExportError(
            f"{folder} has no tokenizer.json: save its tokenizer with transformers first"
        )


def max_length(folder: Path, wanted: int | None, max_positions: int) -> int:
    """The longest input in tokens: `wanted`, else what sentence-transformers would take.

    That is max_seq_length of sentence_bert_config.json, else the tokenizer's model_max_length cut
    to the model's positions (sentence_transformers/base/modules/transformer.py). Raises
    ExportError when nothing says it, or when it exceeds the positions.
    """
    length: Any = wanted
    if length is None:
        length = read_table(folder / "sentence_bert_config.json").get("max_seq_length")
    if length is None:
        length = read_table(folder / "tokenizer_config.json").get("model_max_length")
        if length is None:
            raise ExportError(
                "max_length is missing: neither sentence_bert_config.json nor "
                f"tokenizer_config.json in {folder} says it; give --max-length"
            )
        length = min(length, max_positions)  # transformers writes 1e30 for "nobody knows"
    check_length(int(length), "max_length", max_positions)
    return int(length)


def check_length(length: int, what: str, max_positions: int) -> None:
    """Raises ExportError for a length that is below 3 or beyond the model's positions."""
    if not 3 <= length <= max_positions:
        raise ExportError(f"{what} {length} must lie in 3..{max_positions}, the model's positions")


def positions(folder: Path, config: dict[str, Any]) -> int:
    """The longest sequence that the model can read. Raises ExportError when nothing says it.

    Relative positions have no end: there it is the length that the authors trained or advise.
    """
    count = config.get("max_position_embeddings", config.get("n_positions"))
    if count is None and config.get("model_type") in ENCODER_DECODERS:
        count = read_table(folder / "sentence_bert_config.json").get("max_seq_length")
    if not isinstance(count, int) or count < 1:
        raise ExportError("max_positions is missing: config.json has no max_position_embeddings")
    if config.get("model_type") in OFFSET_POSITIONS:
        return count - int(config.get("pad_token_id", 1)) - 1
    return count


def _around(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    found = set()
    for probe in PROBES:
        inner = list(tokenizer.encode(probe, add_special_tokens=False).ids)
        outer = list(tokenizer.encode(probe, add_special_tokens=True).ids)
        starts = [
            start
            for start in range(len(outer) - len(inner) + 1)
            if outer[start : start + len(inner)] == inner
        ]
        if not inner or len(starts) != 1:
            raise ExportError(
                "this tokenizer does more than put fixed ids before and after a text, "
                "which no artifact can say"
            )
        found.add((tuple(outer[: starts[0]]), tuple(outer[starts[0] + len(inner) :])))
    if len(found) != 1:
        raise ExportError("this tokenizer puts different ids around different texts")
    return found.pop()


def special(folder: Path, tokenizer: Tokenizer, role: str) -> int | None:
    """Id of the token that the tokenizer's configuration names for `role`: "pad", "mask", ..."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = read_table(folder / name).get(f"{role}_token")
        if isinstance(token, dict):
            token = token.get("content")
        if token:
            number = tokenizer.token_to_id(token)
            if number is None:
                raise ExportError(f"{name} names the {role} token {token!r}: not in the vocabulary")
            return int(number)
    return None


def _pad_id(folder: Path, tokenizer: Tokenizer) -> int:
    pad = special(folder, tokenizer, "pad")
    if pad is None:
        pad = read_table(folder / "config.json").get("pad_token_id")
    if not isinstance(pad, int):
        raise ExportError(f"pad_id is missing: no configuration in {folder} names a padding token")
    return pad


def _lower(document: dict[str, Any]) -> None:
    """Let the tokenizer lower-case first, as sentence-transformers does to it after loading."""
    normalizer = document.get("normalizer")
    if not lowers(normalizer):
        parts = [{"type": "Lowercase"}, *([] if normalizer is None else [normalizer])]
        document["normalizer"] = {"type": "Sequence", "normalizers": parts}


def wants_lower(settings: dict[str, Any]) -> bool:
    """Whether sentence_bert_config.json asks for lower case, whatever the tokenizer does."""
    return bool(settings.get("do_lower_case", False))


def lowers(normalizer: Any) -> bool:
    """Whether a normalizer of tokenizer.json makes lower case of a text."""
    if not isinstance(normalizer, dict):
        return False
    if normalizer.get("type") == "Sequence":
        return any(lowers(part) for part in normalizer.get("normalizers", []))
    return normalizer.get("type") == "Lowercase" or normalizer.get("lowercase") is True
