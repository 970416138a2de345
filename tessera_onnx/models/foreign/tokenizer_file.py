"""Read a tokenizer: its file without truncation and padding, special ids, and lengths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers

from tessera_onnx.errors import LoadError
from tessera_onnx.models import spec
from tessera_onnx.models.foreign import tokenizer_check
from tessera_onnx.models.foreign.files import is_file, read_json, read_table
from tessera_onnx.models.foreign.tokenizer_check import CONFIG, configured, special

FILE_NAME = "tokenizer.json"
# The Transformer module's own file; the older names, in this order, where the first is not there
# (sentence_transformers/base/modules/transformer.py, load_config).
TRANSFORMER = (
    "sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json",
    "sentence_camembert_config.json", "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json", "sentence_xlnet_config.json",
)  # fmt: skip
# Positions of these start at pad_token_id + 1, so that much of the table is never reached.
# Source: create_position_ids_from_input_ids in transformers' modeling_roberta.py and its copies.
OFFSET_POSITIONS = {
    "camembert", "data2vec-text", "ibert", "luke", "mpnet", "roberta", "roberta-prelayernorm",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip
# Only their encoder is used. Their positions are relative, so that no table ends anywhere.
ENCODER_DECODERS = {"t5", "mt5", "umt5"}
PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "Two plus two is four; three plus three is six",
)
PADS = ("[PAD]", "<pad>")
MOST = 1 << 20  # tokens; transformers writes 1e30 for "nobody knows"


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """A tokenizer.json without truncation and padding of its own, and its recipe.

    The tokenizer lower-cases first where the Transformer module asks for it and the file does not,
    which `lowers` says. `truncation` is the length at which the file itself cuts, None where it
    cuts nothing. `places` are the folders of its configuration.
    """

    path: Path
    tokenizer: Tokenizer
    text: spec.TokenizerSpec
    lowers: bool
    truncation: int | None
    places: tuple[Path, ...]

    @property
    def json(self) -> str:
        """The text of a tokenizer.json that does as `tokenizer`."""
        document = read_table(self.path)
        document["truncation"] = document["padding"] = None
        if self.lowers:
            _lower(document)
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"))

    def id_of(self, token: str, what: str) -> int:
        """The id of a whole token. Raises LoadError, naming `what` wants it, if there is none."""
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise LoadError(f"{what} {token!r:.100} is not a token of the vocabulary")
        return int(number)

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that the file marks as special: padding, separators, mask, unknown."""
        added = self.tokenizer.get_added_tokens_decoder()
        return tuple(sorted(number for number, token in added.items() if token.special))

    def ids(self, text: str) -> list[int]:
        """Ids of the bare text, nothing put around it."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)


def read(folder: Path, config: Mapping[str, Any], beside: Sequence[Path] = ()) -> TokenizerFile:
    """The tokenizer of a model folder whose config.json is `config`.

    A file that `folder` does not have is looked for in the folders `beside`. Raises LoadError
    without a tokenizer.json, for one that puts anything but fixed ids before and after a text, for
    one without a padding token, for settings that the runtime does not follow, and for a model that
    says no positions.
    """
    places = (folder, *beside)
    path = check_file(*places)
    tokenizer = _load(path)
    truncation, padding = tokenizer.truncation, tokenizer.padding
    # The runtime truncates and pads; what the file says would silently cut texts at another length.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings, _ = transformer_settings(folder)
    before = tokenizer.normalizer
    state = None if before is None else json.loads(before.__getstate__())
    lowered = wants_lower(settings) and not lowers(state)
    if lowered:  # as sentence-transformers does to it after loading
        parts = [normalizers.Lowercase(), *([] if before is None else [before])]
        tokenizer.normalizer = normalizers.Sequence(parts)
    prefix, suffix = _around(tokenizer, path)
    pad = _pad_id(places, tokenizer, config, padding)
    mask = special(places, tokenizer, "mask")
    tokenizer_check.check(places, tokenizer, (prefix, suffix), state, config.get("model_type"))
    cut = truncation["max_length"] if truncation else None
    return TokenizerFile(
        path=path,
        tokenizer=tokenizer,
        text=spec.TokenizerSpec(
            tokenizer=FILE_NAME,
            lowercase=False,  # the tokenizer above does it where it is wanted
            prefix_ids=prefix,
            suffix_ids=suffix,
            pad_id=pad,
            mask_id=-1 if mask is None else mask,
            max_positions=_positions(folder, config, places, cut),
            fixed_length=0,
        ),
        lowers=lowered,
        truncation=cut,
        places=places,
    )


def _load(path: Path) -> Tokenizer:
    """The tokenizer of a file. Raises LoadError for what is none."""
    try:
        return Tokenizer.from_file(str(path))
    except BaseException as error:  # a bare Exception, or a panic of Rust
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        document = read_json(path)  # raises for what is not JSON
        if not isinstance(document, dict):
            raise LoadError(f"{path} must hold a JSON object", path=str(path)) from None
        raise LoadError(
            f"{path} is not a tokenizer that `tokenizers` reads: {str(error)[:200]}", path=str(path)
        ) from None


def find(name: str, places: Sequence[Path]) -> Path | None:
    """The first of the folders' files of that name."""
    return next((place / name for place in places if is_file(place / name)), None)


