"""Recipes that one model family alone needs, each against upstream code on the same weights.

The oracles, recorded by tests/make_artifacts.py: FlagEmbedding's M3 model, sentence-transformers,
transformers' SigLIP, torch's layer norm.
"""

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, TEXTS, copy, golden, replace

from tessera_onnx import (
    ConfigError,
    Embeddings,
    LoadError,
    Tessera,
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
)
from tessera_onnx.models import catalogue

pytestmark = pytest.mark.filterwarnings("ignore::tessera_onnx.TruncationWarning")
M3 = ARTIFACTS / "m3"


def to_dense(vectors, size):
    return np.stack([vector.to_scipy(size).toarray()[0] for vector in vectors])


def assert_tokens_equal_upstream(found):
    stored = golden("m3")
    for i, tokens in enumerate(found):
        assert tokens.shape == stored[f"tokens_{i}"].shape
        np.testing.assert_allclose(tokens, stored[f"tokens_{i}"], atol=1e-5)


def test_bge_m3_dense():
    with TesseraDense(path=M3) as model:
        np.testing.assert_allclose(model.encode_batch(TEXTS), golden("m3")["dense"], atol=1e-5)


def test_bge_m3_token_weights_become_vocabulary_weights():
    """relu without a logarithm, the largest weight of a repeated token, special ids at 0."""
    with TesseraSparse(path=M3) as model:
        found = model.encode_batch(TEXTS)
        expected = golden("m3")["sparse"]
        assert (expected > 0).sum(axis=1).max() > 3
        np.testing.assert_allclose(to_dense(found, model.vocab_size()), expected, atol=1e-5)
        assert len(model.encode("").indices) == 0
        assert len(model.encode("[CLS] [SEP] [PAD]").indices) == 0


def test_bge_m3_token_vectors_leave_out_the_first_token():
    with TesseraMultiVector(path=M3) as model:
        assert_tokens_equal_upstream(model.encode_batch(TEXTS))
        assert_tokens_equal_upstream([model.encode(text) for text in TEXTS])
        assert model.encode("").shape == (1, 32)  # [SEP]
        expected = golden("m3")["maxsim"]
        scores = [model.score(text, TEXTS) for text in TEXTS]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        names = {match.document_token for match in model.explain("cat", "cat sat mat")}
        assert names <= {"cat", "sat", "mat", "[SEP]"}


def test_a_token_vector_belongs_to_its_token():
    """Rows and tokens shift together: an off-by-one would pair "cat" with its neighbour."""
    with TesseraMultiVector(path=M3) as model:
        matches = model.explain("cat sat", "cat sat")
        assert [match.query_token for match in matches] == ["cat", "sat", "[SEP]"]
        assert all(match.query_token == match.document_token for match in matches)


def test_skip_ids_and_dropped_first_token(tmp_path):
    """A document of skipped tokens alone keeps its real rows, still without the first token's."""
    ids = ", ".join(map(str, range(128)))
    edit = replace(("skip_ids = []", f"skip_ids = [{ids}]"))
    with TesseraMultiVector(path=copy("m3", tmp_path / "m", edit)) as model:
        assert_tokens_equal_upstream(model.encode_batch(TEXTS))


@pytest.mark.parametrize("cls", [TesseraDense, TesseraMultiVector, TesseraSparse])
def test_encode_all_equals_the_three_classes(cls):
    with (
        TesseraDense(path=M3) as dense,
        TesseraMultiVector(path=M3) as multi,
        TesseraSparse(path=M3) as sparse,
        cls(path=M3) as model,
    ):
        found = model.encode_all(TEXTS)
        np.testing.assert_array_equal(found.dense, dense.encode_batch(TEXTS))
        for tokens, expected in zip(found.multi_vector, multi.encode_batch(TEXTS), strict=True):
            np.testing.assert_array_equal(tokens, expected)
        for vector, expected in zip(found.sparse, sparse.encode_batch(TEXTS), strict=True):
            np.testing.assert_array_equal(vector.indices, expected.indices)
            np.testing.assert_array_equal(vector.values, expected.values)


