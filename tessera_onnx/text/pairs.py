"""Tokenize pairs of a query and a document, cut as the tokenizers library cuts them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import checks
from tessera_onnx.errors import ConfigError, LoadError, TokenizationError, about_item
from tessera_onnx.models.spec import Reranker, Role, TokenizerSpec
from tessera_onnx.text.tokenizer import Ids, Row, Tokenizer, check_text

PROBE = ("two and two", "three")


class Query:
    """A query of one call. Its ids are made once, however many documents it is paired with."""

    __slots__ = ("ids", "text")

    def __init__(self, text: str) -> None:
        """`text` is checked already."""
        self.text = text
        self.ids: Ids | None = None


class Pair:
    """A query and a document, both checked; its length is their number of characters."""

    __slots__ = ("document", "query")

    def __init__(self, query: Query, document: str) -> None:
        """Pairs of one query share the object."""
        self.query = query
        self.document = document

    def __len__(self) -> int:
        return len(self.query.text) + len(self.document)


def check_pairs(pairs: Iterable[Any]) -> list[Pair]:
    """The items of `pairs`, each a tuple or list of two texts, (query, document).

    Raises TypeError for anything else, and the errors of `check_text`, with the pair's index.
    """
    checks.check_items(pairs, "pairs", "(query, document)")
    queries: dict[str, Query] = {}
    found = []
    for i, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list | np.ndarray) or len(pair) != 2:
            size = f" of {len(pair)}" if isinstance(pair, tuple | list | np.ndarray) else ""
            with about_item(i):
                raise TypeError(
                    f"pairs[{i}] must be a (query, document), got {type(pair).__name__}{size}"
                )
        query, document = (check_text(text, f"pairs[{i}][{k}]", i) for k, text in enumerate(pair))
        found.append(Pair(queries.setdefault(query, Query(query)), document))
    return found


def cut(n_query: int, n_document: int, room: int, *, only_second: bool) -> tuple[int, int]:
    """How many tokens of query and document are kept so that both fit into `room`.

    Longest first, as truncate_encodings of huggingface/tokenizers (src/utils/truncation.rs) does
    it: the longer one is cut first, and what then is too much goes from both alike. With
    `only_second` the query is whole, also where it alone is too long.
    """
    if n_query + n_document <= room:
        return n_query, n_document
    if only_second:
        return n_query, max(room - n_query, 0)
    short, long = sorted((n_query, n_document))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    # Of two that are equally long the query counts as the shorter one.
    return (short, long) if n_query <= n_document else (long, short)


def check_end(*, keep_end: bool) -> None:
    """Raises ConfigError for a cut at the start of a text."""
    if keep_end:
        raise ConfigError("the texts of a pair are cut at their ends, not at their starts")


class PairTokenizer(Tokenizer):
    """The tokenizer of a reranker: its `rows` takes pairs in place of texts."""

    def __init__(self, content: bytes, facts: TokenizerSpec, recipe: Reranker) -> None:
        """Load the bytes of a tokenizer.json. Raises LoadError when they are not one."""
        super().__init__(content, facts)
        self._recipe = recipe
        parts = (recipe.prefix_ids, recipe.middle_ids, recipe.suffix_ids)
        self._parts = [np.array(part, dtype=np.int64) for part in parts]
        self._types = np.array(recipe.type_ids, dtype=np.int64)

    def role(self, instruction: str | None, max_length: int, most: int) -> Role:  # noqa: ARG002
        """The role of pairs for a max_length of at most `most`, what the graph takes.

        Raises ConfigError for an instruction, which only a model with a template reads.
        """
        if instruction is not None:
            raise ConfigError(
                "instruction is given, but this model reads none: leave it out, or put it before "
                "the query"
            )
        return Role("", max_length)

    def rows(
        self, texts: Sequence[Any], role: Any, *, keep_end: bool = False
    ) -> tuple[list[Row], NDArray[np.int64]]:
        """Tokenize pairs, cut to `role.max_length`.

        Gives the ids and types of each pair, and the counts (n,) of all tokens before the cut.
        Raises TokenizationError when the tokenizer fails on valid text, ConfigError for `keep_end`.
        """
        check_end(keep_end=keep_end)
        new = list(dict.fromkeys(pair.query for pair in texts if pair.query.ids is None))
        for query, ids in zip(new, self.ids([query.text for query in new]), strict=True):
            query.ids = ids
        around = sum(map(len, self._parts))
        room = role.max_length - around
        only_second = self._recipe.truncation == "only_second"
        rows, counts = [], np.empty(len(texts), dtype=np.int64)
        for i, document in enumerate(self.ids([pair.document for pair in texts])):
            query = texts[i].query.ids
            counts[i] = len(query) + len(document) + around
            kept = cut(len(query), len(document), room, only_second=only_second)
            if sum(kept) > room:
                raise TokenizationError(
                    f"a query has {len(query)} tokens, and only the document may be cut: the model "
                    f"reads {role.max_length}"
                )
            rows.append(self._row(query[: kept[0]], document[: kept[1]]))
        return rows, counts

    def _row(self, query: Ids, document: Ids) -> Row:
        prefix, middle, suffix = self._parts
        parts = (prefix, query, middle, document, suffix)
        ids = np.concatenate(parts)
        return Row(ids, len(ids), np.repeat(self._types, [len(part) for part in parts]))

    def probe(self) -> Row:
        """The pair of two empty texts; a padding token where nothing is put around them."""
        nothing = np.empty(0, dtype=np.int64)
        row = self._row(nothing, nothing)
        return row if row.attended else Row(np.array([self.facts.pad_id]), 1, np.zeros(1, np.int64))

    def answer_ids(self, model_id: str) -> tuple[int, ...]:
        """The ids of the tokens that the model answers with; () for another sort of model.

        Raises LoadError where the vocabulary lacks one.
        """
        answers = self._recipe.answers or ()
        found = [self.token_id(token) for token in answers]
        if None in found:
            raise LoadError(
                f"model {model_id!r}: {self.facts.tokenizer} has not all of the answers "
                f"{', '.join(answers)!s:.80}: the file belongs to another model"
            )
        return tuple(number for number in found if number is not None)

    def check(self, where: str) -> None:
        """Raises LoadError for ids that the vocabulary lacks or the tokenizer contradicts."""
        recipe, name = self._recipe, self.facts.tokenizer
        ids = (*recipe.prefix_ids, *recipe.middle_ids, *recipe.suffix_ids, self.facts.pad_id)
        unknown = next((number for number in ids if not self.token(number)), None)
        if unknown is not None:
            raise LoadError(
                f"{where}: {unknown} is no id of {name}: the file belongs to another model"
            )
        made = self.pair(*PROBE)
        if made is None:  # it puts nothing around a pair; a template of the model may
            return
        row = self._row(*self.ids(PROBE))
        types = [] if row.types is None else row.types.tolist()
        # A model that takes no types, or is told none, has 0 where the tokenizer says 1.
        if made[0] != row.ids.tolist() or (any(types) and made[1] != types):
            raise LoadError(
                f"{where}: {name} puts other ids or types around a query and a document than the "
                "model's facts say: they belong to two models"
            )
