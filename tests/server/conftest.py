"""A server of the starter's model in this process, and servers as processes of their own."""

import pytest
from server_process import FIELD, MINILM, Process, wait_until_ready
from starlette.testclient import TestClient

from tessera_onnx.server.app import app


@pytest.fixture(scope="session")
def client():
    """A client of an application with models of the starter."""
    with TestClient(app(MINILM, aliases={"text-embedding-3-small": MINILM})) as found:
        wait_until_ready(found)
        yield found


@pytest.fixture
def serve():
    """Start `tessera serve` with some arguments; what runs at the end of the test is killed."""
    running = []

    def start(*arguments, **options):
        running.append(Process(*arguments, **options))
        return running[-1]

    yield start
    for process in running:
        if process.process.poll() is None:
            process.kill()


@pytest.fixture(scope="session")
def field():
    """A client of an application with a model of each kind, for the dialects."""
    with TestClient(app(*FIELD, threads=1)) as found:
        wait_until_ready(found)
        yield found
