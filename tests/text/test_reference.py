"""Every text recipe against sentence-transformers on the same weights (tests/make_artifacts.py)."""

import json

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, TEXTS, add_file, copy, golden, replace

from tessera_onnx import (
    LoadError,
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    TruncationWarning,
)

pytestmark = pytest.mark.filterwarnings("ignore::tessera_onnx.TruncationWarning")


def open_multi(**options):
    return TesseraMultiVector(path=ARTIFACTS / "colbert", **options)


def assert_rows_equal(found, stored, name):
    for i, rows in enumerate(found):
        expected = stored[f"{name}_{i}"]
        assert rows.shape == expected.shape, i
        np.testing.assert_allclose(rows, expected, atol=1e-4)


def test_colbert_documents_equal_upstream():
    stored = golden("colbert")
    with open_multi() as model:
        found = model.encode_document(TEXTS)
        # A text of punctuation alone keeps [CLS], marker and [SEP].
        assert_rows_equal(found, stored, "document")
        assert_rows_equal([model.encode(text) for text in TEXTS], stored, "document")


def test_colbert_queries_equal_upstream_with_unattended_expansion():
    stored = golden("colbert")
    with open_multi() as model:
        found = model.encode_query(TEXTS)
        assert {rows.shape for rows in found} == {(32, 128)}
        assert_rows_equal(found, stored, "query")


def test_colbert_shape_of_the_contract():
    with open_multi() as model:
        tokens = model.encode("What is machine learning?")
        # [CLS] [D] what is machine learning [SEP]; the question mark is read and has no row
        assert tokens.shape == (7, 128)
        assert tokens.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(tokens, axis=1), 1, atol=1e-6)
        assert model.encode_query("What is machine learning?").shape == (32, 128)


def test_attended_expansion_equals_upstream(tmp_path):
    edit = replace(('expansion = "unattended"', 'expansion = "attended"'))
    stored = golden("colbert")
    with TesseraMultiVector(path=copy("colbert", tmp_path / "m", edit)) as model:
        assert_rows_equal(model.encode_query(TEXTS), stored, "attended")
    # The text's own rows change too, or the masks were not attended to.
    assert np.abs(stored["attended_0"][:8] - stored["query_0"][:8]).max() > 0.01


def test_no_expansion_keeps_the_real_tokens(tmp_path):
    edit = replace(('expansion = "unattended"', 'expansion = "none"'))
    stored = golden("colbert")
    with TesseraMultiVector(path=copy("colbert", tmp_path / "m", edit)) as model:
        # Unattended masks are invisible, so the real rows equal those of the expanded query.
        rows = model.encode_query(TEXTS[0])
        assert rows.shape == (8, 128)
        np.testing.assert_allclose(rows, stored["query_0"][:8], atol=1e-4)


def test_skipping_everything_keeps_everything(tmp_path):
    ids = ", ".join(str(i) for i in range(120))
    edit = replace(("skip_ids = [\n    7,", f"skip_ids = [\n    {ids},\n    7,"))
    with TesseraMultiVector(path=copy("colbert", tmp_path / "m", edit)) as model:
        assert model.encode("cat").shape == (4, 128)


def test_score_mean_divides_by_query_tokens(tmp_path):
    edit = replace(('score = "sum"', 'score = "mean"'))
    with open_multi() as model, TesseraMultiVector(path=copy("colbert", tmp_path / "m", edit)) as m:
        assert m.similarity("cat", "dog") == pytest.approx(model.similarity("cat", "dog") / 32)


def test_dense_prompts_and_cls_equal_upstream():
    stored = golden("prompts")
    with TesseraDense(path=ARTIFACTS / "prompts") as model:
        np.testing.assert_allclose(model.encode_query(TEXTS), stored["query"], atol=1e-5)
        np.testing.assert_allclose(model.encode_batch(TEXTS), stored["document"], atol=1e-5)
        for text, expected in zip(TEXTS, stored["document"], strict=True):
            np.testing.assert_allclose(model.encode(text), expected, atol=1e-5)
        # The roles differ, or the prompts were dropped.
        assert np.abs(stored["query"] - stored["document"]).max() > 0.01


