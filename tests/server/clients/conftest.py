"""One real server for the clients of the field, and what the library gives on the same models."""

import math
import socket
from pathlib import Path

import pytest
from client_checks import ALIAS, QUERY, SHORT, SLASH, TEXTS
from server_process import ARTIFACTS, FIELD, MINILM, Process

from tessera_onnx import TesseraDense, TesseraReranker

HERE = Path(__file__).parent
# No client may look for a newer list of models, or tell how it is used.
QUIET = {
    "NO_PROXY": "*",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "DO_NOT_TRACK": "1",
    "LANGSMITH_TRACING": "false",
}


@pytest.hookimpl(tryfirst=True)  # before pytest looks at -m
def pytest_collection_modifyitems(items):
    """Mark the tests of this folder; warnings of the clients' own code are theirs."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("clients")
            for warning in (":DeprecationWarning", ":ResourceWarning", ".*ReadOnly.*:UserWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{warning}"))


@pytest.fixture(scope="session", autouse=True)
def _quiet():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        find = socket.getaddrinfo

        def here(host, *args, **kwargs):
            assert host in (None, "127.0.0.1", b"127.0.0.1", "localhost"), f"{host} is not here"
            return find(host, *args, **kwargs)

        patch.setattr(socket, "getaddrinfo", here)
        yield


@pytest.fixture(scope="session")
def url():
    aliases = [f"--alias={name}={MINILM}" for name in (ALIAS, SLASH)]
    process = Process(*FIELD, *aliases, "--threads", "1", NO_PROXY="*")
    yield process.url
    code, log = process.stop()
    assert code == 0, log
    for text in (*TEXTS, QUERY):
        assert text not in log


@pytest.fixture(scope="session")
def dense():
    with TesseraDense(MINILM, threads=1) as model:
        yield model


@pytest.fixture(scope="session")
def prompts():
    with TesseraDense(path=ARTIFACTS / "prompts", threads=1) as model:
        assert abs(model.encode_query(SHORT) - model.encode_document(SHORT)).max() > 1e-3
        yield model


@pytest.fixture(scope="session")
def scores():
    with TesseraReranker(path=ARTIFACTS / "reranker", threads=1) as model:
        raw = model.score(QUERY, TEXTS, activation="raw")
    return [1 / (1 + math.exp(-value)) for value in raw]
