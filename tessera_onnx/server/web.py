"""The page for people: its files, each with a route of its own, and the headers that guard it.

The page calls the routes that every client has, and asks nothing of any other address.
"""

from __future__ import annotations

from pathlib import Path

from tessera_onnx.server.http import Answer, Call, Handler, Route
from tessera_onnx.server.operations import OWN

FOLDER = Path(__file__).with_name("web")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
START = "index.html"
HEADERS = {
    # Scripts and styles are files of this server; nothing may frame the page.
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


def routes() -> tuple[Route, ...]:
    """The routes of the page: `/`, and `/web/NAME` for each other file. No key is asked for.

    The page asks for a key itself, and sends it to the other routes.
    """
    return tuple(
        Route(
            *("/" if file.name == START else f"/web/{file.name}", _handler(file), OWN),
            *("GET", "none", "The page for people, and its files"),
        )
        for file in sorted(FOLDER.iterdir())
        if file.suffix in TYPES
    )


def _handler(file: Path) -> Handler:
    answer = Answer(file.read_bytes(), media_type=TYPES[file.suffix], headers=HEADERS)

    async def handler(_: Call) -> Answer:
        return answer

    return handler
