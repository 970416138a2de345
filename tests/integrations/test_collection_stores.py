"""A collection in PostgreSQL, and one in Qdrant, finds and holds what the folder does."""

import contextlib
import dataclasses
import http.server
import json
import random
import shlex
import socket
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import psycopg
import pytest
import store_cases as cases
from artifact_tools import ARTIFACTS
from command import run, run_json
from edge_client import EdgeClient
from pgvector.psycopg import register_vector
from qdrant_client import QdrantClient
from test_collection_processes import Indexing, write_corpus
from test_docs import blocks, run_console

from tessera_onnx import Collection, ConfigError, EncodingError, StoreError, TruncationWarning
from tessera_onnx.collection.documents import Document
from tessera_onnx.integrations import pgvector_chunks
from tessera_onnx.integrations.qdrant_chunks import QdrantChunks
from tessera_onnx.integrations.stores import shown

pytestmark = [pytest.mark.integrations, pytest.mark.posix]

SPARSE = ["bm25", pytest.param("splade-tiny", marks=pytest.mark.slow), "none"]
STORES = ("pgvector", "qdrant")
WITH_ENGINE = (*STORES, "engine")  # Qdrant's own, in the place of a server
DENSE = "tessera-static-mini"
N = 300
QUERIES = ("rain on the river", "a letter to the market", "violin 7", "bread in winter")
WORDS = (
    *("fresh", "bread", "rain", "storm", "letter", "ledger", "mill", "river", "clay", "lamp"),
    *("garden", "stone", "winter", "apple", "horse", "violin", "market", "bridge", "forest"),
)


@pytest.fixture(scope="module")
def server():
    with cases.postgres() as url:
        yield url


@pytest.fixture
def place(request, tmp_path, monkeypatch):
    """What opens a store: a server of PostgreSQL; a folder of the local mode of Qdrant's client."""

    def make(store, name="notes"):
        if store == "engine":
            client = EdgeClient(tmp_path / "engine")
            monkeypatch.setattr(QdrantChunks, "client", lambda url: client)
            return {"store": "qdrant", "url": "http://engine"}
        url = request.getfixturevalue("server") if store == "pgvector" else str(tmp_path / "db")
        if store == "pgvector":
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(f'DROP TABLE IF EXISTS "{name}"')
        return {"store": store, "url": url}

    return make


def texts():
    """Texts of different lengths, so that no two have the same score by BM25."""
    chance = np.random.default_rng(5)
    return [f"{' '.join(chance.choice(WORDS, 5 + i // 2))} number {i}." for i in range(N)]


def documents():
    found = texts()
    return [
        Document(f"d{i:03}", text, fields={"part": ["even", "odd"][i % 2], "i": i, "big": i > 250})
        for i, text in enumerate(found)
    ]


def same(found, wanted, tolerance=1e-5):
    """The same rows and scores, but for their last digits."""
    assert len(found) == len(wanted)
    for mine, its in zip(found, wanted, strict=True):
        assert dataclasses.replace(mine, score=0) == dataclasses.replace(its, score=0)
        assert mine.score == pytest.approx(its.score, abs=tolerance)


@pytest.fixture(scope="module", params=SPARSE)
def in_folder(request, tmp_path_factory):
    """All documents in a folder, and the models."""
    options = {"model": DENSE, "sparse": request.param, "chunk_tokens": 96}
    with Collection(tmp_path_factory.mktemp("folder") / "c", **options) as folder:
        folder.add(documents())
        yield folder, options


