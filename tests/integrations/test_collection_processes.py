"""Processes that are killed while they index, and several that use a collection at once."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import lancedb
import pytest
from command import run
from pdf_files import build, page

from tessera_onnx import Collection, FileError

pytestmark = [pytest.mark.integrations, pytest.mark.posix]

MODEL = "tessera-static-mini"
KILLS = 14
MEGABYTES = 50
WORDS = ("fresh", "bread", "rain", "storm", "letter", "ledger", "mill", "river", "clay", "lamp")


class Indexing:
    """`tessera index` as a process of its own."""

    def __init__(self, *arguments, output=subprocess.PIPE):
        code = "from tessera_onnx.cli.main import main; main()"
        command = [sys.executable, "-c", code, "index", *map(str, arguments), "--progress"]
        self.process = subprocess.Popen(
            command, stdout=output, stderr=output,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip

    def wait_for_begin(self):
        """Wait until it has the models open: the bar appears."""
        assert self.process.stderr.read(1)

    def wait_for_commit(self, folder):
        """Wait until it has changed the store, or has ended."""
        before = version_of(folder)
        while self.process.poll() is None and version_of(folder) == before:
            time.sleep(0.02)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def end(self, code=0):
        stdout, stderr = self.process.communicate()
        assert self.process.returncode == code, stderr.decode()
        return stdout.decode()


def sentence(i, word=""):
    return f"{' '.join(WORDS[(i * 7 + k) % 10] for k in range(3 + i % 9))} {word} {i}."


def write_corpus(folder, version=1, rows=900, sentences=9000):
    """Rows, short files, a PDF, and a text of several commits; some of it differs by version."""
    folder.mkdir(exist_ok=True)
    lines = [
        {"id": i, "text": sentence(i, f"v{version}" if i % 3 == 0 else "")} for i in range(rows)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    (folder / "long.txt").write_text(" ".join(sentence(i, f"v{version}") for i in range(sentences)))
    (folder / f"only{version}.md").write_text("A text of this version alone.")
    for i in range(20):
        (folder / f"{i}.txt").write_text(f"{sentence(i)} {sentence(i + 1)}")
    (folder / "scan.pdf").write_bytes(build([page()]))
    for other in folder.glob("only*.md"):
        if other.name != f"only{version}.md":
            other.unlink()


def opened(folder):
    """The table of the store; None where it has none yet."""
    try:
        return lancedb.connect(folder).open_table("chunks") if folder.exists() else None
    except ValueError:
        return None


def version_of(folder):
    table = opened(folder)
    return 1 if table is None else table.version  # 1: it has no rows


def stored(folder):
    """All rows of the store with their vectors."""
    table = opened(folder)
    rows = [] if table is None else table.to_arrow().to_pylist()
    return sorted(rows, key=lambda row: (row["source"], row["number"], row["sha256"]))


def arguments(tmp_path, folder):
    options = ("--model", MODEL, "--chunk-tokens", 48, "--overlap", 8, "--id-field", "id")
    return tmp_path / "in", "--to", folder, *options, "--threads", 1


@pytest.mark.slow
def test_a_killed_index_goes_on_and_equals_one_that_was_not_killed(tmp_path):
    chance = random.Random(3)
    out, states, kills = tmp_path / "out", set(), 0
    for version in (1, 2):  # a new collection, then one whose files have changed
        write_corpus(tmp_path / "in", version)
        whole = tmp_path / f"whole{version}"
        process = Indexing(*arguments(tmp_path, whole))
        process.wait_for_begin()
        begin = time.monotonic()
        process.end()
        seconds = time.monotonic() - begin
        wanted = stored(whole)
        assert len(wanted) > 3000
        goal, before = kills + KILLS // 2, len(stored(out))
        while kills < goal:
            process = Indexing(*arguments(tmp_path, out))
            if kills % 7 in {1, 2}:  # while it opens its models, and in its first commit
                process.wait_for_begin()
                time.sleep(chance.uniform(0, seconds / 3))
            else:
                if kills % 7:  # else at its start
                    process.wait_for_commit(out)
                time.sleep(chance.uniform(0, 0.3))
            if process.process.poll() is None:
                process.kill()
                kills += 1
            else:
                process.end()
                assert stored(out) == wanted
                shutil.rmtree(out)
                if version == 2:
                    shutil.copytree(tmp_path / "whole1", out)
            found = stored(out)
            states.add(len(found))
            ids = [(row["source"], row["sha256"], row["number"]) for row in found]
            assert len(set(ids)) == len(ids)  # nothing is doubled
        Indexing(*arguments(tmp_path, out)).end()
        assert stored(out) == wanted
        assert before == 0 or version == 2
        with Collection(out) as resumed, Collection(whole) as other:
            for query in ("rain on the mill", "version alone", "ledger v2 30"):
                assert resumed.search(query, 50) == other.search(query, 50)
    assert len(states) > 4  # the kills hit different moments
    assert not list(out.glob(".tessera-*.tmp"))


def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    write_corpus(tmp_path / "in")
    first = Indexing(*arguments(tmp_path, tmp_path / "out"))
    first.wait_for_begin()
    while not stored(tmp_path / "out"):
        time.sleep(0.02)
    try:
        done = run("index", *arguments(tmp_path, tmp_path / "out"), code=1)
        assert "is being written by another process: wait until it has ended" in done.stderr
        with Collection(tmp_path / "out") as collection, pytest.raises(FileError, match="another"):
            collection.remove([tmp_path])
    finally:
        first.kill()
    with Collection(tmp_path / "out") as collection:
        assert not collection.sync([tmp_path / "in"], id_field="id").failed


def test_readers_see_whole_documents_while_a_writer_replaces_them(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()

    def write(version):
        rows = [{"id": i, "text": f"{sentence(i)} version {version}"} for i in range(1500)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    write(1)
    Indexing(*arguments(tmp_path, tmp_path / "out")).end()
    write(2)
    writer = Indexing(*arguments(tmp_path, tmp_path / "out"))
    seen = set()
    with Collection(tmp_path / "out") as reader:
        while True:
            is_over = writer.process.poll() is not None
            found = reader.search("rain version", 1500, candidates=1500)
            assert len(found) == 1500
            assert len({row.source for row in found}) == 1500  # each once, in one version
            seen.add(sum("version 2" in row.text for row in found))
            if is_over:
                break
    writer.end()
    assert 0 in seen
    assert 1500 in seen
    assert all(count % 256 in {0, 1500 % 256} for count in seen)  # commit by commit


@pytest.mark.slow
@pytest.mark.linux
def test_a_document_of_fifty_megabytes_takes_bounded_memory(tmp_path):
    text = "".join(f"{sentence(i)} " for i in range(MEGABYTES * 22_000))
    middle = len(text) // 2
    text = f"{text[:middle]} The violin of Cremona needs rosin. {text[middle:]}"
    assert len(text) > MEGABYTES * 1_000_000
    (tmp_path / "in.txt").write_text(text)
    options = ("--model", MODEL, "--chunk-tokens", 512)
    begun = Indexing(
        tmp_path / "in.txt", "--to", tmp_path / "out", *options, output=subprocess.DEVNULL
    )
    _, status, used = os.wait4(begun.process.pid, 0)
    begun.process.returncode = status
    assert status == 0
    assert used.ru_maxrss < 700_000  # KiB
    with Collection(tmp_path / "out") as collection:
        assert len(collection) > MEGABYTES * 300
        found = collection.search("violin rosin", 5)
    assert any("Cremona" in row.text for row in found)
    assert all(row.text == text[row.start : row.stop] for row in found)
