"""Jina's /v1/multi-vector; its /v1/embeddings is OpenAI's, and its /v1/rerank is in rerank.py.

Fields: api.jina.ai/openapi.json.
"""

from __future__ import annotations

from typing import Any

from tessera_onnx.server.failures import Failure
from tessera_onnx.server.http import Answer, Call, Dialect, Route
from tessera_onnx.server.openai import EMBEDDINGS, USAGE, check_jina, read_input
from tessera_onnx.server.roles import reading
from tessera_onnx.server.schemas import NUMBER, TEXT, WHOLE, Schema, body, many
from tessera_onnx.server.vector_forms import in_base64


def _error(found: Failure) -> dict[str, Any]:
    return {"detail": found.message}


JINA = Dialect("jina", _error)


async def multi_vector(call: Call) -> Answer:
    """POST /v1/multi-vector: the vectors of the tokens of each text.

    In base64, each token's vector is a text of its own.
    """
    fields = await call.fields()
    check_jina(fields)
    texts = read_input(fields, "input", call.server.limits.texts)
    name = "embedding_type" if "embedding_type" in fields else "encoding_format"
    form = fields.word(name, ("float", "base64"), "float")
    server = call.server
    served, role = server.registry.find(
        fields.text("model"), lambda each: "multi-vector" in each.kinds, "vectors of tokens"
    )
    how = reading(fields, served, role)
    job = await server.read(
        sum(map(len, texts)), served.texts, texts, kinds=("multi-vector",), **how.options()
    )
    found = await server.run(job, call, query=how.query)
    return await server.beside(
        sum(each.size for each in found), _answer, served.name, found, sum(job.tokens), form
    )


def _answer(name: str, found: list[Any], tokens: int, form: str) -> Answer:
    data = [
        {
            "object": "embeddings",
            "index": i,
            "embeddings": [in_base64(row) for row in rows] if form == "base64" else rows,
        }
        for i, rows in enumerate(found)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Answer.of({"object": "list", "model": name, "data": data, "usage": usage})


ROWS: Schema = body(
    {"object": TEXT, "index": WHOLE, "embeddings": {"oneOf": [many(TEXT), many(many(NUMBER))]}},
    *("object", "index", "embeddings"),
)
ROUTES = (
    Route("/v1/multi-vector", multi_vector, JINA, summary="Vectors of tokens",
          request=EMBEDDINGS,
          response=body({"object": TEXT, "model": TEXT, "data": many(ROWS), "usage": USAGE},
                        *("object", "model", "data", "usage"))),
)  # fmt: skip
