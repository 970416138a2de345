"""The page for people: its routes and headers, what its files hold, and models opened at first use.

tests/integrations/test_web.py uses the page in a browser.
"""

import re
import socket
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnxruntime
import pytest
import tessera_onnx_starter
from click.testing import CliRunner
from server_process import ARTIFACTS, MINILM, wait_until_ready
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tessera_onnx.cli import demo
from tessera_onnx.cli.main import main
from tessera_onnx.kinds import KINDS
from tessera_onnx.server import app as app_module
from tessera_onnx.server import web
from tessera_onnx.server.app import app

FILES = sorted(web.FOLDER.iterdir())
TEXTS = [file for file in FILES if file.suffix in {".html", ".css", ".js", ".svg"}]
STARTER = ("splade-tiny", MINILM, "tessera-static-mini", "tessera-bolt-mini")


@pytest.fixture(scope="module")
def page():
    with TestClient(app(*STARTER, lazy=True, page=True, threads=1)) as client:
        wait_until_ready(client)
        yield client


def test_every_file_has_a_route_a_type_and_the_headers(page):
    assert len(FILES) > 10
    for file in FILES:
        answer = page.get("/" if file.name == "index.html" else f"/web/{file.name}")
        assert answer.status_code == 200, file.name
        assert answer.content == file.read_bytes()
        assert answer.headers["content-type"] == web.TYPES[file.suffix]
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; ")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert page.head("/").headers["content-type"].startswith("text/html")
    assert page.get("/web/").status_code == page.get("/web/app.py").status_code == 404
    assert page.get("/web/%2e%2e/app.py").status_code == 404


def test_the_page_asks_for_nothing_from_elsewhere():
    """No address, no script or style among the markup, no text read as markup."""
    for file in TEXTS:
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(?i)\bhttps?:|[\"'(]//", text), file.name
        assert len(text.splitlines()) <= 400, file.name
        words = r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Storage|cookie"
        assert not re.search(words, text), file.name
    html = (web.FOLDER / "index.html").read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script[^>]*>\s*[^<\s]", html)
    named = set(re.findall(r'(?:href|src)="web/([^"]+)"', html))
    for file in FILES:
        if file.suffix == ".js":
            named |= set(re.findall(r'"(?:\./|web/)([^"]+)"', file.read_text("utf-8")))
    assert named == {file.name for file in FILES} - {"index.html"}


def test_every_label_and_title_belongs_to_something():
    html = (web.FOLDER / "index.html").read_text("utf-8")
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    for name in re.findall(r'\b(?:for|aria-labelledby|aria-describedby)="([^"]+)"', html):
        assert name in ids
    named = set()
    for file in FILES:
        if file.suffix == ".js":
            named |= set(re.findall(r'(?:find|show)\(\s*"([^"]+)"', file.read_text("utf-8")))
    assert named - set(ids) == set()


def test_the_page_names_all_kinds_and_commands_that_work():
    text = (web.FOLDER / "models.js").read_text("utf-8")
    table = text.partition("KINDS = {")[2].partition("\n};")[0]
    assert re.findall(r'^  "?([\w-]+)"?: \{', table, re.MULTILINE) == list(KINDS)
    root = Path(__file__).parents[2]
    catalogue = tomllib.loads((root / "models.toml").read_text("utf-8"))["model"]
    pulled = {entry["id"]: entry["kinds"] for entry in catalogue if "hub" in entry}
    (name,) = re.findall(r'get: "tessera pull ([^"]+)"', table)
    assert "reranker" in pulled[name]
    starter = {
        kind
        for file in Path(tessera_onnx_starter.__file__).parent.glob("*/model.toml")
        for kind in tomllib.loads(file.read_text("utf-8"))["model"][0]["kinds"]
    }
    assert table.count("get: STARTER") == len(starter)
    assert starter == set(KINDS) - {"reranker"}


def test_a_server_has_no_page_unless_it_is_asked_for(client):
    answer = client.get("/")
    assert (answer.text, answer.headers["content-type"]) == ("ok", "text/plain")
    assert client.get("/web/app.js").status_code == 404
    assert not any(path.startswith("/web") for path in client.get("/openapi.json").json()["paths"])


def test_the_page_keeps_the_routes_of_other_protocols(page):
    paths = page.get("/openapi.json").json()["paths"]
    assert set(paths["/"]) == {"get", "post"}
    found = page.post("/", json={"inputs": "a", "model": "tessera-static-mini"})
    assert found.status_code == 200


def test_a_page_below_a_path_of_another_application():
    inner = app("tessera-static-mini", page=True)
    with TestClient(Starlette(routes=[Mount("/models", inner)])) as client:
        html = client.get("/models/").text
        for name in re.findall(r'(?:href|src)="(web/[^"]+)"', html):
            assert client.get(f"/models/{name}").status_code == 200


