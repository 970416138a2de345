"""Poolings and similarities that folders of sentence-transformers ask for, computed by hand."""

import numpy as np
import pytest

from tessera_onnx.vectors.pooling import POOLINGS
from tessera_onnx.vectors.scoring import dense_scores

STATES = np.array([[[1, -4], [3, 2], [9, 9]], [[-1, 6], [5, 5], [7, 7]]], np.float32)
MASK = np.array([[1, 1, 0], [1, 0, 0]])  # two tokens, one token; the rest is padding


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cls", [[1, -4], [-1, 6]]),
        ("last", [[3, 2], [-1, 6]]),
        ("mean", [[2, -1], [-1, 6]]),
        ("max", [[3, 2], [-1, 6]]),
        ("mean_sqrt_len_tokens", [[4 / 2**0.5, -2 / 2**0.5], [-1, 6]]),
        ("weightedmean", [[7 / 3, 0], [-1, 6]]),
    ],
)
def test_poolings(name, expected):
    found = POOLINGS[name](STATES, MASK)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dot", [11, 25]),
        ("cosine", [11 / (5 * 5**0.5), 1]),
        ("euclidean", [-(8**0.5), 0]),
        ("manhattan", [-4, 0]),
    ],
)
def test_similarities(name, expected):
    documents = np.array([[1, 2], [3, 4]], np.float32)
    found = dense_scores(np.array([3, 4], np.float32), documents, name)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
