"""POST /v1/encode: every kind of vector that a model has, of texts, images and pages.

POST /v1/score: how well documents answer a query. The answers' forms are those of answers.py.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, cast, get_args

import numpy as np

from tessera_onnx.kinds import KINDS
from tessera_onnx.models.spec import Kind
from tessera_onnx.server import answers, multipart
from tessera_onnx.server.answers import Form
from tessera_onnx.server.fields import BadRequest, Fields, check_texts
from tessera_onnx.server.http import Answer, Call, Route
from tessera_onnx.server.operations import OWN
from tessera_onnx.server.rerank import is_reranker
from tessera_onnx.server.roles import reading
from tessera_onnx.server.schemas import (
    AT_LEAST_1,
    COMMON,
    READING,
    SCORES,
    VECTORS,
    Schema,
    body,
    many,
    one_of,
)
from tessera_onnx.server.served import Job, Served
from tessera_onnx.text.reading import RoleName
from tessera_onnx.text.reranker import Activation

BYTES = 1000  # of a file that count as a number, for what goes to a thread
ACTIVATIONS = cast("tuple[Activation, ...]", get_args(Activation))


async def encode(call: Call) -> Answer:
    """POST /v1/encode."""
    fields, files = await _read(call)
    form = Form.of(fields)
    inputs = [name for name in ("texts", "images", "document") if name in fields or name in files]
    if len(inputs) != 1:
        raise BadRequest("give one of texts, images and document")
    kinds = fields.words("kinds", tuple(KINDS), ())
    images = inputs[0] != "texts"

    def can(served: Served) -> bool:
        return set(kinds) <= set(served.kinds) and (
            served.row.reads == "images" if images else served.row.reads in {"texts", "images"}
        )

    what = f"{', '.join(kinds)} vectors of {'images' if images else 'texts'}".lstrip()
    served, role = call.server.registry.find(fields.text("model"), can, what)
    chosen: list[Kind] = kinds or [served.row.kind]
    if images:
        job = await _images(call, served, inputs[0], fields, files)
        query = None
    else:
        texts = fields.texts("texts", most=call.server.limits.texts)
        named = fields.word("role", get_args(RoleName), role or "plain")
        how = reading(fields, served, named)
        query = how.query
        size = sum(map(len, texts))
        options = {**how.options(), "kinds": chosen if served.row.reads == "texts" else ()}
        job = await call.server.read(size, served.texts, texts, **options)
    results = await call.server.run(job, call, query=query) if job.items else []
    counted = not images and served.row.reads == "texts"
    size = len(job.items) * 4000
    return await call.server.beside(
        size, answers.vectors, job, chosen, results, form, counted=counted
    )


async def _read(call: Call) -> tuple[Fields, dict[str, list[bytes]]]:
    """The fields of a request, and the files of a multipart body by the name of their part."""
    kind = call.headers.get("content-type", "")
    if not multipart.is_multipart(kind):
        return await call.fields(), {}
    return await call.server.beside(len(call.body), _parts, call.body, kind)


def _parts(content: bytes, kind: str) -> tuple[Fields, dict[str, list[bytes]]]:
    """A part "request" is the JSON object, others are files."""
    fields, files = Fields({}), dict[str, list[bytes]]()
    for name, part in multipart.parts(content, kind):
        if name == "request":
            fields = Fields.parse(part)
        elif name in {"images", "document"}:
            files.setdefault(name, []).append(part)
    return fields, files


async def _images(
    call: Call, served: Served, name: str, fields: Fields, files: dict[str, list[bytes]]
) -> Job:
    """The job of images, or of the pages of a document."""
    most = call.server.limits.texts
    given = files.get(name)
    if given is None:
        listed = fields.require(name)
        if name == "document":
            listed = [listed]
        if not isinstance(listed, list):
            raise BadRequest(f"{name} must be a list", field=name)
        texts = check_texts(listed, name, most)
        given = await call.server.beside(sum(map(len, texts)) // BYTES, decoded, texts, name)
    if name == "images":
        if len(given) > most:
            raise BadRequest(f"images has {len(given)} items, a request may have {most}")
        return served.images(given)
    options: dict[str, Any] = {
        "pages": fields.text("pages"),
        "password": fields.text("password"),
        "dpi": fields.whole("dpi"),
        "max_pages": most,
    }
    return served.pages(given[0], **options)


def decoded(texts: Sequence[str], name: str) -> list[bytes]:
    """The bytes of files in base64, plain or in a data: URI."""
    found = []
    for i, text in enumerate(texts):
        start = text.find(";base64,") + len(";base64,") if text.startswith("data:") else 0
        try:
            found.append(base64.b64decode(text[start:], validate=True))
        except (binascii.Error, ValueError):
            raise BadRequest(
                f"{name}[{i}] is not base64: send the bytes of a file in base64 or a data: URI; "
                "the server fetches no URL",
                field=name,
                index=i,
            ) from None
    return found


async def score(call: Call) -> Answer:
    """POST /v1/score."""
    fields = await call.fields()
    form = Form.of(fields)
    most = call.server.limits.texts
    pairs = _pairs(fields, most)
    activation = fields.word("activation", ACTIVATIONS, "default")
    truncate = fields.flag("truncate", default=True)

    def can(served: Served) -> bool:
        return not {"reranker", "multi-vector"}.isdisjoint(served.kinds)

    served, _ = call.server.registry.find(fields.text("model"), can, "scores")
    if "activation" in fields and not is_reranker(served):
        raise BadRequest(
            f"model {served.name!r} gives MaxSim, which has no activation: leave activation out",
            field="activation",
        )
    queries = {query for query, _ in pairs}
    job = await call.server.read(
        sum(map(len, queries)) + sum(len(document) for _, document in pairs),
        served.scores,
        pairs,
        activation=activation,
        truncate=truncate,
    )
    scores = await call.server.run(job, call)
    facts = {"model": served.name, "truncated": job.cut}
    numbers = {"tokens": job.tokens, "count": job.counts}
    if form.encoding == "raw":
        made = {name: np.array(values, np.int64) for name, values in numbers.items()}
        return answers.raw({"scores": scores, **made}, facts)
    return Answer.of({**facts, "scores": answers.shown_array(scores, form.encoding), **numbers})


def _pairs(fields: Fields, most: int) -> list[tuple[str, str]]:
    """The pairs of a query and a document that a request has."""
    if "pairs" not in fields:
        query = fields.text("query")
        if query is None:
            raise BadRequest("give query and documents, or pairs", field="query")
        return [(query, document) for document in fields.texts("documents", most=most)]
    found = fields.get("pairs")
    if not isinstance(found, list) or len(found) > most:
        raise BadRequest(f"pairs must be a list of up to {most} pairs of texts", field="pairs")
    for i, pair in enumerate(found):
        if not (
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) for t in pair)
        ):
            raise BadRequest(f"pairs[{i}] must be a list of two texts", field="pairs", index=i)
    return [(query, document) for query, document in found]


FILE: Schema = {"type": "string", "description": "A file in base64 or a data: URI."}
ENCODE: Schema = body(
    {
        **COMMON,
        "texts": many({"type": "string"}),
        "images": many(FILE),
        "document": {"type": "string", "description": "A PDF or TIFF in base64: all its pages."},
        "pages": {"type": "string", "description": "Pages of the document, such as 1-3,7."},
        "dpi": AT_LEAST_1,
        "password": {"type": "string"},
        "kinds": many(one_of(*KINDS)),
        "output_dtype": one_of(*get_args(answers.Numbers)),
        "pool_factor": AT_LEAST_1,
        "max_active_dims": AT_LEAST_1,
        **READING,
    }
)
SCORE: Schema = body(
    {
        **COMMON,
        "query": {"type": "string"},
        "documents": many({"type": "string"}),
        "pairs": many({**many({"type": "string"}), "minItems": 2, "maxItems": 2}),
        "activation": one_of(*ACTIVATIONS),
        "truncate": {"type": "boolean"},
    }
)
ROUTES = (
    Route("/v1/encode", encode, OWN, summary="Vectors of texts, images and pages",
          request=ENCODE, response=VECTORS),
    Route("/v1/score", score, OWN, summary="Scores of pairs of a query and a document",
          request=SCORE, response=SCORES),
)  # fmt: skip
