"""The difference between two graphs of a model, as it is reported at opening."""

import dataclasses
import logging

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, copy, relist

from tessera_onnx import (
    LoadError,
    SparseVector,
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    protobuf,
)
from tessera_onnx.models.artifact import FOLDER, Artifact
from tessera_onnx.models.spec import File
from tessera_onnx.text import base, probe_difference
from tessera_onnx.text.probe_difference import PROBES, least_cosine


def shaken(content, seed=0, size=0.05):
    """The graph with noise in its large weights, in units of their deviation."""
    rng = np.random.default_rng(seed)
    changed = bytearray(content)
    for _, start, end in protobuf.fields(content, 0, len(content), protobuf.GRAPH):
        for _, at, to in protobuf.fields(content, start, end, protobuf.INITIALIZER):
            for _, begin, until in protobuf.fields(content, at, to, 9):
                if until - begin >= 4 * 64:
                    weights = np.frombuffer(content[begin:until], np.float32)
                    noise = rng.normal(0, size * weights.std(), weights.shape)
                    changed[begin:until] = (weights + noise).astype(np.float32).tobytes()
    return bytes(changed)


@pytest.mark.parametrize(
    ("cls", "name"),
    [(TesseraDense, "prompts"), (TesseraMultiVector, "colbert"), (TesseraSparse, "splade")],
)
def test_the_least_cosine_of_each_kind(cls, name, tmp_path):
    folder = copy(name, tmp_path / name)
    content = (folder / "model.fp32.onnx").read_bytes()
    relist(folder, "model.fp32.onnx", shaken(content))
    options = {"device": "cpu", "on_long": "truncate"}
    with cls(path=ARTIFACTS / name, **options) as model, cls(path=folder, **options) as other:
        assert least_cosine(model.encode_batch, model.encode_batch) == 1
        found = least_cosine(other.encode_batch, model.encode_batch)
        pairs = list(zip(model.encode_batch(PROBES), other.encode_batch(PROBES), strict=True))
        if cls is not TesseraMultiVector:
            truth = min(
                model.similarity(a, b) / np.sqrt(model.similarity(a, a) * model.similarity(b, b))
                for a, b in pairs
            )
        else:
            truth = min(float((a * b).sum(axis=1).min()) for a, b in pairs)
    assert 0.3 < found < 0.9999
    assert found == pytest.approx(truth, abs=1e-5)


def test_zeros_and_shapes():
    def giving(*rows):
        return lambda _: rows

    zero, one = np.zeros(3, np.float32), np.eye(3, dtype=np.float32)[0]
    assert least_cosine(giving(zero), giving(zero)) == 1
    assert least_cosine(giving(zero), giving(one)) == 0
    assert least_cosine(giving(one, one), giving(one, -one)) == -1
    assert least_cosine(giving(one), giving(np.ones(4, np.float32))) == 0
    nothing = SparseVector(np.zeros(0, np.int32), np.zeros(0, np.float32))
    some = SparseVector(np.array([4], np.int32), np.ones(1, np.float32))
    assert least_cosine(giving(nothing), giving(nothing)) == 1
    assert least_cosine(giving(nothing), giving(some)) == 0
    assert least_cosine(giving(some), giving(some)) == 1


def test_the_report(caplog):
    with caplog.at_level(logging.WARNING):
        probe_difference.report(0.967, "onnx/model_quantized.onnx", "onnx/model.onnx")
    (record,) = caplog.records
    assert "cosine to the vectors of onnx/model.onnx is 0.967" in record.getMessage()
    for least in (0.5, float("nan")):
        with pytest.raises(LoadError, match=r"below 0.9: use precision='fp32'"):
            probe_difference.report(least, "onnx/model_quantized.onnx", "onnx/model.onnx")


@pytest.mark.parametrize("exact", [True, False])
def test_a_folder_with_an_int8_graph_that_saturates(tmp_path, monkeypatch, caplog, exact):
    """It is compared with the fp32 graph beside it when it is opened."""
    monkeypatch.setattr(base, "is_saturating", lambda _name: True)
    folder = tmp_path / "mine"
    (folder / "onnx").mkdir(parents=True)
    graph = (ARTIFACTS / "prompts" / "model.fp32.onnx").read_bytes()
    (folder / "onnx" / "model.onnx").write_bytes(graph)
    (folder / "onnx" / "model_int8.onnx").write_bytes(graph if exact else shaken(graph, size=9))
    for name, content in (
        ("config.json", '{"hidden_size": 32, "max_position_embeddings": 40}'),
        ("tokenizer_config.json", '{"pad_token": "[PAD]", "mask_token": "[MASK]"}'),
        ("tokenizer.json", (ARTIFACTS / "prompts" / "tokenizer.json").read_text()),
    ):
        (folder / name).write_text(content)
    name = "onnx/model_int8.onnx"
    spec = TesseraDense(path=folder).spec
    graphs = dataclasses.replace(spec.graph, fp32="onnx/model.onnx", int8=name)
    files = (*spec.files, File(name, "unpinned", -1))
    found = Artifact(dataclasses.replace(spec, graph=graphs, files=files), folder, FOLDER)
    if exact:
        TesseraDense._from_artifact(found, None, precision="int8").close()
        assert f"of {name} can saturate on this processor" in caplog.text
        assert "the least cosine to the vectors of onnx/model.onnx is 1.000" in caplog.text
    else:
        with pytest.raises(LoadError, match=r"is -?0\.\d+, below 0.9: use precision='fp32'"):
            TesseraDense._from_artifact(found, None, precision="int8")
