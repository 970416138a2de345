"""/openapi.json describes every route; requests that schemathesis makes from it raise no fault."""

import re
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tessera_onnx.server.app import ROUTES, Limits, app
from tessera_onnx.server.openapi import path_of

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
MODELS = (
    *("all-minilm-l6-v2", "splade-tiny", "tessera-bolt-mini", "tessera-page-mini"),
    str(ARTIFACTS / "reranker"),
)


@pytest.fixture(scope="module")
def application():
    found = app(*MODELS, limits=Limits(texts=64, tokens=1 << 14), admin_keys=["admin"])
    with TestClient(found) as client:
        end = time.monotonic() + 60
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.05)
        yield client


@pytest.fixture(scope="module")
def document(application):
    return application.get("/openapi.json").json()


def test_every_route_has_an_entry_and_every_entry_a_route(document):
    routes = {(path_of(route), route.method.lower()) for route in ROUTES}
    entries = {(path, method) for path, item in document["paths"].items() for method in item}
    assert entries == routes
    ids = [entry["operationId"] for item in document["paths"].values() for entry in item.values()]
    assert len(set(ids)) == len(ids)


def test_every_route_has_a_summary_and_what_it_reads(document):
    for route in ROUTES:
        entry = document["paths"][path_of(route)][route.method.lower()]
        assert entry["summary"]
        assert ("requestBody" in entry) == (route.method == "POST"), route.path
        names = re.findall(r"\{(\w+)\}", path_of(route))
        assert [each["name"] for each in entry.get("parameters", ())] == names
        assert ("security" in entry) == (route.guard != "none")


def test_a_path_that_is_none(application):
    for path in ("/nothing", "/v1/models/a%0Ab"):
        answer = application.get(path)
        assert (answer.status_code, answer.json()["error_type"]) == (404, "unknown")
