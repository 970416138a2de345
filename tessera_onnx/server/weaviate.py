"""The routes of Weaviate's inference containers, for its text2vec-transformers module.

Fields: weaviate/t2v-transformers-models (app.py). Its reranker's /rerank is in rerank.py.
"""

from __future__ import annotations

from typing import Any

from tessera_onnx.server.failures import Failure
from tessera_onnx.server.fields import Fields
from tessera_onnx.server.http import Answer, Call, Dialect, Route
from tessera_onnx.server.openai import encode_dense, is_dense
from tessera_onnx.server.operations import MODEL, described
from tessera_onnx.server.roles import reading
from tessera_onnx.server.schemas import AT_LEAST_1, NUMBER, TEXT, WHOLE, body, many


def _error(found: Failure) -> dict[str, Any]:
    return {"error": found.message}


WEAVIATE = Dialect("weaviate", _error)


async def vectors(call: Call) -> Answer:
    """POST /vectors: the dense vector of one text; `task_type` is its role.

    `pooling_strategy` is the model's own, whatever the request says.
    """
    fields = await call.fields()
    text = fields.text("text", "") or ""
    config = fields.object("config")
    served, role = call.server.registry.find(fields.text("model"), is_dense, "dense vectors")
    given = {"input_type": config.text("task_type") or None, "dimensions": config.get("dimensions")}
    how = reading(Fields(given, "config."), served, role)
    _, found = await encode_dense(call, served, [text], how)
    return Answer.of({"text": text, "vector": found[0], "dim": len(found[0])})


async def meta(call: Call) -> Answer:
    """GET /meta: the models."""
    return Answer.of({"models": [described(each) for each in call.server.registry.all()]})


async def live(_: Call) -> Answer:
    """GET /.well-known/live: 204."""
    return Answer(b"", 204, "text/plain")


async def ready(call: Call) -> Answer:
    """GET /.well-known/ready: 204 when requests are answered, else 503."""
    return Answer(b"", 204 if call.server.state()[0] else 503, "text/plain")


ROUTES = (
    Route("/vectors", vectors, WEAVIATE, summary="The dense vector of a text",
          request=body({"text": TEXT, "model": TEXT,
                        "config": body({"task_type": TEXT, "dimensions": AT_LEAST_1})}),
          response=body({"text": TEXT, "vector": many(NUMBER), "dim": WHOLE}, "vector", "dim")),
    Route("/meta", meta, WEAVIATE, "GET", summary="The models",
          response=body({"models": many(body(MODEL, *MODEL))}, "models")),
    Route("/.well-known/live", live, WEAVIATE, "GET", "none", "The process answers", success=204),
    Route("/.well-known/ready", ready, WEAVIATE, "GET", "none", "Requests are answered",
          success=204),
)  # fmt: skip
