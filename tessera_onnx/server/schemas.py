"""Parts of JSON schemas that the routes share; each module of routes holds its own beside them.

An object of a request allows further fields, as every protocol here does.
"""

from __future__ import annotations

from typing import Any, get_args

from tessera_onnx.text.reading import RoleName

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer", "minimum": 0}
AT_LEAST_1: Schema = {"type": "integer", "minimum": 1}
NUMBER: Schema = {"type": ["number", "null"], "description": "null is NaN."}


def many(item: Schema) -> Schema:
    """A list of items."""
    return {"type": "array", "items": item}


def one_of(*words: str) -> Schema:
    """One of some words."""
    return {"type": "string", "enum": list(words)}


def body(fields: dict[str, Schema], *required: str) -> Schema:
    """An object with some fields, of which some must be there."""
    found: Schema = {"type": "object", "properties": fields}
    return {**found, "required": list(required)} if required else found


COMMON: dict[str, Schema] = {
    "model": {"type": "string", "description": "Id or alias; the first that fits without it."},
    "encoding": one_of("json", "base64", "raw"),
}
READING: dict[str, Schema] = {
    "role": one_of(*get_args(RoleName)),
    "task": TEXT,
    "prompt": TEXT,
    "dimensions": AT_LEAST_1,
    "truncate": {"type": "boolean"},
}
# An array: its numbers in lists, or in base64.
ARRAY: Schema = {
    "oneOf": [
        {"type": "array"},
        body(
            {
                "base64": TEXT,
                "dtype": one_of("float32", "float64", "float16", "int8", "uint8", "int32"),
                "shape": many(WHOLE),
            },
            *("base64", "dtype", "shape"),
        ),
    ]
}
_VECTOR: Schema = {
    "anyOf": [
        ARRAY,
        body({"codes": ARRAY, "scale": ARRAY}, "codes", "scale"),
        body({"bits": ARRAY}, "bits"),
        body({"indices": ARRAY, "values": ARRAY}, "indices", "values"),
    ]
}
VECTORS: Schema = body(
    {
        "model": TEXT,
        "output_dtype": TEXT,
        "dimensions": {"type": "object", "additionalProperties": WHOLE},
        "data": many(
            body(
                {
                    "index": WHOLE,
                    "tokens": WHOLE,
                    "count": WHOLE,
                    "truncated": {"type": "boolean"},
                    **dict.fromkeys(("dense", "sparse", "multi-vector", "vision"), _VECTOR),
                },
                "index",
            )
        ),
        "truncated": many(WHOLE),
        "warnings": many(TEXT),
    },
    *("model", "output_dtype", "dimensions", "data", "truncated", "warnings"),
)
SCORES: Schema = body(
    {
        "model": TEXT,
        "scores": ARRAY,
        "tokens": many(WHOLE),
        "count": many(WHOLE),
        "truncated": many(WHOLE),
    },
    *("model", "scores", "tokens", "count", "truncated"),
)
ERROR: Schema = body(
    {
        "error": TEXT,
        "error_type": TEXT,
        "class": TEXT,
        "index": {"type": ["integer", "null"]},
        "field": {"type": ["string", "null"]},
    },
    *("error", "error_type", "class"),
)
