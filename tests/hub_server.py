"""A model hub on loopback: a real HTTP server that answers as huggingface_hub expects.

It speaks `GET /api/models/{owner}/{name}[/revision/{revision}]?blobs=true`, which lists the files
of a repository, and `HEAD` and `GET /{owner}/{name}/resolve/{revision}/{file}`, the only requests
that a download of listed files makes: `ETag` with git's blob hash for small files, a redirect to a
second server (the "storage", as the real hub has one) with `X-Linked-Etag` and `X-Linked-Size` for
large ones, `X-Repo-Commit`, byte ranges, `X-Error-Code`. With `xet=True` large files are also
offered as blocks, as hf-xet fetches them. Faults are switched on by attributes.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

XET_CHUNK = 1 << 17  # bytes, the most that the protocol allows
XET_BLOCK = 8 * XET_CHUNK
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Request(NamedTuple):
    """One request that was made, as the tests look at it."""

    server: str  # "hub" or "storage"
    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Hub:
    """Repositories and the faults to show."""

    repositories: dict[str, dict[str, bytes]]  # "owner/name": {file: content}
    commit: str = COMMIT
    large: int = 10_000  # bytes from which a file is an LFS file
    tokens: set[str] | None = None  # accepted ones; None: no token is needed
    gated: int = 403  # how a token that is not accepted is answered
    xet: bool = False  # whether large files are offered to hf-xet
    private: bool = False  # without a token there seems to be no repository
    renamed: dict[str, str] = field(default_factory=dict)  # old repository: new one
    branches: dict[str, str] = field(default_factory=dict)  # branch or tag: commit; besides main
    listed: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer  # changes the list
    status: Callable[[Request], tuple[int, dict[str, str]] | None] = lambda _: None
    content: Callable[[Request, bytes], bytes] = lambda _, content: content
    chunk: int = 1 << 16  # bytes sent at once
    pause: float = 0.0  # seconds between chunks
    stall_after: int | None = None  # bytes of a body after which nothing comes any more
    silent: bool = False  # not even headers come
    requests: list[Request] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)  # path: bytes of its bodies

    def __post_init__(self) -> None:
        self.down = threading.Event()
        self.storage = _serve(self, "storage")
        self.server = _serve(self, "hub")

    @property
    def url(self) -> str:
        return _url(self.server)

    def close(self) -> None:
        self.down.set()
        for server in (self.server, self.storage):
            server.shutdown()
            server.server_close()

    def pointer(self, content: bytes) -> bytes:
        """The file of Git LFS that stands for a large one."""
        digest = hashlib.sha256(content).hexdigest()
        head = "version https://git-lfs.github.com/spec/v1"
        return f"{head}\noid sha256:{digest}\nsize {len(content)}\n".encode()

    def seen(self, server: str = "", method: str = "", path: str = "") -> list[Request]:
        """Requests to a server, of a method, whose path ends so."""
        return [
            request
            for request in self.requests
            if request.server.startswith(server)
            and request.method.startswith(method)
            and request.path.endswith(path)
        ]


def folder(path: Path) -> dict[str, bytes]:
    """The files of an artifact, by name."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name not in {"model.toml", "golden.npz"}
    }


