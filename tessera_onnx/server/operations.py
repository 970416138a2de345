"""Health, metrics and limits of a server, and models that come and go while it runs."""

from __future__ import annotations

import asyncio
from time import monotonic, sleep
from typing import Any

from tessera_onnx import __version__
from tessera_onnx.errors import LoadError, ModelNotFound, TesseraError
from tessera_onnx.runtime import cpu, devices
from tessera_onnx.server.failures import Failure
from tessera_onnx.server.fields import BadRequest
from tessera_onnx.server.http import Answer, Call, Dialect, Route
from tessera_onnx.server.schemas import TEXT, WHOLE, Schema, body, many
from tessera_onnx.server.served import Served


def _error(found: Failure) -> dict[str, Any]:
    return {
        "error": found.message,
        "error_type": found.sort,
        "class": found.name,
        "index": found.index,
        "field": found.param,
    }


OWN = Dialect("tessera", _error)
POLL = 0.02  # seconds
DTYPES = {"fp32": "float32", "fp16": "float16"}  # TEI's names of precisions


async def livez(_: Call) -> Answer:
    """GET /livez: the process answers."""
    return Answer(b"ok", media_type="text/plain")


async def readyz(call: Call) -> Answer:
    """GET /readyz: 200 when all models have run and requests are taken, else 503 and the reason.

    A model that failed on an input is asked to run a tiny one.
    """
    server = call.server
    ready, why = server.state()
    for served in server.registry.all():
        if ready and served.is_suspect:
            try:
                await server.run(served.probe(), call, query=True)
            except TesseraError as error:
                ready, why = False, f"model {served.name!r} fails: {error}"
            else:
                served.is_suspect = False
    return Answer(why.encode(), 200 if ready else 503, "text/plain")


async def metrics(call: Call) -> Answer:
    """GET /metrics, in the text format of Prometheus."""
    return Answer(call.server.metrics.text().encode(), media_type="text/plain; version=0.0.4")


async def info(call: Call) -> Answer:
    """GET /info: models and limits, with the names that TEI gives them too."""
    server = call.server
    served = server.registry.all()
    limits = server.limits
    first = described(served[0]) if served else {}
    return Answer.of(
        {
            "model_id": first.get("id"),
            "model_sha": None,
            "model_dtype": DTYPES.get(str(first.get("precision")), first.get("precision")),
            "model_type": _type(served[0]) if served else None,
            "served_model_name": first.get("id"),
            "max_concurrent_requests": limits.queue_tokens,
            "max_input_length": first.get("max_input_length"),
            "max_batch_tokens": limits.in_request,
            "max_batch_requests": None,
            "max_client_batch_size": limits.texts,
            "auto_truncate": True,
            "tokenization_workers": server.threads,
            "version": __version__,
            "sha": None,
            "docker_label": None,
            "max_body": limits.body,
            "max_characters": limits.characters,
            "max_queue_tokens": limits.queue_tokens,
            "timeout_seconds": limits.timeout,
            "threads": server.threads,
            "processor": cpu.physical_summary(),
            "onnxruntime": devices.version(),
            "models": [described(each) for each in served],
            "closed": [
                {"id": each.id, "kinds": each.kinds, "licence": each.licence}
                for each in server.registry.closed()
            ],
        }
    )


def _type(served: Served) -> dict[str, Any]:
    """What TEI calls the type of a model: how it pools, or the label of its score."""
    if served.row.reads == "pairs":
        return {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
    pooling = getattr(served.model.spec.dense, "pooling", None)
    if pooling is None and "sparse" in served.kinds:
        pooling = "splade"
    return {"embedding": {"pooling": {"last": "last_token"}.get(pooling or "", pooling)}}


def described(served: Served) -> dict[str, Any]:
    """What /info tells of a model."""
    model = served.model
    return {
        "id": served.name,
        "aliases": served.names[1:],
        "kinds": served.kinds,
        "precision": model.precision,
        "device": model.device,
        "max_input_length": served.max_length(),
        "licence": model.spec.licence,
    }


async def add_model(call: Call) -> Answer:
    """POST /admin/models: open and serve a further model."""
    fields = await call.fields()
    name = fields.text("model")
    if not name:
        raise BadRequest("model is missing", field="model")
    try:  # not beside requests: a download takes minutes
        served = await asyncio.to_thread(call.server.registry.add, name)
    except ModelNotFound:
        raise
    except LoadError as error:  # of a folder that is no model: no fault of this server
        raise BadRequest(str(error), field="model") from None
    return Answer.of(described(served), 201)


async def drop_model(call: Call) -> Answer:
    """DELETE /admin/models/{name}: serve a model no longer."""
    served = call.server.registry.drop(call.path["name"])
    await asyncio.to_thread(_close, served, call.server.limits.timeout)
    return Answer.of({})


def _close(served: Served, seconds: float) -> None:
    """Close a model when the requests that it has taken are answered, or after some seconds."""
    end = monotonic() + seconds
    while served.requests and monotonic() < end:
        sleep(POLL)
    served.model.close()


MODEL: dict[str, Schema] = {
    "id": TEXT,
    "aliases": many(TEXT),
    "kinds": many(TEXT),
    "precision": {"type": ["string", "null"]},
    "device": TEXT,
    "max_input_length": WHOLE,
    "licence": TEXT,
}
INFO: Schema = body(
    {
        "model_id": {"type": ["string", "null"]},
        "max_batch_tokens": WHOLE,
        "max_client_batch_size": WHOLE,
        "max_body": WHOLE,
        "max_queue_tokens": WHOLE,
        "timeout_seconds": {"type": "number"},
        "version": TEXT,
        "processor": TEXT,
        "onnxruntime": {"type": ["string", "null"]},
        "models": many(body(MODEL, *MODEL)),
        "closed": many(body({name: MODEL[name] for name in ("id", "kinds", "licence")})),
    },
    *("max_batch_tokens", "max_client_batch_size", "max_body", "timeout_seconds", "models"),
)
ROUTES = (
    *(
        Route(path, livez, OWN, "GET", "none", "The process answers")
        for path in ("/livez", "/ping")
    ),
    *(
        Route(path, readyz, OWN, "GET", "none", "Requests are answered")
        for path in ("/readyz", "/health", "/v2/health/ready")
    ),
    Route("/v2/health/live", livez, OWN, "GET", "none", "The process answers"),
    Route("/", livez, OWN, "GET", "none", "The process answers"),
    Route("/metrics", metrics, OWN, "GET", "none", "Metrics for Prometheus"),
    Route("/info", info, OWN, "GET", summary="Models and limits", response=INFO),
    Route("/admin/models", add_model, OWN, "POST", "admin", "Serve a further model",
          body({"model": TEXT}, "model"), body(MODEL, *MODEL), 201),
    Route("/admin/models/{name:path}", drop_model, OWN, "DELETE", "admin", "Drop a model",
          response={"type": "object"}),
)  # fmt: skip
