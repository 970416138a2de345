"""What a client asks of a model beside vectors: its facts, its tokens, and why a score is high."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

from tessera_onnx.errors import ConfigError
from tessera_onnx.images import similarity_map
from tessera_onnx.models.spec_words import HASHED
from tessera_onnx.server import answers
from tessera_onnx.server.encode import BYTES, FILE, decoded
from tessera_onnx.server.fields import BadRequest, Fields, check_number
from tessera_onnx.server.http import Answer, Call, Route
from tessera_onnx.server.operations import MODEL, OWN, described
from tessera_onnx.server.roles import reading
from tessera_onnx.server.schemas import (
    ARRAY,
    AT_LEAST_1,
    COMMON,
    READING,
    TEXT,
    WHOLE,
    Schema,
    body,
    many,
    one_of,
)
from tessera_onnx.server.served import Served
from tessera_onnx.text import heads, tokenizer
from tessera_onnx.text.base import TextModel
from tessera_onnx.text.reading import RoleName
from tessera_onnx.vectors import explain as explaining

NUM: Schema = {"type": "number"}
TOP = 10  # terms of a sparse vector that are told


async def describe(call: Call) -> Answer:
    """GET /v1/describe/{name}: every fact of model.toml, as the open graph has settled it."""
    served, _ = call.server.registry.find(call.path["name"])
    facts = _without_nulls(dataclasses.asdict(served.model.spec))
    return Answer.of({**described(served), "spec": facts})


def _without_nulls(value: Any) -> Any:
    """The value without the fields that are absent: TOML has no null, and its reader takes none."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, tuple | list):
        return [_without_nulls(each) for each in value]
    return value


def _reads_texts(served: Served) -> bool:
    return served.row.reads == "texts"


async def tokens(call: Call) -> Answer:
    """POST /v1/tokens: how many tokens texts have, and the names of vocabulary entries."""
    fields = await call.fields()
    served, role = call.server.registry.find(fields.text("model"), _reads_texts, "token counts")
    model = served.model
    if not isinstance(model, TextModel):
        raise ConfigError(f"model {served.name!r} has no tokenizer")
    if "ids" in fields:
        ids = fields.get("ids")
        if isinstance(ids, list):
            check_number(ids, "ids", call.server.limits.texts)
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < HASHED for i in ids):
            raise BadRequest(f"ids must be a list of numbers from 0 to {HASHED - 1}", field="ids")
        return Answer.of({"tokens": [model.token(i) for i in ids]})
    texts = fields.texts("texts", most=call.server.limits.texts)
    named = fields.word("role", get_args(RoleName), role or "plain")
    size = sum(map(len, texts))
    if fields.flag("rows", default=False):
        names = await call.server.read(size, row_tokens, model, texts, named)
        return Answer.of({"rows": names})
    counts = await call.server.read(size, model.token_count, texts, role=named)
    return Answer.of({"count": counts})


def row_tokens(model: TextModel, texts: list[str], role: RoleName) -> list[list[str]]:
    """The token of each row of each text's multi-vectors. Raises ConfigError without such."""
    recipe, facts = model.spec.multi_vector, model.spec.text
    prepared = model.prepare(texts, role=role, kinds=("multi-vector",))
    if recipe is None or facts is None:
        raise ConfigError(f"model {model.spec.id!r} has no vectors of tokens")
    found = []
    for text in prepared:
        role_of: Any = text.role
        batch = tokenizer.padded([text.content], facts)
        kept = heads.kept_tokens(batch, recipe, role_of)
        found.append([model.token(i) for i in batch.ids[0][kept[0]]])
    return found


