"""Tokenize texts and build padded batches of token ids, the inputs of a graph."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import checks
from tessera_onnx.errors import LoadError, TokenizationError, about_item
from tessera_onnx.models.spec import Role, TokenizerSpec, TokenRole
from tessera_onnx.runtime import batching
from tessera_onnx.runtime.session import Array, Port, select

OnLong = Literal["truncate", "warn", "error"]
Ids = NDArray[np.int64]
# A special token in a text of a recipe, such as <image>.
SPELLED = re.compile(r"<[^<>\s]+>")
# Other names for token_type_ids.
TYPES = {"input_type", "segment_ids", "token_type"}
PAST = "past_key_values."  # the empty cache of a decoder that was exported with one
# Vectors of tokens that no text has (embeddinggemma-2's graph): a row for each of them, so none.
OF_OTHERS = {"image_features", "video_features", "audio_features"}


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids of b texts, right padded: ids and attention mask (b, n) int64, lengths (b,) int64.

    lengths counts the tokens of each text, with query expansion and without padding. types are the
    token types (b, n) int64 of pairs of texts; None: 0 everywhere.
    """

    ids: Ids
    attention: Ids
    lengths: Ids
    types: Ids | None = None


class Row(NamedTuple):
    """The token ids of one input, how many of them are attended, and their types (None: 0)."""

    ids: Ids
    attended: int
    types: Ids | None = None


class Piece(NamedTuple):
    """A token of a text, and the characters that it was made of: text[start:stop]."""

    id: int
    token: str
    special: bool
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Head:
    """How to turn outputs of the graph into results: `apply` gives one result per text of a batch.

    `apply` runs on worker threads.
    """

    outputs: tuple[str, ...]  # of the graph that `apply` needs; () = the graph does not run
    apply: Callable[[list[Array], Batch], Sequence[Any] | Array]
    width: int = 0  # above 0: results are vectors of this size, returned as one array, not a list


def check_texts(texts: Iterable[str], name: str = "texts") -> list[str]:
    """`texts` as a list of str. Raises the errors of `check_text` with the index of the item."""
    return list(checked(texts, name))


def checked(texts: Iterable[str], name: str = "texts") -> Iterator[str]:
    """The items of a stream, each checked when it is read. Raises as `check_texts`."""
    checks.check_items(texts, name, checks.TEXTS)
    return (check_text(text, f"{name}[{i}]", i) for i, text in enumerate(texts))


def check_text(text: Any, name: str, index: int | None = None, *, several: str = "") -> str:
    """`text` itself, or the text of an Arrow scalar.

    `index` is its number among several texts; `several` is the advice where a list of texts stands
    in the place of one. Raises TypeError for anything else, TokenizationError for bad Unicode.
    """
    found = text if isinstance(text, str) else checks.plain(text)
    if not isinstance(found, str):
        hint = checks.hint_for_item(text, several or checks.ONE_EACH)
        with about_item(index):
            raise TypeError(f"{name} must be str, got {type(text).__name__}{hint}")
    if not found.isascii():
        try:
            found.encode()
        except UnicodeEncodeError as error:
            subject = name if index is None else f"text {index}"
            raise TokenizationError(
                f"{subject} (length {len(found)}) has a lone surrogate at character "
                f"{error.start}: it is not valid Unicode; decode its source with errors='replace'",
                index=index,
            ) from error
    return found


