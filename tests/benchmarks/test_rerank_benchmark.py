"""benchmarks/rerank.py: peers that are equal, other, slow or missing, as its table shows them."""

import re
import shutil

import pytest
from benchmark_runs import ARTIFACTS, run_benchmark, two_precisions

# FlashRank, planted: onnxruntime over the folder that the harness laid out for it, at its best with
# requests of 4 documents, and as wrong as PLANTED says.
FLASHRANK = """
import os, time
from pathlib import Path
import numpy as np, onnxruntime
from tokenizers import Tokenizer

class RerankRequest:
    def __init__(self, query, passages):
        self.query, self.passages = query, passages

class Ranker:
    def __init__(self, name, cache_dir, log_level):
        (graph,) = Path(cache_dir, name).glob("flashrank-*.onnx")
        self.session = onnxruntime.InferenceSession(graph)
        self.tokenizer = Tokenizer.from_file(str(Path(cache_dir, name, "tokenizer.json")))
        self.tokenizer.enable_truncation(64)

    def rerank(self, request):
        passages = request.passages
        time.sleep(0.005 * len(passages) * (len(passages) != 4))
        for passage in passages:
            row = self.tokenizer.encode(request.query, passage["text"])
            inputs = {"input_ids": row.ids, "attention_mask": row.attention_mask}
            inputs = {name: np.array([ids]) for name, ids in inputs.items()}
            if any(port.name == "token_type_ids" for port in self.session.get_inputs()):
                inputs["token_type_ids"] = np.array([row.type_ids])
            (logits,) = self.session.run(None, inputs)
            passage["score"] = 1 / (1 + np.exp(-logits[0, 0]))
        if os.environ["PLANTED"] == "other":
            passages[0]["score"] += 0.25
        passages.sort(key=lambda passage: -passage["score"])
        return passages
"""


@pytest.mark.benchmark
@pytest.mark.parametrize("planted", ["equal", "other"])
def test_rerank(planted, tmp_path, monkeypatch):
    (tmp_path / "flashrank.py").write_text(FLASHRANK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PLANTED", planted)
    model, weights = tmp_path / "model", tmp_path / "weights"
    shutil.copytree(ARTIFACTS / "reranker", model)
    two_precisions(model, "fp32", "int8")
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    wanted = ["flashrank", "flashrank best sorted", "fastembed int8"]
    only = [part for name in wanted for part in ("--only", name)]
    only += ["--queries", "2", "--documents", "40", "--rounds", "2"]
    done = run_benchmark("rerank.py", "--model", model, "--weights", weights, *only)
    lines = done.stdout.splitlines()
    assert "left out: fastembed int8: ModuleNotFoundError" in done.stdout
    assert any("80 pairs of" in line for line in lines)
    rows = {}
    for line in lines:
        if match := re.fullmatch(r"(\S.{39})(.*?) (\S+e\S+)((?: +[\d.]+){3}) +(\d+)", line):
            rows[match[1].strip()] = (match[2].split(), float(match[3]), match[4].split())
    mark = " !" * (planted == "other")
    names = {"tessera-onnx fp32", "tessera-onnx int8"}
    assert rows.keys() == names | {f"flashrank{mark}", f"flashrank best sorted{mark}"}
    assert rows["tessera-onnx int8"][1] == 0  # the same graph
    (batch, speed, _, ratio, *_), gap, _ = rows[f"flashrank best sorted{mark}"]
    assert batch == "4"
    ours = float(rows["tessera-onnx fp32"][0][0])
    assert 1 / 4 < float(ratio[:-1]) / (ours / float(speed)) < 4  # by round, on a busy machine
    assert gap == pytest.approx(0.25, abs=1e-4) if mark else gap < 1e-5
    _, ten, fifty = map(float, rows[f"flashrank{mark}"][2])
    assert ten > 10 * 5 and fifty > 50 * 5  # what it sleeps
    assert ("! not the same scores" in done.stdout) == (planted == "other")
