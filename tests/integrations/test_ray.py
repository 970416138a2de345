"""Batch jobs on a Ray cluster of two nodes: the same files as a local job, also after kills."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from command import run, run_json
from ray.cluster_utils import Cluster
from test_docs import blocks, run_console, run_python

from tessera_onnx.batch import encoder as batch_encoder
from tessera_onnx.batch.job import Job
from tessera_onnx.batch.spread import SpreadJob
from tessera_onnx.errors import ConfigError, EncodingError
from tessera_onnx.integrations.batch import Encoder
from tessera_onnx.integrations.ray import Ray

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integrations,
    pytest.mark.posix,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

STATIC = "tessera-static-mini"
MINILM = "all-minilm-l6-v2"
WORDS = ("fresh", "bread", "rain", "storm", "letter", "ledger", "mill", "river", "clay", "lamp")
NODE = {"num_cpus": 1, "object_store_memory": 150_000_000}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each, as processes of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv("OMP_NUM_THREADS", raising=False)
        made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        try:
            made.add_node(**NODE)
            yield made
        finally:
            made.shutdown()


@pytest.fixture
def corpus(tmp_path):
    """Files of 1,200 rows, some of which fail."""
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(3):
        numbers = range(400 * part, 400 * (part + 1))
        texts = [None if i % 50 == 7 else sentence(i) for i in numbers]
        pq.write_table(pa.table({"id": numbers, "text": texts}), folder / f"{part}.parquet")
    return folder


def sentence(i):
    return f"{' '.join(WORDS[(i * 7 + k) % 10] for k in range(1 + i * 13 % 40))} {i}"


def union(folder):
    """The tables of the outputs by name."""
    return {path.name: pq.read_table(path) for path in sorted(folder.glob("*.parquet"))}


def state(folder):
    """What the manifest holds, without the sizes of outputs."""
    paths = sorted((folder / "_tessera").rglob("*.json"))
    found = {str(path.relative_to(folder)): json.loads(path.read_text()) for path in paths}
    for record in found.values():
        record.pop("bytes", None)
    return found


def local(corpus, out, model=MINILM):
    return Job([str(corpus)], str(out), Encoder(model, "text", threads=1), block_rows=32).run()


def spread(corpus, out, engine, encoder=None, tell=lambda _: None, **options):
    encoder = encoder or Encoder(MINILM, "text", threads=1)
    job = SpreadJob([str(corpus)], str(out), encoder, engine=engine, block_rows=32, **options)
    return job.run(tell)


def kill_node(cluster):
    """SIGKILL for the second node: its raylet, and the workers that are its children."""
    node = cluster.worker_nodes.copy().pop()
    raylet = node.all_processes["raylet"][0].process.pid
    workers = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    for pid in (raylet, *map(int, workers)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


def test_a_job_on_ray_has_the_files_manifest_and_report_of_a_local_one(cluster, tmp_path, corpus):
    lines = [b'{"id": 1, "text": "bread"}', b'{"id": 2, "text": 5}', b'{"id": 3, "text": "\xff"}']
    (corpus / "a.jsonl").write_bytes(b"\n".join(lines))
    (corpus / "b.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(pa.table({"id": [1], "body": ["a"]}), corpus / "c.parquet")
    pq.write_table(pa.table({"id": [], "text": pa.array([], pa.string())}), corpus / "d.parquet")
    command = ["batch", corpus, "--model", MINILM, "--threads", 1, "--block-rows", 32]
    command += ["--id-column", "id"]
    on_ray = ["--engine", "ray", "--address", cluster.address]
    times = ("seconds", "rows_per_second", "tokens_per_second", "output")

    def report(out, *options):
        found = run_json(*command, "--output", tmp_path / out, *options, code=1)
        return {name: value for name, value in found.items() if name not in times}

    expected = report("local")
    assert len(expected["failed_rows"]) == 20
    assert [message.split("/")[-1][:9] for message in expected["failed_files"]] == [
        "b.parquet",
        "c.parquet",
    ]
    assert report("ray", *on_ray) == expected
    made = union(tmp_path / "ray")
    assert made == union(tmp_path / "local")
    assert sum(len(table) for table in made.values()) == 1203
    assert state(tmp_path / "ray") == state(tmp_path / "local")
    # Either engine goes on with what the other one has done.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "ray").glob("*.parquet")}
    assert expected["repeated_ids"] == 3
    known = expected | {"failed_rows": [], "repeated_ids": 0, "repeats": []}  # of this process
    assert report("ray") == report("local", *on_ray) == known
    assert before == {path: path.stat().st_mtime_ns for path in before}
    other = run(*command, "--output", tmp_path / "ray", *on_ray, "--output-dtype", "int8", code=1)
    assert "another output_dtype" in other.stderr


def test_nodes_that_die_lose_and_double_nothing(cluster, tmp_path, corpus):
    local(corpus, tmp_path / "local")
    at = [200, 600]  # rows that are done when a node is killed

    def tell(progress):
        if at and progress.counts.rows >= at[0]:
            at.pop(0)
            kill_node(cluster)
            cluster.add_node(**NODE)

    found = spread(corpus, tmp_path / "ray", Ray(cluster.address), tell=tell)
    assert not at
    assert found.progress.fresh.rows == 1200
    assert union(tmp_path / "ray") == union(tmp_path / "local")
    assert list((tmp_path / "ray" / "_tessera" / "parts").rglob("*.arrow")) == []


class Deadly(Encoder):
    """Kills its process at a block with row 33, as many times as it has lives."""

    def __init__(self, folder, lives):
        super().__init__(STATIC, "text")
        self.folder, self.lives = folder, lives

    def __call__(self, rows, faults):
        if 33 in rows["id"].to_pylist():
            count = len(list(self.folder.iterdir()))
            if count < self.lives:
                (self.folder / str(count)).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(rows, faults)


def test_a_block_that_ends_a_worker_is_tried_again_and_not_for_ever(cluster, tmp_path, corpus):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the nodes lack this module
    local(corpus, tmp_path / "local", STATIC)
    for lives in (2, 3):
        deaths = tmp_path / f"deaths{lives}"
        deaths.mkdir()
        out = tmp_path / f"ray{lives}"
        if lives == 2:
            spread(corpus, out, Ray(cluster.address), Deadly(deaths, lives))
            assert union(out) == union(tmp_path / "local")
            continue
        with pytest.raises(EncodingError, match=r"3 workers ended at _tessera/.*00032\.arrow: \S"):
            spread(corpus, out, Ray(cluster.address), Deadly(deaths, lives))
        assert len(list(deaths.iterdir())) == 3


def test_a_driver_that_is_killed_goes_on(cluster, tmp_path, corpus):
    local(corpus, tmp_path / "local")
    out = tmp_path / "ray"
    code = "import sys; from tessera_onnx.cli.main import main; main()"
    command = ["batch", corpus, "--output", out, "--model", MINILM, "--threads", "1"]
    command += ["--block-rows", "32", "--engine", "ray", "--address", cluster.address]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, command)], stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 60
    while len(list((out / "_tessera").glob("parts/*/*.arrow"))) < 4 and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert union(out).keys() < {"0.parquet", "1.parquet", "2.parquet"}
    found = spread(corpus, out, Ray(cluster.address, workers=1))
    assert 0 < found.progress.fresh.rows < found.progress.counts.rows == 1200
    assert union(out) == union(tmp_path / "local")


def test_a_cluster_that_is_not_there_or_does_not_fit(cluster, tmp_path, corpus, monkeypatch):
    command = ["batch", corpus, "--output", tmp_path / "out", "--model", STATIC]
    nobody = "127.0.0.1:9"
    started = time.monotonic()
    told = [run(*command, "--engine", "ray", "--address", nobody, code=1).stderr]
    monkeypatch.setenv("RAY_ADDRESS", nobody)
    told.append(run(*command, "--engine", "ray", code=1).stderr)
    assert time.monotonic() - started < 20
    for line in told:
        assert line.count("\n") == 1
        assert f"no Ray cluster takes this job at the address '{nobody}' ([Errno 111] Con" in line
        assert line.endswith(
            "start one with `ray start --head`, or give the address and RAY_AUTH_TOKEN of another\n"
        )
    with pytest.raises(ConfigError, match="no node has 2 CPUs: give at most 1 to a worker"):
        spread(corpus, tmp_path / "ray", Ray(cluster.address, cpus_per_worker=2))
    told = run(*command, "--workers", 2, code=2).stderr
    assert "--workers is for --engine ray" in told


def test_a_worker_that_differs_ends_the_job(cluster, tmp_path, corpus, monkeypatch):
    monkeypatch.setattr("tessera_onnx.batch.spread.__version__", "0.0")  # in this process alone
    with pytest.raises(ConfigError, match="has another version than the process of the job"):
        spread(corpus, tmp_path / "ray", Ray(cluster.address))


def test_threads_are_the_cpus_of_an_actor(cluster):
    node = cluster.add_node(num_cpus=2, object_store_memory=100_000_000)
    ray.init(cluster.address, log_to_driver=False)
    try:

        def granted():
            return os.environ["OMP_NUM_THREADS"], batch_encoder._granted(None)

        for cpus in (1, 2):
            found = ray.get(ray.remote(num_cpus=cpus)(granted).remote())
            assert found == (str(cpus), min(cpus, len(os.sched_getaffinity(0))))
    finally:
        ray.shutdown()
        cluster.remove_node(node)


@pytest.fixture
def wide(cluster, monkeypatch):
    """The cluster with CPUs for a pipeline of Ray Data, as that of RAY_ADDRESS."""
    node = cluster.add_node(num_cpus=2, object_store_memory=150_000_000)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield
    ray.shutdown()
    cluster.remove_node(node)


@pytest.mark.parametrize("text", blocks("python", "ray"))
def test_python_in_the_docs(text, wide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray.data.DataContext.get_current(), "checkpoint_config", None)
    run_python(text, r"^\S*\(raylet\).*\n")  # warnings on a busy machine


@pytest.mark.parametrize("text", blocks("console", "ray"))
def test_console_in_the_docs(text, wide, tmp_path):
    run_console(text, tmp_path)


def test_the_benchmark_runs():
    program = Path(__file__).parents[2] / "benchmarks" / "batch_ray.py"
    command = [sys.executable, program, "--rows", "128", "--block-rows", "16", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"Ray \d+ rows/s \(\d+\.\d\d\), ", done.stdout)