def check_file(*places: Path) -> Path:
    """The tokenizer.json of the folders. Raises LoadError when none has one."""
    path = find(FILE_NAME, places)
    if path is None:
        raise LoadError(
            f"{places[0]} has no tokenizer.json: save its tokenizer with transformers first "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(...))",
            path=str(places[0] / FILE_NAME),
        )
    return path


def transformer_settings(folder: Path) -> tuple[dict[str, Any], Path]:
    """The settings of the Transformer module in `folder` and their file; {} without one."""
    path = find(TRANSFORMER[0], [folder]) or next(
        (folder / name for name in TRANSFORMER if is_file(folder / name)), folder / TRANSFORMER[0]
    )
    return read_table(path), path


def max_length(
    found: TokenizerFile, wanted: int | None = None, sources: dict[str, str] | None = None
) -> int:
    """The longest input in tokens: `wanted`, else what sentence-transformers would take.

    That is max_seq_length of sentence_bert_config.json, else the tokenizer's model_max_length cut
    to the model's positions (sentence_transformers/base/modules/transformer.py); for a folder with
    neither configuration, the length at which tokenizer.json cuts. `sources` is told which. Raises
    LoadError when nothing says it, or when it exceeds the positions.
    """
    length, source = (wanted, "") if wanted is not None else _said_length(found)
    if sources is not None:
        sources["max_length"] = source
    where = f"{found.places[0]} ({source}): " if source else ""
    check_length(length, f"{where}max_length", found.text.max_positions)
    return length


def _said_length(found: TokenizerFile) -> tuple[int, str]:
    """The longest input that the folder says, and where."""
    most = found.text.max_positions
    settings, path = transformer_settings(found.places[0])
    length, key = settings.get("max_seq_length"), "max_seq_length"
    # What the tokenizer is loaded with stands above it.
    for name in ("processor_kwargs", "tokenizer_args"):
        loaded = settings.get(name)
        if isinstance(loaded, dict) and loaded.get("model_max_length") is not None:
            length, key = loaded["model_max_length"], f"{name}.model_max_length"
    if length is not None:
        length = tokens(str(path), key, length)
        # A table of positions that starts at pad_token_id + 1 is often named by its whole size.
        length = most if most < length <= most + 2 and _offset(found) else length
        return length, f"{path.name}: {key}"
    value, place = configured(found.places, "model_max_length")
    if place is not None:
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
            raise LoadError(f"{place} has the model_max_length {value!r:.40}", path=str(place))
        cut = ", cut to the positions of config.json" if value > most else ""
        return int(min(value, most)), f"{CONFIG}: model_max_length{cut}"
    if find("modules.json", found.places) is not None and find(CONFIG, found.places) is None:
        raise LoadError(
            "max_length is missing: neither sentence_bert_config.json nor "
            f"tokenizer_config.json in {found.places[0]} says it; download the whole folder",
            path=str(found.places[0]),
        )
    if find("config.json", found.places) is not None:
        # transformers takes a key that is absent for "nobody knows", which the positions cut.
        return most, "config.json: max_position_embeddings"
    if found.truncation is not None:
        return min(found.truncation, most), f"{FILE_NAME}: truncation.max_length"
    return most, "no file, so that no text is cut"


