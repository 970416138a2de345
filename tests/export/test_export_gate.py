"""A wrong graph must not become an artifact."""

import numpy as np
import pytest
import torch
import transformers
from conftest import SMALL

from tessera_export import artifact, parity
from tessera_export.errors import ExportError
from tessera_export.graph import storage
from tessera_export.texts import encoder, folder, torch_modules, tracing

pytestmark = pytest.mark.export


@pytest.fixture
def place(make, dense_files, bert):
    return make("model", bert, dense_files("mean"))


def export_into(target, place, precisions=("fp32",)):
    facts = folder.read(place, ["dense"])
    return encoder.export(facts, target, artifact.Origin("test"), precisions)


def test_wrong_pooling_fails_and_writes_nothing(place, tmp_path, monkeypatch):
    class First(torch_modules.DenseHead):
        def __init__(self, _pooling, layers):
            super().__init__("cls", layers)

    monkeypatch.setattr(torch_modules, "DenseHead", First)
    message = r"'sentence_embedding' in fp32 has max_abs .* must be at most 1e-05"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ExportError, match=message):
        export_into(tmp_path / "out", place)
    assert sorted(tmp_path.iterdir()) == before


def test_pooling_over_the_padding_fails(place, tmp_path, monkeypatch):
    class Padded(torch_modules.DenseHead):
        def forward(self, hidden, mask):
            return super().forward(hidden, torch.ones_like(mask))

    monkeypatch.setattr(torch_modules, "DenseHead", Padded)
    with pytest.raises(ExportError, match="max_abs"):
        export_into(tmp_path / "out", place)


def test_one_perturbed_weight_fails(place, tmp_path, monkeypatch):
    trace = tracing.trace

    def perturbed(wrapper):
        with torch.no_grad():
            wrapper.model.encoder.layer[1].output.dense.bias[3] += 0.01
        return trace(wrapper)

    monkeypatch.setattr(tracing, "trace", perturbed)
    with pytest.raises(ExportError, match="max_abs"):
        export_into(tmp_path / "out", place)
    assert not (tmp_path / "out").exists()


def test_a_failing_precision_keeps_the_old_artifact(place, tmp_path, monkeypatch):
    target = tmp_path / "out"
    export_into(target, place)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    monkeypatch.setitem(parity.LIMITS, ("fp16", "pooled"), {"min_cosine": 1.5})
    facts = folder.read(place, ["dense"])
    with pytest.raises(ExportError, match="in fp16 has min_cosine"):
        encoder.export(facts, target, artifact.Origin("test"), ("fp32", "fp16"), overwrite=True)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


@pytest.mark.slow
def test_a_graph_of_nan_misses_every_limit(place, tmp_path, monkeypatch):
    class Nan(torch_modules.DenseHead):
        def forward(self, hidden, mask):
            return super().forward(hidden, mask) * float("nan")

    monkeypatch.setattr(torch_modules, "DenseHead", Nan)
    monkeypatch.setattr(tracing, "PROBE_TOLERANCE", float("inf"))
    with pytest.raises(ExportError):
        export_into(tmp_path / "out", place)


@pytest.mark.parametrize("metric", ["max_abs", "max_relative", "min_cosine", "mean_cosine"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_nan_for_one_text_of_many_misses_the_limit(metric, place):
    pairs = [(np.full((2, 4), 0.5), np.full((2, 4), 0.5)) for _ in range(3)]
    pairs[place][0][1, 2] = np.nan
    value = parity.measure(metric, pairs)
    with pytest.raises(ExportError, match=f"{metric} nan"):
        parity.figure("fp32", "output", metric, value, 0.5)


@pytest.mark.slow
def test_a_graph_that_gives_nan_for_one_length_is_not_accepted(place, monkeypatch):
    facts = folder.read(place, ["dense"])
    wrapper = torch_modules.Wrapper(torch_modules.load_model(facts, "eager"), facts)
    session = storage.session

    class Sometimes:
        def __init__(self, path):
            self.session = session(path)

        def run(self, names, feeds):
            results = self.session.run(names, feeds)
            return [r * np.nan if feeds["input_ids"].shape[1] == 5 else r for r in results]

    monkeypatch.setattr(storage, "session", Sometimes)
    with pytest.raises(ExportError, match="differs from torch by nan"):
        tracing.trace(wrapper)


@pytest.mark.slow
def test_frozen_shapes_are_not_accepted(place, monkeypatch):
    """A tracer that freezes the traced length is found at other shapes, and the next is tried."""
    facts = folder.read(place, ["dense"])
    wrapper = torch_modules.Wrapper(torch_modules.load_model(facts, "eager"), facts)
    tried = []

    def failing(_wrapper, _path):
        tried.append("legacy")
        raise RuntimeError("unordered_map::at")

    monkeypatch.setattr(tracing, "_legacy", failing)
    model = tracing.trace(wrapper)
    assert tried == ["legacy"]
    assert not any(node.metadata_props for node in model.graph.node)
    with pytest.raises(ExportError, match="no exporter"):
        monkeypatch.setattr(tracing, "_dynamo", failing)
        tracing.trace(wrapper)


def test_weights_that_do_not_fill_the_model_are_refused(make, dense_files):
    model = transformers.BertModel(transformers.BertConfig(**SMALL))
    place = make("bare", model, dense_files("mean"))
    config = (place / "config.json").read_text().replace('"BertModel"', '"BertForMaskedLM"')
    (place / "config.json").write_text(config)
    (place / "modules.json").unlink()
    facts = folder.read(place, ["sparse"])
    with pytest.raises(ExportError, match="do not fill the tensor 'cls"):
        torch_modules.load_model(facts, "eager")


def test_another_tokenizer_than_upstreams_is_refused(place):
    config = (place / "tokenizer_config.json").read_text()
    path = place / "tokenizer.json"
    path.write_text(path.read_text().replace('"lowercase":true', '"lowercase":false'))
    assert "BertTokenizer" in config
    with pytest.raises(ExportError, match="has the lowercase False in its normalizer"):
        folder.read(place, ["dense"])
