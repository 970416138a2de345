"""The openai SDK, with and without asyncio, by the calls of its documentation."""

import asyncio
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from client_checks import ALIAS, PROMPTS, SHORT, SLASH, TEXTS, check_vectors
from server_process import ARTIFACTS, MINILM

from tessera_onnx import TesseraDense

CL100K = "check_embedding_ctx_length=False"


@pytest.fixture(scope="module")
def client(url):
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        yield client


def vectors(answer):
    return [row.embedding for row in answer.data]


def test_vectors_are_the_librarys(client, dense):
    found = client.embeddings.create(model=MINILM, input=TEXTS)
    check_vectors(vectors(found), dense.encode_batch(TEXTS))
    assert [row.index for row in found.data] == list(range(len(TEXTS)))
    tokens = dense.token_count(TEXTS).sum()
    assert (found.usage.prompt_tokens, found.usage.total_tokens) == (tokens, tokens)
    assert (found.object, found.model) == ("list", MINILM)
    one = client.embeddings.create(model=MINILM, input=TEXTS[0], user="somebody")
    check_vectors(vectors(one), [dense.encode(TEXTS[0])])


def test_the_sdk_asks_for_base64_and_gets_it(client, dense):
    raw = client.embeddings.with_raw_response.create(model=MINILM, input=TEXTS)
    assert json.loads(raw.http_request.content)["encoding_format"] == "base64"
    assert isinstance(raw.http_response.json()["data"][0]["embedding"], str)
    plain = client.embeddings.create(model=MINILM, input=TEXTS, encoding_format="float")
    check_vectors(vectors(plain), dense.encode_batch(TEXTS))
    coded = client.embeddings.create(model=MINILM, input=TEXTS, encoding_format="base64")
    assert vectors(coded) == [row["embedding"] for row in raw.http_response.json()["data"]]


def test_many_texts_keep_their_order(client, dense):
    texts = [f"{'word ' * (i % 40)}number {i}" for i in range(300)]
    found = client.embeddings.create(model=MINILM, input=texts)
    check_vectors(vectors(found), dense.encode_batch(texts))


@pytest.mark.parametrize(
    ("role", "name", "more"),
    [
        ("query", PROMPTS, {"input_type": "query"}),
        ("query", PROMPTS, {"task": "retrieval.query"}),
        ("query", PROMPTS, {"prompt_name": "query"}),
        ("query", f"{PROMPTS}-query", None),
        ("document", PROMPTS, {"input_type": "passage"}),
        ("document", f"{PROMPTS}-passage", None),
    ],
)
def test_roles(client, prompts, role, name, more):
    wanted = {"query": prompts.encode_query, "document": prompts.encode_document}[role](SHORT)
    found = client.embeddings.create(model=name, input=SHORT, extra_body=more)
    check_vectors(vectors(found), wanted)


def test_dimensions(client):
    import openai

    found = client.embeddings.create(model=PROMPTS, input=SHORT, dimensions=16)
    with TesseraDense(path=ARTIFACTS / "prompts", dimension=16, threads=1) as short:
        check_vectors(vectors(found), short.encode_batch(SHORT))
    with pytest.raises(openai.BadRequestError, match="384") as caught:
        client.embeddings.create(model=MINILM, input=SHORT, dimensions=100)
    assert caught.value.type == "invalid_request_error"


def test_models(client):
    found = {model.id: model for model in client.models.list()}
    assert {MINILM, PROMPTS} <= found.keys()
    assert found[MINILM].object == "model"
    assert "dense" in found[MINILM].kinds
    for name in (MINILM, ALIAS, SLASH):
        assert client.models.retrieve(name).id == MINILM


@pytest.mark.parametrize("name", [ALIAS, SLASH])
def test_other_names_of_a_model(client, dense, name):
    found = client.embeddings.create(model=name, input=TEXTS)
    check_vectors(vectors(found), dense.encode_batch(TEXTS))


def test_errors_have_the_sdks_classes(client):
    import openai

    create = client.embeddings.create
    with pytest.raises(openai.NotFoundError, match="no model of that name") as caught:
        create(model="other", input="a")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    for given in ([1, 2, 3], [[1, 2], [3]]):  # token ids of OpenAI's tokenizer
        with pytest.raises(openai.BadRequestError, match=CL100K) as caught:
            create(model=MINILM, input=given)
        assert caught.value.param == "input"
    with pytest.raises(openai.BadRequestError, match=r"input\[1\] must be a text"):
        create(model=MINILM, input=["a", 5])
    with pytest.raises(openai.BadRequestError, match="at least one text"):
        create(model=MINILM, input=[])
    with pytest.raises(openai.BadRequestError, match="input 1 has"):
        create(model=MINILM, input=["a", "b " * 400], extra_body={"truncate": False})
    with pytest.raises(openai.BadRequestError, match="does not serve dense vectors"):
        create(model="test-reranker", input="a")
    with pytest.raises(openai.NotFoundError):  # a route that is not there
        client.chat.completions.create(model=MINILM, messages=[{"role": "user", "content": "a"}])


