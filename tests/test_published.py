"""Real checkpoints against numbers that other projects publish for them (`pytest -m network`).

The dense, ColBERT and SPLADE numbers are expectations of fastembed's own tests
(github.com/qdrant/fastembed, tests/), good to 1e-3 there; the OpenSearch ones are of
sentence-transformers' tests (tests/sparse_encoder/test_opensearch_models.py). Everything is
downloaded from the model hub; the last test exports and needs tessera-onnx-export too.
"""

import subprocess
import sys

import numpy as np
import pytest

from tessera_onnx import TesseraDense, TesseraMultiVector, TesseraSparse

pytestmark = [pytest.mark.network, pytest.mark.filterwarnings("ignore")]
TEXT = "hello world"

# First five components for TEXT, without any prompt.
DENSE = {
    "all-minilm-l6-v2": [-0.034478, 0.03102, 0.00673, 0.02611, -0.039362],
    "bge-small-en-v1.5": [0.01522374, -0.02271799, 0.00860278, -0.07424029, 0.00386434],
    "bge-base-en-v1.5": [0.01129394, 0.05493144, 0.02615099, 0.00328772, 0.02996045],
    "bge-large-en-v1.5": [0.03434538, 0.03316108, 0.02191251, -0.03713358, -0.01577825],
    "gte-base": [0.0038, 0.0355, 0.0181, 0.0092, 0.0654],
    "jina-embeddings-v2-small-en": [-0.0455, -0.0428, -0.0122, 0.0613, 0.0015],
    "jina-embeddings-v2-base-en": [-0.0332, -0.0509, 0.0287, -0.0043, -0.0077],
    "jina-embeddings-v2-base-code": [0.0145, -0.0164, 0.0136, -0.0170, 0.0734],
    "mxbai-embed-large-v1": [0.02295546, 0.03196154, 0.016512, -0.04031524, -0.0219634],
    "snowflake-arctic-embed-l": [0.0189, -0.0673, 0.0183, 0.0124, 0.0146],
    "qwen3-embedding-0.6b": [-0.01476084, 0.01723184, -0.01195498, -0.07275258, 0.00281229],
}
# The same, published before the L2 norm, so that only the direction can be compared.
UNNORMALISED = {
    "multilingual-e5-large": [0.4544, -0.0968, 0.1054, -1.3753, 0.1500],
    "nomic-embed-text-v1": [0.3708, 0.2031, -0.3406, -0.2114, -0.3230],
    "nomic-embed-text-v1.5": [-0.15407836, -0.03053198, -3.9138033, 0.1910364, 0.13224715],
}
# With the model's own prompts: (query, document).
PROMPTED = {
    "embeddinggemma-300m": (
        [-0.22990295, 0.03311195, 0.04290345, -0.03558498, -0.01399477],
        [-0.08181356, 0.0214127, 0.05120273, -0.03690156, -0.0254504],
    ),
    "qwen3-embedding-0.6b": (
        [-0.01908712, 0.01635596, -0.00356586, -0.03947155, -0.01387356],
        [-0.01476084, 0.01723184, -0.01195498, -0.07275258, 0.00281229],
    ),
}
# First row of the document TEXT, and its shape.
COLBERT = {
    "colbertv2.0": ([0.0759, 0.0841, -0.0299, 0.0374, 0.0254], (5, 128)),
    "answerai-colbert-small-v1": ([-0.07281, 0.04632, -0.04711, 0.00762, -0.07374], (5, 96)),
}


@pytest.fixture(autouse=True)
def _hub(monkeypatch, tmp_path_factory):
    """One cache for all tests here, and no starter pack in the place of the hub's files."""
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path_factory.getbasetemp() / "hub-models"))
    monkeypatch.setattr("tessera_onnx.models.installed.ENTRY_POINTS", "tessera_onnx.no_such_group")


@pytest.mark.parametrize("model_id", DENSE)
def test_dense(model_id):
    with TesseraDense(model_id, precision="fp32") as model:
        found = model.encode(TEXT, prompt="")
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(found[:5], DENSE[model_id], atol=1e-3)


@pytest.mark.parametrize("model_id", UNNORMALISED)
def test_direction(model_id):
    with TesseraDense(model_id, precision="fp32") as model:
        found = model.encode(TEXT, prompt="")[:5]
        expected = np.array(UNNORMALISED[model_id])
        cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
        assert cosine > 0.9999


@pytest.mark.parametrize("model_id", PROMPTED)
def test_prompts(model_id):
    with TesseraDense(model_id, precision="fp32") as model:
        query, document = PROMPTED[model_id]
        np.testing.assert_allclose(model.encode_query(TEXT)[:5], query, atol=1e-3)
        np.testing.assert_allclose(model.encode_document(TEXT)[:5], document, atol=1e-3)


@pytest.mark.parametrize("model_id", COLBERT)
def test_colbert(model_id):
    row, shape = COLBERT[model_id]
    with TesseraMultiVector(model_id, precision="fp32") as model:
        found = model.encode(TEXT)
        assert found.shape == shape  # [CLS] [D] hello world [SEP]
        np.testing.assert_allclose(found[0, :5], row, atol=1e-3)
        assert model.encode_query(TEXT).shape == (32, shape[1])


def test_splade():
    with TesseraSparse("splade-pp-en-v1", precision="fp32") as model:
        found = model.encode("Hello World").to_dict()
        assert len(found) == 15
        expected = {7592: 2.80326, 2088: 2.76658, 7632: 2.19043, 2748: 1.39517}
        for index, weight in expected.items():
            assert found[index] == pytest.approx(weight, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "score", "weights"),
    [
        ("doc-v2-distill", 17.5307, {"ny": 1.4109, "weather": 1.4673, "now": 0.7473}),
        ("doc-v3-distill", 11.1105, {"ny": 0.8049, "weather": 0.9710, "now": 0.4720}),
    ],
)
def test_opensearch(tmp_path, name, score, weights):
    pytest.importorskip("tessera_export", reason="these have no ONNX file: they are exported")
    source = f"opensearch-project/opensearch-neural-sparse-encoding-{name}"
    command = [sys.executable, "-m", "tessera_export", source, "--kind", "sparse"]
    # The default would be int8 on a CPU, which is no match to three digits.
    command += ["--precision", "fp32"]
    subprocess.run([*command, "--output", tmp_path / "model"], check=True)
    with TesseraSparse(path=tmp_path / "model") as model:
        query, document = "What's the weather in ny now?", "Currently New York is rainy."
        assert model.similarity(query, document) == pytest.approx(score, abs=1e-3)
        idf = dict(model.explain(model.encode_query(query), None))
        assert idf["ny"] == pytest.approx(5.7729, abs=1e-3)
        assert idf["weather"] == pytest.approx(4.5684, abs=1e-3)
        assert idf["now"] == pytest.approx(3.5895, abs=1e-3)
        found = dict(model.explain(model.encode(document), None))
        for token, weight in weights.items():
            assert found[token] == pytest.approx(weight, abs=1e-3)