def test_matryoshka_equals_upstream_truncation():
    with TesseraDense(path=ARTIFACTS / "prompts", dimension=16) as model:
        assert model.dimension() == 16
        np.testing.assert_allclose(
            model.encode_batch(TEXTS), golden("prompts")["document_16"], atol=1e-5
        )


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_pooling_outside_the_graph_equals_upstream(pooling, tmp_path):
    edit = replace(('pooling = "mean"', f'pooling = "{pooling}"'))
    with TesseraDense(path=copy("states", tmp_path / "m", edit)) as model:
        np.testing.assert_allclose(model.encode_batch(TEXTS), golden("states")[pooling], atol=1e-5)


def to_dense(vectors, size):
    return np.stack([vector.to_scipy(size).toarray()[0] for vector in vectors])


def test_splade_from_logits_equals_upstream():
    with TesseraSparse(path=ARTIFACTS / "splade") as model:
        found = model.encode_batch(TEXTS)
        for vector in found:
            assert vector.indices.dtype == np.int32
            assert (np.diff(vector.indices) > 0).all()
            assert (vector.values > 0).all()
        expected = golden("splade")["document"]
        np.testing.assert_allclose(
            to_dense(found, model.vocab_size()), expected, rtol=1e-4, atol=1e-5
        )


def test_inference_free_model(tmp_path):
    """Documents: log1p twice and special ids at 0. Queries: a table, repeats do not add."""
    edit = replace(
        ('activation = "log1p"', 'activation = "log1p-log1p"'),
        ("zero_ids = []", "zero_ids = [0, 3, 4, 5, 6]"),
        ('query_weights = "model"', 'query_weights = "idf"'),
        ('idf = ""', 'idf = "idf.json"'),
    )
    folder = copy("splade", tmp_path / "m", edit)
    table = {"cat": 2.5, "dog": 0.75, "[CLS]": 9.0, "not-in-vocabulary": 3.0}
    add_file(folder, "idf.json", json.dumps(table).encode())
    with TesseraSparse(path=folder) as model:
        expected = golden("splade")["document_twice"].copy()
        expected[:, [0, 3, 4, 5, 6]] = 0
        found = to_dense(model.encode_batch(TEXTS), model.vocab_size())
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        query = model.encode_query("cat dog cat mat")  # mat has no weight and is dropped
        assert model.explain(query) == [("cat", 2.5), ("dog", 0.75)]
        first, empty = model.encode_query(["dog", ""])
        assert model.explain(first) == [("dog", 0.75)]
        assert len(empty.indices) == 0
        document = dict(model.explain(model.encode("the cat sat"), None))
        assert model.similarity("cat", "the cat sat") == pytest.approx(
            2.5 * document.get("cat", 0), rel=1e-5
        )


@pytest.mark.parametrize(
    "table", ['{"cat": null}', '{"cat": NaN}', '{"cat": 1e999}', '{"cat": -1}', "[]", "[" * 99_999]
)
def test_an_idf_table_that_makes_no_sense_is_refused(tmp_path, table):
    edit = replace(('query_weights = "model"', 'query_weights = "idf"'), ('idf = ""', 'idf = "i"'))
    folder = copy("splade", tmp_path / "m", edit)
    add_file(folder, "i", table.encode())
    with pytest.raises(LoadError, match="^i "):
        TesseraSparse(path=folder)


def test_bag_of_words_queries(tmp_path):
    edit = replace(
        ('query_weights = "model"', 'query_weights = "ones"'),
        ("zero_ids = []", "zero_ids = [0, 3, 4, 5, 6]"),
    )
    with TesseraSparse(path=copy("splade", tmp_path / "m", edit)) as model:
        assert model.explain(model.encode_query("cat dog cat")) == [("cat", 1.0), ("dog", 1.0)]


@pytest.mark.parametrize("over", [-2, -1, 0, 1])
def test_marker_never_pushes_a_document_over_the_limit(over):
    """fastembed's 513-for-512 fault: the cut comes before the marker."""
    # doc length 48 = [CLS] [D] ... [SEP]
    text = " ".join(["cat"] * (45 + over))
    with open_multi(on_long="truncate") as model:
        assert len(model.encode(text)) == min(48 + over, 48)
        assert model.token_count([text]) == [48 + over]


def test_truncation_is_counted_and_never_silent():
    with open_multi() as model:
        with pytest.warns(TruncationWarning, match=r"1 of 2 texts were cut to 48 tokens .* 60"):
            model.encode_batch(["cat", "cat " * 57])
