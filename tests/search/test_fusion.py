"""Fusion of rankings: values worked out by hand, ties, ids, and wrong arguments."""

import math
from fractions import Fraction

import numpy as np
import pytest

from tessera_onnx import ConfigError, Ranked, fuse

DENSE = [Ranked(2, 0.9), Ranked(0, 0.5), Ranked(1, 0.1)]
SPARSE = [Ranked(0, 12.0), Ranked(3, 8.0), Ranked(2, 4.0)]


def scores(found):
    return {row.index: row.score for row in found}


def test_reciprocal_ranks_by_hand():
    found = fuse([DENSE, SPARSE])
    expected = {
        0: Fraction(1, 62) + Fraction(1, 61),
        2: Fraction(1, 61) + Fraction(1, 63),
        3: Fraction(1, 62),
        1: Fraction(1, 63),
    }
    assert [row.index for row in found] == [0, 2, 3, 1]
    assert scores(found) == pytest.approx({i: float(x) for i, x in expected.items()}, rel=1e-15)
    # k = 0: 1/1, 1/2, 1/3.
    assert scores(fuse([DENSE, SPARSE], k=0)) == pytest.approx({0: 1.5, 2: 4 / 3, 3: 0.5, 1: 1 / 3})


def test_distribution_based_by_hand():
    """Mean 0.5 and deviation 0.4 of the first list; 8 and 4 of the second: ±1 is 1/6 of ±3."""
    found = fuse([DENSE, SPARSE], method="dbsf")
    high, middle, low = 0.5 + 1 / 6, 0.5, 0.5 - 1 / 6
    expected = {0: middle + high, 2: high + low, 3: middle, 1: low}
    assert scores(found) == pytest.approx(expected, rel=1e-14)
    assert [row.index for row in found] == [0, 2, 3, 1]


def test_relative_by_hand():
    found = fuse([DENSE, [(0, 12), (3, 5), (2, 4)]], "relative")
    assert scores(found) == pytest.approx({0: 0.5 + 1, 2: 1.0, 3: 0.125, 1: 0.0})
    # The example in Weaviate's source.
    assert scores(fuse([[(3, 11), (1, 8), (2, 6), (0, 1)]], "relative")) == pytest.approx(
        {0: 0, 1: 0.7, 2: 0.5, 3: 1}
    )


@pytest.mark.parametrize(("method", "share"), [("dbsf", 0.5), ("relative", 1.0)])
@pytest.mark.parametrize("same", [[(4, 0.1)], [(4, 0.1), (5, 0.1), (6, 0.1)], [(4, 0.0)]])
def test_equal_scores(method, share, same):
    assert fuse([same], method) == [(i, share) for i, _ in same]


@pytest.mark.parametrize("method", ["dbsf", "relative"])
def test_scale_does_not_matter_and_nothing_overflows(method):
    expected = fuse([DENSE, SPARSE], method)
    for factor in (1e-300, 1e-3, 1e300):
        found = fuse([[(i, x * factor) for i, x in DENSE], SPARSE], method)
        assert scores(found) == pytest.approx(scores(expected), rel=1e-12)
    far = fuse([[(0, 1.7e308), (1, 0.0), (2, -1.7e308)]], method)
    assert scores(far)[1] == pytest.approx(0.5)
    least = fuse([[(0, 5e-324), (1, 0.0)]], method)
    assert all(math.isfinite(x) for x in scores(least).values())


def test_ties_keep_the_order_of_first_mention():
    first, second = [(5, 2.0), (1, 1.0)], [(1, 2.0), (5, 1.0)]
    for method in ("rrf", "dbsf", "relative"):
        assert [i for i, _ in fuse([first, second], method)] == [5, 1]
        assert [i for i, _ in fuse([second, first], method)] == [1, 5]


def test_the_sum_does_not_depend_on_the_order_of_the_rankings(rng):
    rankings = [
        [(int(i), float(x)) for i, x in zip(rng.permutation(20), -np.sort(-rng.random(20)))]  # noqa: B905
        for _ in range(7)
    ]
    for method in ("rrf", "dbsf", "relative"):
        assert scores(fuse(rankings, method)) == scores(fuse(rankings[::-1], method))


def test_one_ranking_keeps_its_order_and_few_or_none_are_fine():
    for method in ("rrf", "dbsf", "relative"):
        assert [row.index for row in fuse([DENSE], method)] == [2, 0, 1]
        assert fuse([DENSE, []], method) == fuse([DENSE], method)
        assert fuse([], method) == fuse([[], []], method) == []
    assert fuse(iter([iter(DENSE)])) == fuse([DENSE])


def test_ids_are_kept():
    named = [Ranked(1, 3.0, "b"), Ranked(0, 2.0, "a")]
    found = fuse([[(0, 1.0), (2, 0.5)], named])
    assert {row.index: row.id for row in found} == {0: "a", 1: "b", 2: None}
    with pytest.raises(ConfigError, match="document 0 another id") as caught:
        fuse([named, [Ranked(0, 1.0, "c")]])
    assert caught.value.index == 1


def test_scores_of_rrf_are_not_read():
    assert fuse([[(0, math.nan), (1, math.inf)]]) == fuse([[(0, 1.0), (1, 0.5)]])


@pytest.mark.parametrize(
    ("rankings", "options", "error", "words"),
    [
        (DENSE, {}, TypeError, r"put a single ranking into a list"),
        ("text", {}, TypeError, "rankings must be a list"),
        ([["ab"]], {}, TypeError, r"rankings\[0\] must hold pairs"),
        ([[("0", 1.0)]], {}, TypeError, "index must be int, got str"),
        ([[(True, 1.0)]], {}, TypeError, "index must be int, got bool"),
        ([[(0, "1")]], {}, TypeError, "score must be a number, got str"),
        ([[(0, None)]], {}, TypeError, "score must be a number, got NoneType"),
        ([DENSE, None], {}, TypeError, r"rankings\[1\]"),
        ([DENSE, {0: 1.0}], {}, TypeError, r"rankings\[1\]"),
        ([[(-1, 1.0)]], {}, ConfigError, "indexes count from 0"),
        ([[(0, 1.0), (0, 0.5)]], {}, ConfigError, "names a document twice"),
        ([[(0, math.nan)]], {"method": "dbsf"}, ConfigError, "not finite"),
        ([[(0, math.inf)]], {"method": "relative"}, ConfigError, "not finite"),
        ([DENSE], {"method": "mean"}, ConfigError, "got 'mean'"),
        ([DENSE], {"method": None}, ConfigError, "got None"),
        ([DENSE], {"k": -1}, ConfigError, "k must be 0 or more"),
        ([DENSE], {"k": 1.5}, TypeError, "k must be int, got float"),
        ([DENSE], {"k": True}, TypeError, "k must be int, got bool"),
    ],
)
def test_wrong_arguments(rankings, options, error, words):
    with pytest.raises(error, match=words):
        fuse(rankings, **options)
