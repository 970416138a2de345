"""The queue: every item is run once and in time, in batches of like length."""

import os
import random
import threading
import time
from collections import Counter

import pytest

from tessera_onnx.errors import Cancelled, EncodingError, TimedOut
from tessera_onnx.server.queue import Queue
from tessera_onnx.server.work import Closing, Item, Lane, Overloaded, Work


class Seen:
    """An observer that keeps what it is told, and a lane whose batches it can hold back."""

    def __init__(self, seconds=0.0):
        self.batches = []
        self.starts = []  # the first item of each batch, in the order of their starts
        self.parallel = {}  # whether other batches ran beside that of this first item
        self.reasons = Counter()
        self.gate = threading.Event()
        self.gate.set()
        self.seconds = seconds
        self.lane = Lane(self.run)
        self.started = threading.Semaphore(0)

    def run(self, contents, *, parallel):
        self.parallel[contents[0]] = parallel
        self.starts.append(contents[0])
        self.started.release()
        assert self.gate.wait(60)
        time.sleep(self.seconds)
        if any(content == "bad" for content in contents):
            raise EncodingError("the graph fails")
        return [("done", content) for content in contents]

    def batch(self, items, seconds):
        self.batches.append([(item.content, item.size) for item in items])

    def dropped(self, n_items, reason):
        self.reasons[reason] += n_items


@pytest.fixture
def seen():
    return Seen()


@pytest.fixture
def queue(seen):
    made = Queue(1, 10_000, seen)
    yield made
    seen.gate.set()
    assert made.close(10)
    assert not any(thread.is_alive() for thread in made._threads)


def work(seen, sizes, contents=None, **options):
    items = [
        Item(content, size, seen.lane)
        for size, content in zip(sizes, contents or map(str, sizes), strict=True)
    ]
    made = Work(items, **options)
    made.event = threading.Event()
    made.calls = 0

    def done():
        made.calls += 1
        made.event.set()

    made.done = done
    return made


def held(queue, seen):
    """Let the queue's only thread hold a batch, so that what follows waits."""
    seen.gate.clear()
    first = work(seen, [1], ["first"], priority="bulk")
    queue.submit(first)
    assert seen.started.acquire(timeout=10)
    return first


def test_results_come_in_the_order_of_the_items(queue, seen):
    asked = work(seen, [5, 300, 2, 40, 300, 1])
    queue.submit(asked)
    assert asked.event.wait(10)
    assert asked.results == [("done", str(size)) for size in (5, 300, 2, 40, 300, 1)]
    assert asked.error is None
    assert queue.tokens == len(queue) == 0


def test_a_batch_has_texts_of_like_length_within_the_budget(queue, seen):
    held(queue, seen)
    sizes = [10, 12, 200, 11, 210, 500, 13, 600]
    asked = work(seen, sizes)
    queue.submit(asked)
    seen.gate.set()
    assert asked.event.wait(10)
    found = [[size for _, size in batch] for batch in seen.batches[1:]]
    # By hand: the oldest is 10, and 11, 12 and 13 are near; 200 with 210 is 420 of 512 tokens; 500
    # and 600 have no room for another.
    assert found == [[10, 11, 12, 13], [200, 210], [500], [600]]


def test_a_longer_text_pads_all_texts_of_the_batch(queue, seen):
    """Three tokens more are little for one text, and 60 tokens of padding for twenty."""
    held(queue, seen)
    asked = work(seen, [*[10] * 20, 13, 400])  # with 400, a batch may have 512 tokens
    queue.submit(asked)
    seen.gate.set()
    assert asked.event.wait(10)
    assert [[size for _, size in batch] for batch in seen.batches[1:]] == [[10] * 20, [13], [400]]


def test_a_query_alone_has_all_threads_of_its_model_also_beside_bulk(queue, seen):
    held(queue, seen)
    query = work(seen, [50], ["q"], priority="query")
    queue.submit(query)
    assert seen.started.acquire(timeout=10)
    assert seen.parallel == {"first": False, "q": False}
    seen.gate.set()
    assert query.event.wait(10)
    seen.gate.clear()
    queue.submit(work(seen, [50], ["r"], priority="query"))
    assert seen.started.acquire(timeout=10)
    queue.submit(work(seen, [50], ["b"], priority="bulk"))  # yields to the query
    assert seen.started.acquire(timeout=10)
    assert (seen.parallel["r"], seen.parallel["b"]) == (False, True)
    seen.gate.set()


