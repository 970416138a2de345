"""A job on an engine has the files, the manifest and the summary of a job of one process."""

import pickle
import random

import pyarrow.parquet as pq
import pytest

from tessera_onnx.batch import manifest, parts
from tessera_onnx.batch.encoder import Encoder
from tessera_onnx.batch.job import Job
from tessera_onnx.batch.places import Folder
from tessera_onnx.batch.spread import SpreadJob, Worker
from tessera_onnx.errors import ConfigError, FileError

STATIC = "tessera-static-mini"


def shuffled(seed, most):
    """An engine of two workers that has up to `most` calls open and makes them in any order."""
    chance = random.Random(seed)

    def engine(worker, calls):
        opened, workers = [], [pickle.loads(pickle.dumps(worker)) for _ in range(2)]
        for call in calls:
            if call is not None:
                opened.append(call)
            while opened and (call is None or len(opened) == most):
                yield make(chance.choice(workers), opened.pop(chance.randrange(len(opened))))
                if call is None:
                    break
        while opened:
            yield make(chance.choice(workers), opened.pop(chance.randrange(len(opened))))

    def make(worker, call):
        arguments = pickle.loads(pickle.dumps(call.arguments))
        return call, getattr(worker, call.method)(*arguments)

    return engine


@pytest.fixture
def corpus(tmp_path, write, sentences):
    folder = tmp_path / "in"
    for part, name in enumerate(("a.parquet", "b.jsonl", "deep/c.arrow", "e.parquet")):
        texts = sentences(300, 300 * part)
        texts = [None if i % 40 == part else text for i, text in enumerate(texts)]
        write(folder / name, {"id": range(300), "text": texts})
    write(folder / "d.parquet", {"id": [], "body": []})
    (folder / "f.parquet").write_text("no Parquet")
    deep = '{"id": 1, "text": "a", "x": ' + "[" * 300 + "]" * 300 + "}\n"  # that no part holds
    (folder / "g.jsonl").write_text(deep * 40)
    return folder


def outputs(folder):
    paths = [path for path in folder.rglob("*.parquet") if "_tessera" not in path.parts]
    return {str(path.relative_to(folder)): pq.read_table(path) for path in paths}


def run(corpus, out, seed=None, most=4, tell=lambda _: None, **options):
    encoder = Encoder(STATIC, "text")
    options = {"id_column": "id", "block_rows": 32, **options}
    if seed is None:
        return Job([str(corpus)], str(out), encoder, **options).run(tell)
    engine = shuffled(seed, most)
    return SpreadJob([str(corpus)], str(out), encoder, engine=engine, **options).run(tell)


@pytest.mark.parametrize("options", [{}, {"fixed_lists": False, "columns": []}])
def test_results_in_any_order_make_the_same_job(tmp_path, corpus, options):
    expected = run(corpus, tmp_path / "one", **options)
    assert len(expected.failed_files) == (2 if options else 3)
    for seed, most in ((1, 1), (2, 4), (3, 100)):
        out = tmp_path / str(seed)
        found = run(corpus, out, seed, most, **options)
        assert outputs(out) == outputs(tmp_path / "one")
        assert found.failed_rows == expected.failed_rows
        assert found.failed_files == expected.failed_files
        assert found.progress.counts == expected.progress.counts
        assert found.progress.n_done == expected.progress.n_done
        assert found.progress.bytes_done == pytest.approx(found.progress.n_bytes)
        assert not list((out / "_tessera").rglob("*.arrow"))


def test_a_job_ends_where_too_many_rows_fail_and_goes_on(tmp_path, corpus):
    for seed in (None, 1, 2):
        out = tmp_path / str(seed)
        found = run(corpus, out, seed, max_errors=11)
        assert found.too_many_errors
        assert (found.progress.counts.errors, found.progress.counts.rows) == (12, 428)
        again = run(corpus, out, seed, max_errors=100)
        assert not again.too_many_errors
        assert again.progress.counts.rows == 1200
        assert outputs(out) == outputs(tmp_path / "None")


def test_what_was_done_is_not_made_again(tmp_path, corpus):
    class Stop(Exception):
        pass

    def stop(progress):
        if progress.counts.rows >= 500:
            raise Stop

    whole = run(corpus, tmp_path / "whole")
    with pytest.raises(Stop):
        run(corpus, tmp_path / "out", 1, tell=stop)
    found = run(corpus, tmp_path / "out", 2)
    assert 600 <= found.progress.fresh.rows <= 700
    assert found.progress.counts == whole.progress.counts
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")
    assert run(corpus, tmp_path / "out", 3).progress.fresh.rows == 0


def test_parts_of_too_few_rows_are_refused(tmp_path, corpus):
    class Stop(Exception):
        pass

    def stop(progress):
        raise Stop

    with pytest.raises(Stop):
        run(corpus, tmp_path / "out", 1, most=1, tell=stop)
    (name,) = (tmp_path / "out" / "_tessera" / "parts" / "a.parquet").iterdir()
    folder = Folder(str(name.parent))
    parts.write(folder, name.name, parts.read(folder, name.name)[1:])
    with pytest.raises(FileError, match="the parts of a.parquet hold 299 of 300 rows: remove"):
        run(corpus, tmp_path / "out", 2)


def test_a_worker_that_differs_is_refused(tmp_path, corpus):
    run(corpus, tmp_path / "out")
    output = Folder(str(tmp_path / "out"))
    worker = Worker(Encoder(STATIC, "text"), output, None, True)
    facts = worker.facts()
    worker.check(facts)
    other = Worker(Encoder("all-minilm-l6-v2", "text"), output, None, True)
    with pytest.raises(ConfigError, match="has another model than the process of the job: install"):
        other.check(facts)
    missing = Worker(Encoder("no-such-model", "text"), output, None, True)
    with pytest.raises(ConfigError, match=r"the worker on \S+ cannot start: .*no-such-model"):
        missing.check(facts)
    (tmp_path / "out" / manifest.STATE).unlink()
    with pytest.raises(ConfigError, match="does not see .*out: choose a folder or bucket that all"):
        worker.check(facts)
