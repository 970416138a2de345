"""llama-index: the embeddings classes of OpenAI-like servers and of text-embeddings-inference."""

import asyncio

import pytest
from client_checks import PROMPTS, SHORT, TEXTS, check_vectors
from server_process import ARTIFACTS, MINILM

from tessera_onnx import TesseraDense


@pytest.fixture
def like(url):
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    def make(model=MINILM, **options):
        return OpenAILikeEmbedding(
            model_name=model, api_base=f"{url}/v1", api_key="none", **options
        )

    return make


@pytest.fixture
def tei(url):
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    def make(model=MINILM, **options):
        return TextEmbeddingsInference(model_name=model, base_url=url, **options)

    return make


@pytest.fixture(params=["like", "tei"])
def embedding(request):
    return request.getfixturevalue(request.param)()


def test_vectors_are_the_librarys(embedding, dense):
    texts = [*TEXTS, *(f"number {i}" for i in range(25))]  # more than a batch of 10
    vectors = dense.encode_batch(texts)
    check_vectors(embedding.get_text_embedding_batch(texts), vectors)
    check_vectors([embedding.get_text_embedding(texts[1])], vectors[1:2])
    check_vectors([embedding.get_query_embedding(texts[1])], vectors[1:2])


def test_asyncio(embedding, dense):
    async def all_calls():
        return [
            *await embedding.aget_text_embedding_batch(TEXTS),
            await embedding.aget_text_embedding(TEXTS[0]),
            await embedding.aget_query_embedding(TEXTS[0]),
        ]

    wanted = dense.encode_batch([*TEXTS, TEXTS[0], TEXTS[0]])
    check_vectors(asyncio.run(all_calls()), wanted)


def test_documents_through_a_pipeline(embedding, dense):
    from llama_index.core.ingestion import IngestionPipeline
    from llama_index.core.schema import TextNode

    nodes = IngestionPipeline(transformations=[embedding]).run(
        nodes=[TextNode(text=text) for text in TEXTS]
    )
    check_vectors([node.embedding for node in nodes], dense.encode_batch(TEXTS))


def test_roles_and_dimensions(like, prompts):
    documents = like(f"{PROMPTS}-passage").get_text_embedding_batch(SHORT)
    check_vectors(documents, prompts.encode_document(SHORT))
    query = like(PROMPTS, additional_kwargs={"extra_body": {"input_type": "query"}})
    check_vectors([query.get_query_embedding(SHORT[0])], prompts.encode_query(SHORT[:1]))
    with TesseraDense(path=ARTIFACTS / "prompts", dimension=16, threads=1) as short:
        wanted = short.encode_batch(SHORT)
    check_vectors(like(PROMPTS, dimensions=16).get_text_embedding_batch(SHORT), wanted)


def test_instructions_are_part_of_the_text(tei, dense):
    """The client of text-embeddings-inference names no model and no role: it writes prompts."""
    embedding = tei(query_instruction="query:", text_instruction="passage:")
    found = [embedding.get_query_embedding("a"), embedding.get_text_embedding("b")]
    check_vectors(found, dense.encode_batch(["query: a", "passage: b"]))


def test_errors(like, tei):
    import openai

    with pytest.raises(openai.NotFoundError, match="no model of that name"):
        like("other").get_text_embedding("a")
    with pytest.raises(openai.BadRequestError, match="384"):
        like(dimensions=100).get_text_embedding("a")
    long = tei(truncate_text=False)
    with pytest.raises(KeyError):  # it reads the error as a list of vectors
        long.get_text_embedding("a " * 400)