class Tokenizer:
    """The tokenizer of a tokenizer.json; threads may share it.

    Truncation, special tokens and padding follow model.toml. Those in tokenizer.json are switched
    off: the public file of all-MiniLM-L6-v2, for example, pads to 128 and cuts at 128.
    """

    def __init__(self, content: bytes, facts: TokenizerSpec) -> None:
        """Load the bytes of a tokenizer.json. Raises LoadError when they are not one."""
        from tokenizers import Tokenizer as Backend
        from tokenizers import normalizers

        try:
            self._backend = Backend.from_buffer(content)
        except BaseException as error:
            if not isinstance(error, ValueError) and not _is_failure(error):
                raise
            reason = str(error)[:200]
            raise LoadError(f"{facts.tokenizer} is not a tokenizer.json: {reason}") from error
        self._backend.no_padding()
        self._backend.no_truncation()
        if facts.lowercase:
            # As sentence-transformers does it: a special token in a text, such as [SEP], stays one.
            own = self._backend.normalizer
            parts = [normalizers.Lowercase(), *([] if own is None else [own])]
            self._backend.normalizer = normalizers.Sequence(parts)
        self.facts = facts

    def ids(self, texts: Sequence[str], prompt: str = "") -> list[Ids]:
        """The token ids of prompt + text, not cut, without special tokens: (n,) int64 each.

        Raises TokenizationError when the tokenizer fails on valid text.
        """
        encodings = self._encodings([prompt + text for text in texts] if prompt else list(texts))
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def joined_ids(self, texts: list[str]) -> tuple[Ids, Ids]:
        """As `ids`, all in one array (sum of n,), and the numbers n of each text (len(texts),)."""
        lists = [encoding.ids for encoding in self._encodings(texts)]
        counts = np.fromiter(map(len, lists), np.int64, len(lists))
        joined = itertools.chain.from_iterable(lists)
        return np.fromiter(joined, np.int64, int(counts.sum())), counts

    def _encodings(self, texts: list[str]) -> list[Any]:
        try:
            return list(self._backend.encode_batch_fast(texts, add_special_tokens=False))
        except BaseException as error:
            if not _is_failure(error):
                raise
            if isinstance(error, Exception):
                raise TokenizationError(f"the tokenizer fails: {error}") from error
            if "ThreadPoolBuildError" in str(error):
                raise TokenizationError(
                    "the tokenizer cannot start its threads: raise the limit of processes, or set "
                    "TOKENIZERS_PARALLELISM=false"
                ) from None
            # Its message may quote the text. Rust has written it to stderr already.
            raise TokenizationError(
                f"the tokenizer panics: the rules in {self.facts.tokenizer} are faulty; make the "
                "file again, or use another model"
            ) from None

    def rows(
        self, texts: Sequence[str], role: Role | TokenRole, *, keep_end: bool = False
    ) -> tuple[list[Row], NDArray[np.int64]]:
        """Tokenize texts for a role: prompt, markers, special tokens, truncation, query expansion.

        Gives (ids, number of attended tokens) of each text, and the counts (len(texts),) of all
        tokens before truncation, which `keep_end` lets take tokens from the start of prompt + text.
        Raises TokenizationError when the tokenizer fails on valid text.
        """
        facts = self.facts
        marker = role.marker_ids if isinstance(role, TokenRole) else ()
        expansion = role.expansion if isinstance(role, TokenRole) else "none"
        full = (isinstance(role, TokenRole) and role.expansion_length) or role.max_length
        before = np.array([*facts.prefix_ids, *marker], dtype=np.int64)
        after = np.array(facts.suffix_ids, dtype=np.int64)
        room = role.max_length - len(before) - len(after)
        rows = []
        counts = np.empty(len(texts), dtype=np.int64)
        for i, content in enumerate(self.ids(texts, role.prompt)):
            counts[i] = len(content) + len(before) + len(after)
            kept = content[max(len(content) - room, 0) :] if keep_end else content[:room]
            ids = np.concatenate([before, kept, after])
            attended = len(ids)
            if expansion != "none":
                spare = np.full(max(full - len(ids), 0), facts.mask_id, dtype=np.int64)
                ids = np.concatenate([ids, spare])
                attended = len(ids) if expansion == "attended" else attended
            rows.append(Row(ids, attended))
        return rows, counts

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of token ids. Raises TokenizationError for an id outside the vocabulary."""
        self.check_ids(ids)
        found: str = self._backend.decode(list(ids), skip_special_tokens=skip_special)
        return found

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raises TokenizationError for an id outside the vocabulary."""
        wrong = next((i for i, number in enumerate(ids) if not self.token(number)), None)
        if wrong is not None:
            raise TokenizationError(
                f"token id number {wrong} is not in the vocabulary of {self.facts.tokenizer}: give "
                "ids of this model's own tokenizer, or texts"
            )

    def pieces(self, text: str) -> list[Piece]:
        """The tokens of a text, not cut, without those that the model puts around it.

        Raises TokenizationError when the tokenizer fails on valid text.
        """
        special = self.special_ids()
        try:
            found = self._backend.encode(text, add_special_tokens=False)
        except BaseException as error:
            if not _is_failure(error):
                raise
            raise TokenizationError(f"the tokenizer fails: {type(error).__name__}") from None
        return [
            Piece(number, token, number in special, *offsets)
            for number, token, offsets in zip(found.ids, found.tokens, found.offsets, strict=True)
        ]

    def token(self, token_id: int) -> str:
        """The token of an id; "" for an id outside the vocabulary."""
        if not 0 <= token_id < 1 << 32:  # the library's ids have 32 bits
            return ""
        return self._backend.id_to_token(int(token_id)) or ""

    def token_id(self, token: str) -> int | None:
        """The id of a token; None for a token outside the vocabulary."""
        found: int | None = self._backend.token_to_id(token)
        return found

    def largest_id(self) -> int:
        """The largest id of the vocabulary, added tokens included; -1 for an empty one."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)

    def special_ids(self) -> set[int]:
        """Ids of the tokens that tokenizer.json marks as special."""
        added = self._backend.get_added_tokens_decoder()
        return {int(number) for number, token in added.items() if token.special}

    def pair(self, query: str, document: str) -> tuple[list[int], list[int]] | None:
        """The ids and token types that the post-processor of tokenizer.json makes of a pair.

        None where it adds nothing.
        """
        try:
            bare = self._backend.encode(query, document, add_special_tokens=False).ids
            found = self._backend.encode(query, document, add_special_tokens=True)
        except BaseException as error:
            if not _is_failure(error):
                raise
            return None
        return None if found.ids == bare else (list(found.ids), list(found.type_ids))

    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The ids that the post-processor of tokenizer.json puts before and after a text.

        None where it puts none, or something that is not the same around each text.
        """
        text = "two and two"
        try:
            inner = self._backend.encode(text, add_special_tokens=False).ids
            outer = self._backend.encode(text, add_special_tokens=True).ids
        except BaseException as error:
            if not _is_failure(error):
                raise
            return None
        extra = len(outer) - len(inner)
        places = [i for i in range(extra + 1) if outer[i : i + len(inner)] == inner]
        if extra < 1 or not inner or len(places) != 1:
            return None
        return tuple(outer[: places[0]]), tuple(outer[places[0] + len(inner) :])


