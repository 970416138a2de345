"""OpenAI's /v1/embeddings and /v1/models, with roles: what its SDKs and their like call.

Fields: openai-python 3.57 (resources/embeddings.py). Jina's `embedding_type` and texts in objects
are taken too. Beyond them, `input_type`, `task`, `prompt`,
`prompt_name`, `priority` and `truncate` are taken, which SDKs send with `extra_body`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tessera_onnx.server.failures import Failure
from tessera_onnx.server.fields import BadRequest, Fields, check_number, check_texts
from tessera_onnx.server.http import Answer, Call, Dialect, Route
from tessera_onnx.server.roles import Reading, reading
from tessera_onnx.server.schemas import AT_LEAST_1, TEXT, WHOLE, Schema, body, many, one_of
from tessera_onnx.server.served import Served
from tessera_onnx.server.vector_forms import FORMS, Form, convert, in_base64, one_each

CL100K = (
    "input holds token ids, of a tokenizer that this model does not have: send texts. In "
    "langchain-openai that is OpenAIEmbeddings(check_embedding_ctx_length=False)"
)


def _error(found: Failure) -> dict[str, Any]:
    sorts = {"invalid": "invalid_request_error", "unknown": "invalid_request_error"}
    code = "model_not_found" if found.sort == "unknown" else found.sort
    return {
        "error": {
            "message": found.message,
            "type": sorts.get(found.sort, found.sort),
            "param": found.param,
            "code": code,
        }
    }


OPENAI = Dialect("openai", _error)


def is_dense(served: Served) -> bool:
    """Whether the model gives one vector a text."""
    return "dense" in served.kinds or served.row.reads == "images"


async def embeddings(call: Call) -> Answer:
    """POST /v1/embeddings."""
    fields = await call.fields()
    check_jina(fields)
    texts = read_input(fields, "input", call.server.limits.texts)
    form: Form = fields.word("encoding_format", ("float", "base64"), "float")
    form = fields.word("embedding_type", FORMS, form)
    served, role = call.server.registry.find(fields.text("model"), is_dense, "dense vectors")
    how = reading(fields, served, role)
    job, vectors = await encode_dense(call, served, texts, how)
    return await call.server.beside(len(texts) * 400, _answer, served.name, vectors, sum(job), form)


async def encode_dense(
    call: Call, served: Served, texts: list[str], how: Reading
) -> tuple[list[int], list[Any]]:
    """The tokens read of each text, and its vector (dimension,) float32."""
    server = call.server
    kinds = ("dense",) if "dense" in served.kinds else ()
    job = await server.read(sum(map(len, texts)), served.texts, texts, kinds=kinds, **how.options())
    return job.tokens, one_each(await server.run(job, call, query=how.query))


def read_input(fields: Fields, name: str, most: int) -> list[str]:
    """The texts of a request: one, or a list of them. Raises BadRequest for token ids."""
    found = fields.require(name)
    if isinstance(found, str):
        return [found]
    if not isinstance(found, list):
        raise BadRequest(f"{name} must be a text or a list of texts", field=name)
    if found and _are_ids(found):
        raise BadRequest(CL100K, field=name)
    if not found:
        raise BadRequest(f"{name} is an empty list: send at least one text", field=name)
    check_number(found, name, most)
    plain = [item.get("text") if isinstance(item, dict) else item for item in found]
    return check_texts(plain, name, most)


def check_jina(fields: Fields) -> None:
    """Raises BadRequest for late chunking, which Jina's clients may ask for."""
    if fields.flag("late_chunking", default=False):
        raise BadRequest(
            "late_chunking is not supported: each text has a vector of its own; leave it out",
            field="late_chunking",
        )


def _are_ids(items: list[Any]) -> bool:
    first = items[0]
    return (isinstance(first, int) and not isinstance(first, bool)) or (
        isinstance(first, list) and all(isinstance(item, int) for item in first)
    )


def _answer(name: str, vectors: list[Any], tokens: int, form: Form) -> Answer:
    made: Any = vectors
    if form == "base64":
        made = [in_base64(vector) for vector in vectors]
    elif form != "float":
        made = convert(np.array(vectors, np.float32), form)
    data = [
        {"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(made)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Answer.of({"object": "list", "data": data, "model": name, "usage": usage})


async def models(call: Call) -> Answer:
    """GET /v1/models."""
    data = [_model(served) for served in call.server.registry.all()]
    return Answer.of({"object": "list", "data": data})


async def model(call: Call) -> Answer:
    """GET /v1/models/{name}."""
    served, _ = call.server.registry.find(call.path["name"])
    return Answer.of(_model(served))


def _model(served: Served) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": 0,
        "owned_by": "tessera-onnx",
        "kinds": served.kinds,
        "aliases": served.names[1:],
    }


EMBEDDINGS: Schema = body(
    {
        "input": {"oneOf": [TEXT, {**many(TEXT), "minItems": 1}]},
        "model": TEXT,
        "dimensions": AT_LEAST_1,
        "encoding_format": one_of("float", "base64"),
        "input_type": TEXT,
        "task": TEXT,
        "prompt": TEXT,
        "prompt_name": TEXT,
        "truncate": {"type": "boolean"},
    },
    "input",
)
USAGE: Schema = body({"prompt_tokens": WHOLE, "total_tokens": WHOLE}, "prompt_tokens")
EMBEDDED: Schema = body(
    {
        "object": TEXT,
        "model": TEXT,
        "data": many(
            body(
                {
                    "object": TEXT,
                    "index": WHOLE,
                    "embedding": {"oneOf": [TEXT, many({"type": "number"})]},
                },
                *("object", "index", "embedding"),
            )
        ),
        "usage": USAGE,
    },
    *("object", "model", "data", "usage"),
)
MODEL: Schema = body(
    {"id": TEXT, "object": TEXT, "created": WHOLE, "owned_by": TEXT, "kinds": many(TEXT)},
    *("id", "object", "created", "owned_by"),
)
LISTED: Schema = body({"object": TEXT, "data": many(MODEL)}, "object", "data")
ROUTES = (
    *(
        Route(path, embeddings, OPENAI, summary="Dense vectors of texts",
              request=EMBEDDINGS, response=EMBEDDED)
        for path in ("/v1/embeddings", "/embeddings")
    ),
    *(
        Route(f"{prefix}/models{tail}", handler, OPENAI, "GET", summary="The models",
              response=response)
        for prefix in ("/v1", "")
        for tail, handler, response in (("", models, LISTED), ("/{name:path}", model, MODEL))
    ),
)  # fmt: skip