def test_keys_and_limits(serve, tmp_path):
    import openai

    keys = tmp_path / "keys"
    keys.write_text("sk-right\n")
    options = ("--max-texts", "3", "--max-body", "2000", "--keys", str(keys), "--threads", "1")
    base = f"{serve(MINILM, *options).url}/v1"
    with pytest.raises(openai.AuthenticationError, match="Bearer"):
        openai.OpenAI(base_url=base, api_key="sk-wrong").embeddings.create(model=MINILM, input="a")
    create = openai.OpenAI(base_url=base, api_key="sk-right").embeddings.create
    assert len(create(model=MINILM, input=TEXTS).data) == 3
    with pytest.raises(openai.BadRequestError, match="--max-texts"):
        create(model=MINILM, input=["a"] * 4)
    with pytest.raises(openai.APIStatusError, match="--max-body") as caught:
        create(model=MINILM, input="a" * 3000)
    assert caught.value.status_code == 413


class Attempts:
    """The requests that an SDK sends, their times, and what was answered."""

    def __init__(self):
        self.sent, self.answers = [], []

    def hooks(self):
        return {
            "request": [lambda _: self.sent.append(time.monotonic())],
            "response": [
                lambda answer: self.answers.append(
                    (answer.status_code, answer.headers.get("retry-after"), time.monotonic())
                )
            ],
        }


def wait_for_tokens(url, least):
    """Wait until so many tokens are in the server's queue."""
    with httpx2.Client(base_url=url, trust_env=False) as client:
        end = time.monotonic() + 30
        while True:
            text = client.get("/metrics").text
            if float(re.search(r"^tessera_queue_tokens (\S+)", text, re.MULTILINE)[1]) >= least:
                return
            assert time.monotonic() < end


def test_a_full_queue_is_a_rate_limit_that_the_sdk_waits_for(serve, dense):
    import openai

    bulk = [f"{'cats ' * 240}{i}" for i in range(20)]  # 4,860 tokens
    url = serve(MINILM, "--max-queue-tokens", "5000", "--threads", "1").url
    attempts = Attempts()
    client = openai.OpenAI(
        base_url=f"{url}/v1",
        api_key="none",
        http_client=openai.DefaultHttpxClient(event_hooks=attempts.hooks()),
    )
    other = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(other.embeddings.create, model=MINILM, input=bulk)
        wait_for_tokens(url, 2500)
        with pytest.raises(openai.RateLimitError, match="--max-queue-tokens") as caught:
            other.embeddings.create(model=MINILM, input=bulk[:15])
        assert int(caught.value.response.headers["retry-after"]) >= 1
        patient = client.with_options(max_retries=9)
        found = patient.embeddings.create(model=MINILM, input=bulk[:15])
        check_vectors(vectors(first.result()), dense.encode_batch(bulk))
    check_vectors(vectors(found), dense.encode_batch(bulk[:15]))
    *refused, last = attempts.answers
    assert last[0] == 200
    assert refused
    for (status, wait, when), again in zip(refused, attempts.sent[1:], strict=True):
        assert status == 429
        assert again - when >= int(wait) - 0.01
    # What never fits is no matter of waiting.
    with pytest.raises(openai.BadRequestError, match="--max-queue-tokens"):
        other.embeddings.create(model=MINILM, input=bulk * 2)


def test_what_is_late_is_not_sent_again(url):
    import openai

    attempts = Attempts()
    client = openai.OpenAI(
        base_url=f"{url}/v1",
        api_key="none",
        http_client=openai.DefaultHttpxClient(event_hooks=attempts.hooks()),
    )
    with pytest.raises(openai.InternalServerError, match="timeout of 0.001 s") as caught:
        client.embeddings.create(
            model=MINILM, input=["cats " * 240] * 8, extra_headers={"x-timeout-ms": "1"}
        )
    assert caught.value.status_code == 504
    assert len(attempts.sent) == 1


def test_asyncio(url, dense):
    import openai

    texts = [f"{'word ' * i}end" for i in range(24)]

    async def all_at_once():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            calls = [client.embeddings.create(model=MINILM, input=text) for text in texts]
            found = await asyncio.gather(*calls)
            names = [model.id async for model in client.models.list()]
            with pytest.raises(openai.NotFoundError):
                await client.embeddings.create(model="other", input="a")
            return found, names

    found, names = asyncio.run(all_at_once())
    check_vectors([answer.data[0].embedding for answer in found], dense.encode_batch(texts))
    assert MINILM in names
