"""The benchmarks run, their metrics are right, and real data gives the published quality."""

import csv
import gzip
import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmark_runs import ARTIFACTS, BENCHMARKS, run_benchmark, two_precisions
from scipy import stats

sys.path.insert(0, str(BENCHMARKS))
import forecast_quality as forecasts
import peers
import pipelines
import quality
import same_numbers

from tessera_onnx import PackedTokens
from tessera_onnx.results import Ranked

needs_data = pytest.mark.skipif(
    not quality.DATA.is_dir(), reason=f"the test collections are not in {quality.DATA}"
)


@pytest.mark.benchmark
@pytest.mark.parametrize(
    "command",
    [
        ("throughput.py", "--texts", "12", "--rounds", "1"),
        pytest.param(("stream_memory.py", "--sizes", "50", "100"), marks=pytest.mark.posix),
        pytest.param(("batch.py", "--rows", "50", "--rounds", "1"), marks=pytest.mark.linux),
        ("maxsim.py", "--documents", "30", "--rounds", "1"),
    ],
    ids=lambda command: command[0],
)
def test_runs(command):
    assert len(run_benchmark(*command).stdout.splitlines()) >= 2


# The peer of this name, planted: onnxruntime over the folder that the harness laid out for it, at
# its best with batches of 4, greedy with batches of 64, and as wrong as PLANTED says.
LIGHT_EMBED = """
import os, time
from pathlib import Path
import numpy as np, onnxruntime
from tokenizers import Tokenizer

class TextEmbedding:
    def __init__(self, folder, model_config):
        self.tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
        self.session = onnxruntime.InferenceSession(Path(folder, model_config["onnx_file"]))

    def encode(self, texts, batch_size):
        rows = [row.ids for row in self.tokenizer.encode_batch(texts)]
        assert [len(row) for row in rows] == sorted(map(len, rows), reverse=True)
        time.sleep(0.05 * len(texts) * (batch_size != 4))
        if batch_size == 64:
            self.waste = np.ones(100_000_000, np.float32)
        found = []
        for row in rows:
            ids = np.array([row])
            inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
            found.append(self.session.run(["sentence_embedding"], inputs)[0][0])
        if os.environ["PLANTED"] == "other":
            found[-1] = -found[-1]
        if os.environ["PLANTED"] == "fewer":
            found = found[1:]
        return np.array(found)
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Options for an artifact of two precisions, one graph under two names, and for weights."""
    model = tmp_path_factory.mktemp("model")
    weights = tmp_path_factory.mktemp("weights")
    starter = importlib.util.find_spec("tessera_onnx_starter")
    shutil.copytree(Path(starter.origin).parent / "minilm", model, dirs_exist_ok=True)
    two_precisions(model, "int8", "fp32")
    for name in ("config", "sentence_bert_config", "tokenizer_config"):
        (weights / f"{name}.json").write_text("{}")
    return "--model", model, "--weights", weights