def test_a_timeout_counts_from_the_arrival(queue, seen):
    held(queue, seen)
    late, due = (work(seen, [7], [name], timeout=100) for name in ("late", "due"))
    late.arrived -= 101
    due.arrived -= 50
    for each in (late, due):
        queue.submit(each)
    seen.gate.set()
    for each in (late, due):
        assert each.event.wait(10)
    assert isinstance(late.error, TimedOut)
    assert due.results == [("done", "due")]


def test_a_query_is_run_beside_bulk(queue, seen):
    held(queue, seen)
    bulk = work(seen, [50] * 3, ["b"] * 3, priority="bulk")
    query = work(seen, [50], ["q"], priority="query")
    queue.submit(bulk)
    queue.submit(query)
    # Its own thread takes the query at once, beside the batch of bulk that is held.
    assert seen.started.acquire(timeout=10)
    assert seen.starts == ["first", "q"]
    seen.gate.set()
    assert bulk.event.wait(10)
    assert query.event.wait(10)


@pytest.mark.linux
def test_threads_of_bulk_have_a_lower_priority(queue):
    nice = {
        thread.name: os.getpriority(os.PRIO_PROCESS, thread.native_id) for thread in queue._threads
    }
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert nice == {"tessera-query-0": own, "tessera-bulk-0": min(19, own + 10)}


@pytest.mark.parametrize("starved", ["bulk", "query"])
def test_no_class_starves(seen, starved):
    """A request of a class is answered while the other class comes without end."""
    seen.seconds = 0.005
    queue = Queue(1, 10_000, seen)
    other = {"bulk": "query", "query": "bulk"}[starved]
    many = [work(seen, [500], ["o"], priority=other) for _ in range(8)]
    for each in many:
        queue.submit(each)
    waits = work(seen, [500], ["w"], priority=starved)
    queue.submit(waits)
    stop = time.monotonic() + 10
    while not waits.event.is_set() and time.monotonic() < stop:
        many = [each for each in many if not each.event.is_set()]
        while len(many) < 8:
            many.append(work(seen, [500], ["o"], priority=other))
            queue.submit(many[-1])
        time.sleep(0.001)
    assert waits.event.is_set()
    assert queue.close(10)


def test_the_oldest_text_begins_the_next_batch_whatever_its_length(queue, seen):
    held(queue, seen)
    long = work(seen, [512], ["long"])
    short = [work(seen, [8], [f"s{i}"]) for i in range(200)]
    queue.submit(long)
    for each in short:
        queue.submit(each)
    seen.gate.set()
    assert all(each.event.wait(10) for each in (long, *short))
    assert seen.batches[1][0][0] == "long"


def test_a_request_is_taken_whole_or_not_at_all(queue, seen):
    held(queue, seen)
    fits = work(seen, [4000, 4000])
    queue.submit(fits)
    refused = work(seen, [1000, 1500])
    with pytest.raises(Overloaded, match="8000 tokens wait and at most 10000 may") as caught:
        queue.submit(refused)
    assert 1 <= caught.value.retry_after <= 60
    assert len(queue) == 2  # of the refused request nothing waits
    seen.gate.set()
    assert fits.event.wait(10)
    assert refused.calls == 0


def test_what_a_gone_client_asked_for_is_not_run(queue, seen):
    held(queue, seen)
    gone, stays = work(seen, [7, 8], ["g", "g"]), work(seen, [7], ["s"])
    queue.submit(gone)
    queue.submit(stays)
    queue.cancel(gone)
    assert (len(queue), queue.tokens) == (1, 7)
    seen.gate.set()
    assert stays.event.wait(10)
    assert isinstance(gone.error, Cancelled)
    assert not any(content == "g" for batch in seen.batches for content, _ in batch)
    assert seen.reasons["disconnected"] == 2
    queue.cancel(stays)  # too late: it has its answer
    assert stays.error is None


def test_what_waits_too_long_is_not_run(queue, seen):
    held(queue, seen)
    late = work(seen, [7], ["late"], timeout=0.01)
    queue.submit(late)
    time.sleep(0.05)
    seen.gate.set()
    assert late.event.wait(10)
    assert isinstance(late.error, TimedOut)
    assert seen.reasons["expired"] == 1
    assert not any(content == "late" for batch in seen.batches for content, _ in batch)


def test_one_bad_text_fails_its_own_request_only(queue, seen):
    held(queue, seen)
    good, bad = work(seen, [9, 9]), work(seen, [9, 9], ["x", "bad"])
    queue.submit(good)
    queue.submit(bad)
    seen.gate.set()
    assert good.event.wait(10)
    assert bad.event.wait(10)
    assert good.error is None
    assert good.results == [("done", "9")] * 2
    assert isinstance(bad.error, EncodingError)
    assert bad.error.index == 1