@pytest.mark.parametrize("store", WITH_ENGINE)
def test_the_same_rows_and_scores_as_in_a_folder(place, in_folder, store):
    folder, options = in_folder
    reranker = str(ARTIFACTS / "reranker")
    with Collection("notes", **place(store), **options) as collection:
        assert collection.add(documents()).documents == N
        assert len(collection) == len(folder) > N
        for query in QUERIES:
            same(collection.search(query, 50), folder.search(query, 50))
            for filters in ({"part": "odd"}, {"part": ["odd", "even"], "big": True}, {"i": [3, 4]}):
                wanted = folder.search(query, 30, filter=filters)
                assert wanted
                same(collection.search(query, 30, filter=filters), wanted)
        for filters in ({"part": "it's"}, {"part": "'; DROP"}, {"part": "%"}, {"part": []}):
            assert collection.search("bread", filter=filters) == []
        with pytest.warns(TruncationWarning):
            wanted = folder.search(QUERIES[0], 5, candidates=20, rerank=reranker)
            same(collection.search(QUERIES[0], 5, candidates=20, rerank=reranker), wanted)
        assert len(collection.search("the", 5)) == 5  # bm25 has no entry for it


@pytest.mark.parametrize("store", WITH_ENGINE)
def test_vectors_per_token_rank_the_candidates(place, tmp_path, store):
    name = "all-minilm-l6-v2"
    options = {"model": name, "multi_vector": name, "chunk_tokens": 64}
    with (
        Collection(tmp_path / "c", **options) as folder,
        Collection("notes", **place(store), **options) as collection,
    ):
        for each in (folder, collection):
            each.add(documents()[:60])
        for query in QUERIES[:2]:
            found, wanted = collection.search(query, 20), folder.search(query, 20)
            by_place = {(row.source, row.number): row.score for row in wanted}
            assert [row.score for row in found] == pytest.approx(
                [row.score for row in wanted], abs=4e-3
            )
            for row in found[:10]:  # Qdrant rounds the query as well
                assert row.score == pytest.approx(by_place[row.source, row.number], abs=4e-3)


def counts(report):
    return {name: value for name, value in dataclasses.asdict(report).items() if value}


@pytest.mark.parametrize("store", WITH_ENGINE)
def test_only_what_changed_is_encoded_and_what_is_gone_is_removed(place, tmp_path, store):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "bread.md").write_text("Fresh bread keeps three days.\n\nRye keeps a week.")
    (notes / "rain.txt").write_text("It rains in the winter. " * 200)
    options = {"model": DENSE, "chunk_tokens": 64, "overlap": 8}
    with Collection("notes", **place(store), **options) as collection:
        assert counts(collection.sync([notes])) == {"documents": 2, "chunks": len(collection)}
        assert counts(collection.sync([notes])) == {"documents": 2, "unchanged": 2}
        (notes / "bread.md").write_text("Toast.")
        (notes / "it's new.txt").write_text("A violin.")
        assert counts(collection.sync([notes])) == {"documents": 3, "unchanged": 1, "chunks": 2}
        assert not any("Rye" in row.text for row in collection.search("rye", 100))
        (notes / "rain.txt").unlink()
        assert counts(collection.sync([notes])) == {"documents": 2, "unchanged": 2, "removed": 1}
        assert {row.text for row in collection.search("bread", 100)} == {"Toast.", "A violin."}
        (notes / "bread.md").write_text("")
        assert counts(collection.sync([notes])) == {"documents": 2, "unchanged": 1, "empty": 1}
        collection.add([Document("mine", "A lamp."), Document("mine too", "The the.")])
        assert {row.source for row in collection.search("lamp")} >= {"mine", "mine too"}
        assert collection.remove(sources=["mine", "mine too", "none"]) == 2
        assert collection.remove([notes]) == 1
        assert len(collection) == 0
        assert collection.search("bread") == []