def git_hash(content: bytes) -> str:
    """What `git hash-object` prints."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def xet_block(content: bytes, number: int) -> bytes:
    """A block in the form of the store: chunks, each behind a header of 8 bytes, not compressed."""
    part = content[number * XET_BLOCK : (number + 1) * XET_BLOCK]
    chunks = [part[start : start + XET_CHUNK] for start in range(0, len(part), XET_CHUNK)]
    sizes = [len(chunk).to_bytes(3, "little") for chunk in chunks]
    # version 0, packed size, scheme 0 (as it is), size
    return b"".join(
        b"\0" + size + b"\0" + size + chunk for size, chunk in zip(sizes, chunks, strict=True)
    )


def _url(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def _serve(hub: Hub, name: str) -> ThreadingHTTPServer:
    class Handler(_Handler):
        pass

    Handler.hub, Handler.name = hub, name
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    name: str

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer()

    def answer(self) -> None:
        hub = self.hub
        authorization = self.headers.get("Authorization")
        request = Request(
            self.name, self.command, self.path, self.headers.get("Range"), authorization
        )
        hub.requests.append(request)
        if hub.silent:
            hub.down.wait(60)
            self.close_connection = True
            return
        fault = hub.status(request)
        if fault is not None:
            self.reply(*fault)
        elif self.command == "POST":
            self.reply(200, {})
        elif self.name == "storage" and "reconstruction" in self.path:
            self.reconstruct(request)
        elif self.name == "storage":
            _, repository, name, *block = self.path.split("//")
            content = hub.repositories[repository][name]
            self.body(request, xet_block(content, int(block[0])) if block else content, {})
        elif self.path == "/xet-token":
            store = {"X-Xet-Cas-Url": _url(hub.storage), "X-Xet-Access-Token": "for-the-store"}
            self.reply(200, {**store, "X-Xet-Token-Expiration": str(int(time.time()) + 3600)})
        elif self.path.startswith("/api/models/"):
            self.list_files(request)
        else:
            self.resolve(request)

    def find(self, request: Request, repository: str, revision: str) -> str | None:
        """The commit of a revision; None after an answer that says what hinders."""
        hub = self.hub
        token = (request.authorization or "").removeprefix("Bearer ")
        is_known = hub.tokens is None or token in hub.tokens
        if repository in hub.renamed:
            new = self.path.replace(repository, hub.renamed[repository], 1)
            self.reply(307, {"Location": new})
        elif hub.private and not is_known:
            self.reply(401, {"X-Error-Message": "Invalid username or password."})
        elif repository not in hub.repositories:
            self.reply(404, {"X-Error-Code": "RepoNotFound"})
        elif not is_known and not self.path.startswith("/api/"):  # the list is public
            self.reply(hub.gated, {"X-Error-Code": "GatedRepo"})
        else:
            commits = {"main": hub.commit, hub.commit: hub.commit, **hub.branches}
            commits |= {commit: commit for commit in hub.branches.values()}
            if revision in commits:
                return commits[revision]
            self.reply(404, {"X-Error-Code": "RevisionNotFound"})
        return None

    def list_files(self, request: Request) -> None:
        """What the hub tells of a repository: the keys that huggingface_hub reads."""
        address = urlsplit(self.path)
        parts = address.path.removeprefix("/api/models/").split("/")
        repository, revision = "/".join(parts[:2]), "main"
        if len(parts) == 4 and parts[2] == "revision":
            revision = unquote(parts[3])
        elif len(parts) != 2:
            self.reply(404, {})
            return
        commit = self.find(request, repository, revision)
        if commit is None:
            return
        has_blobs = parse_qs(address.query).get("blobs") in (["true"], ["True"])
        siblings = []
        for name, content in sorted(self.hub.repositories[repository].items()):
            sibling: dict[str, Any] = {"rfilename": name}
            if has_blobs:
                pointer = self.hub.pointer(content)
                large = len(content) >= self.hub.large
                sibling |= {"size": len(content), "blobId": git_hash(pointer if large else content)}
                if large:
                    digest = hashlib.sha256(content).hexdigest()
                    size = {"size": len(content), "pointerSize": len(pointer)}
                    sibling["lfs"] = {"sha256": digest, **size}
            siblings.append(sibling)
        facts = {
            "id": repository,
            "modelId": repository,
            "sha": commit,
            "private": self.hub.private,
        }
        facts |= {"gated": "manual" if self.hub.tokens and not self.hub.private else False}
        answer = self.hub.listed({**facts, "tags": [], "downloads": 0, "siblings": siblings})
        self.body(request, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def resolve(self, request: Request) -> None:
        hub = self.hub
        parts = self.path.lstrip("/").split("/")
        if len(parts) < 5 or parts[2] != "resolve":
            self.reply(404, {})
            return
        repository, name = "/".join(parts[:2]), "/".join(map(unquote, parts[4:]))
        found = self.find(request, repository, unquote(parts[3]))
        if found is None:
            return
        commit = {"X-Repo-Commit": found}
        content = hub.repositories[repository].get(name)
        if content is None:
            self.reply(404, {"X-Error-Code": "EntryNotFound", **commit})
        elif len(content) < hub.large:
            self.body(request, content, {"ETag": f'"{git_hash(content)}"', **commit})
        else:
            linked = {
                "Location": f"{_url(hub.storage)}/x//{repository}//{name}",
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
            }
            if hub.xet:
                linked["X-Xet-Hash"] = hashlib.sha256(content).hexdigest()
                linked["X-Xet-Refresh-Route"] = f"{hub.url}/xet-token"
            self.reply(302, {**commit, **linked})

    def reconstruct(self, request: Request) -> None:
        """Say which blocks hold a file, found by its hash, from the first byte asked for on."""
        if "/v2/" in self.path:  # answered by version 1 alone
            self.reply(404, {})
            return
        wanted = self.path.rpartition("/")[2]
        found = (
            (content, f"{repository}//{name}")
            for repository, files in self.hub.repositories.items()
            for name, content in files.items()
        )
        content, place = next(
            each for each in found if hashlib.sha256(each[0]).hexdigest() == wanted
        )
        start = int((request.range or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start >= len(content):
            self.reply(416, {})
            return
        terms, where = [], {}
        for block in range(start // XET_BLOCK, -(-len(content) // XET_BLOCK)):
            length = min(XET_BLOCK, len(content) - block * XET_BLOCK)
            key = hashlib.sha256(f"{place}//{block}".encode()).hexdigest()
            chunks = {"start": 0, "end": -(-length // XET_CHUNK)}
            terms.append({"hash": key, "unpacked_length": length, "range": chunks})
            url = f"{_url(self.hub.storage)}/x//{place}//{block}"
            last = len(xet_block(content, block)) - 1
            where[key] = [{"range": chunks, "url": url, "url_range": {"start": 0, "end": last}}]
        answer = json.dumps(
            {
                "offset_into_first_range": start % XET_BLOCK,
                "terms": terms,
                "fetch_info": where,
            }
        ).encode()
        self.reply(200, {"Content-Type": "application/json", "Content-Length": str(len(answer))})
        self.wfile.write(answer)

    def reply(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def body(self, request: Request, content: bytes, headers: dict[str, str]) -> None:
        hub = self.hub
        if self.command == "HEAD":
            self.reply(200, {**headers, "Content-Length": str(len(content))})
            return
        content = hub.content(request, content)
        status, start = 200, 0
        if request.range:
            start = int(request.range.removeprefix("bytes=").split("-")[0])
            if start >= len(content):
                self.reply(416, {"Content-Range": f"bytes */{len(content)}"})
                return
            status = 206
            last = len(content) - 1
            headers = {**headers, "Content-Range": f"bytes {start}-{last}/{len(content)}"}
        self.reply(status, {**headers, "Content-Length": str(len(content) - start)})
        for position in range(start, len(content), hub.chunk):
            if hub.stall_after is not None and position - start >= hub.stall_after:
                hub.down.wait(60)
                self.close_connection = True
                return
            try:
                sent = len(content[position : position + hub.chunk])
                hub.sent[self.path] = hub.sent.get(self.path, 0) + sent
                self.wfile.write(content[position : position + hub.chunk])
            except OSError:  # the client went away
                self.close_connection = True
                return
            time.sleep(hub.pause)
