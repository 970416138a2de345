"""Batch plans keep every row once, under the budget; a failure loses no result."""

import sys
import threading

import numpy as np
import pytest
from artifact_tools import HANG
from hypothesis import given
from hypothesis import strategies as st

from tessera_onnx import EncodingError
from tessera_onnx.runtime import batching
from tessera_onnx.runtime.workers import AttentionBudget, Failure, run_batches


@given(st.lists(st.integers(1, 700), max_size=200), st.integers(1, 1024))
def test_plan_covers_every_row_once_under_the_budget(lengths, budget):
    batches = batching.plan_batches(lengths, budget)
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

    rows = [np.array([i]) for i in range(100)]
    failure = run_batches(work, rows, workers)
    assert (failure.row, failure.error) == (sys.maxsize, None)
    assert sorted(done) == list(range(100))


@pytest.mark.parametrize("workers", [1, 3])
def test_run_stops_at_the_first_failure_and_returns_it(workers):
    done = []

    def work(batch):
        if batch[0] == 5:
            raise KeyboardInterrupt
        done.append(int(batch[0]))

    failure = run_batches(work, [np.array([i]) for i in range(1000)], workers)
    assert failure.row == 0 and failure.stopped
    assert isinstance(failure.error, KeyboardInterrupt)
    assert set(range(5)) <= set(done)
    assert len(done) < 1000


def test_chunks_hold_every_row_once_longest_first():
    texts = ["x" * n for n in (5, 70_000, 30_000, 1, 40_000)]
    assert [part.tolist() for part in batching.chunks(texts)] == [[1], [4, 2], [0, 3]]
    assert [part.tolist() for part in batching.chunks(["", ""])] == [[0, 1]]


@pytest.mark.parametrize(
    ("n_tokens", "workers", "expected"),
    [(10_000, 2, 512), (600, 2, 300), (600, 16, 64), (10, 1, 64), (1025, 2, 512)],
)
def test_a_small_call_is_cut_so_that_no_worker_idles(n_tokens, workers, expected):
    assert batching.budget(n_tokens, workers) == expected


def test_room_runs_small_batches_together_and_a_large_one_alone():
    room = AttentionBudget(100)
    entered = threading.Event()

    def large():
        with room.of(1, 50):  # 2,500 is more than all the room
            entered.set()

    thread = threading.Thread(target=large)
    with room.of(1, 5), room.of(2, 6):  # 25 + 72
        thread.start()
        assert not entered.wait(0.1)
    assert entered.wait(HANG)
    thread.join()


def test_a_failure_met_while_batches_are_made_keeps_later_rows_from_running():
    done = []
    failure = Failure()

    def batches():
        yield np.array([3])
        failure.at(2, EncodingError("no tokens"))
        yield np.array([4])
        yield np.array([0, 1])

    assert run_batches(done.extend, batches(), 1, failure) is failure
    assert (failure.row, str(failure.error)) == (2, "no tokens")
    assert done == [3, 0, 1]
