"""Open Inference v2: JSON and binary tensors, all kinds, and bodies that are wrong."""

import json
import math
import struct

import numpy as np
import pytest
from server_process import ARTIFACTS, MINILM

from tessera_onnx import TesseraDense, TesseraReranker

TEXTS = ["A cat sits on the mat.", "Bücher in Köln", ""]
HEADER = "Inference-Header-Content-Length"


def text_input(texts=TEXTS, **more):
    return {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts, **more}


def infer(client, name, status=200, **body):
    answer = client.post(f"/v2/models/{name}/infer", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def arrays(answer):
    """The tensors of an answer in JSON, by name."""
    dtypes = {"FP32": np.float32, "INT32": np.int32}
    return {
        each["name"]: np.array(each["data"], dtypes[each["datatype"]]).reshape(each["shape"])
        for each in answer["outputs"]
    }


def test_dense_vectors_in_json(field):
    found = infer(field, MINILM, inputs=[text_input()], id="17")
    assert (found["model_name"], found["id"]) == (MINILM, "17")
    tensors = arrays(found)
    with TesseraDense(MINILM, threads=1) as model:
        np.testing.assert_allclose(tensors["embeddings"], model.encode_batch(TEXTS), atol=1e-6)
        np.testing.assert_array_equal(tensors["token_count"], model.token_count(TEXTS))
    column = text_input(shape=[3, 1], data=[[text] for text in TEXTS])
    again = infer(field, MINILM, inputs=[column], outputs=[{"name": "embeddings"}])
    assert set(arrays(again)) == {"embeddings"}
    np.testing.assert_allclose(arrays(again)["embeddings"], tensors["embeddings"], atol=1e-6)


def test_binary_tensors_follow_the_json(field):
    content = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in TEXTS)
    tensor = text_input(parameters={"binary_data_size": len(content)})
    del tensor["data"]
    wanted = [{"name": "embeddings", "parameters": {"binary_data": True}}, {"name": "token_count"}]
    head = json.dumps({"inputs": [tensor], "outputs": wanted}).encode()
    answer = field.post(
        f"/v2/models/{MINILM}/infer", content=head + content, headers={HEADER: str(len(head))}
    )
    assert answer.status_code == 200, answer.text
    size = int(answer.headers[HEADER])
    described, counts = json.loads(answer.content[:size])["outputs"]
    assert described["parameters"]["binary_data_size"] == len(answer.content) - size
    vectors = np.frombuffer(answer.content[size:], "<f4").reshape(described["shape"])
    plain = arrays(infer(field, MINILM, inputs=[text_input()]))
    np.testing.assert_allclose(vectors, plain["embeddings"], atol=1e-6)
    assert counts["data"] == plain["token_count"].tolist()


def test_all_kinds_come_from_one_run(field):
    names = ["embeddings", "token_embeddings", "token_lengths"]
    names += ["sparse_indices", "sparse_values", "sparse_lengths", "token_count"]
    wanted = [{"name": name} for name in names]
    tensors = arrays(infer(field, "test-m3", inputs=[text_input()], outputs=wanted))
    assert list(tensors) == names
    with TesseraDense(path=ARTIFACTS / "m3", threads=1) as model:
        every = model.encode_all(TEXTS)
    np.testing.assert_allclose(tensors["embeddings"], every.dense, atol=1e-5)
    assert tensors["token_lengths"].tolist() == [len(rows) for rows in every.multi_vector]
    np.testing.assert_allclose(
        tensors["token_embeddings"], np.concatenate(every.multi_vector), atol=1e-5
    )
    assert tensors["sparse_lengths"].tolist() == [len(each.indices) for each in every.sparse]
    for name in ("indices", "values"):
        expected = np.concatenate([getattr(each, name) for each in every.sparse])
        np.testing.assert_allclose(tensors[f"sparse_{name}"], expected, atol=1e-5)


def test_a_reranker_scores_documents(field):
    query = {"name": "query", "datatype": "BYTES", "shape": [1], "data": ["a cat"]}
    documents = text_input(name="documents")
    found = arrays(infer(field, "test-reranker", inputs=[query, documents]))
    with TesseraReranker(path=ARTIFACTS / "reranker", threads=1) as model:
        raw = model.score("a cat", TEXTS, activation="raw")
    np.testing.assert_allclose(found["scores"], [1 / (1 + math.exp(-x)) for x in raw], rtol=1e-5)
    body = {"inputs": [query, documents], "parameters": {"raw_scores": True}}
    np.testing.assert_allclose(arrays(infer(field, "test-reranker", **body))["scores"], raw)


