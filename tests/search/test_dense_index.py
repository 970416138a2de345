"""Packed dense vectors against plain dot products, in every form, in memory and in files."""

import numpy as np
import pytest

from tessera_onnx import (
    BinaryTokens,
    ConfigError,
    DimensionMismatch,
    IntegrityError,
    LoadError,
    PackedDense,
    PackedTokens,
)
from tessera_onnx.search import block_file, blocks
from tessera_onnx.vectors import quantization, scoring
from tessera_onnx.vectors.pooling import l2_normalize

FORMS = ("float32", "int8", "binary")


def vectors(rng, n=70, dim=24):
    return l2_normalize(rng.normal(size=(n, dim)))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_TOKENS", 16)
    monkeypatch.setattr(blocks, "LEAST_TOKENS", 4)


def expected(rows, query, output):
    """Scores without this index: dot products, or the cosines of signs."""
    if output != "binary":
        return rows @ query
    return np.where(rows > 0, 1, -1) @ np.where(query > 0, 1, -1) / len(query)


@pytest.mark.parametrize("output", FORMS)
def test_scores_are_dot_products(rng, small_blocks, output):
    rows, query = vectors(rng), vectors(rng, 1)[0]
    index = PackedDense(rows, output_dtype=output)
    tolerance = 0.02 if output == "int8" else 1e-6
    np.testing.assert_allclose(index.score(query), expected(rows, query, output), atol=tolerance)
    several = index.score_batch(rows[:5])
    assert several.shape == (5, 70) and several.dtype == np.float32
    np.testing.assert_allclose(several, [index.score(row) for row in rows[:5]], atol=1e-6)
    assert len(index) == 70 and index.dimension() == 24 and index.output_dtype == output
    assert repr(index) == f"PackedDense(70 documents, dimension=24, {output})"


def test_one_vector_is_a_document_of_one_token(rng):
    rows, query = vectors(rng), vectors(rng, 1)[0]
    for output in FORMS:
        tokens = PackedTokens(rows[:, None], output_dtype=output)
        found = PackedDense(rows, output_dtype=output).score(query)
        np.testing.assert_array_equal(found, tokens.score(query[None]))


@pytest.mark.parametrize("output", FORMS)
def test_streams_lists_and_codes_give_what_arrays_give(rng, small_blocks, output):
    rows, query = vectors(rng), vectors(rng, 1)[0]
    whole = PackedDense(rows, output_dtype=output).score(query)

    def reused():
        buffer = np.empty(24, np.float32)
        for row in rows:
            buffer[:] = row
            yield buffer

    for given in (list(rows), rows.tolist(), reused(), rows.astype(np.float64)):
        found = PackedDense(given, output_dtype=output).score(query)
        np.testing.assert_allclose(found, whole, atol=1e-6)
    codes = quantization.int8(rows)
    if output == "float32":
        np.testing.assert_allclose(
            PackedDense(codes).score(query), codes.dequantize() @ query, atol=1e-6
        )
    if output == "binary":
        bits = quantization.binary(rows)
        parts = [BinaryTokens(row, 24) for row in bits.bits]
        for given in (bits, parts):
            found = PackedDense(given, output_dtype="binary")
            np.testing.assert_array_equal(found.score(query), whole)
            np.testing.assert_array_equal(found.score(parts[3]), whole * 0 + found.score(rows[3]))
        np.testing.assert_array_equal(found.score_batch(bits), found.score_batch(rows))
    with pytest.raises(ConfigError, match="sign bits"):
        PackedDense(quantization.binary(rows))
    with pytest.raises(ConfigError, match="sign bits"):
        PackedDense([BinaryTokens(quantization.binary(rows).bits[0], 24)])


def test_the_callers_array_may_change(rng):
    rows, query = vectors(rng), vectors(rng, 1)[0]
    given = rows.copy()
    index = PackedDense(given)
    given[:] = 0
    np.testing.assert_allclose(index.score(query), rows @ query, atol=1e-6)


