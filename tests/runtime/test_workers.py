"""Long calls end when another thread sets an event, or when their seconds are over.

Bounds are counts of batches, not wall time: no batch may begin once the call must end.
"""

import itertools
import multiprocessing
import pickle
import threading
import time

import numpy as np
import pandas as pd
import pytest
from artifact_tools import ARTIFACTS
from pdf_files import build, page

from tessera_onnx import (
    Cancelled,
    ConfigError,
    TesseraDense,
    TesseraError,
    TesseraMultiVector,
    TesseraSparse,
    TesseraTimeSeries,
    TesseraVision,
    TimedOut,
)
from tessera_onnx.runtime import batching, session

WORKERS = 2
MANY = [f"text {i} " + "word " * (i % 90) for i in range(600)]
IMAGES = [np.full((20, 30, 3), i, np.uint8) for i in range(40)]
SERIES = [np.arange(700.0) + i for i in range(300)]
FRAME = pd.DataFrame(
    {
        "id": np.repeat([f"s{i}" for i in range(30)], 40),
        "timestamp": np.tile(pd.date_range("2024", periods=40), 30),
        "target": np.arange(1200.0),
    }
)
CLASSES = {
    "dense": (TesseraDense, "states"),
    "multi-vector": (TesseraMultiVector, "colbert"),
    "sparse": (TesseraSparse, "splade"),
    "m3": (TesseraDense, "m3"),
    "vision": (TesseraVision, "colpali"),
    "clip": (TesseraVision, "clip"),
    "time-series": (TesseraTimeSeries, "bolt"),
}
CALLS = {
    **{
        (kind, name): call
        for kind in ("dense", "multi-vector", "sparse")
        for name, call in {
            "encode_batch": lambda m, **limit: m.encode_batch(MANY, **limit),
            "encode_query": lambda m, **limit: m.encode_query(MANY, **limit),
            "encode_document": lambda m, **limit: m.encode_document(MANY, **limit),
            "encode_iter": lambda m, **limit: list(m.encode_iter(iter(MANY), **limit)),
            "rank": lambda m, **limit: m.rank("a query", MANY, **limit),
        }.items()
    },
    ("multi-vector", "score"): lambda m, **limit: m.score("a query", MANY, **limit),
    ("vision", "score"): lambda m, **limit: m.score("a query", IMAGES, **limit),
    ("vision", "rank"): lambda m, **limit: m.rank("a query", IMAGES, top_k=3, **limit),
    ("m3", "encode_all"): lambda m, **limit: m.encode_all(MANY, **limit),
    ("vision", "encode_documents"): lambda m, **limit: m.encode_documents(IMAGES, **limit),
    ("vision", "encode_iter"): lambda m, **limit: list(m.encode_iter(iter(IMAGES), **limit)),
    ("vision", "encode_query"): lambda m, **limit: m.encode_query(MANY, **limit),
    ("vision", "encode_pages"): lambda m, **limit: list(
        m.encode_pages(build([page()] * 30), dpi=20, **limit)
    ),
    ("clip", "encode_query"): lambda m, **limit: m.encode_query(MANY, **limit),
    ("time-series", "forecast"): lambda m, **limit: m.forecast(SERIES, **limit),
    ("time-series", "a long horizon"): lambda m, **limit: m.forecast(SERIES[0], 5000, **limit),
    ("time-series", "forecast_quantiles"): lambda m, **limit: m.forecast_quantiles(
        SERIES, 9, **limit
    ),
    ("time-series", "forecast_frame"): lambda m, **limit: m.forecast_frame(
        FRAME, id="id", horizon=3000, **limit
    ),
}


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    """So that each call has many: a limit is looked at between them."""
    monkeypatch.setattr(batching, "LEAST_BUDGET", 8)
    budget = batching.budget
    monkeypatch.setattr(batching, "budget", lambda n, workers: budget(n, workers, 200))