async def explain(call: Call) -> Answer:
    """POST /v1/explain: matches of a query and a document, an image or the terms of a text."""
    fields = await call.fields()
    if "image" in fields:
        return await _locate(call, fields)
    several = "query" in fields or "document" in fields
    kind: Any = "multi-vector" if several else "sparse"
    given = [fields.require(name) for name in (("query", "document") if several else ("text",))]
    if not all(isinstance(text, str) for text in given):
        raise BadRequest("give query and document as texts, or one text")
    what = "explanations of " + ("a query and a document" if several else "one text")
    served, role = call.server.registry.find(
        fields.text("model"), lambda each: kind in each.kinds, what
    )
    how = reading(fields, served, fields.word("role", get_args(RoleName), role or "plain"))
    options: Any = {"kinds": (kind,), "truncate": how.truncate}
    size = sum(map(len, given))
    roles: list[RoleName] = ["query", "document"] if several else [how.role]
    jobs = [
        await call.server.read(size, served.texts, [text], role=each, **options)
        for text, each in zip(given, roles, strict=True)
    ]
    found = [(await call.server.run(job, call, query=True))[0] for job in jobs]
    model: Any = served.model
    if not several:
        top = fields.whole("top_k", TOP)
        terms = explaining.weights(found[0], model.token, top)
        return Answer.of(
            {"model": served.name, "terms": [{"token": t, "weight": w} for t, w in terms]}
        )
    names = [
        (await call.server.read(size, row_tokens, model, [text], each))[0]
        for text, each in zip(given, roles, strict=True)
    ]
    matches = explaining.matches(found[0], found[1], names[0], names[1])
    rows, _ = explaining.best_rows(found[0], found[1])
    shown = [
        {**match._asdict(), "document_row": int(row)}
        for match, row in zip(matches, rows, strict=True)
    ]
    return Answer.of({"model": served.name, "matches": shown})


async def _locate(call: Call, fields: Fields) -> Answer:
    """Where an image answers the tokens of a query: its similarity map and best regions."""
    query, image = fields.require("query"), fields.require("image")
    if not isinstance(query, str) or not isinstance(image, str):
        raise BadRequest("give query as a text and image as a file in base64")
    served, _ = call.server.registry.find(
        fields.text("model"), lambda each: each.row.reads == "images", "similarity maps"
    )
    (file,) = await call.server.beside(len(image) // BYTES, decoded, [image], "image")
    job = served.locate(query, file, fields.whole("page"))
    found: similarity_map.Answer = await call.server.run(job, call)
    width, height = found.image.size
    return Answer.of(
        {
            "model": served.name,
            "width": width,
            "height": height,
            "map": answers.shown_array(found.map, "json"),
            "box": found.box,
            "regions": [dataclasses.asdict(region) for region in found.regions],
            "warnings": job.told,
        }
    )


DESCRIBED: Schema = body({**MODEL, "spec": {"type": "object"}}, *MODEL, "spec")
ROUTES = (
    Route("/v1/describe/{name:path}", describe, OWN, "GET", summary="Every fact of a model",
          response=DESCRIBED),
    Route("/v1/tokens", tokens, OWN, summary="Numbers and names of tokens",
          request=body({"model": COMMON["model"], "texts": many(TEXT), "ids": many(WHOLE),
                        "role": one_of(*get_args(RoleName)), "rows": {"type": "boolean"}}),
          response=body({"count": many(WHOLE), "tokens": many(TEXT), "rows": many(many(TEXT))})),
    Route("/v1/explain", explain, OWN, summary="Why a score or a weight is high",
          request=body({"model": COMMON["model"], "query": TEXT, "document": TEXT, "text": TEXT,
                        "image": FILE, "page": AT_LEAST_1, "top_k": AT_LEAST_1, **READING}),
          response=body({"model": TEXT,
                         "matches": many(body({"query_token": TEXT, "document_token": TEXT,
                                               "score": NUM, "document_row": WHOLE})),
                         "width": WHOLE, "height": WHOLE, "map": ARRAY, "box": ARRAY,
                         "regions": many(body({"index": WHOLE, "token": TEXT, "score": NUM,
                                               "box": many(WHOLE), "words": many(TEXT),
                                               "row": WHOLE, "column": WHOLE})),
                         "warnings": many(TEXT),
                         "terms": many(body({"token": TEXT, "weight": NUM}))},
                        "model")),
)  # fmt: skip
