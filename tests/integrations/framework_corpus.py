"""A made-up collection, exact search in it, and checks that the tests of frameworks share."""

import asyncio
import functools
import os
import time

import numpy as np

# Before a framework is imported: none may tell how it is used, or ask a hub.
os.environ |= {"HAYSTACK_TELEMETRY_ENABLED": "False", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
WORDS = """bread flour yeast oven dough river flood bridge rain water bank rate loan market price
vaccine virus doctor patient fever engine wheel road truck fuel garden seed tree flower
soil music song violin concert stage school teacher lesson exam pupil court judge law
trial police ship harbour sail storm island
""".split()  # noqa: SIM905
QUERIES = ("how to bake bread", "the bank raised its rate", "fever of a patient", "a song on stage")
N = 1000
BEST = 10


@functools.cache
def texts():
    """1,000 different short documents, always the same."""
    rng = np.random.default_rng(36)
    found = dict.fromkeys(" ".join(rng.choice(WORDS, rng.integers(3, 12))) for _ in range(2 * N))
    return list(found)[:N]


def check_best(found, scores, best=BEST):
    """`found` are the numbers of the best documents, best first; equal scores have no order."""
    found = [int(number) for number in found]
    assert len(set(found)) == len(found) == best
    np.testing.assert_allclose(scores[found], np.sort(scores)[::-1][:best], atol=2e-6, rtol=1e-5)


def dot_scores(query, documents):
    """Dot products of a SparseVector with each of some, by dictionaries."""
    left = query.to_dict()
    rows = [document.to_dict() for document in documents]
    return np.array([sum(w * row.get(i, 0.0) for i, w in left.items()) for row in rows])


def maxsim_scores(query, documents):
    """MaxSim in float64, document by document."""
    left = query.astype(np.float64)
    return np.array([(left @ each.astype(np.float64).T).max(axis=1).sum() for each in documents])


def loop_turns(call):
    """How often an event loop turns while the coroutine of `call` runs, and the result of it."""

    async def both():
        turns, running = 0, asyncio.ensure_future(call())
        while not running.done():
            await asyncio.sleep(0.001)
            turns += 1
        return turns, await running

    start = time.perf_counter()
    turns, found = asyncio.run(both())
    assert time.perf_counter() - start > 0.05, "too short to show anything"
    return turns, found
