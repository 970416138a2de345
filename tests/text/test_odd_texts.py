"""Bad and odd texts, for every class: a defined result or one clear error naming the index."""

import json
import shutil
import threading

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, HANG, TEXTS, copy, golden, relist, replace

from tessera_onnx import (
    EncodingError,
    InputTooLong,
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    TokenizationError,
    TruncationWarning,
)
from tessera_onnx.runtime import batching

MODELS = {"dense": "prompts", "multi-vector": "colbert", "sparse": "splade"}
CLASSES = {"dense": TesseraDense, "multi-vector": TesseraMultiVector, "sparse": TesseraSparse}
quiet = pytest.mark.filterwarnings("ignore::tessera_onnx.TruncationWarning")


def open_kind(kind, **options):
    return CLASSES[kind](path=ARTIFACTS / MODELS[kind], **options)


@pytest.fixture(params=list(MODELS))
def model(request):
    with open_kind(request.param) as opened:
        yield opened


def plain(result):
    """Any class's result as a flat array."""
    return (
        np.concatenate([np.ravel(part) for part in result])
        if isinstance(result, tuple)
        else (np.ravel(result))
    )


def same(a, b):
    np.testing.assert_allclose(plain(a), plain(b), atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\n ",
        "x",
        "a\x00b",
        "\u200d\u202e\u0641 \U0001f469\u200d\U0001f680",
        "[MASK] [CLS] [PAD]",
        "?!",
        "\ufeff",
        "e\u0301",
    ],
    ids=ascii,
)
def test_odd_texts_have_finite_results(model, text):
    assert np.isfinite(plain(model.encode(text))).all()
    assert np.isfinite(plain(model.encode_query(text))).all()
    same(model.encode(text), model.encode_batch(["cat", text, "dog"])[1])


@quiet
def test_a_megabyte_without_spaces(model):
    assert np.isfinite(plain(model.encode("x" * 1_000_000))).all()


@pytest.mark.slow
@quiet
def test_a_megabyte_of_words(model):
    text = "cat " * 250_000
    with pytest.warns(TruncationWarning, match="the longest has 25000"):
        cut = model.encode(text)
    same(cut, model.encode("cat " * 1000))


@pytest.mark.parametrize("bad", [None, b"cat", 3, ["cat"], np.str_])
def test_wrong_types_name_the_index_before_anything_runs(model, bad):
    for call in (model.encode_batch, model.encode_query, model.encode_document, model.token_count):
        with pytest.raises(TypeError, match=rf"texts\[1\] must be str, got {type(bad).__name__}"):
            call(["cat", bad])
    with pytest.raises(TypeError, match=f"text must be str, got {type(bad).__name__}"):
        model.encode(bad)


@pytest.mark.parametrize("bad", ["cat", b"cat", None, 3, np.array("cat")])
def test_one_text_where_several_are_due(model, bad):
    with pytest.raises(TypeError, match="texts must be a list or another iterable of str"):
        model.encode_batch(bad)
    with pytest.raises(TypeError, match="texts must be a list"):
        list(model.encode_iter(bad))
    with pytest.raises(TypeError, match="documents must be a"):
        model.rank("cat", bad)


def test_str_subclasses_are_texts(model):
    same(model.encode(np.str_("cat")), model.encode("cat"))


def test_lone_surrogate_names_index_and_length_never_the_text(model):
    with pytest.raises(TokenizationError, match=r"text 2 \(length 7\) has a lone surrogate") as e:
        model.encode_batch(["cat", "dog", "secret\ud800"])
    assert "secret" not in str(e.value)


def test_lone_surrogate_in_a_stream_loses_nothing(model):
    seen = []
    with pytest.raises(TokenizationError, match="text 3 "):
        for result in model.encode_iter(["a", "b", "c", "\ud800", "e"]):
            seen.append(result)
    assert len(seen) == 3


def test_a_stream_refuses_a_wrong_argument_at_once(model):
    with pytest.raises(TypeError, match="texts must be a list"):
        model.encode_iter("cat")
    with pytest.raises(ValueError, match='role must be "query" or "document"'):
        model.encode_iter(["cat"], role="passage")


