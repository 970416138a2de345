"""Cohere's /v2/embed and /v1/embed: vectors in several forms; its /rerank is in rerank.py.

Fields: cohere 7.3 (v2/client.py, types/embed_by_type_response.py) and docs.cohere.com/reference.
`embedding_types` are the forms of vector_forms.py, of what `output_dimension` leaves of a vector.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError
from tessera_onnx.server.failures import Failure
from tessera_onnx.server.fields import BadRequest, Fields
from tessera_onnx.server.http import Answer, Call, Dialect, Route
from tessera_onnx.server.openai import encode_dense, is_dense
from tessera_onnx.server.roles import reading
from tessera_onnx.server.schemas import AT_LEAST_1, TEXT, Schema, body, many, one_of
from tessera_onnx.server.served import Served
from tessera_onnx.server.vector_forms import FORMS, Form, convert, one_each


def _error(found: Failure) -> dict[str, Any]:
    return {"message": found.message}


COHERE = Dialect("cohere", _error)


async def embed(call: Call) -> Answer:
    """POST /v2/embed and /v1/embed: dense vectors of texts, or of images as data URIs."""
    fields = await call.fields()
    first = "/v1/" in call.scope["path"]
    forms = fields.words("embedding_types", FORMS, () if first else ("float",))
    if "inputs" in fields:
        raise BadRequest("inputs is not supported: send texts, or images", field="inputs")
    server = call.server
    if "images" in fields:
        texts: list[str] = []
        served, vectors = await _images(call, fields)
        units = {"images": len(vectors)}
    else:
        texts = fields.texts("texts", most=server.limits.texts)
        served, role = server.registry.find(fields.text("model"), is_dense, "dense vectors")
        how = reading(fields, served, role, dimension="output_dimension")
        tokens, found = await encode_dense(call, served, texts, how)
        vectors, units = np.array(found, np.float32), {"input_tokens": sum(tokens)}
    answer = {
        "id": secrets.token_hex(16),
        "response_type": "embeddings_by_type" if forms else "embeddings_floats",
        "texts": texts,
        "meta": {"api_version": {"version": "1" if first else "2"}, "billed_units": units},
    }
    return await server.beside(vectors.size, _answer, answer, vectors, forms)


def _answer(answer: dict[str, Any], vectors: NDArray[np.float32], forms: Sequence[Form]) -> Answer:
    made: Any = {form: convert(vectors, form) for form in forms}
    return Answer.of(answer | {"embeddings": made if forms else vectors})


async def _images(call: Call, fields: Fields) -> tuple[Served, NDArray[np.float32]]:
    server = call.server
    uris = fields.texts("images", most=server.limits.texts)
    served, _ = server.registry.find(
        fields.text("model"), lambda each: each.row.reads == "images", "vectors of images"
    )
    if "output_dimension" in fields:
        raise ConfigError(f"model {served.name!r} has one dimension: leave output_dimension out")
    files = [await server.beside(len(uri), image_bytes, uri, i) for i, uri in enumerate(uris)]
    found = await server.run(served.images(files), call)
    return served, np.array(one_each(found), np.float32)


def image_bytes(uri: str, index: int) -> bytes:
    """The file in a data URI. Raises BadRequest for anything else; nothing is fetched."""
    head, comma, content = uri.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise BadRequest(
            f"images[{index}] must be a data URI, data:image/png;base64,...: no address is fetched",
            field="images",
            index=index,
        )
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"images[{index}] is no base64", field="images", index=index) from None


EMBED: Schema = body(
    {
        "model": TEXT,
        "texts": many(TEXT),
        "images": many({"type": "string", "description": "Data URIs."}),
        "input_type": TEXT,
        "embedding_types": many(one_of(*FORMS)),
        "output_dimension": AT_LEAST_1,
        "truncate": one_of("NONE", "START", "END"),
    }
)
EMBEDDED: Schema = body(
    {
        "id": TEXT,
        "response_type": one_of("embeddings_by_type", "embeddings_floats"),
        "embeddings": {"type": ["object", "array"]},
        "texts": many(TEXT),
        "meta": {"type": "object"},
    },
    *("id", "response_type", "embeddings", "texts", "meta"),
)
ROUTES = tuple(
    Route(path, embed, COHERE, summary="Dense vectors in several forms",
          request=EMBED, response=EMBEDDED)
    for path in ("/v2/embed", "/v1/embed")
)  # fmt: skip
