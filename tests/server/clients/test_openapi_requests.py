"""schemathesis makes requests from /openapi.json, right and wrong ones, for every route.

No answer is a fault; each has a status and a type that the document names, and fits its schema.
schemathesis stands in tests/server/clients.txt; run `make test-clients`.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tessera_onnx import LoadError
from tessera_onnx.remote.link import Link
from tessera_onnx.server.app import ROUTES
from tessera_onnx.server.openapi import path_of

EXAMPLES = int(os.environ.get("TESSERA_FUZZ_EXAMPLES", "25"))  # a route
ARTIFACTS = Path(__file__).parents[2] / "artifacts"
MODELS = (
    *("all-minilm-l6-v2", "splade-tiny", "tessera-bolt-mini", "tessera-page-mini"),
    str(ARTIFACTS / "reranker"),
)


@pytest.fixture(scope="module")
def schema():
    import schemathesis

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = "from tessera_onnx.cli.main import main; main()"
    options = ["--log-level", "error", "--max-texts", "64", "--max-tokens", "16384"]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            command,
            "serve",
            *MODELS,
            "--port",
            url.rpartition(":")[2],
            *options,
        ]
    )
    try:
        link = Link(url, None, 5)
        end = time.monotonic() + 90
        while time.monotonic() < end:
            assert process.poll() is None
            with contextlib.suppress(LoadError):
                if len(link.get("/info")["models"]) == len(MODELS):
                    break
            time.sleep(0.1)
        link.close()
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_the_schemas_are_schemas():
    """Of JSON Schema 2020-12, which OpenAPI 3.1 takes."""
    import jsonschema_rs

    for route in ROUTES:
        for schema in (route.request, route.response):
            if schema is not None:
                jsonschema_rs.meta.validate(json.loads(json.dumps(schema)))


@pytest.mark.parametrize(
    ("path", "method"),
    [(path_of(route), route.method) for route in ROUTES],
    ids=[f"{route.method} {path_of(route)}" for route in ROUTES],
)
def test_requests_of_schemathesis(schema, path, method):
    from schemathesis import checks
    from schemathesis.specs.openapi.checks import content_type_conformance

    operation = schema[path][method]
    wanted = [
        checks.not_a_server_error,
        checks.status_code_conformance,
        checks.response_schema_conformance,
        content_type_conformance,
    ]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def check(case):
        case.call_and_validate(checks=wanted, timeout=60)

    check()
