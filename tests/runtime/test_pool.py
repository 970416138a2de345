"""The process's one thread pool: how many threads it has, and that no call waits for ever."""

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest
from artifact_tools import HANG

from tessera_onnx import EncodingError, TesseraDense
from tessera_onnx.runtime.workers import Failure, run_batches

CALLERS = 16
TEXTS = [f"text {i} " + "the cat sat on the mat " * (i % 12) for i in range(60)]


def pool_threads():
    return [each for each in threading.enumerate() if each.name == "tessera-onnx"]


def run(code, *, timeout=HANG):
    """What a new process prints."""
    head = f"import os, signal, sys, threading, time\nsys.path[:0] = {sys.path!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(code)],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_sixteen_callers_start_no_more_threads_than_one():
    """Tasks of the process, counted while calls of a real model run; results are bit-identical."""
    found = run(
        f"""
        import numpy as np
        from tessera_onnx import TesseraDense
        TEXTS = {TEXTS!r}
        def tasks(): return len(os.listdir("/proc/self/task"))
        with TesseraDense("all-minilm-l6-v2", threads=4, on_long="truncate") as model:
            model.encode_batch(TEXTS[:8])  # the session is open
            expected = model.encode_batch(TEXTS)
            alone = tasks()  # the pool of one call stays
            most, results = 0, []
            start = threading.Barrier({CALLERS} + 1)
            def call():
                start.wait()
                results.append(model.encode_batch(TEXTS))
            callers = [threading.Thread(target=call) for _ in range({CALLERS})]
            for thread in callers: thread.start()
            start.wait()
            while all(thread.is_alive() for thread in callers):
                found = tasks()
                if all(thread.is_alive() for thread in callers):  # so none ended meanwhile
                    most = max(most, found)
                time.sleep(0.002)
            for thread in callers: thread.join()
            same = all(np.array_equal(each, expected) for each in results)
            pool = sum(thread.name == "tessera-onnx" for thread in threading.enumerate())
            print(most - alone - len(callers), pool, len(results), same)
        """
    )
    assert found == ["0", "3", str(CALLERS), "True"]


def test_a_call_that_finds_the_pool_busy_works_alone():
    may_go, begun = threading.Event(), threading.Event()

    def hold(_):
        begun.set()
        assert may_go.wait(HANG)

    rows = [np.array([i]) for i in range(8)]
    holding = threading.Thread(target=run_batches, args=[hold, rows, 4])
    holding.start()
    assert begun.wait(HANG)
    while len(pool_threads()) < 3:
        time.sleep(0.001)
    done = []
    run_batches(lambda batch: done.append(int(batch[0])), rows, 4).check()
    assert sorted(done) == list(range(8))
    may_go.set()
    holding.join(HANG)
    assert not holding.is_alive()


def test_a_batch_may_make_calls_of_its_own():
    lock, done = threading.Lock(), []

    def inner(batch):
        with lock:
            done.append(int(batch[0]))

    def outer(_):
        run_batches(inner, [np.array([i]) for i in range(20)], 3).check()

    run_batches(outer, [np.array([i]) for i in range(20)], 3).check()
    assert sorted(done) == sorted(list(range(20)) * 20)


def test_threads_join_in_and_a_larger_call_starts_more():
    for workers in (2, 5):
        together = threading.Barrier(workers)
        rows = [np.array([i]) for i in range(workers)]
        run_batches(lambda _, b=together: b.wait(HANG), rows, workers).check()
        assert len(pool_threads()) >= workers - 1


def test_an_idle_pool_keeps_nothing_of_a_call():
    """Its results are free without the garbage collector once the threads have left the call."""

    class Results:
        pass

    results = Results()
    kept = weakref.ref(results)
    together = threading.Barrier(3)
    rows = [np.array([i]) for i in range(3)]
    gc.disable()
    try:
        run_batches(lambda _, r=results: (r, together.wait(HANG)), rows, 3).check()
        del results
        end = time.monotonic() + HANG
        while kept() is not None and time.monotonic() < end:
            time.sleep(0.001)
        assert kept() is None
    finally:
        gc.enable()