def test_roles_come_from_parameters_and_from_names(field):
    body = {"inputs": [text_input()], "outputs": [{"name": "embeddings"}]}
    with TesseraDense(path=ARTIFACTS / "prompts", threads=1) as model:
        expected = model.encode_query(TEXTS)
        assert abs(expected - model.encode_document(TEXTS)).max() > 1e-3
    for name, parameters in (("test-prompts-query", {}), ("test-prompts", {"input_type": "query"})):
        found = arrays(infer(field, name, **body, parameters=parameters))
        np.testing.assert_allclose(found["embeddings"], expected, atol=1e-5)


def test_metadata(field):
    assert field.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    found = field.get("/v2/models/test-m3").json()
    assert [each["name"] for each in found["inputs"]] == ["text"]
    assert "sparse_lengths" in [each["name"] for each in found["outputs"]]
    found = field.get("/v2/models/test-reranker").json()
    assert [each["name"] for each in found["inputs"]] == ["query", "documents"]
    assert field.get(f"/v2/models/{MINILM}/ready").status_code == 200
    assert field.get("/v2/models/test-clip/ready").status_code == 200
    for path in ("", "/ready"):
        assert field.get(f"/v2/models/other{path}").status_code == 404
    assert field.get("/v2/models/test-clip").status_code == 400


SECRET = "Zanzibar"
WRONG = [
    ({}, "inputs is missing"),
    ({"inputs": SECRET}, "inputs must be a list of objects"),
    ({"inputs": [SECRET]}, "inputs must be a list of objects"),
    ({"inputs": []}, "the input text is missing"),
    ({"inputs": [{"name": 3}]}, "inputs.name must be a text"),
    ({"inputs": [text_input(datatype="FP32")]}, "inputs.datatype must be BYTES"),
    ({"inputs": [text_input(shape=[-1])]}, "inputs.shape must be"),
    ({"inputs": [text_input(shape=[2])]}, "says 2 elements, the tensor has 3"),
    ({"inputs": [text_input(data=SECRET)]}, "inputs.data must be a list"),
    ({"inputs": [text_input(data=[SECRET, [SECRET], 3])]}, "inputs.data[2] must be a text"),
    ({"inputs": [text_input(data=["a", "b", "\ud800"])]}, "the body is no JSON"),
    ({"inputs": [text_input(parameters={"binary_data_size": 5})]}, "shorter than its tensors"),
    ({"inputs": [text_input()], "outputs": [{"name": SECRET}]}, "outputs[0] is none of"),
    ({"inputs": [text_input()], "parameters": {"dimensions": 7}}, "384"),
]


@pytest.mark.parametrize(("body", "words"), WRONG)
def test_errors(field, body, words):
    answer = field.post(f"/v2/models/{MINILM}/infer", content=json.dumps(body))
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) == {"error"}
    assert words in answer.json()["error"]
    assert SECRET not in answer.text


BINARY = [
    (b"", 0, "has 0"),
    (b"\x05", 1, "ends within a length"),
    (b"\x05\0\0\0abc", 7, "ends within an element"),
    (b"\x03\0\0\0abcX", 7, "1 bytes follow the tensors"),
    (b"\x02\0\0\0\xff\xfe", 6, "text[0] is not UTF-8"),
    (b"\xff\xff\xff\xff", 4, "ends within an element"),
]


@pytest.mark.parametrize(("content", "size", "words"), BINARY)
def test_wrong_binary_tensors(field, content, size, words):
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1]}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": size}}]}).encode()
    path = f"/v2/models/{MINILM}/infer"
    answer = field.post(path, content=head + content, headers={HEADER: str(len(head))})
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "999", "9" * 30])
def test_a_wrong_length_of_the_json(field, length):
    answer = field.post(f"/v2/models/{MINILM}/infer", content=b"{}", headers={HEADER: length})
    assert answer.status_code == 400
    assert "inference-header-content-length" in answer.json()["error"]
