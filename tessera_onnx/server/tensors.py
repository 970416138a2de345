"""Requests and answers of the Open Inference Protocol v2: JSON, or JSON and tensors after it.

Sources: kserve/open-inference-protocol (specification/protocol/inference_rest.md) and
triton-inference-server/server (docs/protocol/extension_binary_data.md). In the binary form the
header Inference-Header-Content-Length says how long the JSON is. Tensors follow in the order of the
JSON, little-endian and row-major; a text or file is its length in 4 bytes, and its bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from tessera_onnx.server.fields import BadRequest, Fields
from tessera_onnx.server.http import Answer

DIMENSIONS = 8  # of a shape
HEADER = "inference-header-content-length"
DTYPES = {"FP32": "<f4", "INT32": "<i4"}  # of answers


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for.

    Attributes:
        fields: the JSON object.
        inputs: the elements of each BYTES input, in row-major order.
        outputs: whether each wanted output is sent in the binary form; empty = all, as `binary`.
        binary: whether outputs are binary that do not say it themselves.
    """

    fields: Fields
    inputs: dict[str, list[bytes]]
    outputs: dict[str, bool]
    binary: bool


def parse(body: bytes, header: str | None) -> Request:
    """The request in a body; `header` is the length of the JSON, if given. Raises BadRequest."""
    end = len(body)
    if header is not None:
        if not header.isdecimal() or len(header) > 15 or int(header) > end:
            raise BadRequest(f"the header {HEADER} must be a number of bytes of the body")
        end = int(header)
    fields = Fields.parse(body[:end])
    rest = memoryview(body)[end:]
    inputs: dict[str, list[bytes]] = {}
    for tensor in _objects(fields, "inputs"):
        name = tensor.require("name")
        if not isinstance(name, str):
            raise BadRequest("inputs.name must be a text", field="inputs")
        size = tensor.object("parameters").whole("binary_data_size", least=0)
        if size is not None and size > len(rest):
            raise BadRequest("the body is shorter than its tensors", field="inputs")
        found = _elements(tensor, None if size is None else rest[:size])
        rest = rest[size or 0 :]
        inputs[name] = found
    if len(rest):
        raise BadRequest(f"{len(rest)} bytes follow the tensors: is {HEADER} right?")
    binary = fields.object("parameters").flag("binary_data_output", default=False)
    outputs = {}
    for tensor in _objects(fields, "outputs") if "outputs" in fields else ():
        name = tensor.text("name") or ""
        outputs[name] = tensor.object("parameters").flag("binary_data", default=binary)
    return Request(fields, inputs, outputs, binary)


def _objects(fields: Fields, name: str) -> list[Fields]:
    found = fields.require(name)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise BadRequest(f"{name} must be a list of objects", field=name)
    return [Fields(each, f"{name}.") for each in found]


def _elements(tensor: Fields, content: memoryview | None) -> list[bytes]:
    """The elements of a BYTES tensor, from its own bytes or from `data`."""
    if tensor.text("datatype") != "BYTES":
        raise BadRequest("inputs.datatype must be BYTES", field="inputs")
    shape = tensor.require("shape")
    if (
        not isinstance(shape, list)
        or len(shape) > DIMENSIONS
        or not all(type(n) is int and n >= 0 for n in shape)
    ):
        raise BadRequest("inputs.shape must be a list of whole numbers", field="inputs")
    found = _unpacked(content) if content is not None else _flat(tensor.require("data"))
    if math.prod(shape) != len(found):
        raise BadRequest(
            f"inputs.shape says {math.prod(shape)} elements, the tensor has {len(found)}",
            field="inputs",
        )
    return found


def _unpacked(content: memoryview) -> list[bytes]:
    found, start = [], 0
    while start < len(content):
        if start + 4 > len(content):
            raise BadRequest("a BYTES tensor ends within a length", field="inputs")
        (size,) = struct.unpack_from("<I", content, start)
        start += 4
        if start + size > len(content):
            raise BadRequest("a BYTES tensor ends within an element", field="inputs")
        found.append(bytes(content[start : start + size]))
        start += size
    return found


def _flat(data: Any) -> list[bytes]:
    """The texts of `data`, which may be nested once, as the shape (n, 1) has it."""
    if not isinstance(data, list):
        raise BadRequest("inputs.data must be a list of texts", field="inputs")
    flat = [each for item in data for each in (item if isinstance(item, list) else [item])]
    for i, item in enumerate(flat):
        if not isinstance(item, str):
            raise BadRequest(f"inputs.data[{i}] must be a text", field="inputs", index=i)
    return [item.encode("utf-8", "surrogatepass") for item in flat]


def answer(
    name: str, request: Request, tensors: Mapping[str, tuple[str, np.ndarray[Any, Any]]]
) -> Answer:
    """The answer with some tensors, each with its datatype, in the forms that the client wants."""
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for key, (datatype, array) in tensors.items():
        output: dict[str, Any] = {"name": key, "datatype": datatype, "shape": list(array.shape)}
        exact = np.ascontiguousarray(array, DTYPES[datatype])
        if request.outputs.get(key, request.binary):
            parts.append(exact.tobytes())
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            output["data"] = exact.ravel()
        outputs.append(output)
    value: dict[str, Any] = {"model_name": name, "model_version": "1", "outputs": outputs}
    if (given := request.fields.text("id")) is not None:
        value["id"] = given
    head = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    if not parts:
        return Answer(head)
    headers = {HEADER: str(len(head))}
    return Answer(b"".join([head, *parts]), 200, "application/octet-stream", headers)


def ragged(rows: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """How many rows or entries each array has, (n,) int32."""
    return np.array([len(row) for row in rows], np.int32)
