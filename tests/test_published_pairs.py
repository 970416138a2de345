"""Real rerankers, static and dense models against published scores of pairs (`pytest -m network`).

RED_PLANET are the reference outputs of sentence-transformers' tests of pretrained models
(tests/cross_encoder and tests/sentence_transformer, test_pretrained.py). They were computed in
bfloat16, whose numbers have three digits, so that they bound a score and are no parity. PARIS are
fastembed's (tests/test_text_cross_encoder.py), fp32 and without an activation, good to 1e-3 there.
OTHERS are of the authors and of text-embeddings-inference. Everything is downloaded.
"""

import numpy as np
import pytest

from tessera_onnx import TesseraDense, TesseraReranker

pytestmark = [pytest.mark.network, pytest.mark.filterwarnings("ignore")]
QUERY = "Which planet is known as the Red Planet?"
DOCUMENTS = [
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
]
RED_PLANET = {
    "ms-marco-tinybert-l-2-v2": [-10.875, 7.0, 5.875, 5.6875],
    "ms-marco-minilm-l-2-v2": [-10.25, 9.8125, 7.9375, 8.3125],
    "ms-marco-minilm-l-4-v2": [-7.875, 9.0, 5.6875, 6.65625],
    "ms-marco-minilm-l-6-v2": [-6.53125, 9.6875, 6.90625, 6.6875],
    "ms-marco-minilm-l-12-v2": [-7.15625, 9.5, 5.71875, 6.84375],
    "mmarco-mminilmv2-l12-h384-v1": [-3.28125, 10.1875, 3.4375, 7.46875],
    "bge-reranker-base": [0.87891, 0.99609, 0.99609, 0.05029],
    "bge-reranker-v2-m3": [0.01855, 1.0, 0.78906, 0.98828],
    "gte-reranker-modernbert-base": [0.80859, 0.95312, 0.875, 0.91797],
    "jina-reranker-v1-tiny-en": [0.53516, 0.92969, 0.87891, 0.88672],
    "jina-reranker-v1-turbo-en": [0.27148, 0.82422, 0.64844, 0.68359],
    "jina-reranker-v2-base-multilingual": [0.23633, 0.71484, 0.50391, 0.31055],
    "mxbai-rerank-xsmall-v1": [0.21484, 0.9375, 0.57031, 0.72656],
    "mxbai-rerank-base-v1": [0.05176, 0.96875, 0.71484, 0.16895],
    "ettin-reranker-32m-v1": [6.21, 10.82, 8.55, 9.86],
}
COSINES = {
    "potion-base-8m": [0.44635, 0.69271, 0.69851, 0.61344],
    "static-retrieval-mrl-en-v1": [0.27474, 0.72625, 0.61197, 0.65317],
    "granite-embedding-small-english-r2": [0.8029, 0.92558, 0.88945, 0.88777],
}
PARIS = {
    "ms-marco-minilm-l-6-v2": [8.500708, -2.541011],
    "ms-marco-minilm-l-12-v2": [9.330912, -2.0380247],
    "bge-reranker-base": [6.15733, -3.65939],
    "jina-reranker-v1-tiny-en": [2.5911, 0.1122],
    "jina-reranker-v1-turbo-en": [1.8295, -2.8908],
    "jina-reranker-v2-base-multilingual": [1.6533, -1.6455],
}
PANDA = (
    "The giant panda (Ailuropoda melanoleuca), sometimes called a panda bear or simply panda, is a "
    "bear species endemic to China."
)
APPLE = (
    "Apple Inc. was founded in Cupertino, California in 1976 by Steve Jobs, Steve Wozniak, and "
    "Ronald Wayne."
)
# model, query, document, score without an activation, tolerance (fp16 for bge-reranker-v2-m3)
OTHERS = [
    ("bge-reranker-v2-m3", "query", "passage", -5.6523, 0.02),
    ("bge-reranker-v2-m3", "what is panda?", "hi", -8.1875, 0.02),
    ("bge-reranker-v2-m3", "what is panda?", PANDA, 5.2617, 0.02),
    ("ettin-reranker-32m-v1", "Where was Apple founded?", APPLE, 11.393298, 2e-3),
    (
        "gte-reranker-modernbert-base",
        "What is Deep Learning?",
        "Deep Learning is not...",
        2.13616,
        2e-3,
    ),
    (
        "ms-marco-minilm-l-6-v2",
        "How many people live in Berlin?",
        "Berlin is well known for its museums.",
        -4.3200774,
        1e-3,
    ),
]


@pytest.fixture(autouse=True)
def _hub(monkeypatch, tmp_path_factory):
    """One cache for all tests here, and no starter pack in the place of the hub's files."""
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path_factory.getbasetemp() / "hub-models"))
    monkeypatch.setattr("tessera_onnx.models.installed.ENTRY_POINTS", "tessera_onnx.no_such_group")


@pytest.mark.parametrize("model_id", RED_PLANET)
def test_scores(model_id):
    expected = np.array(RED_PLANET[model_id])
    with TesseraReranker(model_id, precision="fp32") as model:
        atol = 0.01 if model.activation == "sigmoid" else 0.01 + 0.01 * np.abs(expected).max()
        np.testing.assert_allclose(model.score(QUERY, DOCUMENTS), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("model_id", PARIS)
def test_scores_without_an_activation(model_id):
    cities = ["Paris is the capital of France.", "Berlin is the capital of Germany."]
    with TesseraReranker(model_id, precision="fp32") as model:
        found = model.score("What is the capital of France?", cities, activation="raw")
        np.testing.assert_allclose(found, PARIS[model_id], atol=1e-3)


@pytest.mark.parametrize(
    ("model_id", "query", "document", "score", "atol"),
    OTHERS,
    ids=[f"{row[0]}-{i}" for i, row in enumerate(OTHERS)],
)
def test_scores_of_others(model_id, query, document, score, atol):
    with TesseraReranker(model_id, precision="fp32") as model:
        (found,) = model.score(query, [document], activation="raw")
        assert found == pytest.approx(score, abs=atol)


@pytest.mark.parametrize("model_id", COSINES)
def test_cosines(model_id):
    with TesseraDense(model_id) as model:
        query, documents = model.encode_query(QUERY), model.encode_document(DOCUMENTS)
    lengths = np.linalg.norm(documents, axis=1) * np.linalg.norm(query)
    np.testing.assert_allclose(documents @ query / lengths, COSINES[model_id], rtol=0.01)


@pytest.mark.parametrize(
    ("dimension", "similarities"), [(768, [0.7214, 0.3260]), (256, [0.7759, 0.3419])]
)
def test_modernbert_embed(dimension, similarities):
    """The card's own numbers, with the prompts of the catalogue and its cut."""
    queries = ["What is TSNE?", "Who is Laurens van der Maaten?"]
    document = "TSNE is a dimensionality reduction algorithm created by Laurens van Der Maaten"
    with TesseraDense("modernbert-embed-base", precision="fp32", dimension=dimension) as model:
        found = model.encode_query(queries) @ model.encode_document(document)
    np.testing.assert_allclose(found, similarities, atol=1e-3)