def test_streamed_queries_equal_queries(model):
    for found, text in zip(model.encode_iter(TEXTS[:4], role="query"), TEXTS[:4], strict=True):
        same(found, model.encode_query(text))
    assert model.token_count(["cat"], role="query")[0] >= 3


def test_empty_inputs(model):
    assert len(model.encode_batch([])) == 0
    assert list(model.encode_iter([])) == []
    assert model.rank("cat", []) == []
    assert len(model.encode_query([])) == 0


def test_empty_dense_batch_has_two_dimensions():
    with open_kind("dense") as dense:
        assert dense.encode_batch([]).shape == (0, 32)
        assert dense.encode_batch([]).dtype == np.float32


@quiet
def test_generators_iterators_and_tuples_equal_lists(model):
    expected = model.encode_batch(TEXTS)
    for texts in ((text for text in TEXTS), iter(TEXTS), tuple(TEXTS), dict.fromkeys(TEXTS).keys()):
        for found, reference in zip(model.encode_batch(texts), expected, strict=True):
            same(found, reference)


@quiet
def test_duplicates_and_order_over_many_windows(model, monkeypatch):
    monkeypatch.setattr(batching, "windows", _small_windows)
    reference = [model.encode(text) for text in TEXTS]
    rng = np.random.default_rng(1)
    picks = rng.integers(len(TEXTS), size=300)
    for found, pick in zip(model.encode_iter(TEXTS[i] for i in picks), picks, strict=True):
        same(found, reference[pick])


def _small_windows(texts, original=batching.windows):
    return original(texts, size=64)


@pytest.mark.slow
@quiet
def test_ten_thousand_mixed_lengths_keep_their_order(model):
    texts = [
        " ".join(["cat"] * (1 + i % 37)) + f" {'dog' if i % 3 else 'mat'}" for i in range(10_000)
    ]
    found = model.encode_batch(texts)
    assert len(found) == len(texts)
    for i in (0, 1, 17, 4095, 4096, 5000, 9999):
        same(found[i], model.encode(texts[i]))


@quiet
def test_results_do_not_depend_on_neighbours(model):
    alone = [model.encode(text) for text in TEXTS]
    for found, reference in zip(model.encode_batch(TEXTS), alone, strict=True):
        same(found, reference)
    shuffled = model.encode_batch(TEXTS[::-1])[::-1]
    for found, reference in zip(shuffled, alone, strict=True):
        same(found, reference)


def test_a_generator_that_raises_midway_loses_nothing(model):
    def source():
        yield from ["cat", "dog", "mat"]
        raise OSError("disk gone")

    seen = []
    with pytest.raises(OSError, match="disk gone"):
        for result in model.encode_iter(source()):
            seen.append(result)
    for found, text in zip(seen, ["cat", "dog", "mat"], strict=True):
        same(found, model.encode(text))


def test_a_bad_item_in_a_stream_loses_nothing(model):
    seen = []
    with pytest.raises(TypeError, match=r"texts\[2\] must be str, got int"):
        for result in model.encode_iter(["cat", "dog", 3, "mat"]):
            seen.append(result)
    assert len(seen) == 2


def test_a_text_without_tokens_in_a_stream_loses_nothing_before_it(tmp_path):
    """A model that adds no special tokens has nothing to run for an empty text."""
    bare = replace(
        ("prefix_ids = [\n    4,\n]", "prefix_ids = []"),
        ("suffix_ids = [\n    5,\n]", "suffix_ids = []"),
    )
    folder = copy("states", tmp_path / "bare", bare)
    document = json.loads((folder / "tokenizer.json").read_text())
    document["post_processor"] = None  # it would put the special tokens there
    relist(folder, "tokenizer.json", json.dumps(document).encode())
    with TesseraDense(path=folder) as model:
        texts = ["cat dog", "the cat sat on the mat", "dog", "", "mat"]
        seen = []
        with pytest.raises(TokenizationError, match="text 3 has no tokens"):
            for vector in model.encode_iter(texts):
                seen.append(vector)
        assert len(seen) == 3
        for vector, text in zip(seen, texts, strict=False):
            same(vector, model.encode(text))


