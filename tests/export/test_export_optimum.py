"""The optimum backend, in its own environment: the same gate, the same artifacts."""

import json

import numpy as np
import pytest
import transformers
from architectures import small
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

from tessera_export.errors import ExportError
from tessera_export.texts import folder, gate
from tessera_onnx import TesseraDense, TesseraSparse
from tessera_onnx.models.foreign import graph_io

pytestmark = pytest.mark.export
pytest.importorskip("optimum.exporters.onnx", reason="optimum-onnx has an environment of its own")
OPTIONS = {"precisions": ("fp32", "fp16", "int8"), "backend": "optimum"}


@pytest.mark.parametrize(
    ("name", "mode"), [("bert", "mean"), ("distilbert", "cls"), ("xlm-roberta", "mean")]
)
def test_encoders(make, dense_files, exported, texts, name, mode):
    place = make(name, small(name), dense_files(mode))
    if name == "distilbert":  # whose own tokenizer makes no token_type_ids
        path = place / "tokenizer_config.json"
        names = {"model_input_names": ["input_ids", "attention_mask"]}
        path.write_text(json.dumps(json.loads(path.read_text()) | names))
    running = exported(place, "dense", **OPTIONS)
    spec = running.spec
    assert (spec.dense.output, spec.dense.pooling) == ("last_hidden_state", mode)
    inputs = {port.name for port in graph_io.read(running.place / spec.graph.fp32).inputs}
    assert ("token_type_ids" in inputs) == (name == "bert")
    assert "optimum-onnx 0.1.0" in spec.export.tool
    upstream = SentenceTransformer(str(place), device="cpu")
    theirs = upstream.encode(texts, normalize_embeddings=True)
    for precision, floor in (("fp32", 1 - 1e-6), ("fp16", 0.9999), ("int8", 0.95)):
        options = {"precision": precision, "on_long": "truncate"}
        with TesseraDense(path=running.place, **options) as model:
            ours = model.encode_batch(texts)
        assert (ours * theirs).sum(-1).min() >= floor
        if precision == "fp32":
            assert np.abs(ours - theirs).max() <= 1e-5


def test_splade(splade, exported, texts):
    overrides = folder.Overrides(max_length=128)
    running = exported(splade, "sparse", overrides=overrides, **OPTIONS)
    modules = [MLMTransformer(str(splade), max_seq_length=128), SpladePooling("max")]
    theirs = SparseEncoder(modules=modules, device="cpu").encode(
        texts, convert_to_sparse_tensor=False
    )
    options = {"precision": "fp32", "on_long": "truncate"}
    with TesseraSparse(path=running.place, **options) as model:
        for vector, truth in zip(model.encode_batch(texts), theirs.numpy(), strict=True):
            ours = np.zeros_like(truth)
            ours[vector.indices] = vector.values
            assert np.abs(ours - truth).max() <= 1e-4 * truth.max()


def test_the_gate_judges_it_too(make, dense_files, exported, bert, monkeypatch):
    place = make("bert", bert, dense_files("mean"))
    monkeypatch.setattr(gate, "_pooled", lambda states, *_: gate._unit(states[:, 0]))
    with pytest.raises(ExportError, match="max_abs"):
        exported(place, "dense", backend="optimum")


def test_inputs_that_the_runtime_does_not_feed(make, dense_files, exported):
    config = transformers.GPT2Config(
        vocab_size=30522, n_positions=130, n_embd=64, n_layer=1, n_head=2,
        bos_token_id=101, eos_token_id=102, pad_token_id=0,
    )  # fmt: skip
    place = make("gpt2", transformers.GPT2Model(config), dense_files("lasttoken"))
    with pytest.raises(ExportError, match="wants position_ids"):
        exported(place, "dense", backend="optimum")


def test_what_needs_layers_in_the_graph_is_refused(make, dense_files, exported, bert):
    layer = {"in_features": 64, "out_features": 32, "bias": False}
    place = make("layers", bert, dense_files("mean", dense=[layer]))
    save_file({"linear.weight": bert.embeddings.word_embeddings.weight[:32].clone()},
              place / "2_Dense/model.safetensors")  # fmt: skip
    with pytest.raises(ExportError, match="needs the default backend"):
        exported(place, "dense", backend="optimum")
