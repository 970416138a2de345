"""POST /v1/encode, /v1/score, /v1/forecast, /v1/explain and /v1/tokens give what the library does.

The raw answers are read by the safetensors package, which nobody here wrote.
"""

import base64
import io
import json
import re
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pdf_files
import pytest
import safetensors.numpy
from PIL import Image, ImageDraw
from starlette.testclient import TestClient

from tessera_onnx import (
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    TesseraTimeSeries,
    TesseraVision,
)
from tessera_onnx.server.app import Limits, app

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
MODELS = (
    *("all-minilm-l6-v2", "splade-tiny", "tessera-bolt-mini", "tessera-page-mini"),
    *(str(ARTIFACTS / name) for name in ("m3", "reranker")),
)
TEXT = "a cat on the mat"


@pytest.fixture(scope="module")
def server():
    with TestClient(app(*MODELS, limits=Limits(texts=64))) as found:
        end = time.monotonic() + 60
        while found.get("/readyz").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.05)
        yield found


def post(server, path, status=200, **body):
    answer = server.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def raw(server, path, **body):
    answer = server.post(path, json={**body, "encoding": "raw"})
    assert answer.headers["content-type"] == "application/vnd.safetensors"
    with_facts = safetensors.deserialize(answer.content)
    assert len(with_facts) > 0
    return safetensors.numpy.load(answer.content)


def near(found, expected):
    """The server runs on other threads than a local model, so the last bits may differ."""
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def unpacked(shown):
    numbers = np.frombuffer(base64.b64decode(shown["base64"]), np.dtype(shown["dtype"]))
    return numbers.reshape(shown["shape"])


def test_dense_vectors_in_every_form(server, dense):
    expected = dense.encode(TEXT)
    body = {"texts": [TEXT], "model": "all-minilm-l6-v2"}
    found = post(server, "/v1/encode", **body)
    assert found["dimensions"] == {"dense": 384}
    (item,) = found["data"]
    assert (item["index"], item["tokens"], item["count"], item["truncated"]) == (0, 7, 7, False)
    near(np.array(item["dense"], np.float32), expected)
    packed = unpacked(post(server, "/v1/encode", **body, encoding="base64")["data"][0]["dense"])
    near(packed, expected)
    arrays = raw(server, "/v1/encode", **body)
    near(arrays["dense"], expected[None])
    assert (arrays["tokens"].tolist(), arrays["count"].tolist()) == ([7], [7])
    half = raw(server, "/v1/encode", **body, output_dtype="float16")["dense"]
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, expected[None], rtol=1e-3, atol=1e-6)
    small = raw(server, "/v1/encode", **body, output_dtype="int8")
    local = dense.encode_batch([TEXT], output_dtype="int8")
    np.testing.assert_allclose(small["dense.codes"].astype(int), local.codes, atol=1)
    np.testing.assert_allclose(small["dense.scale"], local.scale[:, 0], rtol=1e-5)
    bits = raw(server, "/v1/encode", **body, output_dtype="binary")["dense.bits"]
    sure = np.packbits(np.abs(expected) > 1e-5)  # a number at zero may round to either side
    wanted = dense.encode_batch([TEXT], output_dtype="binary").bits
    np.testing.assert_array_equal(bits & sure, wanted & sure)


def test_rows_of_several_texts_are_joined(server, multi):
    texts = [TEXT, "rain"]
    expected = [multi.encode_query(text) for text in texts]
    body = {"texts": texts, "kinds": ["multi-vector"], "role": "query"}
    arrays = raw(server, "/v1/encode", **body)
    assert arrays["multi-vector.rows"].tolist() == [len(rows) for rows in expected]
    np.testing.assert_allclose(arrays["multi-vector"], np.concatenate(expected), atol=1e-6)
    small = raw(server, "/v1/encode", **body, output_dtype="int8")
    codes = small["multi-vector.codes"] * small["multi-vector.scale"][:, None]
    np.testing.assert_allclose(codes, np.concatenate(expected), atol=0.005)
    pooled = multi.encode_document([TEXT], pool_factor=2)[0]
    found = post(server, "/v1/encode", texts=[TEXT], kinds=["multi-vector"], pool_factor=2,
                 role="document")  # fmt: skip
    np.testing.assert_allclose(found["data"][0]["multi-vector"], pooled, atol=1e-6)