@pytest.mark.parametrize("fails", ["long", "short"])
def test_a_failing_batch_in_a_stream_loses_nothing_before_it(model, monkeypatch, fails):
    """Long batches run first, so a long text that fails last in order is the hard case."""
    run = model._encoder.session.run

    def broken(feeds, **kwargs):
        if (feeds["input_ids"].shape[1] > 15) == (fails == "long"):
            raise EncodingError("out of memory")
        return run(feeds, **kwargs)

    monkeypatch.setattr(model._encoder.session, "run", broken)
    plan = batching.plan_batches
    monkeypatch.setattr(batching, "plan_batches", lambda lengths, _: plan(lengths, 50))
    long, short = "cat " * 20, "cat"
    good, bad = (short, long) if fails == "long" else (long, short)
    seen = []
    with pytest.raises(RuntimeError, match="text 40: out of memory"):
        for result in model.encode_iter([good] * 40 + [bad] * 2 + [good] * 4):
            seen.append(result)
    assert len(seen) == 40


def test_later_texts_are_tokenised_while_earlier_ones_run(model, monkeypatch):
    """The first batch waits until the second part of the window has been tokenised."""
    monkeypatch.setattr(batching, "CHUNK_CHARACTERS", 64)
    session, tokenizer = model._encoder.session, model._encoder.tokenizer
    monkeypatch.setattr(session, "workers", 2)
    run, rows = session.run, tokenizer.rows
    parts, second = [], threading.Event()

    def counted(texts, role, **options):
        parts.append(len(texts))
        if len(parts) == 2:
            second.set()
        return rows(texts, role, **options)

    def waiting(feeds, **options):
        assert second.wait(HANG)
        return run(feeds, **options)

    monkeypatch.setattr(tokenizer, "rows", counted)
    monkeypatch.setattr(session, "run", waiting)
    texts = [f"cat {'dog ' * (i % 9)}" for i in range(60)]
    found = model.encode_batch(texts)
    assert len(parts) > 2
    monkeypatch.undo()
    for vector, text in zip(found, texts, strict=True):
        same(vector, model.encode(text))


def test_vectors_of_a_stream_do_not_keep_their_window():
    with open_kind("dense") as dense:
        found = list(dense.encode_iter(["cat", "dog"]))
        assert all(vector.base is None for vector in found)
        batch = dense.encode_batch(["cat", "dog"])
        assert batch.flags.c_contiguous
        assert batch.base is None


LIMITS = {"dense": 40, "multi-vector": 48, "sparse": 40}
SPECIALS = {"dense": 4, "multi-vector": 3, "sparse": 2}  # prompt "passage:" is two tokens


