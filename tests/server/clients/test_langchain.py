"""langchain-openai's OpenAIEmbeddings."""

import asyncio
from importlib import resources

import pytest
from client_checks import PROMPTS, SHORT, TEXTS, check_vectors
from server_process import ARTIFACTS, MINILM

from tessera_onnx import TesseraDense


@pytest.fixture
def embeddings(url):
    from langchain_openai import OpenAIEmbeddings

    def make(model=MINILM, **options):
        options = {"check_embedding_ctx_length": False, **options}
        return OpenAIEmbeddings(model=model, base_url=f"{url}/v1", api_key="none", **options)

    return make


def test_vectors_are_the_librarys(embeddings, dense):
    found = embeddings()
    check_vectors(found.embed_documents(TEXTS), dense.encode_batch(TEXTS))
    check_vectors([found.embed_query(TEXTS[1])], dense.encode_batch(TEXTS[1:2]))
    check_vectors([found.embed_query("")], dense.encode_batch([""]))
    in_parts = embeddings(chunk_size=2)
    check_vectors(in_parts.embed_documents(TEXTS), dense.encode_batch(TEXTS))


def test_asyncio(embeddings, dense):
    async def both():
        found = embeddings()
        return await found.aembed_documents(TEXTS), await found.aembed_query(TEXTS[0])

    documents, query = asyncio.run(both())
    check_vectors(documents, dense.encode_batch(TEXTS))
    check_vectors([query], dense.encode_batch(TEXTS[:1]))


def test_roles_by_the_name_and_by_extra_body(embeddings, prompts):
    by_name = embeddings(f"{PROMPTS}-query")
    check_vectors([by_name.embed_query(SHORT[0])], prompts.encode_query(SHORT[:1]))
    by_name = embeddings(f"{PROMPTS}-passage")
    check_vectors(by_name.embed_documents(SHORT), prompts.encode_document(SHORT))
    by_body = embeddings(PROMPTS, model_kwargs={"extra_body": {"input_type": "query"}})
    check_vectors(by_body.embed_documents(SHORT), prompts.encode_query(SHORT))


def test_dimensions(embeddings):
    with TesseraDense(path=ARTIFACTS / "prompts", dimension=8, threads=1) as short:
        wanted = short.encode_batch(SHORT)
    check_vectors(embeddings(PROMPTS, dimensions=8).embed_documents(SHORT), wanted)


def test_without_the_option_the_answer_names_it(embeddings, monkeypatch):
    """langchain sends token ids of tiktoken, whose file comes with llama-index instead of a hub."""
    import openai

    files = resources.files("llama_index.core") / "_static" / "tiktoken_cache"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(files))
    found = embeddings(check_embedding_ctx_length=True)
    for call in (found.embed_query, lambda text: found.embed_documents([text, "a"])):
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
            call(TEXTS[0])
