"""GET /openapi.json: the routes as an OpenAPI 3.1 document, made from the Routes themselves.

A module of routes gives each Route its schemas; nothing is written twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from tessera_onnx import __version__
from tessera_onnx.server.failures import STATUS, Failure
from tessera_onnx.server.http import JSON, Answer, Call, Route
from tessera_onnx.server.operations import OWN
from tessera_onnx.server.schemas import Schema

TEXT = "text/plain"
RAW = "application/vnd.safetensors"
PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
ABOUT = """Texts, images and series to vectors, scores and forecasts. Every request may carry
x-timeout-ms (most milliseconds it may take) and x-priority (query or bulk)."""


def document(routes: Sequence[Route]) -> bytes:
    """The document of some routes, as JSON."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(path_of(route), {})[route.method.lower()] = _operation(route)
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "tessera-onnx", "version": __version__, "description": ABOUT},
            "paths": paths,
            "components": {
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def path_of(route: Route) -> str:
    """The path of a route as OpenAPI writes it, without the types of its parameters."""
    return PARAMETER.sub(r"{\1}", route.path)


def _operation(route: Route) -> dict[str, Any]:
    words = re.findall(r"[a-z0-9]+", path_of(route).lower())
    operation: dict[str, Any] = {
        "operationId": "_".join([route.method.lower(), *(words or ["root"])]),
        "summary": route.summary,
        "tags": [route.dialect.name],
        "responses": _responses(route),
    }
    names = PARAMETER.findall(route.path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if route.request is not None:
        content = {JSON: {"schema": route.request}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.guard != "none":
        operation["security"] = [{}, {"key": []}] if route.guard == "key" else [{"key": []}]
    return operation


def _responses(route: Route) -> dict[str, Any]:
    """The answers of a route: 200, and the errors in the form of its dialect."""
    found: dict[str, Any] = {
        str(route.success): {"description": "Done", "content": _content(route)}
    }
    if route.guard == "none" and not PARAMETER.search(route.path):
        return found | {"503": {"description": "Not ready", "content": {TEXT: {"schema": {}}}}}
    sample = route.dialect.error(Failure("invalid", "", 400))
    schema = {"type": "object", "required": sorted(sample)} if isinstance(sample, dict) else {}
    for sort, status in {**STATUS, **route.dialect.status}.items():
        if sort != "fault":
            found[str(status)] = {"description": sort, "content": {JSON: {"schema": schema}}}
    found.setdefault("400", found[str(route.dialect.status.get("invalid", 400))])
    return found


def _content(route: Route) -> dict[str, Any]:
    if route.success == 204:
        return {}
    if route.response is None:
        return {TEXT: {"schema": {"type": "string"}}}
    content: dict[str, Any] = {JSON: {"schema": route.response}}
    encodings = (route.request or {}).get("properties", {}).get("encoding", {}).get("enum", ())
    if "raw" in encodings:
        content[RAW] = {"schema": {"type": "string", "format": "binary"}}
    return content


async def openapi(call: Call) -> Answer:
    """GET /openapi.json."""
    return Answer(call.server.document)


OPEN_DOCUMENT: Schema = {"type": "object", "required": ["openapi", "info", "paths"]}
ROUTES = (
    Route("/openapi.json", openapi, OWN, "GET", "none", "This document", response=OPEN_DOCUMENT),
)
