"""Read the parts of a multipart/form-data body (RFC 7578): fields, and files as their bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.message import Message

from tessera_onnx.server.fields import BadRequest

MOST = 10_000  # parts of a body
_NAME = re.compile(rb';\s*name="?([^";\r\n]*)"?', re.IGNORECASE)


def is_multipart(content_type: str) -> bool:
    """Whether the header content-type says so."""
    return content_type.lower().startswith("multipart/form-data")


def parts(body: bytes, content_type: str) -> Iterator[tuple[str, bytes]]:
    """The name and content of each part, in order. Raises BadRequest."""
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= 200:
        raise BadRequest("the header content-type names no boundary of the parts")
    mark = b"--" + boundary.encode("latin-1", "replace")
    if not body.startswith(mark):
        raise BadRequest("the body does not begin with the boundary of its parts")
    pieces = (b"\r\n" + body).split(b"\r\n" + mark, MOST)
    if len(pieces) > MOST:
        raise BadRequest(f"the body has more than {MOST} parts")
    if not pieces[-1].startswith(b"--"):
        raise BadRequest("the body ends within a part")
    for i, piece in enumerate(pieces[1:-1]):
        head, found, content = piece.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if not found or name is None:
            raise BadRequest(f"part {i} of the body has no name")
        yield name[1].decode("utf-8", "replace"), content
