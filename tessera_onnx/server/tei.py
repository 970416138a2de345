"""The routes of text-embeddings-inference (TEI): texts or token ids in, bare lists out.

Fields: huggingface/text-embeddings-inference (router/src/http/types.rs, server.rs). Its /rerank is
in rerank.py. A text is read as `encode` reads it, unless `prompt_name` says more; token ids are
whole inputs, to which no special tokens are added.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tessera_onnx.errors import ConfigError
from tessera_onnx.server import rerank
from tessera_onnx.server.failures import Failure, Sort
from tessera_onnx.server.fields import BadRequest, Fields, check_number, check_texts
from tessera_onnx.server.http import Answer, Call, Dialect, Route
from tessera_onnx.server.openai import is_dense
from tessera_onnx.server.roles import Reading, reading
from tessera_onnx.server.schemas import AT_LEAST_1, NUMBER, TEXT, WHOLE, Schema, body, many, one_of
from tessera_onnx.server.served import Served
from tessera_onnx.server.vector_forms import one_each
from tessera_onnx.text.base import TextModel
from tessera_onnx.text.tokenizer import Tokenizer
from tessera_onnx.vectors import scoring

TYPES: dict[Sort, str] = {
    "invalid": "Validation",
    "fault": "Backend",
    "overloaded": "Overloaded",
    "loading": "Unhealthy",
}


def _error(found: Failure) -> dict[str, Any]:
    return {"error": found.message, "error_type": TYPES.get(found.sort, found.sort)}


TEI = Dialect("tei", _error, {"invalid": 422, "fault": 424})


SHOWN = 8  # a token that is shown costs as much as so many that are read


class Inputs(NamedTuple):
    """What the field `inputs` holds: texts, or lists of token ids."""

    items: list[Any]
    are_ids: bool

    @property
    def size(self) -> int:
        """Characters or tokens of all items."""
        return sum(map(len, self.items))


def read_inputs(fields: Fields, most: int, name: str = "inputs") -> Inputs:
    """One text or several, one list of token ids or several. Raises BadRequest."""
    found = fields.require(name)
    if isinstance(found, str):
        return Inputs([found], are_ids=False)
    if not isinstance(found, list):
        raise BadRequest(f"{name} must be a text, or a list of texts or token ids", field=name)
    if not found or isinstance(found[0], str):
        return Inputs(check_texts(found, name, most), are_ids=False)
    several = found if isinstance(found[0], list) else [found]
    check_number(several, name, most)
    for i, ids in enumerate(several):
        if not isinstance(ids, list) or not all(map(_is_id, ids)):
            raise BadRequest(f"{name}[{i}] must be a list of token ids", field=name, index=i)
    return Inputs(several, are_ids=True)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32


EMPTY = Answer.of({"error": "inputs is an empty list", "error_type": "Empty"}, 400)


async def embed(call: Call) -> Answer:
    """POST /embed: a dense vector for each input."""
    fields = await call.fields()
    inputs = await call.server.beside(len(call.body), read_inputs, fields, call.server.limits.texts)
    if not inputs.items:
        return EMPTY
    served, role = call.server.registry.find(fields.text("model"), is_dense, "dense vectors")
    how = reading(fields, served, role)
    kinds = ("dense",) if "dense" in served.kinds else ()
    normalize = fields.flag("normalize", default=True)
    more = {} if normalize else {"normalize": False}
    found = await _encode(call, served, inputs, how, kinds=kinds, **more)
    return await call.server.beside(len(found) * 400, Answer.of, found)


async def embed_sparse(call: Call) -> Answer:
    """POST /embed_sparse: the entries of a sparse vector for each input."""
    fields = await call.fields()
    inputs = await call.server.beside(len(call.body), read_inputs, fields, call.server.limits.texts)
    if not inputs.items:
        return EMPTY
    served, role = call.server.registry.find(
        fields.text("model"), lambda each: "sparse" in each.kinds, "sparse vectors"
    )
    how = reading(fields, served, role)
    found = await _encode(call, served, inputs, how, kinds=("sparse",))
    return await call.server.beside(len(found) * 400, _entries, found)


def _entries(vectors: list[Any]) -> Answer:
    return Answer.of(
        [
            [
                {"index": index, "value": value}
                for index, value in zip(vector.indices.tolist(), vector.values, strict=True)
            ]
            for vector in vectors
        ]
    )


def gives_tokens(served: Served) -> bool:
    """Whether the model has something for each token of a text."""
    return "multi-vector" in served.kinds or "dense" in served.kinds


async def embed_all(call: Call) -> Answer:
    """POST /embed_all: a vector for each token of each input.

    A dense model gives the states that it pools, any other its multi-vector.
    """
    fields = await call.fields()
    inputs = await call.server.beside(len(call.body), read_inputs, fields, call.server.limits.texts)
    if not inputs.items:
        return EMPTY
    served, role = call.server.registry.find(
        fields.text("model"), gives_tokens, "vectors of tokens"
    )
    how = reading(fields, served, role)
    options: dict[str, Any] = {"kinds": ("multi-vector",)}
    dense = served.model.spec.dense
    pools = served.row.kind == "dense" and dense is not None and dense.pooling != "graph"
    if pools or "multi-vector" not in served.kinds:
        options = {"states": True}
    found = await _encode(call, served, inputs, how, **options)
    return await call.server.beside(sum(each.size for each in found), Answer.of, found)


async def _encode(
    call: Call, served: Served, inputs: Inputs, how: Reading, **options: Any
) -> list[Any]:
    server = call.server
    if inputs.are_ids:
        options["are_ids"] = True
    job = await server.read(inputs.size, served.texts, inputs.items, **how.options(), **options)
    found: list[Any] = await server.run(job, call, query=how.query)
    return one_each(found) if served.row.reads == "images" else found


async def similarity(call: Call) -> Answer:
    """POST /similarity: the cosine of a sentence with each of several."""
    fields = await call.fields()
    pair = fields.object("inputs")
    source = pair.require("source_sentence")
    if not isinstance(source, str):
        raise BadRequest("inputs.source_sentence must be a text", field="source_sentence")
    sentences = pair.texts("sentences", most=call.server.limits.texts)
    if not sentences:
        return EMPTY
    served, role = call.server.registry.find(fields.text("model"), is_dense, "dense vectors")
    how = reading(fields.object("parameters"), served, role)
    kinds = ("dense",) if "dense" in served.kinds else ()
    inputs = Inputs([source, *sentences], are_ids=False)
    found = await _encode(call, served, inputs, how, kinds=kinds)
    return Answer.of(scoring.dense_scores(found[0], found[1:], "cosine"))


async def tokenize(call: Call) -> Answer:
    """POST /tokenize: the tokens of each text, not cut."""
    fields = await call.fields()
    inputs = await call.server.beside(len(call.body), read_inputs, fields, call.server.limits.texts)
    if inputs.are_ids:
        raise BadRequest("inputs must be a text or a list of texts", field="inputs")
    served, model = _text_model(call, fields)
    how = reading(fields, served)
    prompt = model.prompt(how.role, how.task) if how.prompt is None else how.prompt
    special = fields.flag("add_special_tokens", default=True)
    _check_size(call, inputs, "inputs")
    return await call.server.read(
        inputs.size, _tokens, model.tokenizer, [prompt + text for text in inputs.items], special
    )


def _check_size(call: Call, inputs: Inputs, name: str) -> None:
    """Raises BadRequest for more than can be shown token by token, which takes kilobytes each."""
    most = call.server.limits.tokens // SHOWN
    if inputs.size > most:
        raise BadRequest(
            f"{name} has {inputs.size} characters or token ids, this route takes {most}: send "
            "several requests",
            field=name,
        )


def _text_model(call: Call, fields: Fields) -> tuple[Served, TextModel]:
    served, _ = call.server.registry.find(
        fields.text("model"), lambda each: isinstance(each.model, TextModel), "tokens of texts"
    )
    if not isinstance(served.model, TextModel):
        raise ConfigError(f"model {served.name!r} tokenizes no texts")
    return served, served.model


def _tokens(tokenizer: Tokenizer, texts: list[str], special: bool) -> Answer:  # noqa: FBT001
    def around(ids: tuple[int, ...]) -> list[dict[str, Any]]:
        return [
            {"id": i, "text": tokenizer.token(i), "special": True, "start": None, "stop": None}
            for i in (ids if special else ())
        ]

    facts = tokenizer.facts
    answer = []
    for text in texts:
        inner = [
            {
                "id": piece.id,
                "text": piece.token if piece.special else text[piece.start : piece.stop],
                "special": piece.special,
                "start": None if piece.special else piece.start,
                "stop": None if piece.special else piece.stop,
            }
            for piece in tokenizer.pieces(text)
        ]
        answer.append([*around(facts.prefix_ids), *inner, *around(facts.suffix_ids)])
    return Answer.of(answer)


async def decode(call: Call) -> Answer:
    """POST /decode: the texts of token ids."""
    fields = await call.fields()
    inputs = await call.server.beside(
        len(call.body), read_inputs, fields, call.server.limits.texts, "ids"
    )
    if not inputs.are_ids:
        raise BadRequest("ids must be a list of token ids, or of such lists", field="ids")
    _check_size(call, inputs, "ids")
    tokenizer = _text_model(call, fields)[1].tokenizer
    skip = fields.flag("skip_special_tokens", default=True)

    def texts() -> Answer:
        return Answer.of([tokenizer.decode(ids, skip_special=skip) for ids in inputs.items])

    return await call.server.read(inputs.size, texts)


async def root(call: Call) -> Answer:
    """POST /: /similarity, /rerank or /embed, by the fields: for huggingface_hub's InferenceClient.

    A server without a dense model answers with sparse vectors, as TEI does.
    """
    fields = await call.fields()
    if isinstance(fields.get("inputs"), dict):
        return await similarity(call)
    if "query" in fields:
        return await rerank.any_rerank(call)
    served = call.server.registry.all()
    if not any(map(is_dense, served)) and any("sparse" in each.kinds for each in served):
        return await embed_sparse(call)
    return await embed(call)


INPUTS: Schema = {"oneOf": [TEXT, many(TEXT), many(WHOLE), many(many(WHOLE))]}
_EMBED: dict[str, Schema] = {
    "inputs": INPUTS,
    "model": TEXT,
    "prompt_name": TEXT,
    "normalize": {"type": "boolean"},
    "truncate": {"type": "boolean"},
    "truncation_direction": one_of("left", "right", "Left", "Right"),
    "dimensions": AT_LEAST_1,
}
_PAIR: Schema = body({"source_sentence": TEXT, "sentences": many(TEXT)}, "source_sentence")
_ENTRY: Schema = body({"index": WHOLE, "value": NUMBER}, "index", "value")
_TOKEN: Schema = body({"id": WHOLE, "text": TEXT, "special": {"type": "boolean"}}, "id", "text")
ROUTES = (
    Route("/embed", embed, TEI, summary="Dense vectors",
          request=body(_EMBED, "inputs"), response=many(many(NUMBER))),
    Route("/embed_sparse", embed_sparse, TEI, summary="Sparse vectors",
          request=body(_EMBED, "inputs"), response=many(many(_ENTRY))),
    Route("/embed_all", embed_all, TEI, summary="A vector for each token",
          request=body(_EMBED, "inputs"), response=many(many(many(NUMBER)))),
    Route("/similarity", similarity, TEI, summary="Cosines of a sentence with others",
          request=body({"inputs": _PAIR, "parameters": {"type": "object"}}, "inputs"),
          response=many(NUMBER)),
    Route("/tokenize", tokenize, TEI, summary="Tokens of texts",
          request=body({"inputs": {"oneOf": [TEXT, many(TEXT)]}, "model": TEXT,
                        "add_special_tokens": {"type": "boolean"}}, "inputs"),
          response=many(many(_TOKEN))),
    Route("/decode", decode, TEI, summary="Texts of token ids",
          request=body({"ids": {"oneOf": [many(WHOLE), many(many(WHOLE))]}, "model": TEXT,
                        "skip_special_tokens": {"type": "boolean"}}, "ids"),
          response=many(TEXT)),
    Route("/", root, TEI, summary="Dense vectors, similarities or scores, by the fields",
          request={"type": "object"}, response={"type": ["array", "object"]}),
)  # fmt: skip
