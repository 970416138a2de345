import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from architectures import small
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling

from tessera_export.errors import ExportError
from tessera_export.texts import folder
from tessera_onnx import TesseraSparse
from tessera_onnx.models.spec import MultiVector, TokenRole

pytestmark = pytest.mark.export


def truth(place, texts, activation="relu", length=128):
    encoder = Transformer(str(place), transformer_task="fill-mask", max_seq_length=length)
    pooling = SpladePooling("max", activation_function=activation)
    model = SparseEncoder(modules=[encoder, pooling], device="cpu")
    return model.encode(texts, convert_to_sparse_tensor=False).numpy()


def assert_weights(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-4 * theirs.max()


def test_splade_equals_sentence_transformers(splade, exported, texts):
    overrides = folder.Overrides(max_length=128)
    running = exported(splade, "sparse", precisions=("fp32", "fp16", "int8"), overrides=overrides)
    sparse = running.spec.sparse
    assert (sparse.vocab_size, sparse.activation, sparse.head) == (30522, "log1p", "graph")
    theirs = truth(splade, texts)
    ours, _ = running.run(texts, sparse.document, sparse.output)
    assert_weights(ours, theirs)
    for precision, floor in (("fp16", 0.9999), ("int8", 0.95)):
        other, _ = running.run(texts, sparse.document, sparse.output, precision)
        norms = np.linalg.norm(other, axis=-1) * np.linalg.norm(theirs, axis=-1)
        assert ((other * theirs).sum(-1) / norms).min() >= floor
    # The decoder stands once in fp32 and fp16, as one more int8 matrix in int8.
    sizes = {file.name: file.size for file in running.spec.files}
    assert sizes["model.fp32.onnx"] < 18.5e6
    assert sizes["model.fp16.onnx"] < 9.5e6
    assert sizes["model.int8.onnx"] < 9.5e6
    operators = {node.op_type for node in onnx.load(running.place / "model.int8.onnx").graph.node}
    assert "MatMulInteger" in operators


def test_logits_are_pooled_by_the_caller(splade, exported, texts):
    overrides = folder.Overrides(max_length=128, sparse_head="logits")
    running = exported(splade, "sparse", overrides=overrides)
    sparse = running.spec.sparse
    assert (sparse.output, sparse.head) == ("logits", "logits")
    logits, mask = running.run(texts, sparse.document, "logits")
    assert logits.shape == (*mask.shape, 30522)
    peak = np.where(mask[:, :, None] > 0, logits, -np.inf).max(axis=1)
    assert_weights(np.log1p(np.maximum(peak, 0)), truth(splade, texts))


def test_the_double_logarithm_of_opensearch_models(splade, exported, texts, tmp_path):
    place = tmp_path / "double"
    shutil.copytree(splade, place)
    (place / "1_SpladePooling").mkdir()
    types = ("MLMTransformer", "SpladePooling")
    paths = ("", "1_SpladePooling")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.sparse.{name}"}
        for i, (name, path) in enumerate(zip(types, paths, strict=True))
    ]
    (place / "modules.json").write_text(json.dumps(modules))
    settings = {"pooling_strategy": "max", "activation_function": "log1p_relu"}
    (place / "1_SpladePooling/config.json").write_text(json.dumps(settings))
    (place / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    running = exported(place, "sparse")
    sparse = running.spec.sparse
    assert (sparse.activation, sparse.query.max_length) == ("log1p-log1p", 64)
    ours, _ = running.run(texts, sparse.document, sparse.output)
    assert_weights(ours, truth(splade, texts, "log1p_relu", 64))


def test_one_graph_for_sparse_and_token_vectors(splade, exported, texts):
    facts = folder.read(splade, ["sparse"], folder.Overrides(max_length=64))
    role = TokenRole("", 64, (), "none", ())
    both = replace(
        facts, multi_vector=MultiVector("token_embeddings", False, 128, (), "sum", role, role)
    )
    running = exported(both)
    assert running.spec.kinds == ("multi-vector", "sparse")
    ours, _ = running.run(texts, running.spec.sparse.document, "sparse_embedding")
    assert_weights(ours, truth(splade, texts, length=64))


@pytest.mark.parametrize("name", ["bert", "bert-untied", "distilbert", "roberta", "modernbert"])
def test_splade_on_other_backbones(make, exported, texts, name):
    model = small(name, "ForMaskedLM")
    with torch.no_grad():  # random weights are near 0, and so would be most of the output
        model.get_output_embeddings().bias.uniform_(-1, 3)
    place = make(name, model)
    running = exported(place, "sparse", precisions=("fp32", "fp16", "int8"))
    sparse = running.spec.sparse
    theirs = truth(place, texts, length=sparse.document.max_length)
    assert (theirs > 0.1).mean() > 0.5
    ours, _ = running.run(texts, sparse.document, sparse.output)
    assert_weights(ours, theirs)
    for precision, floor in (("fp16", 0.9999), ("int8", 0.95)):
        other, _ = running.run(texts, sparse.document, sparse.output, precision)
        norms = np.linalg.norm(other, axis=-1) * np.linalg.norm(theirs, axis=-1)
        assert ((other * theirs).sum(-1) / norms).min() >= floor


@pytest.fixture
def routed(splade, tmp_path):
    """A folder as sentence-transformers saves OpenSearch's inference-free models."""
    encoder = Transformer(str(splade), transformer_task="fill-mask", max_seq_length=64)
    weights = torch.rand(30522, generator=torch.Generator().manual_seed(0))
    weights[::7] = 0
    router = Router.for_query_document(
        query_modules=[SparseStaticEmbedding(encoder.tokenizer, weight=weights, frozen=True)],
        document_modules=[encoder, SpladePooling("max", activation_function="log1p_relu")],
    )
    model = SparseEncoder(modules=[router], similarity_fn_name="dot", device="cpu")
    model.save(str(tmp_path / "routed"))
    return tmp_path / "routed"


def test_queries_without_inference(routed, exported, texts):
    running = exported(routed, "sparse")
    sparse = running.spec.sparse
    assert (sparse.activation, sparse.query_weights) == ("log1p-log1p", "idf")
    assert sparse.zero_ids == (0, 100, 101, 102, 103)
    upstream = SparseEncoder(str(routed), device="cpu")
    options = {"convert_to_sparse_tensor": False}
    with TesseraSparse(path=running.place, on_long="truncate") as model:
        for text in texts[:4]:
            query, document = (np.zeros(30522, np.float32) for _ in range(2))
            vector = model.encode_query(text)
            query[vector.indices] = vector.values
            assert np.array_equal(query, upstream.encode_query(text, **options).numpy())
            vector = model.encode_document(text)
            document[vector.indices] = vector.values
            theirs = upstream.encode_document(text, **options).numpy()
            theirs[list(sparse.zero_ids)] = 0  # as OpenSearch's own code does
            assert_weights(document, theirs)


def test_other_routes_are_refused(routed):
    with pytest.raises(ExportError, match="of kind sparse only"):
        folder.read(routed, ["dense"])
    (routed / "query_0_SparseStaticEmbedding/model.safetensors").unlink()
    with pytest.raises(ExportError, match="give it with --idf"):
        folder.read(routed, ["sparse"])
    path = routed / "router_config.json"
    path.write_text(path.read_text().replace('SparseStaticEmbedding"', 'Transformer"'))
    with pytest.raises(ExportError, match="known are queries to a SparseStaticEmbedding"):
        folder.read(routed, ["sparse"])