@pytest.mark.parametrize("store", WITH_ENGINE)
def test_another_model_or_size_is_refused_with_a_sentence(place, store):
    where = place(store)
    with Collection("notes", **where, model=DENSE, chunk_tokens=64) as collection:
        with pytest.raises(StoreError, match="'notes' at .* is not there: tessera index makes it"):
            collection.search("x")
        collection.add([Document("a", "A lamp.")])
    for options, message in (
        ({"model": "all-minilm-l6-v2"}, "made with the dense model 'tessera-static-mini', not"),
        ({"sparse": "none"}, "made with the sparse model 'bm25', not 'none'"),
        (
            {"chunk_tokens": 128},
            "made with chunk_tokens 64, not 128: leave that out, or make a new",
        ),
    ):
        with Collection("notes", **where, **options) as collection:
            with pytest.raises(ConfigError, match=message):
                collection.search("x")
            with pytest.raises(ConfigError, match=message):
                collection.add([Document("b", "A mill.")])
    with Collection("notes", **where) as collection:
        assert [row.source for row in collection.search("x")] == ["a"]
    for wrong, message in (
        ({"store": "chroma", "url": "x"}, "store must be qdrant or pgvector, got 'chroma'"),
        ({"store": "qdrant"}, "store 'qdrant' needs its url"),
        ({"url": "x"}, "url is that of a store: name it"),
    ):
        with pytest.raises(ConfigError, match=message):
            Collection("notes", **wrong).search("x")


def test_a_collection_of_load_or_of_somebody_else_is_refused(place, tmp_path):
    folder = cases.batch(tmp_path / "batch", 1, 5, "--model", DENSE)
    for store in STORES:
        where = place(store)
        options = ("--store", store, "--url", where["url"], "--collection", "notes")
        cases.run("load", folder, *options)
        with Collection("notes", **where, model=DENSE) as collection:
            with pytest.raises(ConfigError, match="was not made by tessera index: choose another"):
                collection.add([Document("a", "A lamp.")])


def test_a_second_writer_of_postgresql_is_refused(place):
    where = place("pgvector")
    first = Collection("notes", **where, model=DENSE)
    second = Collection("public.notes", **where, model=DENSE)
    with first._resources.writer(lambda _: None):
        with pytest.raises(StoreError, match="'public.notes' is being written by another process"):
            second.add([Document("a", "A lamp.")])
        with pytest.raises(StoreError, match="is being written by another thread"):
            thread = threading.Thread
            failed = []

            def work():
                try:
                    first.add([Document("a", "A lamp.")])
                except StoreError as error:
                    failed.append(error)

            other = thread(target=work)
            other.start()
            other.join()
            raise failed[0]
        assert second.search("x") == []  # a reader is not
    assert second.add([Document("a", "A lamp.")]).documents == 1
    first.close()
    second.close()


