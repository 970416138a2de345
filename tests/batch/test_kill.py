"""A job that is killed at any moment goes on, and no row is lost or doubled."""

import random
import shutil
import time

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.nightly, pytest.mark.posix]

KILLS = 30


def union(folder):
    """All rows of the output files, in the order of their ids; each file is whole."""
    tables = {}
    for path in sorted(folder.rglob("*.parquet")):
        if "_tessera" not in path.parts and not path.name.startswith("."):
            tables[path.name] = pq.read_table(path)
    return tables


def test_a_job_that_is_killed_again_and_again_equals_one_that_is_not(
    tmp_path, write, sentences, start
):
    for i in range(4):
        texts = [None if k % 50 == 7 else text for k, text in enumerate(sentences(200, 200 * i))]
        table = {"id": range(200 * i, 200 * (i + 1)), "text": texts}
        write(tmp_path / "in" / f"{i}.{('parquet', 'jsonl', 'arrow', 'parquet')[i]}", table)
    command = [tmp_path / "in", "--model", "all-minilm-l6-v2", "--threads", 1, "--block-rows", 16]
    run = start(*command, "--output", tmp_path / "whole")
    run.process.stderr.readline()
    begin = time.monotonic()
    run.wait()
    longest = (time.monotonic() - begin) / 2  # so that machines of any speed are hit midway
    whole = union(tmp_path / "whole")
    assert sum(len(table) for table in whole.values()) == 800

    chance = random.Random(12)
    out = tmp_path / "out"
    kills = finished = 0
    states = set()
    while kills < KILLS:
        run = start(*command, "--output", out)
        if kills % 3:  # while it works; else at its start
            run.process.stderr.readline()
        time.sleep(chance.uniform(0, longest))
        if run.process.poll() is None:
            run.kill()
            kills += 1
            states.add((len(union(out)), len(list((out / "_tessera").rglob("*.arrow")))))
        else:
            assert run.process.returncode == 0
            run.process.communicate()
            assert union(out) == whole
            finished += 1
            shutil.rmtree(out)
        for name, table in union(out).items():  # whole or absent
            assert table.equals(whole[name]), name
    start(*command, "--output", out).wait()
    assert union(out) == whole
    assert not list(out.rglob(".tessera-*.tmp"))
    assert len(states) > 5  # the kills hit different moments