def test_the_page_needs_no_key_and_its_requests_do():
    with TestClient(app("tessera-static-mini", page=True, keys=["secret"])) as client:
        assert client.get("/").status_code == client.get("/web/app.js").status_code == 200
        assert client.get("/info").status_code == 401
        head = {"authorization": "Bearer secret"}
        assert client.get("/info", headers=head).status_code == 200


def test_models_are_opened_at_their_first_use():
    with TestClient(app(*STARTER, lazy=True, threads=1)) as client:
        wait_until_ready(client)
        info = client.get("/info").json()
        assert info["models"] == []
        assert [each["id"] for each in info["closed"]] == list(STARTER)
        assert info["closed"][1]["kinds"] == ["dense", "multi-vector"]
        body = {"model": "TESSERA-static-mini", "texts": ["a"]}
        assert len(client.post("/v1/encode", json=body).json()["data"][0]["dense"]) == 256
        info = client.get("/info").json()
        assert [each["id"] for each in info["models"]] == ["tessera-static-mini"]
        assert "tessera-static-mini" not in [each["id"] for each in info["closed"]]
        # By an alias with a role, and a model that has to be opened to see that it cannot.
        named = client.post("/v1/encode", json={**body, "model": "all-MiniLM-L6-v2-query"})
        assert named.json()["model"] == MINILM
        wrong = client.post("/v1/forecast", json={"series": [[1.0]], "model": "splade-tiny"})
        assert "does not serve forecasts" in wrong.json()["error"]
        # Without a name models are opened until one fits.
        assert client.post("/v1/forecast", json={"series": [[1.0] * 20]}).status_code == 200
        assert client.get("/info").json()["closed"] == []
        unknown = client.post("/v1/encode", json={**body, "model": "nobody"})
        assert unknown.status_code == 404


def test_requests_at_once_open_a_model_once():
    application = app(MINILM, lazy=True)
    with TestClient(application) as client:
        wait_until_ready(client)
        body = {"texts": ["a"], "model": MINILM}
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: client.post("/v1/encode", json=body), range(6)))
        assert [answer.status_code for answer in answers] == [200] * 6
        assert len(application.state.server.registry.all()) == 1


def test_a_folder_with_an_alias_opens_at_its_first_use():
    folder = str(ARTIFACTS / "reranker")
    with TestClient(app(folder, MINILM, aliases={"mine": folder}, lazy=True)) as client:
        wait_until_ready(client)
        info = client.get("/info").json()
        assert [each["id"] for each in info["closed"]] == ["test-reranker", MINILM]
        body = {"query": "a", "documents": ["b", "c"], "model": "mine"}
        assert len(client.post("/v1/score", json=body).json()["scores"]) == 2
        assert client.get("/readyz").status_code == 200
        closed = client.get("/info").json()["closed"]
        assert [each["id"] for each in closed] == [MINILM]


def test_a_model_that_cannot_be_opened_is_told_and_the_server_stays(monkeypatch):
    application = app("tessera-static-mini", "splade-tiny", lazy=True)
    registry = application.state.server.registry
    opened = registry.add

    def fail(name):
        if name == "splade-tiny":
            raise app_module.ConfigError("the disk is gone")
        return opened(name)

    monkeypatch.setattr(registry, "add", fail)
    with TestClient(application) as client:
        wait_until_ready(client)
        body = {"texts": ["a"], "model": "splade-tiny"}
        assert client.post("/v1/encode", json=body).json()["error"] == "the disk is gone"
        assert client.get("/readyz").status_code == 200
        body["model"] = "tessera-static-mini"
        assert client.post("/v1/encode", json=body).status_code == 200
        monkeypatch.setattr(registry, "add", opened)
        body["model"] = "splade-tiny"
        assert client.post("/v1/encode", json=body).status_code == 200


def test_info_tells_what_the_status_shows(page):
    info = page.get("/info").json()
    assert info["onnxruntime"] == onnxruntime.__version__
    assert info["processor"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port", "8123"), "add --web"),
        (("--web", "--json"), "choose --json or --web"),
        (("--web", "--port", "70000"), "70000"),
    ],
)
def test_wrong_options_of_the_demo(arguments, words):
    result = CliRunner().invoke(main, ["demo", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr


def test_the_demo_listens_at_this_machine_alone():
    assert demo.HOST == "127.0.0.1"


def test_a_port_that_is_taken_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(main, ["demo", "--web", "--port", port])
    assert result.exit_code == 1
    assert f"cannot listen at 127.0.0.1:{port}" in result.stderr


@pytest.mark.parametrize("arguments", [["demo", "--web"], ["serve", "tessera-static-mini"]])
def test_without_the_extra_it_is_told_what_to_install(arguments):
    code = (
        "import sys; sys.modules['starlette'] = None\n"
        "from tessera_onnx.cli.main import main; main()"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert 'is not installed: `pip install "PATH[serve]"`' in done.stderr