def test_a_zero_character_is_an_error_of_its_document_alone(place, tmp_path):
    """PostgreSQL cannot keep it: in files the others are added, and documents have an index."""
    lines = [{"text": "A \0 mill."}, {"text": "A lamp."}, {"text": "Rain.", "by": "\0"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Collection("notes", **place("pgvector"), model=DENSE) as collection:
        report = collection.sync([tmp_path / "a.jsonl"])
        assert [message.partition("a.jsonl")[2][:3] for message in report.failed] == ["#0'", "#2'"]
        assert all("holds a zero character, which PostgreSQL" in each for each in report.failed)
        with pytest.raises(EncodingError, match="'b' holds a zero character") as caught:
            collection.add([Document("a", "A mill."), Document("b", "A \0 mill.")])
        assert caught.value.index == 1
        assert {row.text for row in collection.search("x")} == {"A lamp."}


# ---------------------------------------------------------------- processes


def rows_of(store, url, name):
    """All rows with their vectors, by what names them; none where there is no collection."""
    if store == "qdrant":
        with contextlib.closing(QdrantClient(path=url)) as client:
            if not client.collection_exists(name):
                return {}
            points, _ = client.scroll(name, limit=100_000, with_vectors=True)
            found = [(point.payload, point.vector["embedding"]) for point in points]
    else:
        with psycopg.connect(url) as connection:
            register_vector(connection)
            if connection.execute("SELECT to_regclass(%s)", (name,)).fetchone()[0] is None:
                return {}
            query = f'SELECT payload, embedding FROM "{name}"'
            found = [(each, vector.to_list()) for each, vector in connection.execute(query)]
    rows = {(p["source"], p["sha256"], p["number"]): (p["text"], tuple(v)) for p, v in found}
    assert len(rows) == len(found)  # nothing is doubled
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_a_killed_index_goes_on_and_equals_one_that_was_not_killed(place, tmp_path, store):
    chance, counts, kills = random.Random(3), set(), 0
    where = place(store)
    place(store, "whole")
    source = tmp_path / "in"

    def indexing(name):
        options = ("--model", DENSE, "--chunk-tokens", 48, "--overlap", 8, "--id-field", "id")
        at = ("--store", store, "--url", where["url"], "--threads", 1)
        return Indexing(source, "--to", name, *options, *at)

    for version in (1, 2):  # a new collection, then one whose files have changed
        write_corpus(source, version, rows=300, sentences=3000)
        process = indexing("whole")
        process.wait_for_begin()
        begin = time.monotonic()
        process.end()
        seconds = time.monotonic() - begin
        wanted = rows_of(store, where["url"], "whole")
        assert len(wanted) > 1000
        while kills < 2 * version:
            process = indexing("notes")
            process.wait_for_begin()
            time.sleep(chance.uniform(0, seconds * 0.6))
            process.kill()
            kills += 1
            counts.add(len(rows_of(store, where["url"], "notes")))
        indexing("notes").end()
        found = rows_of(store, where["url"], "notes")
        assert found.keys() == wanted.keys()
        assert all(np.allclose(found[k][1], wanted[k][1], atol=1e-6) for k in wanted)
    assert len(counts) > 1  # the kills hit different moments


@pytest.mark.parametrize("store", STORES)
def test_the_commands(place, tmp_path, monkeypatch, store):
    where = place(store)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"text": "Fresh bread keeps three days.", "lang": "en"})
        + "\n"
        + json.dumps({"text": "Es regnet.", "lang": "de"})
    )
    at = ("--store", store, "--url", where["url"])
    done = run("index", "rows.jsonl", "--to", "notes", *at, "--model", DENSE)
    assert done.stdout == "2 documents in notes: 2 new chunks\n"
    report = run_json("index", "rows.jsonl", "--to", "notes", *at)
    assert {name: value for name, value in report.items() if value} == {
        "store": store, "collection": "notes", "documents": 2, "unchanged": 2
    }  # fmt: skip
    (found,) = run_json("search", "notes", "bread", *at, "--filter", "lang=en")["results"]
    assert found["text"] == "Fresh bread keeps three days."
    monkeypatch.setenv("TESSERA_STORE_URL", where["url"])
    done = run("search", "notes", "bread", "--store", store, "--top-k", 1)
    assert done.stdout.splitlines()[1] == "   Fresh bread keeps three days."
    error = run("index", "rows.jsonl", "--to", "notes", *at, "--chunk-tokens", 99, code=1).stderr
    assert error.startswith("Error: this collection was made with chunk_tokens 256, not 99")
    error = run("search", "absent", "bread", *at, code=1).stderr
    assert error.endswith("is not there: tessera index makes it\n")
    run("index", "rows.jsonl", "--to", "folder", "--model", DENSE)  # the variable is for a store
    assert run("index", "rows.jsonl", "--to", "notes", *at, "--remove").stdout == (
        "2 documents removed\n"
    )
    monkeypatch.delenv("TESSERA_STORE_URL")
    assert "--store takes --url" in run("search", "n", "x", "--store", store, code=2).stderr