@pytest.fixture(scope="module", params=CLASSES)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind):
    cls, folder = CLASSES[kind]
    options = {} if kind == "time-series" else {"on_long": "truncate"}
    with cls(path=ARTIFACTS / folder, threads=WORKERS, **options) as opened:
        yield opened


@pytest.fixture
def runs(monkeypatch):
    """Runs of graphs begun, and what is done within each, by the real session."""
    begun = itertools.count(1)
    counted = {"n": 0, "within": lambda n: None}
    run = session.Session.run

    def counting(self, *args, **kwargs):
        counted["n"] = next(begun)
        counted["within"](counted["n"])
        return run(self, *args, **kwargs)

    monkeypatch.setattr(session.Session, "run", counting)
    return counted


def names(kind):
    return [name for of, name in CALLS if of == kind]


def alike(one, other):
    return np.testing.assert_allclose(np.ravel(one), np.ravel(other), rtol=1e-4, atol=1e-5)


def probe(kind, model):
    if kind == "time-series":
        return model.forecast(SERIES[:2])
    if kind in ("vision", "clip"):
        return model.encode_document(IMAGES[0])
    found = model.encode("a text")
    return found[1] if kind == "sparse" else found


@pytest.mark.slow
def test_another_thread_cancels(kind, model, runs):
    expected = probe(kind, model)
    for name in names(kind):
        call = CALLS[kind, name]
        whole = runs["n"]
        call(model, cancel=threading.Event(), timeout=1e9)
        whole = runs["n"] - whole
        assert whole > 6, name  # else there is nothing to cancel
        cancel, begun = threading.Event(), threading.Event()

        def other(begun=begun, cancel=cancel):
            begun.wait(60)
            cancel.set()

        def within(n, begun=begun, cancel=cancel, third=runs["n"] + 3):
            if n >= third:
                begun.set()
                assert cancel.wait(60)  # it is set while this batch runs

        runs["within"], before = within, runs["n"]
        thread = threading.Thread(target=other)
        thread.start()
        with pytest.raises(Cancelled, match="the call was cancelled"):
            call(model, cancel=cancel)
        thread.join()
        assert runs["n"] - before <= 3 + WORKERS, name
        runs["within"] = lambda n: None
        alike(probe(kind, model), expected)  # the model goes on


@pytest.mark.slow
def test_the_seconds_of_a_call_are_over(kind, model, runs):
    expected = probe(kind, model)
    for name in names(kind):

        def within(n, third=runs["n"] + 3):
            if n >= third:
                time.sleep(0.35)

        runs["within"], before = within, runs["n"]
        with pytest.raises(TimedOut, match=r"longer than its timeout of 0\.3 seconds"):
            CALLS[kind, name](model, timeout=0.3)
        assert runs["n"] - before <= 3 + WORKERS, name
        runs["within"] = lambda n: None
        alike(probe(kind, model), expected)


def test_what_is_over_before_it_begins_runs_nothing(kind, model, runs):
    cancel = threading.Event()
    cancel.set()
    before = runs["n"]
    for name in names(kind):
        for limit, error in (
            ({"cancel": cancel}, Cancelled),
            ({"timeout": 0}, TimedOut),
            ({"timeout": -2.5}, TimedOut),
            ({"timeout": np.float32(0)}, TimedOut),
        ):
            with pytest.raises(error):
                CALLS[kind, name](model, **limit)
    assert runs["n"] == before


def test_wrong_limits_are_refused_at_once(kind, model, runs):
    before = runs["n"]
    for name in names(kind):
        for limit, error, message in (
            ({"timeout": "zqxjkv"}, TypeError, "timeout must be a number of seconds or None"),
            ({"timeout": True}, TypeError, "timeout must be a number"),
            ({"timeout": float("nan")}, ConfigError, "got NaN"),
            ({"cancel": True}, TypeError, "cancel must be an event such as threading.Event"),
            ({"cancel": "zqxjkv"}, TypeError, "cancel must be an event"),
        ):
            with pytest.raises(error, match=message) as raised:
                CALLS[kind, name](model, **limit)
            assert "zqxjkv" not in str(raised.value)
    assert runs["n"] == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "multi-vector", "sparse", "vision"], indirect=True)
