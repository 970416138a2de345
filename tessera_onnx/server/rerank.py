"""Rerank routes: Cohere's and Jina's in one answer, TEI's and Weaviate's where their fields say so.

Fields: cohere 7.3 (v2/client.py), Jina's openapi.json, huggingface/text-embeddings-inference
(router/src/http/types.rs), weaviate/reranker-transformers-models (crossencoder.py).

A reranker's score is the sigmoid of the number that its graph gives, in [0, 1], as TEI, infinity
and Cohere's clients have it, also where the model's own activation is another; `raw_scores` gives
that number. A multi-vector model gives its MaxSim, which has no such range.

A document in an answer is an object with a text, as Cohere, Jina and vLLM write it. infinity writes
the text alone, so its clients leave documents out of the answer: return_documents is false.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from tessera_onnx.results import Ranked, ranking
from tessera_onnx.server.failures import Failure
from tessera_onnx.server.fields import BadRequest, Fields, check_number, check_texts
from tessera_onnx.server.http import Answer, Call, Dialect, Route
from tessera_onnx.server.openai import USAGE
from tessera_onnx.server.roles import truncation
from tessera_onnx.server.schemas import AT_LEAST_1, NUMBER, TEXT, WHOLE, Schema, body, many
from tessera_onnx.server.served import Served

# Fields that Cohere's and Jina's clients send and Weaviate does not.
NAMED = ("model", "top_n", "top_k", "return_documents", "max_tokens_per_doc")


def _error(found: Failure) -> dict[str, Any]:
    """The fields of all protocols that share these paths: Cohere, Jina, TEI, Weaviate."""
    message = found.message
    return {"message": message, "detail": message, "error": message, "error_type": found.sort}


RERANK = Dialect("rerank", _error)
SHARED = Dialect("rerank", _error, {"invalid": 422, "fault": 424})  # TEI's, on its own path


@dataclass(frozen=True, slots=True)
class Scored:
    """Documents and their scores, and the tokens that were read for them."""

    served: Served
    documents: list[str]
    ranked: list[Ranked]
    tokens: int


def is_reranker(served: Served) -> bool:
    """Whether the model reads query and document together."""
    return served.row.reads == "pairs"


def can_score(served: Served) -> bool:
    """Whether the model scores documents, alone or by the vectors of their tokens."""
    return is_reranker(served) or "multi-vector" in served.kinds


async def score(call: Call, fields: Fields, name: str) -> Scored:
    """Score the documents in the field `name` for the query. Raises BadRequest and more."""
    server = call.server
    query = fields.require("query")
    if not isinstance(query, str):
        raise BadRequest("query must be a text", field="query")
    documents = _documents(fields, name, server.limits.texts)
    truncate, keep_end = truncation(fields)
    if keep_end:
        raise BadRequest(
            "documents are cut at their ends: leave truncation_direction out, or say right",
            field="truncation_direction",
        )
    model = fields.text("model")
    can = can_score
    if not model and any(map(is_reranker, server.registry.all())):
        can = is_reranker
    served, _ = server.registry.find(model, can, "the ranking of documents")
    _check_length(fields, served)
    raw = fields.flag("raw_scores", default=False)
    size = len(query) + len(documents) + sum(map(len, documents))
    job = await server.read(
        size,
        served.scores,
        [(query, document) for document in documents],
        activation="raw" if raw else "sigmoid",
        truncate=truncate,
    )
    scores = await server.run(job, call)
    return Scored(served, documents, ranking(scores, None), job.size)


def _documents(fields: Fields, name: str, most: int) -> list[str]:
    """Texts, or objects with a text each, as Cohere's first version and Jina take them."""
    found = fields.require(name)
    if not isinstance(found, list):
        raise BadRequest(f"{name} must be a list of texts", field=name)
    check_number(found, name, most)
    plain = [item.get("text") if isinstance(item, dict) else item for item in found]
    return check_texts(plain, name, most)


def _check_length(fields: Fields, served: Served) -> None:
    """Raises BadRequest for a cut of documents that the model does not make."""
    most = fields.whole("max_tokens_per_doc")
    limit = served.max_length()
    if most is not None and (not limit or most < limit):
        raise BadRequest(
            f"max_tokens_per_doc must be at least what the model reads of a document, {limit}: "
            "shorten the documents yourself",
            field="max_tokens_per_doc",
        )


async def rerank(call: Call) -> Answer:
    """POST /v1/rerank and /v2/rerank, of Cohere and Jina."""
    fields = await call.fields()
    return await _answer(call, fields, await score(call, fields, "documents"))


async def any_rerank(call: Call) -> Answer:
    """POST /rerank, which several protocols have; the fields tell them apart.

    `texts` is TEI's, whose answer is a list. `documents` alone may be Weaviate's, whose scores are
    then in the answer too.
    """
    fields = await call.fields()
    if "texts" not in fields:
        found = await score(call, fields, "documents")
        alone = not any(name in fields for name in NAMED)
        return await _answer(call, fields, found, scores=alone)
    with_text = fields.flag("return_text", default=False)
    found = await score(call, fields, "texts")
    return Answer.of(
        [
            {"index": i, "score": value} | ({"text": found.documents[i]} if with_text else {})
            for i, value in found.ranked
        ]
    )


async def _answer(call: Call, fields: Fields, found: Scored, *, scores: bool = False) -> Answer:
    top = fields.whole("top_n") or fields.whole("top_k") or len(found.ranked)
    with_text = fields.flag("return_documents", default=False)
    results = [
        {"index": i, "relevance_score": value}
        | ({"document": {"text": found.documents[i]}} if with_text else {})
        for i, value in found.ranked[:top]
    ]
    version = "1" if "/v1/" in call.scope["path"] else "2"
    answer = {
        "id": secrets.token_hex(16),
        "object": "list",
        "model": found.served.name,
        "results": results,
        "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
        "meta": {"api_version": {"version": version}, "billed_units": {"search_units": 1}},
    }
    if scores:
        by_number = dict(found.ranked)
        answer["scores"] = [
            {"document": text, "score": by_number[i]} for i, text in enumerate(found.documents)
        ]
    return Answer.of(answer)


DOCUMENTS: Schema = many({"oneOf": [TEXT, body({"text": TEXT}, "text")]})
_ASKED: dict[str, Schema] = {
    "model": TEXT,
    "query": TEXT,
    "documents": DOCUMENTS,
    "top_n": AT_LEAST_1,
    "return_documents": {"type": "boolean"},
    "raw_scores": {"type": "boolean"},
}
_RESULT: Schema = body(
    {"index": WHOLE, "relevance_score": NUMBER, "document": body({"text": TEXT})},
    *("index", "relevance_score"),
)
RANKED: Schema = body(
    {
        "id": TEXT,
        "model": TEXT,
        "results": many(_RESULT),
        "usage": USAGE,
        "meta": {"type": "object"},
    },
    *("id", "model", "results", "usage", "meta"),
)
SCORED: Schema = many(body({"index": WHOLE, "score": NUMBER, "text": TEXT}, "index", "score"))
ROUTES = (
    *(
        Route(path, rerank, RERANK, summary="Sort documents by their relevance",
              request=body(_ASKED, "query", "documents"), response=RANKED)
        for path in ("/v2/rerank", "/v1/rerank")
    ),
    Route("/rerank", any_rerank, SHARED, summary="Sort documents by their relevance",
          request=body({**_ASKED, "texts": many(TEXT), "return_text": {"type": "boolean"}},
                       "query"),
          response={"oneOf": [RANKED, SCORED]}),
)  # fmt: skip