def test_lancedb_and_pyarrow_are_not_needed(tmp_path):
    (tmp_path / "a.md").write_text("A lamp.")
    code = (
        "import sys\nfor name in ('lancedb', 'pyarrow', 'filelock'): sys.modules[name] = None\n"
        "from tessera_onnx.cli.main import main\nmain()"
    )
    at = ("--store", "qdrant", "--url", str(tmp_path / "db"))
    for command, wanted in (
        (("index", "a.md", "--to", "notes", *at, "--model", DENSE), "1 document in notes: 1 new"),
        (("search", "notes", "lamp", *at), "a.md  0-7"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *command],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert wanted in done.stdout


def test_the_key_of_qdrant_is_sent_and_never_shown(monkeypatch):
    """To a server that refuses it; a client of the field is not told either."""
    seen = []

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers["api-key"])
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b"Invalid API key sesame")

        def log_message(self, *_):
            pass

    monkeypatch.setenv("QDRANT_API_KEY", "sesame")
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a key without TLS
            done = run("search", "n", "x", "--store", "qdrant", "--url", url, code=1)
        server.shutdown()
        thread.join()
    assert set(seen) == {"sesame"}
    assert f"collection 'n' at {url}: the request failed" in done.stderr
    assert "401" in done.stderr
    assert "sesame" not in done.stderr


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_is_down_is_one_sentence_without_its_password(tmp_path, scheme):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"{scheme}://user:secret@127.0.0.1:{closed.getsockname()[1]}/db"
        store = "qdrant" if scheme == "http" else "pgvector"
        (tmp_path / "a.txt").write_text("A lamp.")
        for command in (("index", tmp_path / "a.txt", "--to"), ("search",)):
            rest = ["n"] if command[0] == "index" else ["n", "lamp"]
            done = run(*command, *rest, "--store", store, "--url", url, code=1)
            assert done.stderr.count("\n") == 1, done.stderr
            assert "collection 'n' at 127.0.0.1:" in done.stderr
            assert "the request failed" in done.stderr
            assert "secret" not in done.stderr


def test_no_form_of_an_address_shows_a_password():
    for url, wanted in (
        ("postgresql://me:se@cret@host:5432/db", "host:5432/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db"),
        ("host=h password=secret dbname=d", "host=h password=... dbname=d"),
        ("host=h password = 'secret one' dbname=d", "host=h password = ... dbname=d"),
        ("http://host:6333", "http://host:6333"),
        ("/srv/notes.db", "/srv/notes.db"),
    ):
        assert shown(url) == wanted


def test_a_connection_that_is_lost_is_an_error_and_close_opens_a_new_one(place):
    where = place("pgvector")
    with Collection("notes", **where, model=DENSE) as collection:
        collection.add([Document("a", "A lamp.")])
        with psycopg.connect(where["url"], autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        with pytest.raises(StoreError, match="the request failed"):
            collection.search("x")
        collection.close()
        assert [row.source for row in collection.search("x")] == ["a"]
        assert collection.add([Document("b", "A mill.")]).documents == 1


@pytest.mark.parametrize("text", blocks("console", "server"))
def test_console_in_the_docs(text, place, tmp_path):
    address, url = "postgresql://localhost/articles", place("pgvector")["url"]
    assert address in text
    run_console(text.replace(address, shlex.quote(url)), tmp_path)


def test_a_table_that_another_program_locks_is_an_error(place, monkeypatch):
    where = place("pgvector")
    monkeypatch.setattr(pgvector_chunks, "LIMITS", "SET lock_timeout = '300ms'")
    with Collection("notes", **where, model=DENSE) as collection:
        collection.add([Document("a", "A lamp.")])
        with psycopg.connect(where["url"]) as other:
            other.execute("LOCK TABLE notes")
            with pytest.raises(StoreError, match="the request failed .LockNotAvailable"):
                collection.search("x")
            with pytest.raises(StoreError, match="the request failed .LockNotAvailable"):
                collection.add([Document("b", "A mill.")])
        assert [row.source for row in collection.search("x")] == ["a"]
        assert collection.add([Document("b", "A mill.")]).documents == 1


def test_threads_may_search_at_the_same_time(place):
    with Collection("notes", **place("pgvector"), model=DENSE) as collection:
        collection.add(documents()[:50])
        cases.check_threads(collection, QUERIES)
