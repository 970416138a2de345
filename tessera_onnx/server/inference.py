"""The Open Inference Protocol v2 of KServe and Triton, with its binary extension (tensors.py).

The metadata of a model name its tensors:

    a model of texts   text BYTES [n] in; out, by kind:
      dense            embeddings FP32 [n, dim]
      multi-vector     token_embeddings FP32 [all tokens, dim], token_lengths INT32 [n]
      sparse           sparse_indices INT32 and sparse_values FP32 [all entries],
                       sparse_lengths INT32 [n]
      each             token_count INT32 [n], of what was read
    a reranker         query BYTES [1], documents BYTES [n] in; scores FP32 [n] out

Without `outputs` a request gets those of the model's first kind. `parameters` may hold
`input_type`, `task`, `prompt`, `dimensions` and `truncate`, and `raw_scores` for a reranker.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tessera_onnx import __version__
from tessera_onnx.errors import ConfigError
from tessera_onnx.models.spec import Kind
from tessera_onnx.server import tensors
from tessera_onnx.server.failures import Failure
from tessera_onnx.server.fields import BadRequest, check_number
from tessera_onnx.server.http import Answer, Call, Dialect, Route
from tessera_onnx.server.rerank import is_reranker
from tessera_onnx.server.roles import reading, truncation
from tessera_onnx.server.schemas import TEXT, Schema, body, many
from tessera_onnx.server.served import Served
from tessera_onnx.text.base import TextModel
from tessera_onnx.text.reading import RoleName

Tensors = dict[str, tuple[str, Any]]  # the datatype and the array of each
# The outputs of each kind: names, datatypes and shapes; -1 = any number.
OUTPUTS: dict[str, dict[str, tuple[str, list[int]]]] = {
    "dense": {"embeddings": ("FP32", [-1, -1])},
    "multi-vector": {"token_embeddings": ("FP32", [-1, -1]), "token_lengths": ("INT32", [-1])},
    "sparse": {
        "sparse_indices": ("INT32", [-1]),
        "sparse_values": ("FP32", [-1]),
        "sparse_lengths": ("INT32", [-1]),
    },
    "reranker": {"scores": ("FP32", [-1])},
}
COUNT = "token_count"


def _error(found: Failure) -> dict[str, Any]:
    return {"error": found.message}


INFERENCE = Dialect("inference", _error)


def _named(call: Call) -> tuple[Served, RoleName | None]:
    found = call.server.registry.find(call.path["name"])
    model = found[0].model
    if not isinstance(model, TextModel) and not is_reranker(found[0]):
        raise ConfigError(f"model {found[0].name!r} has no tensors in this protocol: /v1/encode")
    return found


async def server(_: Call) -> Answer:
    """GET /v2: the server."""
    extensions = ["binary_tensor_data"]
    return Answer.of({"name": "tessera-onnx", "version": __version__, "extensions": extensions})


async def ready(call: Call) -> Answer:
    """GET /v2/models/{name}/ready: 200 where the model is open."""
    served, _ = call.server.registry.find(call.path["name"])
    return Answer.of({"name": served.name, "ready": True})


async def metadata(call: Call) -> Answer:
    """GET /v2/models/{name}: the tensors of a model."""
    served, _ = _named(call)
    names = ("query", "documents") if is_reranker(served) else ("text",)
    outputs = [
        {"name": name, "datatype": datatype, "shape": shape}
        for name, (datatype, shape) in _outputs(served).items()
    ]
    return Answer.of(
        {
            "name": served.name,
            "versions": ["1"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in names],
            "outputs": outputs,
        }
    )


def _outputs(served: Served) -> dict[str, tuple[str, list[int]]]:
    found = {name: what for kind in served.kinds for name, what in OUTPUTS[kind].items()}
    width = served.model.spec.dense.dimension if served.model.spec.dense else 0
    if "embeddings" in found and width:
        found["embeddings"] = ("FP32", [-1, width])
    return found if is_reranker(served) else {**found, COUNT: ("INT32", [-1])}


async def infer(call: Call) -> Answer:
    """POST /v2/models/{name}/infer."""
    served, role = _named(call)
    request = await call.server.beside(
        len(call.body), tensors.parse, call.body, call.headers.get(tensors.HEADER)
    )
    known = _outputs(served)
    wrong = next((i for i, name in enumerate(request.outputs) if name not in known), None)
    if wrong is not None:
        raise BadRequest(
            f"outputs[{wrong}] is none of {', '.join(known)}", field="outputs", index=wrong
        )
    if is_reranker(served):
        found = await _scores(call, served, request)
    else:
        found = await _vectors(call, served, role, request)
    if request.outputs:
        found = {name: found[name] for name in request.outputs}
    size = sum(each.size for _, each in found.values())
    return await call.server.beside(size, tensors.answer, served.name, request, found)


def _texts(call: Call, request: tensors.Request, name: str) -> list[str]:
    if name not in request.inputs:
        raise BadRequest(f"the input {name} is missing", field=name)
    texts = []
    check_number(request.inputs[name], name, call.server.limits.texts)
    for i, content in enumerate(request.inputs[name]):
        try:
            texts.append(content.decode())
        except UnicodeDecodeError:
            raise BadRequest(f"{name}[{i}] is not UTF-8", field=name, index=i) from None
    return texts


async def _scores(call: Call, served: Served, request: tensors.Request) -> Tensors:
    query = _texts(call, request, "query")
    if len(query) != 1:
        raise BadRequest("query must have one element", field="query")
    documents = _texts(call, request, "documents")
    more = request.fields.object("parameters")
    truncate, keep_end = truncation(more)
    if keep_end:
        raise BadRequest("documents are cut at their ends", field="truncate")
    raw = more.flag("raw_scores", default=False)
    job = await call.server.read(
        len(query[0]) + sum(map(len, documents)),
        served.scores,
        [(query[0], document) for document in documents],
        activation="raw" if raw else "sigmoid",
        truncate=truncate,
    )
    return {"scores": ("FP32", await call.server.run(job, call))}


async def _vectors(
    call: Call, served: Served, role: RoleName | None, request: tensors.Request
) -> Tensors:
    texts = _texts(call, request, "text")
    wanted = {name for name in request.outputs if name != COUNT}
    kinds: tuple[Kind, ...] = tuple(kind for kind in served.kinds if wanted & set(OUTPUTS[kind]))
    kinds = kinds or served.kinds[:1]
    how = reading(request.fields.object("parameters"), served, role)
    job = await call.server.read(
        sum(map(len, texts)), served.texts, texts, kinds=kinds, **how.options()
    )
    results = await call.server.run(job, call, query=how.query)
    found: Tensors = {}
    for i, kind in enumerate(kinds):
        rows = [row[i] for row in results] if len(kinds) > 1 else results
        found |= _tensors(kind, rows)
    return {**found, COUNT: ("INT32", np.array(job.tokens, np.int32))}


def _tensors(kind: Kind, rows: list[Any]) -> Tensors:
    if kind == "dense":
        return {"embeddings": ("FP32", _joined(rows, np.stack, axes=2))}
    if kind == "multi-vector":
        return {
            "token_embeddings": ("FP32", _joined(rows, np.concatenate, axes=2)),
            "token_lengths": ("INT32", tensors.ragged(rows)),
        }
    indices = [row.indices for row in rows]
    return {
        "sparse_indices": ("INT32", _joined(indices, np.concatenate)),
        "sparse_values": ("FP32", _joined([row.values for row in rows], np.concatenate)),
        "sparse_lengths": ("INT32", tensors.ragged(indices)),
    }


def _joined(rows: list[Any], join: Any, axes: int = 1) -> Any:
    return join(rows) if rows else np.empty((0,) * axes, np.float32)


_SHAPED: dict[str, Schema] = {
    "name": TEXT,
    "datatype": TEXT,
    "shape": many({"type": "integer"}),
}
_TENSOR: Schema = body({**_SHAPED, "data": {"type": "array"}}, *_SHAPED)
ROUTES = (
    Route("/v2", server, INFERENCE, "GET", "none", "The server",
          response=body({"name": TEXT, "version": TEXT, "extensions": many(TEXT)}, "name")),
    Route("/v2/models/{name:path}/ready", ready, INFERENCE, "GET", "none", "A model is open",
          response=body({"name": TEXT, "ready": {"type": "boolean"}}, "name", "ready")),
    Route("/v2/models/{name:path}/infer", infer, INFERENCE, summary="Run a model on tensors",
          request=body({"id": TEXT, "inputs": many(_TENSOR), "parameters": {"type": "object"},
                        "outputs": many(body({"name": TEXT}, "name"))}, "inputs"),
          response=body({"model_name": TEXT, "outputs": many(_TENSOR)}, "model_name", "outputs")),
    Route("/v2/models/{name:path}", metadata, INFERENCE, "GET", summary="The tensors of a model",
          response=body({"name": TEXT, "inputs": many(body(_SHAPED)),
                         "outputs": many(body(_SHAPED))}, "name", "inputs", "outputs")),
)  # fmt: skip