def _is_failure(error: BaseException) -> bool:
    """Whether the binding failed on a text: it raises a bare Exception, or a panic of Rust.

    Any other exception comes from elsewhere, such as a handler of a signal.
    """
    return type(error) is Exception or type(error).__name__ == "PanicException"


def check_spelled(tokenizer: Tokenizer, spelled: str, where: str) -> None:
    """Raises LoadError when the text `spelled` has a special token that the tokenizer lacks.

    The tokenizer would read that token letter by letter, without an error.
    """
    for name in SPELLED.findall(spelled):
        if tokenizer.token_id(name) is None:
            raise LoadError(f"{where} spells the token {name}, which tokenizer.json does not have")


class Runnable(Protocol):
    """The interface of a Session, also for several sessions that run one after the other."""

    @property
    def inputs(self) -> Mapping[str, Port]:
        """The graph's inputs by name."""

    @property
    def workers(self) -> int:
        """How many calls may run at the same time."""

    def check_open(self) -> None:
        """Raises EncodingError when the session is closed."""

    def run(
        self,
        feeds: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        parallel: bool = False,
    ) -> list[Array]:
        """The outputs of the graph for one batch."""


def padded(rows: Sequence[Row], facts: TokenizerSpec) -> Batch:
    """Build a right-padded batch. All rows have token types, or none has."""
    ids = batching.pad([row.ids for row in rows], facts.pad_id, facts.fixed_length)
    attended = np.array([row.attended for row in rows])
    attention = (np.arange(ids.shape[1]) < attended[:, None]).astype(np.int64)
    known = [row.types for row in rows if row.types is not None]
    types = batching.pad(known, 0, facts.fixed_length) if known else None
    return Batch(ids, attention, np.array([len(row.ids) for row in rows]), types)


def feeds(
    batch: Batch, role: Role | TokenRole | None, inputs: Mapping[str, Port], name: str = "the graph"
) -> dict[str, Array]:
    """The inputs of the graph `name` for a batch, in its own dtypes; `inputs` are those it takes.

    Raises LoadError for an input that no text has.
    """
    types = np.zeros_like(batch.ids) if batch.types is None else batch.types
    known: dict[str, Array] = {"input_ids": batch.ids, "attention_mask": batch.attention}
    if "token_type_ids" in inputs:
        known["token_type_ids"] = types
    for key, port in inputs.items():
        if key in TYPES:
            known[key] = types
        elif key == "position_ids":  # padding follows the text, so positions count from 0
            known[key] = np.broadcast_to(np.arange(batch.ids.shape[1]), batch.ids.shape)
        elif key.startswith(PAST):
            known[key] = _nothing(port, len(batch.ids))
        elif key in OF_OTHERS:
            known[key] = _no_rows(port)
    if isinstance(role, Role) and role.task_id is not None:
        task = np.array(role.task_id, dtype=np.int64)  # a scalar (jina-embeddings-v3)
        axes = len(inputs["task_id"].shape) if "task_id" in inputs else 0
        known["task_id"] = np.broadcast_to(task, (len(batch.ids),) if axes else ())
    return select(known, inputs, name)


def _nothing(port: Port, n_texts: int) -> Array:
    """The empty key or value of a decoder's cache: (n_texts, heads, 0, size)."""
    sizes = [size if isinstance(size, int) and size > 0 else 0 for size in port.shape]
    return np.zeros([n_texts, *sizes[1:2], 0, *sizes[3:]], dtype=np.float32)


def _no_rows(port: Port) -> Array:
    """No vectors at all: (0, size)."""
    sizes = [size if isinstance(size, int) and size > 0 else 0 for size in port.shape]
    return np.zeros([0, *sizes[1:]], dtype=np.float32)


def probe(facts: TokenizerSpec) -> Batch:
    """A batch of one empty text, with which a session is tried after loading."""
    ids = np.array([*facts.prefix_ids, *facts.suffix_ids] or [facts.pad_id], dtype=np.int64)
    return padded([Row(ids, len(ids))], facts)