@pytest.mark.benchmark
@pytest.mark.parametrize("planted", ["equal", "other", "fewer"])
def test_peers(pair, planted, tmp_path, monkeypatch):
    (tmp_path / "light_embed.py").write_text(LIGHT_EMBED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PLANTED", planted)
    wanted = ["tessera-onnx int8", "light-embed sorted", "libembedding-ng sorted"]
    wanted += ["tessera-onnx tokens int8"] * (planted == "equal")
    only = [part for name in wanted for part in ("--only", name)]
    only += ["--tokens-model", pair[1], "--texts", "16", "--rounds", "2"]
    done = run_benchmark("peers.py", *pair, *only)
    lines = done.stdout.splitlines()
    assert "left out: libembedding-ng sorted: ModuleNotFoundError" in done.stdout
    assert any("16 texts of" in line and "256 tokens" in line for line in lines)
    rows = {}
    for line in lines:
        if match := re.fullmatch(r"(.{40})(.*) (\S+)/(\S+) +\S+ +\S+ +(\d+)", line):
            rows[match[1].strip()] = (match[2].split(), *map(float, match.groups()[2:]))
    assert {"tessera-onnx fp32", "tessera-onnx int8"} <= rows.keys()
    assert ("tessera-onnx tokens fp32" in rows) == (planted == "equal")
    assert rows["tessera-onnx int8"][1] == 1  # the same graph
    if planted == "fewer":
        assert "left out: light-embed sorted: ValueError: 15 vectors for 16 texts" in done.stdout
        return
    name = "light-embed sorted" + " !" * (planted == "other")
    (batch, speed, _, ratio, _), mean, least, peak = rows[name]
    assert batch == "4"
    ours = float(rows["tessera-onnx fp32"][0][0])
    assert 1 / 4 < float(ratio[:-1]) / (ours / float(speed)) < 4  # by round, on a busy machine
    assert (least, mean) == pytest.approx((1, 1) if planted == "equal" else (-1, 14 / 16), abs=1e-4)
    assert ("! not the same work" in done.stdout) == (planted == "other")
    assert peak < 380  # the wasted 400 MB belong to a batch size that was not taken


def test_peers_refuses_unknown_environments(pair):
    command = [sys.executable, BENCHMARKS / "peers.py", *pair, "--python", "fastembd=python"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "fastembd" in done.stderr


def test_cosines_of_other_sizes_are_zero(rng):
    a, b = rng.normal(size=(2, 6))
    found = peers.cosines([a, 2 * b, b], [a, -b, a[:4]])
    assert found.tolist() == pytest.approx([1, -1, 0])
    assert peers.cosines([a], [a, b]).tolist() == [0, 0]


@pytest.mark.benchmark
def test_startup(pair):
    done = run_benchmark("startup.py", "--rounds", "1", *pair)
    rows = {}
    for line in done.stdout.splitlines():
        name, *figures = re.split(" {2,}", line.strip())
        rows[name] = figures
    for name in ("tessera-onnx, the starter", "tessera-onnx fp32", "tessera-onnx int8"):
        imports, load, first, steady, peak = map(float, rows[name])
        assert 0 < first < 60
        assert 0 < load < 60
        assert 0 < imports < 60
        assert 30 < steady <= peak < 1000
    found = re.findall(r"([\d.]+) MB (.+)", done.stdout)
    sizes = {name: float(size) for size, name in found}
    total = next(size for name, size in sizes.items() if name.endswith(": tessera-onnx"))
    assert {"onnxruntime", "numpy", "tokenizers"} <= sizes.keys()
    assert sizes["onnxruntime"] + sizes["numpy"] < total < 1000


@pytest.mark.benchmark
def test_operators():
    """The shares of one thread's operators are all of the time, and the products are most of it."""
    lines = run_benchmark("operators.py", "--runs", "5").stdout.splitlines()
    rows = {line.split()[0]: float(line.split()[-1].rstrip("%")) for line in lines[3:]}
    assert 60 < sum(rows.values()) < 105  # the rest is between them
    assert max(rows, key=rows.get) == "MatMulIntegerToFloat"


def test_structure_by_hand(tmp_path):
    """Two folders that know each other, three files in a chain, an import inside a function."""
    files = {
        "__init__.py": "",
        "errors.py": "import os\n",
        "a/__init__.py": "",
        "a/one.py": "from p import errors\nfrom p.a.two import f\nfrom p.b import three\n",
        "a/two.py": "from ..errors import Error\n",
        "b/__init__.py": "",
        "b/three.py": "def f():\n    import p.a.two\n",
    }
    for name, text in files.items():
        path = tmp_path / "p" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    lines = run_benchmark("structure.py", tmp_path / "p").stdout.splitlines()
    # one -> errors, two, three; two -> errors; three -> two. Chain: one, three, two, errors.
    assert lines[2] == "| files | 4 | 4 | 5 | 0 |"
    # a -> errors, a -> b, b -> a: a and b share a floor, on errors.
    assert lines[3] == "| folders, and files | 3 | 2 | 3 | 2 |"
    assert "folders that hold code: 3" in lines
    assert {"upward: p.a -> p.b", "upward: p.b -> p.a"} <= set(lines)
    assert "package: 7 lines in 4 files" in lines


def test_same_numbers_tells_one_bit(rng, tmp_path):
    """Of an array in another folder, and of a score of a packed file that is opened again."""
    pack = PackedTokens(list(rng.normal(size=(3, 2, 8))), ids=list("xyz"), threads=1)
    queries = list(rng.normal(size=(2, 3, 8)))
    stored = dict(same_numbers.leaves("m.pack/queries", queries))
    stored |= same_numbers.leaves("m.pack/scores", same_numbers.scored(pack, queries))
    folders = []
    for change in (None, "m.pack/scores/1/0", "m.pack/queries/0"):
        folders.append(tmp_path / str(len(folders)))
        folders[-1].mkdir()
        pack.save(folders[-1] / "m.pack")
        arrays = {name: array.copy() for name, array in stored.items()}
        if change:
            arrays[change].view(np.uint8).flat[0] ^= 1
        np.savez(folders[-1] / "arrays.npz", **arrays)
    done = run_benchmark("same_numbers.py", "compare", folders[0], folders[0])
    assert "1 packed files opened again" in done.stdout and "\n0 differences" in done.stdout
    for first, second, faults in (
        (0, 2, ["differs: m.pack/queries/0"]),
        (1, 0, ["differs when opened again: m.pack/scores/1/0", "differs: m.pack/scores/1/0"]),
    ):
        command = [sys.executable, BENCHMARKS / "same_numbers.py", "compare"]
        command += [folders[first], folders[second]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        assert [line for line in done.stdout.splitlines() if line.startswith("differs")] == faults


def test_spearman_equals_scipy(rng):
    a, b = rng.integers(0, 6, 200), rng.normal(size=200)
    assert quality.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_ndcg_by_hand():
    # Gains 0, 2, 0, 1 in rank order; the ideal order is 2, 1 and one relevant document is missed.
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    relevant = {"b": 2, "d": 1}
    found = 2 / np.log2(3) + 1 / np.log2(5)
    ideal = 2 / np.log2(2) + 1 / np.log2(3)
    assert quality.ndcg_at_10(scores, list("abcd"), relevant) == pytest.approx(found / ideal)


def test_ndcg_of_a_ranking_by_hand():
    """d, b and no other: gains 1 and 2 at the ranks 1 and 2, of 2 and 1 and a missed third."""
    ranking = [Ranked(3, 0.2), Ranked(1, 0.1)]
    found = 1 / np.log2(2) + 2 / np.log2(3)
    ideal = 2 / np.log2(2) + 1 / np.log2(3) + 1 / np.log2(4)
    relevant = {"b": 2, "d": 1, "a": 1}
    # a, which is not ranked, comes third all the same: the documents left keep their order
    assert pipelines.ndcg(ranking, list("abcd"), relevant) == pytest.approx(
        (found + 1 / np.log2(4)) / ideal
    )
    assert pipelines.ndcg(ranking, list("abcd"), {"d": 1}) == 1


@pytest.mark.benchmark
def test_pipelines_of_a_small_collection(tmp_path):
    """Two questions; every step finds the documents that share words with them."""
    texts = ["Rain falls on the hills.", "Bread is baked of flour.", "The train leaves at nine."]
    folder = tmp_path / "scifact"
    folder.mkdir()
    rows = [{"_id": str(i), "title": "", "text": text} for i, text in enumerate(texts)]
    with gzip.open(folder / "corpus.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    asked = [{"_id": "x", "text": "flour for bread"}, {"_id": "y", "text": "trains at nine"}]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, asked)))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nx\t1\t1\ny\t2\t1\n")
    options = ("--data", tmp_path, "--folder", "scifact", "--reranker", ARTIFACTS / "reranker")
    done = run_benchmark("pipelines.py", *options).stdout
    found = [line.strip("| ").split(" | ") for line in done.splitlines()[4:]]
    assert len(found) == 7 * 3
    scores = {(first, second.strip()): value for _, first, second, value, *_ in found}
    assert {scores[first, step] for first, step in scores if step in ("", "MaxSim")} == {"1.000"}
    assert {step for _, step in scores} == {"", "MaxSim", "test-reranker"}


@needs_data
def test_loader_counts():
    ids, texts, queries = quality.collection(quality.DATA / "cranfield")
    assert (len(ids), len(texts), len(queries)) == (1400, 1400, 225)
    assert sum(len(relevant) for _, relevant in queries) == 1837


@needs_data
@pytest.mark.nightly
def test_dense_starter_on_stsb(dense):
    # Published for fp32: 0.820; int8 must stay within 0.005 of it.
    assert quality.sts(dense, quality.DATA) >= 0.815


def test_weighted_quantile_loss_by_hand():
    # |y| sums to 10. Level 0.1: 4 - 2 is above by 2, costs 0.2; 6 - 9 is below by 3, costs 2.7.
    # Level 0.9: 4 - 5 is below by 1, costs 0.1; 6 - 6 costs nothing.
    future = np.array([[4.0], [-6.0]])
    quantiles = np.array([[[2.0, 5.0]], [[-3.0, -6.0]]])
    want = (2 * (0.1 * 2 + 0.9 * 3) / 10 + 2 * (0.1 * 1) / 10) / 2
    found = forecasts.weighted_quantile_loss(future, quantiles, [0.1, 0.9])
    assert found == pytest.approx(want)


def test_weighted_quantile_loss_of_a_point_is_its_weighted_error(rng):
    future, points = rng.normal(size=(2, 5, 7))
    quantiles = np.repeat(points[..., None], 9, axis=-1)
    found = forecasts.weighted_quantile_loss(future, quantiles, forecasts.LEVELS)
    assert found == pytest.approx(np.abs(future - points).sum() / np.abs(future).sum())


def test_mase_and_coverage_by_hand():
    # Season 2: |3 - 1|, |5 - 2|, |4 - 3| have the mean 2.
    scale = forecasts.seasonal_scale(np.array([1.0, 2.0, 3.0, 5.0, 4.0]), 2)
    assert scale == 2
    future = np.array([[1.0, 2.0], [3.0, 4.0]])
    forecast = np.array([[2.0, 5.0], [3.0, 0.0]])
    assert forecasts.mase(future, forecast, np.array([scale, 4.0])) == (2 / 2 + 2 / 4) / 2
    low, high = np.array([[1.0, 3.0], [0.0, 4.5]]), np.array([[1.0, 9.0], [9.0, 9.0]])
    assert forecasts.coverage(future, low, high) == 0.5  # a bound is inside


def test_seasonal_naive_repeats_the_last_season():
    found = forecasts.seasonal_naive([np.arange(5.0), np.arange(7.0)], 4, 3)
    assert found.shape == (2, 4, 9)
    assert (found == found[..., :1]).all()
    assert found[..., 0].tolist() == [[2, 3, 4, 2], [4, 5, 6, 4]]


def test_windows_follow_each_other():
    windows = list(forecasts.rolling(np.arange(10.0), 4, 5, 2, 1))
    assert [window.future.tolist() for window in windows] == [[5, 6], [7, 8]]
    assert [len(window.history) for window in windows] == [5, 7]
    assert {window.scale for window in windows} == {1.0}
    apart = forecasts.rolling(np.arange(10.0), 4, 5, 1, 1, stride=3)
    assert [window.future.tolist() for window in apart] == [[5], [8]]


def test_quality_of_naive_on_a_small_collection(tmp_path):
    """Reading, windows and table from files on; a series of period 2 that rises by 1 a period."""
    folder = tmp_path / "timeseries"
    folder.mkdir()
    values = [i // 2 + 5 * (i % 2) for i in range(12)]
    with gzip.open(folder / "x.csv.gz", "wt") as stream:
        csv.writer(stream).writerows([["t", "v"], *enumerate(values)])
    entry = {"name": "x", "file": "x.csv.gz", "values": ["v"], "season": 2, "horizon": 2}
    (folder / "series.json").write_text(json.dumps([entry]))
    done = run_benchmark("forecast_quality.py", "--data", tmp_path, "--run", "chronos")
    header, row, mean = (line.split() for line in done.stdout.splitlines()[-3:])
    assert header[:2] == ["set", "forecaster"]
    # One window, 5 and 10, forecast as 4 and 9: an error of 2 / 15, as large as in training.
    assert row[:3] + row[4:7] == ["x", "seasonal", "naive", "0.1333", "1.000", "-"]
    assert mean[-2:] == ["1.0000", "1.000"]


@needs_data
def test_forecast_sets():
    found = {task.name: task for task in forecasts.tasks(forecasts.DATA)}
    assert {name: (len(task.windows), task.horizon) for name, task in found.items()} == {
        "AirPassengers": (1, 24),
        "monthly-sunspots": (1, 48),
        "monthly-milk": (1, 24),
        "ETTh1 OT 24": (30, 24),
        "ETTh1 24": (210, 24),
        "ETTh1 OT 96": (30, 96),
        "ETTh1 96": (210, 96),
        "exchange_rate": (400, 30),
        "m4_hourly": (414, 48),
    }
    for task in found.values():
        assert all(len(window.future) == task.horizon for window in task.windows)
        assert all(math.isfinite(window.scale) and window.scale > 0 for window in task.windows)


@needs_data
def test_naive_on_m4_hourly_gives_the_competitions_figures():
    (task,) = (task for task in forecasts.tasks(forecasts.DATA) if task.name == "m4_hourly")
    histories = [window.history for window in task.windows]
    point = forecasts.seasonal_naive(histories, task.horizon, task.season)[..., 4]
    future = np.stack([window.future for window in task.windows])
    smape = 200 * (np.abs(future - point) / (np.abs(future) + np.abs(point))).mean()
    assert smape == pytest.approx(13.912, abs=0.0005)
    _, mase, _ = forecasts.evaluate(task, forecasts.seasonal_naive)
    assert mase == pytest.approx(1.193, abs=0.0005)