def test_sparse_vectors(server, sparse):
    expected = [sparse.encode(TEXT), sparse.encode("")]
    found = post(server, "/v1/encode", texts=[TEXT, ""], kinds=["sparse"], model="splade-tiny")
    for item, vector in zip(found["data"], expected, strict=True):
        assert item["sparse"]["indices"] == vector.indices.tolist()
        np.testing.assert_allclose(item["sparse"]["values"], vector.values, atol=1e-5)
    arrays = raw(server, "/v1/encode", texts=[TEXT], kinds=["sparse"], max_active_dims=3)
    assert arrays["sparse.rows"].tolist() == [3]
    best = sparse.encode(TEXT, max_active_dims=3)
    np.testing.assert_array_equal(arrays["sparse.indices"], best.indices)
    near(arrays["sparse.values"], best.values)


def test_every_kind_from_one_run(server):
    kinds = ["dense", "sparse", "multi-vector"]
    with TesseraDense(path=ARTIFACTS / "m3") as model:
        expected = model.encode_all([TEXT])
    (item,) = post(server, "/v1/encode", texts=[TEXT], kinds=kinds, model="test-m3")["data"]
    np.testing.assert_allclose(
        np.array(item["dense"], np.float32), expected.dense[0], rtol=1e-6, atol=1e-6
    )
    rows = np.array(item["multi-vector"], np.float32)
    near(rows, expected.multi_vector[0])
    assert item["sparse"]["indices"] == expected.sparse[0].indices.tolist()
    assert server.get("/metrics").text.count("tessera_batch_seconds_count") == 1


def test_what_was_cut_is_told(server):
    body = {"texts": ["a", "word " * 500], "model": "all-minilm-l6-v2"}
    found = post(server, "/v1/encode", **body)
    assert found["truncated"] == [1]
    last = found["data"][1]
    assert (last["tokens"], last["count"], last["truncated"]) == (256, 502, True)
    refused = post(server, "/v1/encode", 400, **body, truncate=False)
    assert (refused["class"], refused["index"]) == ("InputTooLong", 1)


def picture(text):
    image = Image.new("RGB", (300, 80), "white")
    ImageDraw.Draw(image).text((10, 20), text, fill="black", font_size=24)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_images_in_json_and_multipart(server):
    files = [picture("annual rainfall"), picture("a cat")]
    with TesseraVision("tessera-page-mini") as model:
        expected = model.encode_documents(files)
    assert all(len(rows) for rows in expected)
    listed = [base64.b64encode(file).decode() for file in files]
    listed[1] = f"data:image/png;base64,{listed[1]}"
    found = post(server, "/v1/encode", images=listed)
    for item, rows in zip(found["data"], expected, strict=True):
        np.testing.assert_allclose(
            np.array(item["vision"], np.float32).reshape(-1, 128), rows, rtol=1e-6, atol=1e-6
        )
    request = ("request", (None, json.dumps({"encoding": "raw"}), "application/json"))
    parts = [request, *(("images", ("a.png", file, "image/png")) for file in files)]
    arrays = safetensors.numpy.load(server.post("/v1/encode", files=parts).content)
    near(arrays["vision"], np.concatenate(expected))
    assert arrays["vision.rows"].tolist() == [len(rows) for rows in expected]
    assert "tokens" not in arrays  # what an image costs is no number of tokens


def test_pages_of_a_document(server):
    file = pdf_files.build([pdf_files.page() for _ in range(3)])
    with TesseraVision("tessera-page-mini") as model:
        expected = list(model.encode_pages(file, pages="2-3"))
    document = base64.b64encode(file).decode()
    found = post(server, "/v1/encode", document=document, pages="2-3")
    assert [item["index"] for item in found["data"]] == [0, 1]
    for item, rows in zip(found["data"], expected, strict=True):
        np.testing.assert_allclose(
            np.array(item["vision"], np.float32).reshape(-1, 128), rows, rtol=1e-6, atol=1e-6
        )
    assert "page" in post(server, "/v1/encode", 400, document=document, pages="9")["error"]


