"""Batch plans keep every row once, under the budget; a failure loses no result."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera_onnx import batching


@given(st.lists(st.integers(1, 700), max_size=200), st.integers(1, 1024))
def test_plan_covers_every_row_once_under_the_budget(lengths, budget):
    batches = batching.plan(lengths, budget)
    rows = [int(row) for batch in batches for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
    ordered = [lengths[row] for row in rows]
    assert ordered == sorted(lengths, reverse=True)


def test_pad():
    padded = batching.pad([np.array([1, 2, 3]), np.array([4])], 9)
    assert padded.tolist() == [[1, 2, 3], [4, 9, 9]]


def test_windows_yield_what_was_read_before_an_exception():
    def broken():
        yield from ["a", "b", "c"]
        raise OSError("source went away")

    seen = []
    with pytest.raises(OSError, match="went away"):
        for window in batching.windows(broken(), size=2):
            seen.append(window)
    assert seen == [["a", "b"], ["c"]]


def test_windows_are_bounded_in_characters(monkeypatch):
    monkeypatch.setattr(batching, "WINDOW_CHARACTERS", 10)
    assert list(batching.windows(["x" * 6] * 5)) == [["x" * 6] * 2, ["x" * 6] * 2, ["x" * 6]]


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_run_does_every_batch_once(workers):
    done = []
    lock = threading.Lock()

    def work(batch):
        with lock:
            done.extend(batch.tolist())

    assert batching.run(work, [np.array([i]) for i in range(100)], workers) is None
    assert sorted(done) == list(range(100))


@pytest.mark.parametrize("workers", [1, 3])
def test_run_stops_at_the_first_failure_and_returns_it(workers):
    done = []

    def work(batch):
        if batch[0] == 5:
            raise KeyboardInterrupt
        done.append(int(batch[0]))

    failure = batching.run(work, [np.array([i]) for i in range(1000)], workers)
    assert isinstance(failure, KeyboardInterrupt)
    assert set(range(5)) <= set(done)
    assert len(done) < 1000
