"""Haystack's embedders for OpenAI, alone and in a pipeline."""

import asyncio

import pytest
from client_checks import PROMPTS, SHORT, TEXTS, check_vectors
from server_process import ARTIFACTS, MINILM

from tessera_onnx import TesseraDense


@pytest.fixture
def embedders(url):
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
    from haystack.utils import Secret

    def make(model=MINILM, **options):
        common = {"api_key": Secret.from_token("none"), "api_base_url": f"{url}/v1", **options}
        more = {"progress_bar": False, "raise_on_failure": True}
        return (
            OpenAITextEmbedder(model=model, **common),
            OpenAIDocumentEmbedder(model=model, **common, **more),
        )

    return make


def embed(embedder, texts, **meta):
    from haystack import Document

    found = embedder.run(documents=[Document(content=text, meta=meta) for text in texts])
    return [document.embedding for document in found["documents"]], found["meta"]


def test_vectors_are_the_librarys(embedders, dense):
    text, documents = embedders()
    texts = [*TEXTS, *(f"number {i}" for i in range(40))]  # more than a batch of 32
    found, meta = embed(documents, texts)
    check_vectors(found, dense.encode_batch(texts))
    assert meta["usage"]["total_tokens"] == dense.token_count(texts).sum()
    found = text.run(TEXTS[1])
    check_vectors([found["embedding"]], dense.encode_batch(TEXTS[1:2]))
    assert found["meta"]["model"] == MINILM


def test_roles_by_the_name_and_prompts_by_the_client(embedders, prompts):
    text, _ = embedders(f"{PROMPTS}-query")
    _, documents = embedders(f"{PROMPTS}-passage")
    check_vectors([text.run(SHORT[0])["embedding"]], prompts.encode_query(SHORT[:1]))
    check_vectors(embed(documents, SHORT)[0], prompts.encode_document(SHORT))
    text, _ = embedders(PROMPTS, prefix="a ")
    check_vectors([text.run(SHORT[0])["embedding"]], prompts.encode_batch([f"a {SHORT[0]}"]))


def test_dimensions_and_fields(embedders, dense):
    with TesseraDense(path=ARTIFACTS / "prompts", dimension=16, threads=1) as short:
        wanted = short.encode_batch(SHORT)
    text, documents = embedders(PROMPTS, dimensions=16)
    check_vectors(embed(documents, SHORT)[0], wanted)
    check_vectors([text.run(SHORT[0])["embedding"]], wanted[:1])


def test_asyncio(embedders, dense):
    from haystack import Document

    text, documents = embedders()

    async def both():
        found = await documents.run_async(documents=[Document(content=text) for text in TEXTS])
        return found["documents"], (await text.run_async(TEXTS[0]))["embedding"]

    found, query = asyncio.run(both())
    check_vectors([document.embedding for document in found], dense.encode_batch(TEXTS))
    check_vectors([query], dense.encode_batch(TEXTS[:1]))


def test_a_pipeline_finds_the_nearest_document(embedders, dense):
    from haystack import Document, Pipeline
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    text, documents = embedders()
    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    found = documents.run(documents=[Document(content=text) for text in TEXTS])
    store.write_documents(found["documents"])
    pipeline = Pipeline()
    pipeline.add_component("text", text)
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, scale_score=False))
    pipeline.connect("text.embedding", "retriever.query_embedding")
    ranked = pipeline.run({"text": {"text": "a kitten"}})["retriever"]["documents"]
    query, *rows = dense.encode_batch(["a kitten", *TEXTS])
    scores = {text: float(row @ query) for text, row in zip(TEXTS, rows, strict=True)}
    assert [document.content for document in ranked] == sorted(scores, key=lambda t: -scores[t])
    for document in ranked:
        assert document.score == pytest.approx(scores[document.content], abs=1e-5)


def test_errors(embedders):
    import openai

    text, documents = embedders("other")
    with pytest.raises(openai.NotFoundError, match="no model of that name"):
        text.run("a")
    with pytest.raises(openai.NotFoundError, match="no model of that name"):
        embed(documents, ["a"])