@pytest.mark.parametrize(
    ("body", "words", "index"),
    [
        ({}, "give one of texts, images and document", None),
        ({"texts": ["a"], "images": ["a"]}, "give one of", None),
        ({"texts": "a"}, "texts must be a list", None),
        ({"texts": ["a", 1]}, r"texts\[1\] must be a text", 1),
        ({"texts": ["a"] * 65}, "texts has 65 items, a request may have 64", None),
        ({"texts": ["a"], "kinds": ["words"]}, "kinds must be a list of dense", None),
        (
            {"texts": ["a"], "kinds": ["dense"], "model": "splade-tiny"},
            "does not serve dense",
            None,
        ),
        ({"texts": ["a"], "output_dtype": "int4"}, "output_dtype must be one of", None),
        ({"texts": ["a"], "encoding": "xml"}, "encoding must be one of json", None),
        ({"texts": ["a"], "dimensions": 17}, "384 dimensions, not 17", None),
        ({"texts": ["a"], "role": "reader"}, "role must be one of", None),
        ({"images": ["http://127.0.0.1/a.png"]}, "fetches no URL", 0),
        ({"images": ["/etc/passwd"]}, "", 0),
        ({"images": [base64.b64encode(b"no image").decode()]}, "", 0),
        ({"document": base64.b64encode(b"no pdf").decode()}, "", None),
        ({"document": 3}, r"document\[0\] must be a text", 0),
    ],
)
def test_what_cannot_be_encoded(server, body, words, index):
    answer = server.post("/v1/encode", json=body)
    found = answer.json()
    assert answer.status_code == 400, found
    assert re.search(words, found["error"]), found
    assert found["index"] == index, found


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "multipart/form-data"),
        (b"--x", "multipart/form-data; boundary=x"),
        (b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x"),
        (b"--x\r\nno header\r\n--x--", "multipart/form-data; boundary=x"),
        (b'--x\r\nA: b; name="request"\r\n\r\n{\r\n--x--', "multipart/form-data; boundary=x"),
        (b"a", "multipart/form-data; boundary=x"),
    ],
)
def test_bodies_of_parts_that_cannot_be_read(server, content, kind):
    answer = server.post("/v1/encode", content=content, headers={"content-type": kind})
    assert answer.status_code == 400, answer.text


def test_forecasts(server):
    series = [[1.0, 2, None, 4, 5, 6.5] * 5, [7.0] * 9]
    nan = [[np.nan if value is None else value for value in each] for each in series]
    with TesseraTimeSeries("tessera-bolt-mini") as model:
        expected = model.forecast_quantiles(nan, 3, [0.5, 0.9])
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            outside = model.forecast_quantiles(nan, 3, [0.01])
    found = post(server, "/v1/forecast", series=series, horizon=3, levels=[0.5, 0.9])
    assert (found["levels"], found["warnings"]) == ([0.5, 0.9], [])
    for i, item in enumerate(found["data"]):
        np.testing.assert_allclose(
            np.array(item["quantiles"], np.float32), expected[i], rtol=1e-6, atol=1e-6
        )
    arrays = raw(server, "/v1/forecast", series=series, horizon=3, levels=[0.01])
    near(arrays["quantiles"], outside)
    again = post(server, "/v1/forecast", series=series, horizon=3, levels=[0.01])
    assert again["warnings"] == [str(warning.message) for warning in told]
    for body, index in (
        ({"series": [[1.0], []]}, 1),
        ({"series": [[1.0], ["a"]]}, 1),
        ({"series": [[1e39, 1.0]]}, 0),
        ({"series": [[2**60, 2**60 + 1]]}, 0),
        ({"series": [[1.0]], "groups": [1]}, None),
        ({"series": [[1.0]], "levels": [2]}, 0),
        ({"series": 3}, None),
    ):
        refused = post(server, "/v1/forecast", 400, **body)
        assert refused["index"] == index, refused