def test_a_fault_of_ours_fails_the_batch_and_not_the_thread(queue, seen):
    def broken(contents, *, parallel):
        raise ZeroDivisionError

    failed = Work([Item("x", 3, Lane(broken))])
    event = threading.Event()
    failed.done = event.set
    queue.submit(failed)
    assert event.wait(10)
    assert isinstance(failed.error, ZeroDivisionError)
    after = work(seen, [3])
    queue.submit(after)
    assert after.event.wait(10)


def test_an_item_that_is_run_alone_shares_no_batch(queue, seen):
    lane = Lane(seen.run, alone=True)
    held(queue, seen)
    asked = work(seen, [1, 1, 1])
    for item in asked.items:
        item.lane = lane
    queue.submit(asked)
    seen.gate.set()
    assert asked.event.wait(10)
    assert [len(batch) for batch in seen.batches] == [1, 1, 1, 1]


def test_closing_finishes_what_was_taken(seen):
    queue = Queue(2, 10_000, seen)
    asked = [work(seen, [random.Random(i).randrange(1, 300)]) for i in range(20)]
    for each in asked:
        queue.submit(each)
    assert queue.close(10)
    assert all(each.calls == 1 and each.error is None for each in asked)
    with pytest.raises(Closing):
        queue.submit(work(seen, [1]))


def test_closing_has_a_limit_and_answers_the_rest(seen):
    queue = Queue(1, 10_000, seen)
    held(queue, seen)
    waits = work(seen, [1])
    queue.submit(waits)
    assert not queue.close(0.05)
    assert isinstance(waits.error, Closing)
    assert waits.calls == 1
    seen.gate.set()


def test_everything_is_answered_once_under_load():
    """Threads that submit, cancel and set timeouts at random: no item is lost or run twice."""
    seen = Seen(seconds=0.0002)
    queue = Queue(2, 3000, seen)
    random_ = random.Random(5)
    asked, refused = [], 0
    for number in range(400):
        sizes = [random_.choice((1, 5, 30, 100, 300)) for _ in range(random_.randrange(1, 6))]
        names = [f"{number}.{i}" for i in range(len(sizes))]
        timeout = random_.choice((None, None, 0.002))
        priority = random_.choice(("query", "bulk"))
        made = work(seen, sizes, names, timeout=timeout, priority=priority)
        try:
            queue.submit(made)
        except Overloaded:
            refused += 1
            time.sleep(0.001)
            continue
        asked.append(made)
        if random_.random() < 0.1:
            queue.cancel(made)
            made.event.set()  # nobody waits for it
    assert queue.close(30)
    run = Counter(content for batch in seen.batches for content, _ in batch)
    assert max(run.values()) == 1
    for made in asked:
        assert made.event.is_set()
        assert made.calls <= 1
        if made.error is None:
            assert made.results == [("done", item.content) for item in made.items]
        else:
            assert isinstance(made.error, Cancelled | TimedOut)
    assert queue.tokens == len(queue) == 0
    assert not any(each.lanes for each in queue._classes.values())


def test_large_requests_come_and_go_while_a_hundred_thousand_items_wait(seen):
    """One by one, each item moved all others of its lane: seconds in which no one was answered."""
    queue = Queue(1, 1 << 24, seen)
    first = held(queue, seen)
    large = [work(seen, [i % 97 + 1 for i in range(2048)]) for _ in range(50)]
    small = [work(seen, [7 * i % 97 + 1]) for i in range(40)]
    slowest = 0.0
    for asked in (*large[:25], *small, *large[25:]):
        start = time.thread_time()
        queue.submit(asked)
        slowest = max(slowest, time.thread_time() - start)
    lane = queue._classes["bulk"].lanes[seen.lane]
    assert lane == sorted(lane, key=lambda item: (item.size, item.number))
    assert len(lane) == len(queue) == 50 * 2048 + 40
    for asked in (*large[1:], *small[1:]):
        start = time.thread_time()
        queue.cancel(asked)
        slowest = max(slowest, time.thread_time() - start)
    assert slowest < 0.5
    assert lane == sorted(lane, key=lambda item: (item.size, item.number))
    assert len(lane) == len(queue) == 2049
    seen.gate.set()
    for asked in (first, large[0], small[0]):
        assert asked.event.wait(20)
        assert asked.error is None
    assert large[0].results == [("done", str(i % 97 + 1)) for i in range(2048)]
    assert seen.reasons["disconnected"] == 49 * 2048 + 39
    assert queue.close(10)
