"""Clients of single protocols, unchanged: cohere, ollama, huggingface_hub, tritonclient."""

import warnings

import numpy as np
import pytest
from client_checks import QUERY, TEXTS, check_ranking
from server_process import MINILM

from tessera_onnx import TesseraMultiVector


def test_cohere_second_version(url, dense, scores):
    import cohere

    client = cohere.ClientV2(api_key="none", base_url=url)
    found = client.embed(
        model=MINILM,
        texts=TEXTS,
        input_type="search_document",
        embedding_types=["float", "int8", "ubinary", "base64"],
    )
    vectors = dense.encode_document(TEXTS)
    np.testing.assert_allclose(found.embeddings.float_, vectors, atol=1e-6)
    np.testing.assert_array_equal(found.embeddings.ubinary, np.packbits(vectors > 0, axis=1))
    codes = np.array(found.embeddings.int8, float)
    lengths = np.linalg.norm(codes, axis=1) * np.linalg.norm(vectors, axis=1)
    assert ((codes * vectors).sum(axis=1) / lengths > 0.999).all()
    assert len(found.embeddings.base64) == len(TEXTS)
    assert found.meta.billed_units.input_tokens == dense.token_count(TEXTS).sum()
    ranked = client.rerank(model="test-reranker", query=QUERY, documents=TEXTS, top_n=2)
    check_ranking([(row.index, row.relevance_score) for row in ranked.results], scores)
    with pytest.raises(cohere.NotFoundError, match="no model of that name"):
        client.embed(model="other", texts=TEXTS, input_type="search_query")
    with pytest.raises(cohere.BadRequestError, match="input 0 has"):
        client.embed(model=MINILM, texts=["a " * 400], input_type="search_query", truncate="NONE")


def test_cohere_first_version(url, dense, scores):
    import cohere

    client = cohere.Client(api_key="none", base_url=url)
    found = client.embed(model=MINILM, texts=TEXTS, input_type="search_query")
    np.testing.assert_allclose(found.embeddings, dense.encode_query(TEXTS), atol=1e-6)
    ranked = client.rerank(
        model="test-reranker", query=QUERY, documents=TEXTS, return_documents=True
    )
    check_ranking([(row.index, row.relevance_score) for row in ranked.results], scores)
    assert [row.document.text for row in ranked.results] == [TEXTS[r.index] for r in ranked.results]


def test_ollama(url, dense):
    import ollama

    client = ollama.Client(host=url, trust_env=False)
    vectors = dense.encode_batch(TEXTS)
    found = client.embed(model=MINILM, input=TEXTS, truncate=True)
    np.testing.assert_allclose(found.embeddings, vectors, atol=1e-6)
    assert found.prompt_eval_count == dense.token_count(TEXTS).sum()
    old = client.embeddings(model=MINILM, prompt=TEXTS[0])
    np.testing.assert_allclose(old.embedding, vectors[0], atol=1e-6)
    assert f"{MINILM}:latest" in [model.model for model in client.list().models]
    assert client.show(MINILM).capabilities == ["embedding"]
    with pytest.raises(ollama.ResponseError, match="no model of that name") as caught:
        client.embed(model="other", input="a")
    assert caught.value.status_code == 404


def test_huggingface_hub(url, dense, monkeypatch):
    from huggingface_hub import InferenceClient, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # conftest.py sets it for all tests
    client = InferenceClient(model=url)
    found = client.feature_extraction(TEXTS, normalize=True, truncate=True)
    np.testing.assert_allclose(found, dense.encode_batch(TEXTS), atol=1e-6)
    queries = client.feature_extraction(TEXTS, prompt_name="query", truncation_direction="right")
    np.testing.assert_allclose(queries, dense.encode_query(TEXTS), atol=1e-6)
    found = client.sentence_similarity(TEXTS[0], TEXTS[1:])
    a, *others = dense.encode_batch(TEXTS)
    np.testing.assert_allclose(found, [a @ b for b in others], atol=1e-5)


def test_tritonclient(url, dense):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tritonclient.http as triton
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MINILM)
        assert client.get_server_metadata()["name"] == "tessera-onnx"
        described = client.get_model_metadata(MINILM)
        (tensor,) = described["inputs"]
        data = np.array([text.encode() for text in TEXTS], object)
        for binary in (True, False):
            given = triton.InferInput(tensor["name"], [len(TEXTS)], tensor["datatype"])
            given.set_data_from_numpy(data, binary_data=binary)
            wanted = [
                triton.InferRequestedOutput(name, binary_data=binary)
                for name in ("embeddings", "token_count")
            ]
            found = client.infer(MINILM, [given], outputs=wanted, request_id="7")
            vectors = dense.encode_batch(TEXTS)
            np.testing.assert_allclose(found.as_numpy("embeddings"), vectors, atol=1e-6)
            counts = dense.token_count(TEXTS)
            np.testing.assert_array_equal(found.as_numpy("token_count"), counts)
        # Without outputs, the client asks for binary ones in the request's parameters.
        found = client.infer(MINILM, [given])
        np.testing.assert_allclose(found.as_numpy("embeddings"), vectors, atol=1e-6)
        text = triton.InferInput("text", [1], "BYTES")
        text.set_data_from_numpy(data[:1])
        found = client.infer(
            f"{MINILM}",
            [text],
            outputs=[
                triton.InferRequestedOutput("token_embeddings"),
                triton.InferRequestedOutput("token_lengths"),
            ],
        )
        with TesseraMultiVector(MINILM, threads=1) as model:
            tokens = model.encode(TEXTS[0])
        np.testing.assert_allclose(found.as_numpy("token_embeddings"), tokens, atol=1e-5)
        assert found.as_numpy("token_lengths").tolist() == [len(tokens)]
        with pytest.raises(triton.InferenceServerException, match="no model of that name"):
            client.infer("other", [text])
    finally:
        client.close()
