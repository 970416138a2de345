"""Tokenize pairs that a template spells out for a language model, cut as its library cuts them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError, LoadError, TokenizationError
from tessera_onnx.models.spec import Reranker, Role, TokenizerSpec
from tessera_onnx.models.spec_pairs import DOCUMENT, INSTRUCTION, QUERY, PairTemplate
from tessera_onnx.text.pairs import PairTokenizer, check_end
from tessera_onnx.text.tokenizer import Ids, Row

PLACES = re.compile(f"({re.escape(QUERY)}|{re.escape(DOCUMENT)}|{re.escape(INSTRUCTION)})")
# Control tokens that a template spells. Others in angle brackets may be plain text (<Query>), but
# not what all begins with (<bos>).
CONTROL = re.compile(r"<\|[^<>|\s]+\|>")
FIRST = re.compile(r"<[^<>\s]+>")


def fill(form: str, texts: Mapping[str, str]) -> str:
    """`form` with the texts of its places. A place that such a text spells stays as it is."""
    return "".join(texts.get(part, part) for part in PLACES.split(form))


class TemplateTokenizer(PairTokenizer):
    """The tokenizer of a reranker with a template. The `prompt` of a role is its instruction."""

    def __init__(
        self, content: bytes, facts: TokenizerSpec, recipe: Reranker, template: PairTemplate
    ) -> None:
        """Load the bytes of a tokenizer.json. Raises LoadError when they are not one."""
        super().__init__(content, facts, recipe)
        self._template = template
        self._joined = recipe.truncation == "end"
        self._before, self._between = self.ids([template.before, template.between])

    def role(self, instruction: str | None, max_length: int, most: int) -> Role:
        """The role of pairs for an instruction (None: the template's) and a max_length.

        `most` is what the graph takes. The role's max_length is that of all tokens of a pair.
        Raises ConfigError where the template has no place for an instruction, where there is no
        room for a query and a document beside both, and where a pair could be too long.
        """
        template = self._template
        if instruction is not None and not template.instructed:
            raise ConfigError(
                "instruction is given, but the template of this model has no place for it: leave "
                "it out"
            )
        said = template.instruction if instruction is None else instruction
        end = self._end(said)
        role = Role(said, max_length + self._beyond(end))
        least = self._row_of("", "", role, end)[1]
        share = int(max_length * template.query_share)
        forms = [self._frame(said, ""), fill(template.document, {DOCUMENT: ""})]
        query, document = (0, 0) if self._joined else map(len, self.ids(forms))
        # The document needs a token too where the query takes all of its share.
        spare = 0 if self._joined or template.query_share == 1 else max(share - query - 1, 0)
        if least + 2 + spare > role.max_length or query >= share or document >= max_length:
            raise ConfigError(
                f"max_length {max_length} leaves no room for a query and a document: the template "
                f"{'and its instruction have' if said else 'has'} {least} tokens"
            )
        if role.max_length > most:
            raise ConfigError(
                f"max_length {max_length} lets a pair have {role.max_length} tokens, the template "
                f"and its instruction included, and the graph takes {most}: give a smaller "
                "max_length or a shorter instruction"
            )
        return role

    def rows(
        self, texts: Sequence[Any], role: Any, *, keep_end: bool = False
    ) -> tuple[list[Row], NDArray[np.int64]]:
        """Tokenize pairs, cut as the template's library does it.

        Gives the ids of each pair, and the counts (n,) of all tokens before the cut. Raises
        TokenizationError when the tokenizer fails on valid text, or a query alone is too long,
        ConfigError for `keep_end`.
        """
        check_end(keep_end=keep_end)
        end = self._end(role.prompt)
        if self._joined:
            bodies = self.ids([self._body(pair.query.text, pair.document, role) for pair in texts])
            made = [self._whole(body, role, end) for body in bodies]
        else:
            new = list(dict.fromkeys(pair.query for pair in texts if pair.query.ids is None))
            forms = [self._frame(role.prompt, query.text) for query in new]
            for query, ids in zip(new, self.ids(forms), strict=True):
                query.ids = ids
            documents = self.ids(
                [fill(self._template.document, {DOCUMENT: pair.document}) for pair in texts]
            )
            made = [
                self._parted(pair.query.ids, document, role, end)
                for pair, document in zip(texts, documents, strict=True)
            ]
        return [row for row, _ in made], np.array([count for _, count in made], dtype=np.int64)

    def _end(self, instruction: str) -> Ids:
        """The ids of the texts after a pair, each tokenized alone."""
        told = self._told(instruction)
        parts = self.ids([fill(text, told) for text in self._template.after])
        return np.concatenate([np.empty(0, np.int64), *parts])

    def _told(self, instruction: str) -> dict[str, str]:
        if not instruction:
            return {INSTRUCTION: ""}
        return {INSTRUCTION: fill(self._template.instructed, {INSTRUCTION: instruction})}

    def _frame(self, instruction: str, query: str) -> str:
        return fill(self._template.query, {QUERY: query, **self._told(instruction)})

    def _body(self, query: str, document: str, role: Role) -> str:
        table = self._template
        form = fill(table.document, {DOCUMENT: document})
        return self._frame(role.prompt, query) + table.between + form

    def _beyond(self, end: Ids) -> int:
        """The tokens that a pair may have above max_length."""
        n = len(end)
        return {"pair": 0, "texts": len(self._before) + n, "texts-and-task": 2 * n}[
            self._template.limits
        ]

    def _row_of(self, query: str, document: str, role: Role, end: Ids) -> tuple[Row, int]:
        """The row of a pair, and its number of tokens before any cut."""
        if self._joined:
            return self._whole(self.ids([self._body(query, document, role)])[0], role, end)
        form = fill(self._template.document, {DOCUMENT: document})
        ids = self.ids([self._frame(role.prompt, query), form])
        return self._parted(ids[0], ids[1], role, end)

    def _whole(self, body: Ids, role: Role, end: Ids) -> tuple[Row, int]:
        room = max(role.max_length - len(self._before) - len(end), 0)
        ids = np.concatenate([self._before, body[:room], end])
        return Row(ids, len(ids)), len(self._before) + len(body) + len(end)

    def _parted(self, query: Ids, document: Ids, role: Role, end: Ids) -> tuple[Row, int]:
        before, between = self._before, self._between
        count = sum(map(len, (before, query, between, document, end)))
        length = role.max_length - self._beyond(end)
        query = query[: int(length * self._template.query_share)]
        around = sum(map(len, (before, query, between, end)))
        room = role.max_length - around
        if room < 0:
            raise TokenizationError(
                f"a query has {around} tokens with the template around it, and only the document "
                f"may be cut: the model reads {role.max_length}"
            )
        ids = np.concatenate([before, query, between, document[: min(room, length)], end])
        return Row(ids, len(ids)), count

    def spelled(self, pairs: Sequence[Any]) -> list[str]:
        """Every text that is tokenized alone for pairs under the template's own instruction."""
        table, role = self._template, Role(self._template.instruction, 0)
        told = self._told(table.instruction)
        texts = [table.before, *(fill(text, told) for text in table.after)]
        for pair in pairs:
            if self._joined:
                texts.append(self._body(pair.query.text, pair.document, role))
            else:
                texts += [
                    self._frame(role.prompt, pair.query.text),
                    table.between,
                    fill(table.document, {DOCUMENT: pair.document}),
                ]
        return texts

    def probe(self) -> Row:
        """The pair of two empty texts, with the template's own instruction."""
        said = self._template.instruction
        return self._row_of("", "", Role(said, 1 << 20), self._end(said))[0]

    def check(self, where: str) -> None:
        """Raises LoadError for a padding, an answer or a control token that is not in the file."""
        name = self.facts.tokenizer
        table = self._template
        texts = (table.before, table.query, table.between, table.document, *table.after)
        spelled = [token for text in texts for token in CONTROL.findall(text)]
        first = FIRST.match(table.before)
        spelled += [first.group()] if first else []
        for token in (*spelled, *(self._recipe.answers or ())):
            if self.token_id(token) is None:
                raise LoadError(
                    f"{where}: its template or answers spell the token {token!r:.60}, which {name} "
                    "does not have: the file belongs to another model"
                )
        if not self.token(self.facts.pad_id):
            raise LoadError(f"{where}: {self.facts.pad_id} is no id of {name}")
