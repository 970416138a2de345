"""Compute MaxSim of queries with blocks of documents, on ONNX Runtime or in NumPy.

The graphs maxsim.*.onnx in this folder run on ONNX Runtime, whose matrix product is up to twice as
fast as NumPy's. The NumPy kernels are the reference, and run where onnxruntime is not installed.
Their scores agree to 1e-6. Sign bits are always compared in NumPy.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError, DeviceError, shown
from tessera_onnx.runtime.devices import PROVIDERS, onnxruntime
from tessera_onnx.runtime.session import Session, open_session
from tessera_onnx.runtime.workers import run_batches
from tessera_onnx.search.blocks import CODE_ZERO, WORD, Block
from tessera_onnx.vectors.bounds import rounding
from tessera_onnx.vectors.quantization import OutputDtype

Float = NDArray[np.float32]
logger = logging.getLogger("tessera_onnx")

QUERY_TOKENS = 32  # of one product: with 64 or more, a pair took 1.5 times as long
NUMPY_TOKENS = 4096  # document tokens of one product in NumPy, which writes the product twice
# Query codes have 7 bits: processors without byte dot products (AVX2 without VNNI) add pairs of
# products in 16 bits, where 2 x 255 x 63 fits and 2 x 255 x 127 does not.
QUERY_PEAK = 63
UNIT = 1e-4  # a vector kept in float16 may be so much longer than 1 and still be a unit vector
GRAPHS: dict[OutputDtype, str] = {"float32": "maxsim.fp32.onnx", "int8": "maxsim.int8.onnx"}


@dataclass(frozen=True, slots=True, eq=False)
class QueryTile:
    """Up to QUERY_TOKENS query tokens, which belong to q consecutive queries."""

    tokens: NDArray[Any]  # (dim, t) float32 or int8; (words, t) of sign bits
    weights: Float  # (t, q): the factor of each token's maximum in the score of each query
    first: int  # the first of the q queries


def query_tiles(
    queries: Sequence[NDArray[Any]], output_dtype: OutputDtype, dim: int
) -> list[QueryTile]:
    """Cut queries, each (n, dim) float32 or (n, words) of sign bits, into tiles for the kernels."""
    tokens = np.concatenate(queries)
    owner = np.repeat(np.arange(len(queries)), [len(query) for query in queries])
    factors = np.full(len(tokens), 1 / dim if output_dtype == "binary" else 1, dtype=np.float32)
    if output_dtype == "int8":
        peaks = np.abs(tokens).max(axis=1)
        with np.errstate(under="ignore"):
            factors = np.maximum(peaks / QUERY_PEAK, np.finfo(np.float32).tiny).astype(np.float32)
            codes = np.clip(np.rint(tokens / factors[:, None]), -QUERY_PEAK, QUERY_PEAK)
        tokens = codes.astype(np.int8)
    found = []
    for start in range(0, len(tokens), QUERY_TOKENS):
        picked = slice(start, start + QUERY_TOKENS)
        owners = owner[picked]
        first = int(owners[0])
        weights = np.zeros((len(owners), int(owners[-1]) - first + 1), dtype=np.float32)
        weights[np.arange(len(owners)), owners - first] = factors[picked]
        found.append(QueryTile(np.ascontiguousarray(tokens[picked].T), weights, first))
    return found


# From the tokens of a block of n documents and a tile of q queries to scores (n, q).
Kernel = Callable[[NDArray[Any], QueryTile], Float]


def score_blocks(
    blocks: Sequence[Block],
    queries: Sequence[QueryTile],
    kernel: Kernel,
    shape: tuple[int, int],
    workers: int = 1,
) -> Float:
    """MaxSim of all queries with all documents in the blocks: `shape` (queries, numbers) float32.

    A document's number is its column; columns of other numbers are 0. `workers` threads share the
    blocks, for kernels that use one thread each.
    """
    scores = np.zeros(shape, dtype=np.float32)

    def work(picked: NDArray[np.intp]) -> None:
        block = blocks[int(picked[0])]
        found = np.zeros((len(block.numbers), shape[0]), dtype=np.float32)
        for tile in queries:
            found[:, tile.first : tile.first + tile.weights.shape[1]] += kernel(block.tokens, tile)
        scores[:, block.numbers] = (found * block.scales[:, None]).T

    run_batches(work, [np.array([i]) for i in range(len(blocks))], workers).check()
    return scores


def clip_scores(
    scores: Float,
    blocks: Sequence[Block],
    queries: Sequence[NDArray[Any]],
    output_dtype: OutputDtype,
    given: Sequence[Any],
) -> None:
    """Clip scores of unit vectors to [-n, n], which rounding may exceed; in place.

    Scores of other vectors have no such bounds and stay. Only the vectors of scores outside the
    bounds are checked, and these are few. `given` are the queries as the caller gave them.
    """
    limits = np.array([len(query) for query in queries], dtype=np.float32)
    beyond: NDArray[np.bool_] = np.greater(np.abs(scores), limits[:, None])
    if output_dtype != "binary" and beyond.any():
        pairs = zip(queries, given, strict=True)
        units = [float(_longest(query)) <= 1 + UNIT + rounding(form) for query, form in pairs]
        beyond &= np.array(units, dtype=bool)[:, None]
        suspected: NDArray[np.bool_] = np.any(beyond, axis=0)
        for block in blocks if suspected.any() else ():
            picked = np.flatnonzero(suspected[block.numbers])
            tokens, most = block.tokens[picked], np.full(len(picked), 1 + UNIT)
            if output_dtype == "int8":  # within the precision of the codes
                scales = block.scales[picked]
                tokens = (tokens.astype(np.float32) - CODE_ZERO) * scales[:, None, None]
                most += scales / 2 * tokens.shape[2] ** 0.5
            beyond[:, block.numbers[picked[_longest(tokens) > most]]] = False
    if beyond.any():
        bounds = np.broadcast_to(limits[:, None], scores.shape)[beyond]
        scores[beyond] = np.clip(scores[beyond], -bounds, bounds)


def _longest(rows: NDArray[Any]) -> Float:
    """The largest norm of the rows (..., n, dim): (...); infinity if one exceeds float32."""
    with np.errstate(over="ignore", under="ignore"):
        found: Float = np.sqrt(np.einsum("...j,...j->...", rows, rows).max(axis=-1))
    return found


def maxsim_float32(tokens: NDArray[Any], tile: QueryTile) -> Float:
    """The kernel for float32 tokens (n, length, dim), in NumPy."""
    return _maxsim(tokens, tile, 0)


def maxsim_int8(tokens: NDArray[Any], tile: QueryTile) -> Float:
    """The kernel for uint8 codes (n, length, dim), in NumPy.

    Products of codes are summed in float32, which is exact up to about 2,000 dims.
    """
    return _maxsim(tokens, tile, CODE_ZERO)


def _maxsim(tokens: NDArray[Any], tile: QueryTile, zero: int) -> Float:
    n, length, dim = tokens.shape
    query = np.asarray(tile.tokens, dtype=np.float32)
    step = max(1, NUMPY_TOKENS // length)
    best = np.empty((n, query.shape[1]), dtype=np.float32)
    for start in range(0, n, step):
        some = tokens[start : start + step]
        if zero:
            some = some.astype(np.float32) - np.float32(zero)
        products = some.reshape(-1, dim) @ query
        products.reshape(len(some), length, -1).max(axis=1, out=best[start : start + step])
    return best @ tile.weights


def maxsim_binary(tokens: NDArray[Any], tile: QueryTile, dim: int) -> Float:
    """The kernel for sign bits (words, n, length): the similarity is dim - 2 x Hamming distance."""
    n_words, n, length = tokens.shape
    best = np.empty((n, tile.tokens.shape[1]), dtype=np.float32)
    differing = np.empty((n, length), dtype=WORD)
    counts = np.empty((n, length), dtype=np.uint8 if dim < 256 else np.uint32)
    more = np.empty((n, length), dtype=np.uint8)
    # One query token at a time, so no array is larger than the block.
    for j in range(tile.tokens.shape[1]):
        for word in range(n_words):
            np.bitwise_xor(tokens[word], tile.tokens[word, j], out=differing)
            if word == 0:
                np.bitwise_count(differing, out=counts)
            else:
                np.add(counts, np.bitwise_count(differing, out=more), out=counts)
        best[:, j] = counts.min(axis=1)
    return np.asarray((dim - 2 * best) @ tile.weights, dtype=np.float32)


def choose_kernel(
    output_dtype: OutputDtype, dim: int, device: str, threads: int
) -> tuple[Kernel, int]:
    """The kernel for blocks of this dtype on this device, and how many threads may call it.

    Raises the errors of `runtime.session.open_session`.
    """
    if output_dtype == "binary":
        return functools.partial(maxsim_binary, dim=dim), threads
    session = _session(os.getpid(), output_dtype, device, threads)
    if session is None:  # NumPy's product has threads of its own
        return (maxsim_float32 if output_dtype == "float32" else maxsim_int8), 1
    # ONNX Runtime's threads share a block: with one block per thread the threads wait for memory,
    # and a pair took 1.3 times as long (1.5 in int8).

    def run(tokens: NDArray[Any], tile: QueryTile) -> Float:
        feeds = {"documents": tokens, "query": tile.tokens, "share": tile.weights}
        # Unchecked: products of finite vectors may be infinite, and the session's message about
        # infinity is about models.
        scores: Float = session.run(feeds, unchecked=True)[0]
        return scores

    return run, 1


def check_device(output_dtype: OutputDtype, device: str) -> None:
    """Raises ConfigError for int8 or binary documents on a device other than the CPU."""
    if output_dtype != "float32" and device not in ("auto", "cpu"):
        raise ConfigError(f"{output_dtype} documents are scored on the CPU, not on {shown(device)}")


# One session of a few kilobytes for all indexes. Per process: a fork cannot use its parent's.
@functools.cache
def _session(
    _pid: int, output_dtype: OutputDtype, device: str, threads: int | None
) -> Session | None:
    """The session of a MaxSim graph; None if onnxruntime is not installed."""
    try:
        onnxruntime()
    except DeviceError as error:
        if device not in ("auto", "cpu"):
            raise
        logger.warning("MaxSim runs in NumPy, about four times slower: %s", error)
        return None
    path = Path(__file__).with_name(GRAPHS[output_dtype])
    integers = output_dtype == "int8"
    probe = {
        "documents": np.ones((1, 1, 1), dtype=np.uint8 if integers else np.float32),
        "query": np.ones((1, 1), dtype=np.int8 if integers else np.float32),
        "share": np.ones((1, 1), dtype=np.float32),
    }
    return open_session(
        dict.fromkeys(PROVIDERS, (path.name, path.read_bytes)),
        device=device,
        static=False,
        int8_on_cuda=integers,
        threads=threads,
        workers=1,
        wanted=lambda _: ({"scores": (1, 1)}, probe),
    )