def tokens(file: str, key: str, value: Any) -> int:
    """`value` as a number of tokens. Raises LoadError for what is none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise LoadError(f"{file} has the {key} {value!r:.40}, which is no number of tokens")
    return value


def _offset(found: TokenizerFile) -> bool:
    path = find("config.json", found.places)
    return path is not None and read_table(path).get("model_type") in OFFSET_POSITIONS


def check_length(length: int, what: str, max_positions: int) -> None:
    """Raises LoadError for a length that is below 3 or beyond the model's positions."""
    if not 3 <= length <= max_positions:
        raise LoadError(
            f"{what} {length} must lie in 3..{max_positions}, the model's positions: correct it as "
            "the model's authors say"
        )


def _positions(
    folder: Path, config: Mapping[str, Any], places: Sequence[Path], truncation: int | None
) -> int:
    """The longest sequence that the model can read, of a text's tokens.

    Relative positions have no end: there it is the length that the authors trained or advise. A
    folder without config.json has what tokenizer.json cuts at. Raises LoadError when nothing says
    it.
    """
    count = config.get("max_position_embeddings", config.get("n_positions"))
    if isinstance(config.get("text_config"), dict) and count is None:
        count = config["text_config"].get("max_position_embeddings")
    relative = count is None or count == -1  # xlnet
    if not relative and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise LoadError(f"config.json has the max_position_embeddings {count!r:.40}")
    if relative:
        count = transformer_settings(folder)[0].get("max_seq_length")
        if count is None and config.get("model_type") not in ENCODER_DECODERS:
            count = configured(places, "model_max_length")[0]
        if count is None and find("config.json", places) is None:
            # Nothing cuts texts then, upstream too; beyond its positions the graph raises an error.
            count = MOST if truncation is None else truncation
        whole = isinstance(count, int | float) and not isinstance(count, bool)
        if not whole or not 1 <= count <= MOST:
            raise LoadError(
                "max_positions is missing: config.json has no max_position_embeddings; write "
                f'{{"max_seq_length": N}} to sentence_bert_config.json in {folder}',
                path=str(folder),
            )
        return int(count)
    if config.get("model_type") in OFFSET_POSITIONS:
        return int(count) - int(config.get("pad_token_id", 1)) - 1
    return int(count)


def _around(tokenizer: Tokenizer, path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
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
            raise LoadError(
                f"{path}: this tokenizer does more than put fixed ids before and after a text, "
                "which no artifact can say",
                path=str(path),
            )
        found.add((tuple(outer[: starts[0]]), tuple(outer[starts[0] + len(inner) :])))
    if len(found) != 1:
        raise LoadError(
            f"{path}: this tokenizer puts different ids around different texts", path=str(path)
        )
    return found.pop()


def _pad_id(
    places: Sequence[Path], tokenizer: Tokenizer, config: Mapping[str, Any], padding: Any
) -> int:
    pad = special(places, tokenizer, "pad")
    if pad is None:
        pad = config.get("pad_token_id")
    if pad is None and isinstance(padding, dict):
        pad = padding.get("pad_id")
    if pad is None and find(CONFIG, places) is None:
        # What stands behind the mask changes no vector, so that the name is enough.
        found = (tokenizer.token_to_id(name) for name in PADS)
        pad = next((number for number in found if number is not None), None)
    if isinstance(pad, bool) or not isinstance(pad, int):
        raise LoadError(
            f"pad_id is missing: no configuration in {places[0]} names a padding token: write "
            '{"pad_token": "..."} to its tokenizer_config.json',
            path=str(places[0]),
        )
    return pad


def _lower(document: dict[str, Any]) -> None:
    """Let the tokenizer of a tokenizer.json lower-case first."""
    normalizer = document.get("normalizer")
    parts = [{"type": "Lowercase"}, *([] if normalizer is None else [normalizer])]
    document["normalizer"] = {"type": "Sequence", "normalizers": parts}


def wants_lower(settings: Mapping[str, Any]) -> bool:
    """Whether sentence_bert_config.json asks for lower case, whatever the tokenizer does."""
    return bool(settings.get("do_lower_case", False))


def lowers(normalizer: Any) -> bool:
    """Whether a normalizer of tokenizer.json makes lower case of a text."""
    if not isinstance(normalizer, dict):
        return False
    if normalizer.get("type") == "Sequence":
        return any(lowers(part) for part in normalizer.get("normalizers", []))
    return normalizer.get("type") == "Lowercase" or normalizer.get("lowercase") is True