def test_encode_all_runs_the_graph_once_a_batch():
    with Tessera(path=M3) as model:
        calls = []
        run = model._encoder.session.run

        def counted(feeds, **options):
            calls.append(options["outputs"])
            return run(feeds, **options)

        model._encoder.session.run = counted
        model.encode_all(["cat", "dog"])
        assert calls == [("dense", "sparse", "colbert")]
        calls.clear()
        model.encode_batch(["cat", "dog"])
        assert calls == [("dense",)]


def test_encode_all_of_nothing_of_a_query_and_of_two_kinds():
    with Tessera(path=M3) as model:
        empty = model.encode_all([])
        assert empty.dense.shape == (0, 32)
        assert (empty.multi_vector, empty.sparse) == ([], [])
        query = model.encode_all(["cat"], role="query")
        np.testing.assert_array_equal(query.dense[0], model.encode_query("cat"))
        with pytest.raises(TypeError, match="texts must be a list"):
            model.encode_all("cat")
        with pytest.raises(ConfigError, match="role must be"):
            model.encode_all(["cat"], role="both")
    with TesseraDense("all-minilm-l6-v2", dimension=None) as model:
        found = model.encode_all(["cat", "a longer text"])
        assert isinstance(found, Embeddings)
        assert found.sparse is None
        assert [len(tokens) for tokens in found.multi_vector] == list(
            model.token_count(["cat", "a longer text"])
        )
    with TesseraDense(path=ARTIFACTS / "prompts", dimension=16) as model:
        found = model.encode_all(TEXTS)
        assert found[1:] == (None, None)
        np.testing.assert_array_equal(found.dense, model.encode_batch(TEXTS))


def test_encode_all_honours_the_objects_length():
    with (
        TesseraSparse(path=M3, max_length=6) as model,
        TesseraDense(path=M3, max_length=6) as dense,
    ):
        found = model.encode_all(TEXTS)
        np.testing.assert_array_equal(found.dense, dense.encode_batch(TEXTS))
        assert max(map(len, found.multi_vector)) == 5


def test_encode_all_refuses_kinds_that_read_texts_differently(tmp_path):
    edit = replace(("marker_ids = []", "marker_ids = [1]"))
    with Tessera(path=copy("m3", tmp_path / "markers", edit)) as model:
        with pytest.raises(
            ConfigError, match=r"reads a document differently for each of its kinds"
        ):
            model.encode_all(["cat"])
    edit = replace(('query_weights = "model"', 'query_weights = "ones"'))
    with Tessera(path=copy("m3", tmp_path / "ones", edit)) as model:
        model.encode_all(["cat"])
        with pytest.raises(ConfigError, match="need no inference"):
            model.encode_all(["cat"], role="query")


@pytest.mark.parametrize(
    ("pairs", "match"),
    [
        ((("drop_first = true", "drop_first = false"),), r"\(1, 1, 32\) .*, by .* \(1, 2, 32\)"),
        ((('head = "tokens"', 'head = "logits"'),), r"\(1, 2, 1\) .* by .* \(1, 2, 128\)"),
        ((('pooling = "graph"', 'pooling = "cls"'),), r"\(1, 32\) .* by .* \(1, 2, 32\)"),
    ],
)
def test_an_output_of_another_shape_is_refused_when_the_model_opens(tmp_path, pairs, match):
    folder = copy("m3", tmp_path / "m", replace(*pairs))
    for cls in (TesseraDense, TesseraSparse, TesseraMultiVector):
        with pytest.raises(LoadError, match=match):
            cls(path=folder)


