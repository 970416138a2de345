"""Arrays where vectors are due: scores, rankings, quantization, pooling, sparse vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cases_text import open_kind
from outcomes import Case

from tessera_onnx import BinaryTokens, SparseVector, maxsim
from tessera_onnx.vectors import pooling, quantization, scoring

DIM = 32
RNG = np.random.default_rng(11)
GOOD = RNG.normal(size=(5, DIM)).astype(np.float32)
GOOD /= np.linalg.norm(GOOD, axis=1, keepdims=True)
OTHER = RNG.normal(size=(3, DIM)).astype(np.float32)


def _locked(array: np.ndarray) -> np.ndarray:
    locked = array.copy()
    locked.setflags(write=False)
    return locked


def _with(value: float) -> np.ndarray:
    changed = GOOD.copy()
    changed[1, 2] = value
    return changed


# Matrices (n, DIM) that have a score, in every layout.
RIGHT: dict[str, Any] = {
    "float32": GOOD,
    "float64": GOOD.astype(np.float64),
    "float16": GOOD.astype(np.float16),
    "long double": GOOD.astype(np.longdouble),
    "int8": np.sign(GOOD).astype(np.int8),
    "int64": np.rint(GOOD * 9).astype(np.int64),
    "uint8": np.rint(np.abs(GOOD) * 9).astype(np.uint8),
    "Fortran order": np.asfortranarray(GOOD),
    "negative strides": GOOD[::-1, ::-1],
    "every other column": np.repeat(GOOD, 2, axis=1)[:, ::2],
    "read-only": _locked(GOOD),
    "big endian": GOOD.astype(">f4"),
    "not aligned": np.frombuffer(b"x" + GOOD.tobytes(), np.uint8)[1:]
    .view(np.float32)
    .reshape(5, -1),
    "one row": GOOD[:1],
    "broadcast": np.broadcast_to(GOOD[0], (4, DIM)),
    "nested lists": GOOD.tolist(),
    "a tuple of arrays": tuple(GOOD),
    "zero rows among others": np.concatenate([GOOD, np.zeros((1, DIM), np.float32)]),
    "zeros": np.zeros((2, DIM), np.float32),
    "all negative": -np.abs(GOOD),
    "subnormal": GOOD * np.float32(1e-40),
    "large": GOOD * np.float32(1e15),
}
# Those that none has.
WRONG: dict[str, Any] = {
    "no rows": np.empty((0, DIM)),
    "no dimensions": np.empty((3, 0)),
    "one dimension too few": GOOD[0],
    "one dimension too many": GOOD[None],
    "a scalar": np.float32(3),
    "NaN": _with(np.nan),
    "infinity": _with(-np.inf),
    "beyond float32": _with(1).astype(np.float64) * 1e300,
    "another dimension": RNG.normal(size=(4, DIM + 1)),
    "objects": GOOD.astype(object),
    "None": None,
    "bytes": b"\0" * 4 * DIM,
    "text": np.array([["a"] * DIM]),
    "complex": GOOD.astype(complex),
    "dates": np.zeros((2, DIM), "M8[s]"),
    "records": np.zeros((2, DIM), [("x", "f4")]),
    "ragged": [[1.0], [1.0, 2.0]],
    "empty lists": [[], []],
    "a dict": {"x": 1},
    "a set": {1.0},
    "a function": len,
}


def double_loop(query: Any, document: Any) -> float:
    """MaxSim in float64, by hand."""
    q, d = (np.asarray(np.array(part, dtype=np.float32), np.float64) for part in (query, document))
    return float(sum(max(float(a @ b) for b in d) for a in q))


def close(expected: float) -> Callable[[Any], None]:
    tolerance = 1e-5 + 1e-4 * abs(expected)
    return lambda found: np.testing.assert_allclose(np.ravel(found), expected, atol=tolerance)


def cases(_: Path) -> Iterator[Case]:
    dense, multi, sparse = (open_kind(kind) for kind in ("dense", "multi-vector", "sparse"))
    yield from _maxsim(multi)
    yield from _dense(dense)
    yield from _quantization(multi)
    yield from _binary(multi)
    yield from _sparse(sparse)
    yield from _masks()


def _maxsim(multi: Any) -> Iterator[Case]:
    entries: dict[str, tuple[Callable[[Any], Any], str, Callable[[Any], float]]] = {
        "maxsim, its query": (
            lambda a: maxsim(a, OTHER), "query", lambda a: double_loop(a, OTHER)
        ),
        "maxsim, its document": (
            lambda a: maxsim(OTHER, a), "documents", lambda a: double_loop(OTHER, a)
        ),
        "TesseraMultiVector.score, its query": (
            lambda a: multi.score(a, [OTHER]), "query", lambda a: double_loop(a, OTHER)
        ),
        "TesseraMultiVector.score, a document": (
            lambda a: multi.score(OTHER, [OTHER, a])[1],
            r"documents\[1\]",
            lambda a: double_loop(OTHER, a),
        ),
        "TesseraMultiVector.rank, a document": (
            lambda a: {r.index: r.score for r in multi.rank(OTHER, [OTHER, a])}[1],
            r"documents\[1\]",
            lambda a: double_loop(OTHER, a),
        ),
        "scoring.maxsim_matrix": (
            lambda a: scoring.maxsim_matrix([OTHER, a], [OTHER])[1],
            r"queries",
            lambda a: double_loop(a, OTHER),
        ),
    }  # fmt: skip
    for entry, (call, name, oracle) in entries.items():
        for what, value in RIGHT.items():
            run = lambda c=call, v=value: c(v)
            yield Case("MaxSim", entry, what, run, close(oracle(value)), error=False)
        for what, value in WRONG.items():
            run = lambda c=call, v=value: c(v)
            says = "" if what == "another dimension" else name
            yield Case("MaxSim", entry, what, run, None, True, says)
    shapes = [(1, 1), (1, 40), (40, 1), (3, 5000), (200, 3)]
    for n, m in shapes:
        query, document = RNG.normal(size=(n, 8)), RNG.normal(size=(m, 8))
        expected = double_loop(query, document)
        run = lambda q=query, d=document: maxsim(q, d)
        yield Case("MaxSim", "maxsim", f"{n} x {m} tokens", run, close(expected), error=False)
    huge = np.full((2, DIM), 1e30, np.float32)
    run = lambda: maxsim(huge, huge)
    yield Case("MaxSim", "maxsim", "a product beyond float32", run, None, error=True)
    for what, documents in {
        "a str": "cat", "None": None, "a number": 3, "bytes": b"cat",
        "texts and arrays": ["a", GOOD],
        "arrays and texts": [OTHER, "a"],
    }.items():  # fmt: skip
        run = lambda d=documents: multi.score(OTHER, d)
        yield Case("MaxSim", "TesseraMultiVector.score", f"{what} for documents", run, None, True)


def _dense(dense: Any) -> Iterator[Case]:
    name = "TesseraDense.rank"
    for what, value in RIGHT.items():
        rows = np.asarray(np.array(value, np.float32), np.float64)
        expected = np.sort(rows @ OTHER[0].astype(np.float64))[::-1]
        scale = max(1.0, float(np.abs(expected).max()))
        run = lambda v=value: [r.score for r in dense.rank(OTHER[0], np.asarray(v))]
        judge = lambda found, e=expected, s=scale: np.testing.assert_allclose(
            found, e, atol=1e-5 * s
        )
        yield Case("arrays", f"{name}, its documents", what, run, judge, error=False)
    for what, value in WRONG.items():
        if what == "no rows":
            run = lambda v=value: dense.rank(OTHER[0], v)
            yield Case("arrays", f"{name}, its documents", what, run, lambda r: _is([], r), False)
            continue
        run = lambda v=value: dense.rank(OTHER[0], v)
        yield Case("arrays", f"{name}, its documents", what, run, None, error=True)
        row = value[0] if isinstance(value, np.ndarray) and value.ndim > 1 and len(value) else value
        if what in ("one dimension too few", "one dimension too many", "no rows"):
            row = GOOD  # for a query, a matrix
        row = _nan_row(what, row)
        run = lambda v=row: dense.rank(v, GOOD)
        yield Case("arrays", f"{name}, its query", what, run, None, error=True)


def _nan_row(what: str, row: Any) -> Any:
    """The row that holds what the matrix of that name does."""
    if what in ("NaN", "infinity"):
        return np.full(DIM, np.nan if what == "NaN" else np.inf)
    return row


def _is(expected: Any, found: Any) -> None:
    assert found == expected


def _quantization(multi: Any) -> Iterator[Case]:
    for what, value in RIGHT.items():
        array = np.array(value, dtype=np.float32)

        def bits(found: Any, a: np.ndarray = array) -> None:
            np.testing.assert_array_equal(found.bits, np.packbits(a > 0, axis=-1))
            assert not np.shares_memory(found.bits, a)

        def near(found: Any, a: np.ndarray = array, v: Any = value) -> None:
            assert not (isinstance(v, np.ndarray) and np.shares_memory(found.codes, v))
            step = found.scale.astype(np.float64) * 0.51 + 1e-6 * np.abs(a)
            assert (np.abs(found.dequantize() - a.astype(np.float64)) <= step).all()

        for entry, call in {
            "quantization.binary": quantization.binary,
            "TesseraMultiVector.quantize": multi.quantize,
        }.items():  # fmt: skip
            run = lambda c=call, v=value: c(v)
            yield Case("arrays", entry, what, run, bits, error=False)
        run = lambda v=value: quantization.int8(v)
        yield Case("arrays", "quantization.int8", what, run, near, error=False)
        alike = lambda found, a=array: np.testing.assert_allclose(
            found[0], a[0] / max(np.linalg.norm(a[0].astype(np.float64)), 1e-12), atol=1e-5
        )
        run = lambda v=value: pooling.l2_normalize(v)
        if what != "subnormal":  # below the floor of the norm
            yield Case("arrays", "pooling.l2_normalize", what, run, alike, error=False)
    for dim in (1, 7, 8, 9, 127):
        vectors = RNG.normal(size=(3, dim))
        run = lambda v=vectors: quantization.binary(v).unpack() > 0
        judge = lambda found, v=vectors: np.testing.assert_array_equal(found, v > 0)
        yield Case("arrays", "quantization.binary", f"{dim} dimensions", run, judge, error=False)
    fine = {"no rows", "one dimension too few", "one dimension too many", "another dimension"}
    for what, value in WRONG.items():
        if what in fine:
            continue  # any rank and number
        for entry, call in {
            "quantization.binary": quantization.binary,
            "quantization.int8": quantization.int8,
            "TesseraMultiVector.quantize": multi.quantize,
            "quantization.int8, its ranges": lambda v: quantization.int8(GOOD, v),
        }.items():
            if (entry, what) == ("quantization.int8, its ranges", "None"):
                continue  # a scale a vector
            run = lambda c=call, v=value: c(v)
            yield Case("arrays", entry, what, run, None, error=True)
    constant = np.tile(GOOD[:1], (4, 1))
    ranges = np.stack([constant.min(0), constant.max(0)])
    run = lambda: quantization.int8(constant, ranges).dequantize()
    judge = lambda found: np.testing.assert_array_equal(found, constant)
    yield Case("arrays", "quantization.int8", "constant columns", run, judge, error=False)


def _binary(multi: Any) -> Iterator[Case]:
    good = quantization.binary(GOOD)
    wrong: dict[str, Any] = {
        "an array": GOOD, "None": None, "no tokens": BinaryTokens(np.empty((0, 4), np.uint8), DIM),
        "another dimension": quantization.binary(RNG.normal(size=(2, 40))),
        "one row without its axis": quantization.binary(GOOD[0]),
        "bytes too few": BinaryTokens(np.zeros((2, 3), np.uint8), DIM),
        "another dtype": BinaryTokens(np.zeros((2, 4), np.int64), DIM),
        "a negative dimension": BinaryTokens(np.zeros((2, 4), np.uint8), -1),
        "no dimension": BinaryTokens(np.zeros((2, 0), np.uint8), 0),
        "bits as a list": BinaryTokens([[1, 2, 3, 4]], DIM),  # type: ignore[arg-type]
        "a text as dimension": BinaryTokens(np.zeros((2, 4), np.uint8), "32"),  # type: ignore[arg-type]
    }  # fmt: skip
    for what, value in wrong.items():
        for entry, call in {
            "its query": lambda v: multi.similarity_quantized(v, good),
            "its document": lambda v: multi.similarity_quantized(good, v),
        }.items():
            run = lambda c=call, v=value: c(v)
            yield Case(
                "arrays", f"TesseraMultiVector.similarity_quantized, {entry}", what, run, None, True
            )


def _sparse(sparse: Any) -> Iterator[Case]:
    good = SparseVector(np.array([1, 5, 90], np.int32), np.array([1, 2, 0.5], np.float32))
    ids, values = good
    right: dict[str, Any] = {
        "a pair of lists": ([1, 5, 90], [1, 2, 0.5]),
        "int64 and float64": (ids.astype(np.int64), values.astype(np.float64)),
        "uint16 and float16": (ids.astype(np.uint16), values.astype(np.float16)),
        "big endian": (ids.astype(">i4"), values.astype(">f4")),
        "read-only": (_locked(ids), _locked(values)),
        "every other entry": (np.repeat(ids, 2)[::2], np.repeat(values, 2)[::2]),
    }
    wrong: dict[str, Any] = {
        "None": None, "a number": 3, "one array": ids, "three arrays": (ids, values, values),
        "different lengths": (ids, values[:2]), "negative ids": (ids - 9, values),
        "ids that fall": (ids[::-1], values), "an id twice": (np.array([1, 1, 5]), values),
        "ids of floats": (ids.astype(float), values), "values of text": (ids, np.array(["a"] * 3)),
        "two axes": (ids[None], values[None]), "an id beyond int32": ([2**40], [1.0]),
        "an id beyond the vocabulary": ([2**31 - 1], [1.0]), "NaN": (ids, [1, np.nan, 2]),
        "infinity": (ids, [1, np.inf, 2]), "bytes": b"ab", "a dict": {1: 2.0},
        "ragged": ([[1], [2, 3]], [1, 2]), "beyond float32": (ids, [1, 1e300, 2]),
        "unsigned ids that fall": (np.array([5, 1, 3], np.uint64), values),
    }  # fmt: skip
    entries: dict[str, tuple[Callable[[Any], Any], str]] = {
        "rank, its query": (lambda v: sparse.rank(v, [good])[0].score, "query"),
        "rank, a document": (
            lambda v: {r.index: r.score for r in sparse.rank(good, [good, v])}[1],
            r"documents\[1\]",
        ),
        "explain": (lambda v: sum(w * w for _, w in sparse.explain(v)), "vector"),
    }
    for entry, (call, says) in entries.items():
        for what, value in right.items():
            run = lambda c=call, v=value: c(v)
            yield Case("arrays", f"TesseraSparse.{entry}", what, run, close(5.25), error=False)
        empty = ([], [])
        run = lambda c=call: c(empty)
        yield Case("arrays", f"TesseraSparse.{entry}", "no entries", run, close(0.0), error=False)
        for what, value in wrong.items():
            run = lambda c=call, v=value: c(v)
            yield Case("arrays", f"TesseraSparse.{entry}", what, run, None, True, says)


def _masks() -> Iterator[Case]:
    states = RNG.normal(size=(2, 4, 6)).astype(np.float32)
    nothing = np.zeros((2, 4), np.int64)
    run = lambda: pooling.mean(states, nothing)
    judge = lambda found: np.testing.assert_array_equal(found, 0)
    yield Case("arrays", "pooling.mean", "a mask of zeros", run, judge, error=False)
    run = lambda: pooling.activate(pooling.splade(states, nothing), "log1p")
    yield Case("arrays", "pooling.splade", "a mask of zeros", run, judge, error=False)