def test_a_stream_keeps_what_it_gave_and_ends_at_the_next_result(kind, model):
    """An endless stream, read in one thread and cancelled in another."""
    drawn, cancel, seen = itertools.count(), threading.Event(), threading.Event()

    def endless():
        for i in drawn:
            yield IMAGES[i % 40] if kind == "vision" else MANY[i % 600]

    def other():
        seen.wait(60)
        cancel.set()

    thread = threading.Thread(target=other)
    thread.start()
    found = []
    stream = model.encode_iter(endless(), cancel=cancel)
    with pytest.raises(Cancelled):
        for each in stream:
            found.append(each)
            if len(found) == 5:
                seen.set()
                thread.join()
    assert len(found) == 5 and next(drawn) <= batching.WINDOW + 1
    assert next(stream, None) is None  # a generator that failed is at its end
    first = model.encode_document(IMAGES[0]) if kind == "vision" else model.encode(MANY[0])
    alike(found[0][1] if kind == "sparse" else found[0], first[1] if kind == "sparse" else first)


@pytest.mark.parametrize("kind", ["dense", "vision"], indirect=True)
def test_a_slow_source_is_not_waited_for(kind, model):
    """A window of a stream has thousands of texts, which may come one by one."""
    cancel, drawn = threading.Event(), []

    def slow():
        for i in itertools.count():
            drawn.append(i)
            if len(drawn) == 9:
                cancel.set()
            yield IMAGES[i % 40] if kind == "vision" else MANY[i % 600]

    found = []
    with pytest.raises(Cancelled):
        found.extend(model.encode_iter(slow(), cancel=cancel))
    assert len(drawn) <= 10
    drawn.clear()

    def slower():
        for each in slow():
            time.sleep(0.02)
            yield each

    with pytest.raises(TimedOut):
        found.extend(model.encode_iter(slower(), timeout=0.1))
    assert len(drawn) <= 6


@pytest.mark.parametrize("kind", ["dense"], indirect=True)
def test_the_seconds_of_a_stream_count_from_its_call(model):
    stream = model.encode_iter(iter(MANY), timeout=60.0)
    next(stream)
    short = model.encode_iter(iter(MANY), timeout=0.05)
    time.sleep(0.06)
    with pytest.raises(TimedOut):
        next(short)
    assert len(list(stream)) == len(MANY) - 1  # the other goes on


@pytest.mark.parametrize("kind", ["dense"], indirect=True)
def test_events_of_other_libraries(model):
    event = multiprocessing.get_context("spawn").Event()
    assert len(model.encode_batch(MANY[:9], cancel=event)) == 9
    event.set()
    with pytest.raises(Cancelled):
        model.encode_batch(MANY[:9], cancel=event)


@pytest.mark.parametrize("kind", ["dense"], indirect=True)
def test_one_cancelled_call_leaves_the_others(model):
    expected, cancel, failures = model.encode_batch(MANY), threading.Event(), []
    cancel.set()

    def cancelled():
        for _ in range(20):
            try:
                model.encode_batch(MANY, cancel=cancel)
            except Cancelled:
                continue
            failures.append("not cancelled")

    threads = [threading.Thread(target=cancelled) for _ in range(3)]
    for thread in threads:
        thread.start()
    alike(model.encode_batch(MANY), expected)
    for thread in threads:
        thread.join()
    assert not failures


def test_what_the_errors_are():
    for kind, others in ((Cancelled, ()), (TimedOut, (TimeoutError,))):
        error = kind("a message")
        assert isinstance(error, (TesseraError, *others)) and str(error) == "a message"
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind and str(again) == "a message"