def test_the_first_failure_by_row_counts_and_what_stops_a_call_goes_before_it():
    failure = Failure()
    failure.check()
    failure.at(7, EncodingError("seven"))
    failure.at(3, EncodingError("three"))
    failure.at(5, EncodingError("five"))
    assert (failure.row, str(failure.error), failure.stopped) == (3, "three", False)
    failure.stop(KeyboardInterrupt())
    failure.at(0, EncodingError("zero"))
    failure.stop(ValueError("later"))
    assert failure.row == 0 and isinstance(failure.error, KeyboardInterrupt) and failure.stopped


def test_a_stream_yields_what_stands_before_the_exact_text_that_fails(monkeypatch):
    """The text that fails shares its batch with earlier ones, which have their results."""
    texts = ["the cat sat"] * 30
    texts[17] = "the dog ran"
    with TesseraDense("all-minilm-l6-v2", threads=2) as model:
        expected = model.encode_batch(texts)
        dog = model._encoder.tokenizer.ids(["dog"])[0][0]
        true_run = model._session.run

        def run_or_fail(feeds, **options):
            if (feeds["input_ids"] == dog).any():
                raise EncodingError("it fails")
            return true_run(feeds, **options)

        monkeypatch.setattr(model._session, "run", run_or_fail)
        seen = []
        with pytest.raises(EncodingError, match="^text 17: it fails") as raised:
            for vector in model.encode_iter(texts):
                seen.append(vector)
        assert raised.value.index == 17 and len(seen) == 17
        np.testing.assert_allclose(seen, expected[:17], atol=1e-5)


def test_an_interrupt_of_a_waiting_caller_ends_the_call_and_leaves_the_pool_usable():
    """The caller has no batch left and waits for a thread of the pool when Ctrl-C comes."""
    assert run(
        """
        import numpy as np
        from tessera_onnx.runtime.workers import run_batches
        main = threading.main_thread()
        def work(batch):
            if threading.current_thread() is main:
                while not helping.is_set(): time.sleep(0.001)
                return
            helping.set()
            threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
            time.sleep(1)
        helping = threading.Event()
        failure = run_batches(work, [np.array([i]) for i in range(2)], 2)
        print(type(failure.error).__name__, failure.stopped)
        done, rows = [], [np.array([i]) for i in range(9)]
        failure = run_batches(lambda batch: done.append(int(batch[0])), rows, 2)
        print(failure.error is None, sorted(done) == list(range(9)))
        """
    ) == ["KeyboardInterrupt", "True", "True", "True"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_has_a_pool_of_its_own():
    """Also one that is made while all threads of the parent's pool work."""
    assert run(
        """
        import numpy as np
        from tessera_onnx import TesseraDense
        from tessera_onnx.runtime.workers import run_batches
        may_go = threading.Event()
        rows = [np.array([i]) for i in range(6)]
        thread = threading.Thread(target=run_batches, args=[lambda _: may_go.wait(60), rows, 3])
        thread.start()
        while sum(t.name == "tessera-onnx" for t in threading.enumerate()) < 2: time.sleep(0.001)
        texts = [f"{i} cat " * (1 + i % 30) for i in range(90)]
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # a hang ends here
            with TesseraDense("all-minilm-l6-v2", threads=2) as model:
                shape = model.encode_batch(texts).shape
            together = threading.Barrier(3)
            failed = run_batches(lambda _: together.wait(30), rows[:3], 3)
            os._exit(0 if shape == (90, 384) and failed.error is None else 1)
        print(os.waitpid(child, 0)[1])
        may_go.set(); thread.join()
        with TesseraDense("all-minilm-l6-v2", threads=2) as model:
            print(len(model.encode_batch(texts)))
        """
    ) == ["0", "90"]


def test_an_idle_pool_does_not_keep_a_program_from_its_end():
    assert run(
        """
        import atexit
        import numpy as np
        from tessera_onnx.runtime.workers import run_batches
        rows = [np.array([i]) for i in range(40)]
        run_batches(lambda _: None, rows, 4)
        atexit.register(lambda: print(run_batches(lambda _: None, rows, 8).error is None))
        print("end")
        """,
        timeout=60,
    ) == ["end", "True"]
