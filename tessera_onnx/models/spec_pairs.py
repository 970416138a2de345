"""How a pair is spelled for a language model that answers yes or no (see spec.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

QUERY, DOCUMENT, INSTRUCTION = "{query}", "{document}", "{instruction}"


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """The texts around a query and a document, in a reranker that was made of a language model.

    The ids of a pair are those of before + query + between + document + after. Each of these parts
    is tokenized alone, without what tokenizer.json puts around a text, and a special token that it
    spells is that token. With the truncation "end", query + between + document are one text.
    """

    before: str  # "" = nothing
    query: str  # holds {query} once
    between: str  # "" = nothing
    document: str  # holds {document} once
    after: tuple[str, ...]  # never cut, since the model answers after it
    # What the model is told to look for, unless the caller says it. It stands at {instruction}, of
    # which `query` or a text of `after` holds one. "" = nothing is said, or there is no such place.
    instruction: str
    # What stands there for an instruction that is not empty: "{instruction}", or a text around it.
    instructed: str  # "" = there is no such place
    # The part of max_length that the query keeps, `query` included, rounded down; 1.0 = all of it.
    # The document keeps at most max_length, `document` included, and less where both are too long.
    query_share: float
    # What max_length is the limit of. "pair": of all tokens. "texts": of query, between and
    # document. "texts-and-task": of before, query, between and document, plus the tokens of after.
    limits: Literal["pair", "texts", "texts-and-task"]