def test_scores(server):
    documents = [TEXT, "rain"]
    with TesseraMultiVector("all-minilm-l6-v2") as model:
        expected = model.score("cats", documents)
    found = post(server, "/v1/score", query="cats", documents=documents, model="all-minilm-l6-v2")
    np.testing.assert_allclose(found["scores"], expected, atol=1e-5)
    for body in (
        {"query": "a", "documents": "b"},
        {"documents": ["b"]},
        {"pairs": [["a"]]},
        {"pairs": [["a", "b"], ["c", "d"]], "model": "all-minilm-l6-v2"},
        {"query": "a", "documents": ["b"], "model": "splade-tiny"},
    ):
        post(server, "/v1/score", 400, **body)
    with TesseraMultiVector(path=ARTIFACTS / "m3") as model:  # its score is a mean
        expected = model.score("cats", documents)
    body = {"query": "a", "documents": ["b"], "model": "test-m3", "activation": "sigmoid"}
    assert "no activation" in post(server, "/v1/score", 400, **body)["error"]
    found = post(server, "/v1/score", query="cats", documents=documents, model="test-m3")
    np.testing.assert_allclose(found["scores"], expected, atol=1e-6)


def test_tokens_of_a_multi_vector_score_are_those_of_each_pair(server):
    """As of a reranker; numbers of documents count from the first, and the query is none."""
    body = {"query": "cats", "documents": ["rain", "rain " * 600], "model": "all-minilm-l6-v2"}
    with TesseraMultiVector("all-minilm-l6-v2") as model:
        (query,) = model.prepare(["cats"], role="query")
        documents = model.prepare(body["documents"], role="document")
    answer = server.post("/v1/score", json=body)
    found = answer.json()
    assert found["truncated"] == [1]
    assert answer.headers["x-truncated"] == "1"
    assert found["tokens"] == [query.size + text.size for text in documents]
    assert found["count"] == [query.size + text.count for text in documents]
    read = query.size + sum(text.size for text in documents)  # the query once
    assert answer.headers["x-compute-tokens"] == str(read)
    usage = server.post("/rerank", json=body).json()["usage"]
    assert usage["total_tokens"] == read
    refused = post(server, "/v1/score", 400, **body, truncate=False)
    assert refused["index"] == 1
    assert refused["error"].startswith("input 1 has")
    long = {**body, "query": "rain " * 600, "documents": ["rain"]}
    refused = post(server, "/v1/score", 400, **long, truncate=False)
    assert refused["index"] is None
    assert refused["error"].startswith("the query has")
    assert post(server, "/v1/score", **long)["truncated"] == [0]
    assert post(server, "/v1/score", pairs=[], model="all-minilm-l6-v2")["scores"] == []


def test_explanations(server, multi, sparse):
    found = post(server, "/v1/explain", query="cats sleep", document=TEXT)
    expected = multi.explain("cats sleep", TEXT)
    names = [(match.query_token, match.document_token) for match in expected]
    assert [(m["query_token"], m["document_token"]) for m in found["matches"]] == names
    scores = [match.score for match in expected]
    np.testing.assert_allclose([m["score"] for m in found["matches"]], scores, atol=1e-5)
    rows = (multi.encode_query("cats sleep") @ multi.encode_document(TEXT).T).argmax(axis=1)
    assert [m["document_row"] for m in found["matches"]] == rows.tolist()
    found = post(server, "/v1/explain", text=TEXT, top_k=3, model="splade-tiny")
    assert [(t["token"], t["weight"]) for t in found["terms"]] == [
        (token, pytest.approx(weight)) for token, weight in sparse.explain(sparse.encode(TEXT), 3)
    ]
    with_m3 = post(server, "/v1/explain", query="a", document="b", model="test-m3")
    assert with_m3["matches"]
    post(server, "/v1/explain", 400, query="a")
    post(server, "/v1/explain", 400, text=3)
    for body, words in (
        ({"text": "a", "model": "all-minilm-l6-v2"}, "explanations of one text"),
        ({"query": "a", "document": "b", "model": "splade-tiny"}, "of a query and a document"),
    ):
        assert words in post(server, "/v1/explain", 400, **body)["error"]


