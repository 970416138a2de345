"""Pooling against float64 written out by hand, and SPLADE against the paper's order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster import hierarchy

from tessera_onnx.errors import ConfigError
from tessera_onnx.vectors import pooling


@pytest.fixture
def states(rng):
    return rng.normal(size=(3, 5, 4)).astype(np.float32)


MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])


def test_mean_counts_real_tokens_only(states):
    expected = [states[0].astype(float).mean(0), states[1, :2].astype(float).mean(0), states[2, 0]]
    np.testing.assert_allclose(pooling.mean(states, MASK), expected, atol=1e-6)


def test_mean_of_no_tokens_is_zero(states):
    assert not pooling.mean(states, np.zeros_like(MASK)).any()


def test_cls_and_last(states):
    np.testing.assert_array_equal(pooling.cls(states, MASK), states[:, 0])
    expected = [states[0, 4], states[1, 1], states[2, 0]]
    np.testing.assert_array_equal(pooling.last(states, MASK), expected)


def test_last_with_left_padding(states):
    np.testing.assert_array_equal(pooling.last(states, MASK[:, ::-1]), states[:, 4])


def test_results_never_alias_inputs(states):
    pooled = pooling.cls(states, MASK)
    states[:] = 0
    assert pooled.any()


def test_l2_normalize_zero_stays_zero():
    vectors = pooling.l2_normalize(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)
    assert vectors.dtype == np.float32


def test_layer_norm_by_hand():
    # mean 2, variance 2/3
    expected = np.array([-1, 0, 1]) / np.sqrt(2 / 3 + 1e-5)
    np.testing.assert_allclose(pooling.layer_norm(np.array([1.0, 2.0, 3.0])), expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_splade_equals_the_order_of_the_paper(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=4, size=(4, 6, 50)).astype(np.float32)
    mask = np.arange(6) < np.array([6, 3, 1, 2])[:, None]
    paper = (np.log1p(np.maximum(logits.astype(float), 0)) * mask[..., None]).max(axis=1)
    ours = pooling.activate(pooling.splade(logits, mask), "log1p")
    np.testing.assert_allclose(ours, paper, atol=1e-6)


def test_splade_padding_never_wins_even_when_every_logit_is_negative():
    logits = np.full((1, 3, 4), -5.0, dtype=np.float32)
    logits[0, 2] = 9.0  # padding
    mask = np.array([[1, 1, 0]])
    assert not pooling.activate(pooling.splade(logits, mask), "log1p").any()
    # A mask with a hole is honoured too, not taken for a prefix.
    assert not pooling.activate(pooling.splade(logits[:, ::-1], mask[:, ::-1]), "log1p").any()


def test_splade_without_tokens_gives_no_weights():
    pooled = pooling.splade(np.ones((1, 2, 3), np.float32), np.zeros((1, 2)))
    assert not pooling.activate(pooled, "log1p").any()


def test_double_log1p():
    np.testing.assert_allclose(
        pooling.activate(np.array([[-1.0, 0.0, 2.0]]), "log1p-log1p"),
        [[0, 0, np.log1p(np.log1p(2.0))]],
        atol=1e-6,
    )


def _scipy_pooled(tokens, factor):
    """PyLate's rule by scipy's Ward linkage: first row protected, cluster means, unit rows."""
    rest = tokens[1:].astype(np.float64)
    clusters = max(1, len(rest) // factor)
    labels = hierarchy.fcluster(hierarchy.ward(rest), clusters, criterion="maxclust")
    firsts = sorted({label: np.argmax(labels == label) for label in labels}.values())
    means = [rest[labels == labels[first]].mean(axis=0) for first in firsts]
    return np.vstack([tokens[:1], [mean / np.linalg.norm(mean) for mean in means]])


@given(st.integers(3, 40), st.integers(2, 5), st.integers(0, 10_000))
def test_pool_tokens_equals_scipy_ward(n, factor, seed):
    tokens = pooling.l2_normalize(np.random.default_rng(seed).normal(size=(n, 8)))
    np.testing.assert_allclose(
        pooling.pool_tokens(tokens, factor), _scipy_pooled(tokens, factor), atol=1e-5
    )


def test_pool_tokens_edges(rng):
    tokens = pooling.l2_normalize(rng.normal(size=(2, 4)))
    np.testing.assert_array_equal(pooling.pool_tokens(tokens, 1), tokens)
    np.testing.assert_array_equal(pooling.pool_tokens(tokens, 9), tokens)
    assert pooling.pool_tokens(np.tile(tokens[:1], (9, 1)), 3).shape == (3, 4)
    with pytest.raises(ConfigError, match="pool_factor"):
        pooling.pool_tokens(tokens, 0)


def test_largest_weight_of_each_token_by_hand():
    weights = np.array([0.5, 2.0, 1.0, -1.0], dtype=np.float32)
    entries, found = pooling.largest(weights, np.array([4, 2, 2, 7]))
    assert (entries.tolist(), found.tolist()) == ([2, 4, 7], [2.0, 0.5, -1.0])
    assert found.dtype == np.float32
    entries, found = pooling.largest(np.empty(0), np.empty(0, dtype=np.int64))
    assert (len(entries), len(found)) == (0, 0)


def test_activations_by_hand():
    pooled = np.array([-np.inf, -1.0, 0.0, 1.0, np.e - 1], dtype=np.float32)
    for name, expected in {
        "relu": [0, 0, 0, 1, np.e - 1],
        "log1p": [0, 0, 0, np.log(2), 1],
        "log1p-log1p": [0, 0, 0, np.log(np.log(2) + 1), np.log(2)],
    }.items():
        np.testing.assert_allclose(pooling.activate(pooled, name), expected, rtol=1e-6)
