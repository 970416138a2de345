"""The routes of text-embeddings-inference: equal to the library, ids as TEI reads them."""

import tomllib
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import tessera_onnx_starter
from server_process import ARTIFACTS, MINILM
from tokenizers import Tokenizer

from tessera_onnx import TesseraDense, TesseraMultiVector, TesseraSparse

FOLDER = Path(tessera_onnx_starter.__file__).parent / "minilm"
TEXTS = ["A cat sits on the mat.", "Bücher in Köln", "", "two words [SEP] and a mark"]
LONG = " ".join(f"number{i}" for i in range(400))


@pytest.fixture(scope="module")
def dense():
    with TesseraDense(MINILM, on_long="truncate", threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def upstream():
    """The tokenizer with TEI's settings: it adds special tokens and cuts nothing."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def post(client, path, status=200, **body):
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def run(folder, ids, output):
    """The output of a graph for one list of token ids, run by ONNX Runtime alone."""
    file = next(folder.glob("*.onnx"))
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    known = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": [0] * len(ids)}
    feeds = {each.name: np.array([known[each.name]], np.int64) for each in session.get_inputs()}
    return session.run([output], feeds)[0][0]


def test_embed_gives_the_vectors_of_the_library(field, dense):
    found = post(field, "/embed", inputs=TEXTS)
    np.testing.assert_allclose(found, dense.encode_batch(TEXTS), atol=1e-6)
    alone = post(field, "/embed", inputs=TEXTS[0], normalize=True, truncate=None, prompt_name=None)
    np.testing.assert_allclose(alone, [dense.encode(TEXTS[0])], atol=1e-6)
    assert post(field, "/", inputs=TEXTS[0]) == alone


def test_token_ids_are_whole_inputs(field, dense, upstream):
    ids = upstream.encode(TEXTS[0]).ids
    (found,) = post(field, "/embed", inputs=ids)
    np.testing.assert_allclose(found, dense.encode(TEXTS[0]), atol=1e-6)
    bare = [upstream.encode(text, add_special_tokens=False).ids for text in TEXTS[:2]]
    found = post(field, "/embed", inputs=bare)
    for vector, each in zip(found, bare, strict=True):
        pooled = run(FOLDER, each, "sentence_embedding")
        np.testing.assert_allclose(vector, pooled / np.linalg.norm(pooled), atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_long_text_loses_the_side_that_the_client_names(field, upstream, side):
    upstream.enable_truncation(256, direction=side)
    ids = upstream.encode(LONG).ids
    upstream.no_truncation()
    assert len(ids) == 256
    expected = run(FOLDER, ids, "sentence_embedding")
    expected /= np.linalg.norm(expected)
    direction = "Left" if side == "left" else None
    answer = field.post("/embed", json={"inputs": LONG, "truncation_direction": direction})
    np.testing.assert_allclose(answer.json()[0], expected, atol=1e-5)
    assert answer.headers["x-truncated"] == "0"
    # Ids are cut on the same side, their special tokens too.
    whole = upstream.encode(LONG).ids
    (vector,) = post(field, "/embed", inputs=whole, truncation_direction=side)
    kept = whole[-256:] if side == "left" else whole[:256]
    expected = run(FOLDER, kept, "sentence_embedding")
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)


def test_embed_sparse_gives_the_entries_of_the_library(field):
    found = post(field, "/embed_sparse", inputs=TEXTS[:2])
    with TesseraSparse("splade-tiny", threads=1) as model:
        for entries, vector in zip(found, model.encode_batch(TEXTS[:2]), strict=True):
            assert [entry["index"] for entry in entries] == vector.indices.tolist()
            weights = [entry["value"] for entry in entries]
            np.testing.assert_allclose(weights, vector.values, rtol=1e-5)


def test_embed_all_gives_the_states_that_a_dense_model_pools(field):
    folder, texts = ARTIFACTS / "states", ["two cats", "a cat"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    found = post(field, "/embed_all", inputs=texts, model="test-states")
    vectors = post(field, "/embed", inputs=texts, model="test-states")
    facts = tomllib.loads((folder / "model.toml").read_text())["model"][0]["text"]
    for text, states, vector in zip(texts, found, vectors, strict=True):
        inner = tokenizer.encode(text, add_special_tokens=False).ids
        ids = [*facts["prefix_ids"], *inner, *facts["suffix_ids"]]
        expected = run(folder, ids, "last_hidden_state")
        assert np.shape(states) == (len(ids), expected.shape[-1])
        np.testing.assert_allclose(states, expected, atol=1e-5)
        mean = np.mean(states, axis=0)
        np.testing.assert_allclose(mean / np.linalg.norm(mean), vector, atol=1e-5)
        assert abs(np.linalg.norm(mean) - 1) > 0.1
        (bare,) = post(field, "/embed", inputs=text, model="test-states", normalize=False)
        np.testing.assert_allclose(bare, mean, atol=1e-5)


def test_embed_all_gives_token_vectors_where_the_graph_pools(field):
    (found,) = post(field, "/embed_all", inputs=TEXTS[0])
    with TesseraMultiVector(MINILM, threads=1) as model:
        np.testing.assert_allclose(found, model.encode(TEXTS[0]), atol=1e-5)
    answer = post(field, "/embed_all", 422, inputs="a", model="splade-tiny")
    assert answer["error_type"] == "Validation"


def test_similarity_is_the_cosine(field, dense):
    body = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}, "parameters": {}}
    a, *others = dense.encode_batch(TEXTS).astype(float)
    expected = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in others]
    for path in ("/similarity", "/"):
        np.testing.assert_allclose(post(field, path, **body), expected, atol=1e-6)


def test_similarity_reads_the_prompt_that_parameters_name(field):
    pair = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}
    with TesseraDense(path=ARTIFACTS / "prompts", threads=1) as model:
        for encode, name in ((model.encode_query, "query"), (model.encode_document, "document")):
            a, *others = encode(TEXTS).astype(float)
            expected = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in others]
            parameters = {"prompt_name": name}
            found = post(field, "/similarity", inputs=pair, parameters=parameters,
                         model="test-prompts")  # fmt: skip
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_tokenize_and_decode_are_those_of_the_tokenizer(field, upstream):
    found = post(field, "/tokenize", inputs=TEXTS)
    for text, tokens in zip(TEXTS, found, strict=True):
        expected = upstream.encode(text)
        special = upstream.get_added_tokens_decoder()
        assert [token["id"] for token in tokens] == expected.ids
        for token, name, offsets in zip(tokens, expected.tokens, expected.offsets, strict=True):
            if token["special"]:
                assert special[token["id"]].special
                assert (token["text"], token["start"], token["stop"]) == (name, None, None)
            else:
                assert (token["start"], token["stop"]) == offsets
                assert token["text"] == text[slice(*offsets)]
    bare = post(field, "/tokenize", inputs=TEXTS[0], add_special_tokens=False)
    ids = upstream.encode(TEXTS[0], add_special_tokens=False).ids
    assert [token["id"] for token in bare[0]] == ids
    whole = upstream.encode(TEXTS[0]).ids
    assert post(field, "/decode", ids=whole) == [upstream.decode(whole)]
    both = post(field, "/decode", ids=[whole, ids], skip_special_tokens=False)
    assert both == [upstream.decode(each, skip_special_tokens=False) for each in (whole, ids)]


SECRET = "Zanzibar"
WRONG = [
    ("/embed", {}, 422, "inputs is missing"),
    ("/embed", {"inputs": []}, 400, "empty"),
    ("/embed", {"inputs": 3}, 422, "inputs must be"),
    ("/embed", {"inputs": [SECRET, 3]}, 422, "inputs[1] must be a text"),
    ("/embed", {"inputs": [3, SECRET]}, 422, "inputs[0] must be a list of token ids"),
    ("/embed", {"inputs": [[3], []]}, 422, "text 1"),
    ("/embed", {"inputs": [[3], [3, 1 << 31]]}, 422, "text 1: token id number 1"),
    ("/embed", {"inputs": [True]}, 422, "inputs[0] must be a list of token ids"),
    ("/embed", {"inputs": f"{SECRET} " * 400, "truncate": False}, 422, "input 0 has"),
    ("/embed", {"inputs": SECRET, "truncate": SECRET}, 422, "truncate must be one of"),
    ("/embed", {"inputs": SECRET, "truncation_direction": "up"}, 422, "truncation_direction"),
    ("/embed", {"inputs": SECRET, "prompt_name": SECRET}, 422, "prompt_name must be one of"),
    ("/embed", {"inputs": SECRET, "dimensions": 5}, 422, "384"),
    ("/embed", {"inputs": SECRET, "model": "other"}, 404, "no model of that name"),
    ("/embed", {"inputs": SECRET, "model": "splade-tiny"}, 422, "does not serve dense vectors"),
    ("/embed_all", {"inputs": "a", "model": "test-states", "dimensions": 32}, 422, "not cut"),
    ("/embed_sparse", {"inputs": SECRET, "dimensions": 8}, 422, "no dimension to cut to"),
    ("/embed_sparse", {"inputs": [[[1]]]}, 422, "token ids"),
    ("/similarity", {"inputs": {"sentences": [SECRET]}}, 422, "source_sentence is missing"),
    ("/similarity", {"inputs": {"source_sentence": 3, "sentences": []}}, 422, "source_sentence"),
    ("/", {"inputs": {"source_sentence": SECRET, "sentences": [3]}}, 422, "sentences[0]"),
    ("/tokenize", {"inputs": [[1]]}, 422, "inputs must be"),
    ("/decode", {"ids": SECRET}, 422, "ids must be"),
    ("/decode", {"ids": [1, 99999999]}, 422, "vocabulary"),
]


@pytest.mark.parametrize(("path", "body", "status", "words"), WRONG)
def test_errors(field, path, body, status, words):
    answer = field.post(path, json=body)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "error_type"}
    assert words in answer.json()["error"]
    assert SECRET not in answer.text


def test_info_has_the_fields_of_tei(field):
    found = field.get("/info").json()
    assert found["model_type"] == {"embedding": {"pooling": "graph"}}
    assert found["max_client_batch_size"] == 2048
    assert found["served_model_name"] == MINILM