def test_where_an_image_answers(server, tmp_path):
    page = Image.new("RGB", (300, 60), "white")
    ImageDraw.Draw(page).text((20, 20), "Heavy rain fell in March.", "black")
    page.save(tmp_path / "page.png")
    file = base64.b64encode((tmp_path / "page.png").read_bytes()).decode()
    other = Image.new("RGB", (300, 60), "white")
    ImageDraw.Draw(other).text((60, 30), "Rain and snow in May.", "black")
    page.save(tmp_path / "two.tiff", save_all=True, append_images=[other])
    two = (tmp_path / "two.tiff").read_bytes()
    with TesseraVision("tessera-page-mini") as model:
        expected = model.locate("rain", page)
        second = model.locate("rain", two, page=2)
    found = post(server, "/v1/explain", query="rain", image=f"data:image/png;base64,{file}")
    assert (found["width"], found["height"]) == page.size
    assert found["box"] == list(expected.box)
    cells = np.array(found["map"], np.float32)  # null is NaN
    np.testing.assert_allclose(cells, expected.map, atol=1e-5)
    for got, want in zip(found["regions"], expected.regions, strict=True):
        assert (got["token"], got["box"], got["index"]) == (want.token, list(want.box), want.index)
        assert (got["row"], got["column"]) == (want.row, want.column)
        assert got["score"] == pytest.approx(want.score, abs=1e-5)
    found = post(server, "/v1/explain", query="rain", image=base64.b64encode(two).decode(), page=2)
    assert [r["box"] for r in found["regions"]] == [list(r.box) for r in second.regions]
    for body, status, words in (
        ({"image": "!", "query": "rain"}, 400, "is not base64"),
        ({"image": base64.b64encode(b"no image").decode(), "query": "rain"}, 400, "image"),
        ({"image": file}, 400, "query"),
        ({"image": file, "query": 3}, 400, "give query as a text"),
        ({"image": file, "query": "rain", "page": 0}, 400, "page"),
        ({"image": file, "query": "rain", "model": "splade-tiny"}, 400, "similarity maps"),
        ({"image": file, "query": "rain", "model": "nobody"}, 404, "no model of that name"),
    ):
        assert words in post(server, "/v1/explain", status, **body)["error"]


def test_tokens(server, dense, multi):
    found = post(server, "/v1/tokens", texts=[TEXT, "", "word " * 400])
    assert found["count"] == dense.token_count([TEXT, "", "word " * 400]).tolist()
    rows = post(server, "/v1/tokens", texts=[TEXT], rows=True, model="all-minilm-l6-v2")["rows"]
    assert rows == [multi.tokens(TEXT)]
    named = post(server, "/v1/tokens", ids=[2003, 7632], model="splade-tiny")["tokens"]
    with TesseraSparse("splade-tiny") as model:
        assert named == [model.token(2003), model.token(7632)]
    named = post(server, "/v1/tokens", ids=[2003, 1 << 30], model="all-minilm-l6-v2")["tokens"]
    assert named == [dense.token(2003), ""] == ["is", ""]
    for body in ({}, {"ids": [-1]}, {"ids": [1 << 40]}, {"texts": ["a"], "model": "test-reranker"}):
        post(server, "/v1/tokens", 400, **body)


def test_a_description_is_the_spec(server):
    found = server.get("/v1/describe/all-minilm-l6-v2").json()
    assert found["spec"]["dense"]["dimension"] == 384
    assert server.get("/v1/describe/nothing").status_code == 404
    assert server.get("/v1/describe/nothing").json()["class"] == "ModelNotFound"


def test_a_server_without_an_extra_says_which(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    page = base64.b64encode(b"%PDF-1.4").decode()
    answer = server.post("/v1/encode", json={"model": "tessera-page-mini", "document": page})
    assert answer.status_code == 501
    assert "PDF pages need pypdfium2" in answer.json()["error"]
    assert "[pdf]" in answer.json()["error"]