@pytest.mark.parametrize("over", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("kind", list(MODELS))
def test_lengths_around_the_limit(kind, over):
    limit = LIMITS[kind]
    text = " ".join(["cat"] * (limit - SPECIALS[kind] + over))
    with open_kind(kind, on_long="error") as strict:
        assert strict.token_count([text, "cat"]).tolist() == [limit + over, SPECIALS[kind] + 1]
        if over > 0:
            with pytest.raises(InputTooLong, match=rf"text 1 has {limit + over} tokens.*{limit}"):
                strict.encode_batch(["cat", text])
        else:
            assert np.isfinite(plain(strict.encode(text))).all()
    exact = " ".join(["cat"] * (limit - SPECIALS[kind]))
    with open_kind(kind, on_long="truncate") as model:
        if over >= 0:
            same(model.encode(text), model.encode(exact))
    with open_kind(kind) as model:
        if over > 0:
            with pytest.warns(TruncationWarning, match="1 of 2 texts were cut"):
                model.encode_batch(["cat", text])


def test_too_long_in_a_stream_loses_nothing_before_it():
    with open_kind("dense", on_long="error") as model:
        seen = []
        with pytest.raises(InputTooLong, match="text 2 has"):
            for vector in model.encode_iter(["cat", "dog", "cat " * 50, "mat"]):
                seen.append(vector)
        assert len(seen) == 2


def test_a_stream_that_is_left_early_still_warns(model):
    stream = model.encode_iter(["cat " * 90, "cat"])
    with pytest.warns(TruncationWarning, match="1 of 2 texts were cut"):
        next(stream)
        stream.close()
    broken = model.encode_iter(iter(["cat " * 90, 3]))
    with pytest.warns(TruncationWarning), pytest.raises(TypeError):
        list(broken)


def test_the_warning_points_at_the_callers_line(model):
    with pytest.warns(TruncationWarning) as caught:
        model.encode("cat " * 90)
    assert caught[0].filename == __file__


def test_idf_queries_are_not_cut_silently_either(tmp_path):
    edit = replace(('query_weights = "model"', 'query_weights = "ones"'))
    with TesseraSparse(path=copy("splade", tmp_path / "m", edit)) as model:
        with pytest.warns(TruncationWarning):
            model.encode_query("cat " * 50)


def test_the_tokenizer_files_own_padding_and_truncation_are_ignored(tmp_path):
    """The public all-MiniLM-L6-v2 tokenizer.json pads to 128 and cuts at 128."""
    folder = copy("states", tmp_path / "m")
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["padding"] = {
        "strategy": {"Fixed": 30},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    settings["truncation"] = {
        "direction": "Right",
        "max_length": 5,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    relist(folder, "tokenizer.json", json.dumps(settings).encode())
    with TesseraDense(path=folder, on_long="truncate") as model:
        np.testing.assert_allclose(model.encode_batch(TEXTS), golden("states")["mean"], atol=1e-5)


def test_lowercase_is_a_fact_of_the_model(tmp_path):
    """A cased tokenizer whose model wants lower case (mxbai-edge-colbert); special tokens stay."""
    cased = copy("states", tmp_path / "cased")
    settings = json.loads((cased / "tokenizer.json").read_text())
    settings["normalizer"]["lowercase"] = False
    relist(cased, "tokenizer.json", json.dumps(settings).encode())
    lower = tmp_path / "lower"
    shutil.copytree(cased, lower)
    toml = lower / "model.toml"
    toml.write_text(toml.read_text().replace("lowercase = false", "lowercase = true"))
    with TesseraDense(path=cased) as a, TesseraDense(path=lower) as b:
        same(b.encode("  CAT sat "), a.encode("  cat sat "))
        same(b.encode("CAT [SEP] sat"), a.encode("cat [SEP] sat"))
        assert np.abs(a.encode("CAT sat") - a.encode("cat sat")).max() > 0.01


def test_progress_reports_every_text(model, capsys):
    model.encode_batch(["cat", "dog"], progress=True)
    assert "2/2" in capsys.readouterr().err


def test_outputs_in_every_form():
    with open_kind("dense") as dense, open_kind("multi-vector") as multi:
        vectors = dense.encode_batch(["cat", "dog"])
        codes = dense.encode_batch(["cat", "dog"], output_dtype="int8")
        np.testing.assert_allclose(codes.dequantize(), vectors, atol=0.01)
        np.testing.assert_array_equal(
            dense.encode_query("cat", output_dtype="binary").unpack() > 0,
            dense.encode_query("cat") > 0,
        )
        tokens = multi.encode("cat")
        (bits,) = multi.encode_batch(["cat"], output_dtype="binary")
        np.testing.assert_array_equal(bits.bits, multi.encode_quantized("cat").bits)
        np.testing.assert_array_equal(bits.bits, multi.quantize(tokens).bits)
        query = multi.quantize(multi.encode_query("cat"))
        score = multi.similarity_quantized(query, bits)
        assert -32 <= score <= 32
        pooled = multi.encode_document("the cat sat on the mat", pool_factor=2)
        assert pooled.shape == (5, 128)  # 9 rows: [CLS] and 8 // 2
        with pytest.raises(ValueError, match="output_dtype must be"):
            dense.encode_batch(["cat"], output_dtype="bits")
        with pytest.raises(ValueError, match="pool_factor"):
            multi.encode_batch(["cat"], pool_factor=0)


def test_rank_with_texts_equals_rank_with_vectors(model):
    texts = ["cat sat", "dog", "the weather in new york", "cat"]
    query = "cat"
    from_texts = model.rank(query, texts)
    assert sorted(item.index for item in from_texts) == [0, 1, 2, 3]
    scores = [item.score for item in from_texts]
    assert scores == sorted(scores, reverse=True)
    from_vectors = model.rank(model.encode_query(query), model.encode_batch(texts))
    assert [item.index for item in from_vectors] == [item.index for item in from_texts]
    assert model.rank(query, texts, top_k=2) == from_texts[:2]
    assert model.rank(query, texts, top_k=99) == from_texts
    best = from_texts[0]
    assert best.score == pytest.approx(model.similarity(query, texts[best.index]), abs=1e-4)
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        model.rank(query, texts, top_k=0)
    with pytest.raises(TypeError, match="top_k must be int"):
        model.rank(query, texts, top_k="2")


def test_malformed_arguments_are_clear_errors():
    with open_kind("dense") as dense, open_kind("multi-vector") as multi:
        with open_kind("sparse") as sparse:
            cases = [
                (lambda: dense.rank(np.zeros((3, 32)), ["a"]), ValueError, "one vector"),
                (lambda: dense.rank(np.zeros(5), np.empty((0, 32))), ValueError, "32 dims"),
                (lambda: dense.similarity(["a"], "a"), TypeError, "a must be str, got list"),
                (lambda: multi.similarity("a", ["a"]), TypeError, "b must be str, got list"),
                (lambda: sparse.similarity(["a"], "a"), TypeError, "a must be str, got list"),
                (lambda: multi.explain(3, "a"), TypeError, "query must be str, got int"),
                (lambda: multi.rank("a", [[[1, 2], [3]]]), ValueError, "rectangular"),
                (lambda: multi.quantize([[1, 2], [3]]), ValueError, "rectangular"),
                (
                    lambda: multi.encode_batch([], output_dtype="x"),
                    ValueError,
                    "output_dtype must be",
                ),
                (lambda: multi.encode_batch([], pool_factor=0), ValueError, "pool_factor"),
                (lambda: sparse.rank(None, ["a"]), TypeError, "query must be a SparseVector"),
                (lambda: sparse.rank("a", [sparse.encode("a"), "b"]), TypeError, r"documents\[1\]"),
                (lambda: sparse.explain(([-1], [1.0])), ValueError, "indices must ascend"),
                (lambda: sparse.explain(([2, 1], [1.0, 1.0])), ValueError, "indices must ascend"),
                (lambda: sparse.explain(([1], [1.0, 1.0])), ValueError, r"indices \(1,\)"),
            ]
            for call, error, match in cases:
                with pytest.raises(error, match=match):
                    call()
            assert sparse.rank("a", [([1], [1.0])])[0].index == 0


def test_explanations_add_up():
    with open_kind("multi-vector") as multi, open_kind("sparse") as sparse:
        matches = multi.explain("cat sat", "the cat sat on the mat")
        assert [match.query_token for match in matches[:5]] == [
            "[CLS]", "[unused0]", "cat", "sat", "[SEP]",
        ]  # fmt: skip
        total = sum(match.score for match in matches)
        similarity = multi.similarity("cat sat", "the cat sat on the mat")
        assert total == pytest.approx(similarity, abs=1e-4)
        vector = sparse.encode("cat")
        weights = sparse.explain(vector, None)
        assert len(weights) == len(vector.indices)
        assert weights == sorted(weights, key=lambda pair: -pair[1])
        assert sparse.explain(vector, 3) == weights[:3]
        indices, values = vector
        assert sparse.explain((indices, values), 3) == weights[:3]
        assert vector.to_dict().keys() == set(indices.tolist())
        assert vector.to_qdrant()["values"] == values.tolist()