def test_task_ids_and_their_prompts():
    stored = golden("tasks")
    with TesseraDense(path=ARTIFACTS / "tasks") as model:
        found = {
            "task_0": model.encode_query(TEXTS),
            "task_1": model.encode_document(TEXTS),
            "task_2": model.encode_batch(TEXTS, task="separation"),
            "task_3": np.stack(list(model.encode_iter(TEXTS, task="classification"))),
        }
        for name, vectors in found.items():
            np.testing.assert_allclose(vectors, stored[name], atol=1e-5)
        single = [model.encode(text, task="separation") for text in TEXTS]
        np.testing.assert_allclose(single, stored["task_2"], atol=1e-5)
        query = model.encode_query(TEXTS[0], task="classification")
        np.testing.assert_allclose(query, stored["task_3"][0], atol=1e-5)
        with pytest.raises(ConfigError, match="one of separation, classification; got 'search'"):
            model.encode("cat", task="search")
    assert np.abs(stored["task_0"] - stored["task_2"]).max() > 0.1


def test_the_callers_own_prompt():
    with TesseraDense(path=ARTIFACTS / "prompts") as model:
        stored = golden("prompts")
        found = model.encode_document(TEXTS, prompt="query: ")
        np.testing.assert_allclose(found, stored["query"], atol=1e-5)
        np.testing.assert_array_equal(
            model.encode("query: cat", prompt=""), model.encode_query("cat")
        )
        with pytest.raises(TypeError, match="prompt must be str, got int"):
            model.encode("cat", prompt=3)
        with pytest.raises(ConfigError, match="task must be left out: this model has none"):
            model.encode("cat", task="clustering")


def test_layer_norm_before_the_cut(tmp_path):
    edit = replace(
        ("matryoshka = []", "matryoshka = [16]"),
        ("matryoshka_layer_norm = false", "matryoshka_layer_norm = true"),
    )
    with TesseraDense(path=copy("states", tmp_path / "m", edit), dimension=16) as model:
        expected = golden("states")["layer_norm_16"]
        np.testing.assert_allclose(model.encode_batch(TEXTS), expected, atol=1e-5)


def test_text_of_a_fixed_length():
    """The last position is the vector, padding or not; so the length never varies."""
    expected = golden("siglip")["document"]
    with TesseraDense(path=ARTIFACTS / "siglip") as model:
        np.testing.assert_allclose(model.encode_batch(TEXTS), expected, atol=1e-5)
        for text, vector in zip(TEXTS, expected, strict=True):
            np.testing.assert_allclose(model.encode(text), vector, atol=1e-5)
    with TesseraDense(path=ARTIFACTS / "siglip", max_length=4, on_long="truncate") as model:
        # Shorter than the graph's length: cut, then padded to the same sixteen.
        np.testing.assert_allclose(model.encode("cat"), expected[TEXTS.index("cat")], atol=1e-5)


def test_a_batch_of_fixed_length_stays_within_the_budget(monkeypatch):
    with TesseraDense(path=ARTIFACTS / "siglip", threads=1) as model:
        shapes = []
        run = model._encoder.session.run

        def watched(feeds, **options):
            shapes.append(feeds["input_ids"].shape)
            return run(feeds, **options)

        monkeypatch.setattr(model._encoder.session, "run", watched)
        model.encode_batch(["cat"] * 100)
        assert {n for _, n in shapes} == {16}
        assert max(rows * n for rows, n in shapes) <= 512


def edited(name, *pairs):
    return catalogue.parse(replace(*pairs)((ARTIFACTS / name / "model.toml").read_text()), "m.toml")


@pytest.mark.parametrize(
    ("name", "pairs", "match"),
    [
        ("tasks", (("task_id = 1\n", ""),), "every role and task has a task_id, or none has"),
        ("tasks", ((", task_id = 2", ""),), "every role and task has a task_id, or none has"),
        ("tasks", (('name = "classification"', 'name = "separation"'),), "two tasks have one name"),
        (
            "siglip",
            (("fixed_length = 16", "fixed_length = 17"),),
            r"fixed_length must lie in 0..16",
        ),
        (
            "siglip",
            (("fixed_length = 16", "fixed_length = 12"),),
            r"max_length 16 must lie in 3..12",
        ),
        ("m3", (("prefix_ids = [\n    4,\n]", "prefix_ids = []"),), "drop_first would leave"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(name, pairs, match):
    with pytest.raises(LoadError, match=match):
        edited(name, *pairs)
