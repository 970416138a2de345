"""litellm: embeddings and rerankings through its providers that take an address."""

import asyncio

import numpy as np
import pytest
from client_checks import PROMPTS, QUERY, RERANKER, SHORT, TEXTS, check_ranking, check_vectors
from server_process import ARTIFACTS, MINILM

from tessera_onnx import TesseraDense

# Where each provider wants its address to end.
EMBEDDERS = {
    "openai": "/v1",
    "infinity": "",
    "hosted_vllm": "/v1",
    "jina_ai": "/v1",
    "lm_studio": "/v1",
    "nvidia_nim": "/v1",
    "voyage": "/v1/embeddings",
    "cohere": "/v2/embed",
    "ollama": "",
    "huggingface": "/embed",
}
# What each needs beside that. Without input_type, huggingface asks the hub for the model's task;
# infinity and hosted_vllm read documents of /rerank in two forms, and ours is vLLM's.
MORE = {"huggingface": {"input_type": "embed"}}
RERANKERS = {
    "cohere": {},
    "infinity": {"return_documents": False},
    "hosted_vllm": {},
    "jina_ai": {},
    "huggingface": {},
}


def vectors(answer):
    return [row["embedding"] for row in answer.data]


@pytest.fixture
def embedding(url):
    import litellm

    def call(provider, model, texts, **more):
        where = {"api_base": url + EMBEDDERS[provider], "api_key": "none"}
        more = MORE.get(provider, {}) | more
        return litellm.embedding(model=f"{provider}/{model}", input=texts, **where, **more)

    return call


@pytest.mark.parametrize("provider", EMBEDDERS)
def test_vectors_are_the_librarys(embedding, dense, provider):
    found = embedding(provider, MINILM, TEXTS)
    check_vectors(vectors(found), dense.encode_batch(TEXTS))
    if provider != "huggingface":  # it counts tokens of another tokenizer by itself
        assert found.usage.prompt_tokens == dense.token_count(TEXTS).sum()


@pytest.mark.parametrize("provider", sorted(EMBEDDERS.keys() - {"huggingface"}))
def test_asyncio(url, dense, provider):
    import litellm

    where = {"api_base": url + EMBEDDERS[provider], "api_key": "none"}
    found = asyncio.run(litellm.aembedding(model=f"{provider}/{MINILM}", input=TEXTS[:1], **where))
    check_vectors(vectors(found), dense.encode_batch(TEXTS[:1]))


@pytest.mark.parametrize(
    ("provider", "more"),
    [
        ("openai", {"input_type": "query"}),
        ("openai", {"extra_body": {"input_type": "query"}}),
        ("hosted_vllm", {"input_type": "query"}),
        ("nvidia_nim", {"input_type": "query"}),
        ("voyage", {"input_type": "query"}),
        ("jina_ai", {"task": "retrieval.query"}),
        ("cohere", {"input_type": "search_query"}),
    ],
)
def test_queries(embedding, prompts, provider, more):
    wanted = prompts.encode_query(SHORT)
    check_vectors(vectors(embedding(provider, PROMPTS, SHORT, **more)), wanted)
    if provider != "cohere":  # litellm sends it search_document by itself
        check_vectors(vectors(embedding(provider, f"{PROMPTS}-query", SHORT)), wanted)


@pytest.mark.parametrize(
    ("provider", "more"),
    [
        ("openai", {"allowed_openai_params": ["dimensions"]}),
        ("hosted_vllm", {}),
        ("jina_ai", {}),
        ("cohere", {}),
        ("ollama", {}),
    ],
)
def test_dimensions(embedding, provider, more):
    import litellm

    with TesseraDense(path=ARTIFACTS / "prompts", dimension=16, threads=1) as short:
        wanted = short.encode_batch(SHORT)
    if provider == "ollama":  # of unit length, as Ollama's are
        wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    found = embedding(provider, PROMPTS, SHORT, dimensions=16, **more)
    check_vectors(vectors(found), wanted)
    with pytest.raises(litellm.BadRequestError, match="384"):
        embedding(provider, MINILM, SHORT, dimensions=100, **more)


@pytest.mark.parametrize("provider", RERANKERS)
def test_scores_are_the_librarys(url, scores, provider):
    import litellm

    where = {"api_base": url, "api_key": "none", **RERANKERS[provider]}
    given = {"model": f"{provider}/{RERANKER}", "query": QUERY, "documents": TEXTS}
    found = litellm.rerank(**given, **where)
    check_ranking([(row["index"], row["relevance_score"]) for row in found.results], scores)
    if provider in ("cohere", "hosted_vllm", "jina_ai"):
        assert [row["document"]["text"] for row in found.results] == [
            TEXTS[row["index"]] for row in found.results
        ]
    found = asyncio.run(litellm.arerank(**given, **where, top_n=2))
    check_ranking([(row["index"], row["relevance_score"]) for row in found.results], scores)
    if provider != "huggingface":  # TEI has no such field
        assert len(found.results) == 2


def test_errors(embedding, url):
    import litellm

    with pytest.raises(litellm.NotFoundError, match="no model of that name"):
        embedding("openai", "other", ["a"])
    with pytest.raises(litellm.NotFoundError, match="no model of that name"):
        embedding("hosted_vllm", "other", ["a"])
    with pytest.raises(litellm.BadRequestError, match="does not serve dense vectors"):
        embedding("openai", RERANKER, ["a"])
    where = {"api_base": url, "api_key": "none", "query": "a", "documents": ["b"]}
    with pytest.raises(litellm.NotFoundError, match="no model of that name"):
        litellm.rerank(model="cohere/other", **where)
