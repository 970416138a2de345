"""Ollama's /api/embed, /api/embeddings, /api/tags, /api/show and /api/version.

Fields: ollama/ollama (api/types.go, server/routes.go). Vectors of /api/embed have unit length,
whatever the model's own have. `options` and `keep_alive` say nothing to this server.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import Any

import numpy as np

from tessera_onnx import __version__
from tessera_onnx.server.failures import Failure
from tessera_onnx.server.fields import Fields
from tessera_onnx.server.http import Answer, Call, Dialect, Route
from tessera_onnx.server.openai import encode_dense, is_dense, read_input
from tessera_onnx.server.roles import reading
from tessera_onnx.server.schemas import AT_LEAST_1, NUMBER, TEXT, WHOLE, Schema, body, many
from tessera_onnx.server.served import Served
from tessera_onnx.text.reading import RoleName
from tessera_onnx.vectors import pooling

TAG = ":latest"  # Ollama's clients add it to a name without a tag
UNIT = 1e-4  # a vector whose length differs less from 1 is left as the model gives it


def _error(found: Failure) -> dict[str, Any]:
    return {"error": found.message}


OLLAMA = Dialect("ollama", _error, {"overloaded": 503})


def _find(call: Call, fields: Fields, *, dense: bool = True) -> tuple[Served, RoleName | None]:
    name = fields.text("model") or fields.text("name")
    find = call.server.registry.find
    name = (name or "").removesuffix(TAG) or None
    return find(name, is_dense, "dense vectors") if dense else find(name)


async def embed(call: Call) -> Answer:
    """POST /api/embed: dense vectors of unit length."""
    start = monotonic_ns()
    fields = await call.fields()
    served, role = _find(call, fields)
    given = fields.get("input")
    none = given is None or given == []
    texts = [] if none else read_input(fields, "input", call.server.limits.texts)
    how = reading(fields, served, role)
    tokens, vectors = await encode_dense(call, served, texts, how)
    answer = {
        "model": fields.get("model") or served.name,
        "embeddings": [_unit(vector) for vector in vectors],
        "total_duration": monotonic_ns() - start,
        "load_duration": 0,
        "prompt_eval_count": sum(tokens),
    }
    return await call.server.beside(len(texts) * 400, Answer.of, answer)


def _unit(vector: Any) -> Any:
    if abs(float(np.linalg.norm(vector)) - 1) <= UNIT:
        return vector
    return pooling.l2_normalize(vector)


async def embeddings(call: Call) -> Answer:
    """POST /api/embeddings, the old form: the model's own vector of one text, as it is."""
    fields = await call.fields()
    served, role = _find(call, fields)
    prompt = fields.text("prompt")
    if not prompt:
        return Answer.of({"embedding": []})
    how = reading(Fields({}), served, role)
    _, vectors = await encode_dense(call, served, [prompt], how)
    return Answer.of({"embedding": vectors[0]})


async def tags(call: Call) -> Answer:
    """GET /api/tags: the models."""
    return Answer.of({"models": [_model(served) for served in call.server.registry.all()]})


def _model(served: Served) -> dict[str, Any]:
    name = served.name if ":" in served.name else served.name + TAG
    return {"name": name, "model": name, "size": 0, "digest": "", "details": _details(served)}


def _details(served: Served) -> dict[str, Any]:
    family = served.row.kind
    return {
        "format": "onnx",
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": served.model.precision or "",
    }


async def show(call: Call) -> Answer:
    """POST /api/show: what is known of a model."""
    fields = await call.fields()
    served, _ = _find(call, fields, dense=False)
    row = served.row
    known = {
        "general.architecture": "onnx",
        "onnx.context_length": served.max_length(),
        "onnx.embedding_length": row.width(served.model),
    }
    return Answer.of(
        {
            "license": served.model.spec.licence,
            "details": _details(served),
            "model_info": known,
            "capabilities": ["embedding"] if is_dense(served) else [],
        }
    )


async def version(_: Call) -> Answer:
    """GET /api/version."""
    return Answer.of({"version": __version__})


_NAMED: dict[str, Schema] = {"model": TEXT}
_MODEL: Schema = body({"name": TEXT, "model": TEXT, "details": {"type": "object"}}, "name", "model")
ROUTES = (
    Route("/api/embed", embed, OLLAMA, summary="Dense vectors of unit length",
          request=body({**_NAMED, "input": {"oneOf": [TEXT, many(TEXT)]}, "dimensions": AT_LEAST_1,
                        "truncate": {"type": "boolean"}}),
          response=body({"model": TEXT, "embeddings": many(many(NUMBER)),
                         "prompt_eval_count": WHOLE}, "model", "embeddings")),
    Route("/api/embeddings", embeddings, OLLAMA, summary="The dense vector of a text",
          request=body({**_NAMED, "prompt": TEXT}),
          response=body({"embedding": many(NUMBER)}, "embedding")),
    Route("/api/tags", tags, OLLAMA, "GET", summary="The models",
          response=body({"models": many(_MODEL)}, "models")),
    Route("/api/show", show, OLLAMA, summary="What is known of a model",
          request=body(_NAMED), response=body({"details": {"type": "object"}}, "details")),
    Route("/api/version", version, OLLAMA, "GET", "none", "The version",
          response=body({"version": TEXT}, "version")),
)  # fmt: skip