@pytest.mark.parametrize("output", FORMS)
def test_adding_and_removing(rng, small_blocks, output):
    rows, query = vectors(rng), vectors(rng, 1)[0]
    whole = PackedDense(rows, output_dtype=output).score(query)
    index = PackedDense(output_dtype=output, ids=())
    for i in range(40):
        index.add(rows[i : i + 1], ids=[str(i)])
    index.add(rows[40:], ids=map(str, range(40, 70)))
    np.testing.assert_allclose(index.score(query), whole, atol=1e-6)
    (segment,) = index._state.segments
    assert len(segment) < 10  # of 16 documents at most: single additions are merged
    index.remove(["3", 69])
    left = index.score(query)
    assert left[3] == left[69] == -np.inf
    np.testing.assert_allclose(np.delete(left, [3, 69]), np.delete(whole, [3, 69]), atol=1e-6)
    best = index.rank(query, 3)
    assert [row.index for row in best] == np.argsort(-left, kind="stable")[:3].tolist()
    assert [row.id for row in best] == [str(row.index) for row in best]
    index.remove(range(40, 69))
    index.remove([0, 1, 2, *range(4, 40)])
    assert len(index) == 0 and index.dimension() is None
    index.add(np.ones((2, 5)))
    assert index.dimension() == 5


@pytest.mark.parametrize("output", FORMS)
def test_files(rng, small_blocks, output, tmp_path):
    rows, query = vectors(rng), vectors(rng, 1)[0]
    index = PackedDense(rows, output_dtype=output, ids=[f"d{i}" for i in range(70)])
    index.remove(["d5"])
    index.save(tmp_path / "index")
    loaded = PackedDense.load(tmp_path / "index", verify=True)
    np.testing.assert_array_equal(loaded.score(query), index.score(query))
    assert loaded.ids == index.ids and loaded.output_dtype == output
    loaded.add(rows[:1], ids=["new"])
    assert loaded.score(query)[70] == pytest.approx(index.score(query)[0], abs=1e-6)
    with pytest.raises(LoadError, match="not an index of token vectors"):
        PackedTokens.load(tmp_path / "index")
    content = bytearray((tmp_path / "index").read_bytes())
    content[-3] ^= 1
    (tmp_path / "index").write_bytes(content)
    with pytest.raises(IntegrityError, match="damaged"):
        PackedDense.load(tmp_path / "index", verify=True)
    with pytest.raises(ConfigError, match="nothing to save"):
        PackedDense().save(tmp_path / "empty")


def test_a_file_of_several_vectors_a_document_is_refused(rng, tmp_path):
    dim, segments, ids = PackedTokens([vectors(rng, 3), vectors(rng, 2)])._state
    given = [block for segment in segments for block in segment]
    path = tmp_path / "index"
    block_file.write_index(path, block_file.DENSE, given, "float32", dim, ids=ids)
    with pytest.raises(IntegrityError, match="several vectors"):
        PackedDense.load(tmp_path / "index")


def test_wrong_vectors_are_named(rng, small_blocks):
    rows = vectors(rng)
    bad = rows.copy()
    bad[40, 3] = np.nan
    for given in (bad, list(bad)):
        with pytest.raises(ConfigError, match=r"documents\[40\].*NaN") as caught:
            PackedDense(given)
        assert caught.value.index == 40
    for given in ([rows[0], rows[1][:5]], [rows[0], rows[:2]]):
        with pytest.raises(ConfigError) as caught:
            PackedDense(given)
        assert caught.value.index == 1
    index = PackedDense(rows)
    with pytest.raises(DimensionMismatch, match="5 dims"):
        index.add(rows[:, :5])
    with pytest.raises(DimensionMismatch, match="query has 5 dims, the documents 24"):
        index.score(rows[0, :5])
    with pytest.raises(ConfigError, match="one vector"):
        index.score(rows)
    with pytest.raises(TypeError, match="text"):
        index.score("a text")
    with pytest.raises(TypeError, match="list of vectors"):
        index.search("a text")
    with pytest.raises(ConfigError, match=r"queries\[1\]") as caught:
        index.search([rows[0], bad[40]])
    assert caught.value.index == 1
    assert len(index) == 70
    assert PackedDense(np.empty((0, 8))).search([[1.0, 2.0]]) == [[]]


def test_the_best_are_those_of_a_full_sort(rng):
    """Also where many scores are equal at the border."""
    rows = np.repeat(np.eye(4, dtype=np.float32), 100, axis=0)
    rng.shuffle(rows)
    for top_k in (1, 7, 99, 100, 101, 250, None):
        found = PackedDense(rows).rank([0.5, 0.1, 0.3, 0.2], top_k)
        scores = scoring.dense_scores([0.5, 0.1, 0.3, 0.2], rows)
        order = np.argsort(-scores, kind="stable")[:top_k]
        assert [row.index for row in found] == order.tolist()
