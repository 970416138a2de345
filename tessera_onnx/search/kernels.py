"""MaxSim of queries with a block of documents: by the graphs shipped here, or in NumPy.

The graphs run on ONNX Runtime, whose matrix product is up to twice as fast as NumPy's; the NumPy
forms are the reference, and what runs where there is no onnxruntime. Both agree to 1e-6.
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

QUERY_TOKENS = 32  # of one product: with 64 or more a pair took half as long again
NUMPY_TOKENS = 4096  # documents' tokens of one product in NumPy, whose steps write it twice
# A query's codes have 7 bits: a processor without dot products of bytes (AVX2 without VNNI) adds
# pairs of products in 16 bits, where 2 x 255 x 63 fits and 2 x 255 x 127 does not.
QUERY_PEAK = 63
UNIT = 1e-4  # by which a unit vector may be longer than 1, such as one that was kept in float16
INPUTS = ("documents", "query", "share")
GRAPHS: dict[OutputDtype, str] = {"float32": "maxsim.fp32.onnx", "int8": "maxsim.int8.onnx"}


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Up to QUERY_TOKENS tokens of a list of queries."""

    tokens: NDArray[Any]  # (dim, t) float32 or int8; (words, t) of sign bits
    share: Float  # (t, q): what a token's maximum counts for each of q queries in a row
    first: int  # the first of those queries


def parts(queries: Sequence[NDArray[Any]], output_dtype: OutputDtype, dim: int) -> list[Part]:
    """Queries, each (n, dim) float32 or (n, words), as the kernels take them."""
    tokens = np.concatenate(queries)
    owner = np.repeat(np.arange(len(queries)), [len(query) for query in queries])
    weights = np.full(len(tokens), 1 / dim if output_dtype == "binary" else 1, dtype=np.float32)
    if output_dtype == "int8":
        peaks = np.abs(tokens).max(axis=1)
        with np.errstate(under="ignore"):
            weights = np.maximum(peaks / QUERY_PEAK, np.finfo(np.float32).tiny).astype(np.float32)
            codes = np.clip(np.rint(tokens / weights[:, None]), -QUERY_PEAK, QUERY_PEAK)
        tokens = codes.astype(np.int8)
    found = []
    for start in range(0, len(tokens), QUERY_TOKENS):
        picked = slice(start, start + QUERY_TOKENS)
        owners = owner[picked]
        first = int(owners[0])
        share = np.zeros((len(owners), int(owners[-1]) - first + 1), dtype=np.float32)
        share[np.arange(len(owners)), owners - first] = weights[picked]
        found.append(Part(np.ascontiguousarray(tokens[picked].T), share, first))
    return found


Kernel = Callable[[NDArray[Any], Part], Float]  # a block's tokens and a part to scores (n, q)


def score(
    blocks: Sequence[Block],
    queries: Sequence[Part],
    kernel: Kernel,
    shape: tuple[int, int],
    workers: int = 1,
) -> Float:
    """MaxSim (queries, numbers) of all documents in the blocks, each in its place; 0 elsewhere.

    `workers` threads take the blocks in turn, for a kernel that uses one thread itself.
    """
    scores = np.zeros(shape, dtype=np.float32)

    def work(picked: NDArray[np.intp]) -> None:
        block = blocks[int(picked[0])]
        found = np.zeros((len(block.places), shape[0]), dtype=np.float32)
        for part in queries:
            found[:, part.first : part.first + part.share.shape[1]] += kernel(block.tokens, part)
        scores[:, block.places] = (found * block.scales[:, None]).T

    failure = run_batches(work, [np.array([i]) for i in range(len(blocks))], workers)
    if failure.error is not None:
        raise failure.error
    return scores


def keep_bounds(
    scores: Float,
    blocks: Sequence[Block],
    queries: Sequence[NDArray[Any]],
    output_dtype: OutputDtype,
    forms: Sequence[Any],
) -> None:
    """Take back, in place, what rounding adds to scores of unit vectors beyond [-n, n].

    Vectors that are no unit vectors have no such bounds, and keep their scores. What vectors are is
    looked at only where a score lies outside, which few do. `forms` are those in which the queries
    were given.
    """
    limits = np.array([len(query) for query in queries], dtype=np.float32)
    beyond: NDArray[np.bool_] = np.greater(np.abs(scores), limits[:, None])
    if output_dtype != "binary" and beyond.any():
        pairs = zip(queries, forms, strict=True)
        units = [float(_longest(query)) <= 1 + UNIT + rounding(form) for query, form in pairs]
        beyond &= np.array(units, dtype=bool)[:, None]
        suspected: NDArray[np.bool_] = np.any(beyond, axis=0)
        for block in blocks if suspected.any() else ():
            picked = np.flatnonzero(suspected[block.places])
            tokens, most = block.tokens[picked], np.full(len(picked), 1 + UNIT)
            if output_dtype == "int8":  # as near as its codes can tell
                scales = block.scales[picked]
                tokens = (tokens.astype(np.float32) - CODE_ZERO) * scales[:, None, None]
                most += scales / 2 * tokens.shape[2] ** 0.5
            beyond[:, block.places[picked[_longest(tokens) > most]]] = False
    if beyond.any():
        bounds = np.broadcast_to(limits[:, None], scores.shape)[beyond]
        scores[beyond] = np.clip(scores[beyond], -bounds, bounds)


def _longest(rows: NDArray[Any]) -> Float:
    """The length of the longest row (..., n, dim) to (...); infinity where one leaves float32."""
    with np.errstate(over="ignore", under="ignore"):
        found: Float = np.sqrt(np.einsum("...j,...j->...", rows, rows).max(axis=-1))
    return found


def exact(tokens: NDArray[Any], part: Part) -> Float:
    """float32 tokens (n, length, dim): the sum of each query token's largest dot product."""
    return _products(tokens, part, 0)


def rounded(tokens: NDArray[Any], part: Part) -> Float:
    """The same for codes. float32 holds their sums exactly up to about 2,000 dims."""
    return _products(tokens, part, CODE_ZERO)


def _products(tokens: NDArray[Any], part: Part, zero: int) -> Float:
    n, length, dim = tokens.shape
    query = np.asarray(part.tokens, dtype=np.float32)
    step = max(1, NUMPY_TOKENS // length)
    best = np.empty((n, query.shape[1]), dtype=np.float32)
    for start in range(0, n, step):
        some = tokens[start : start + step]
        if zero:
            some = some.astype(np.float32) - np.float32(zero)
        products = some.reshape(-1, dim) @ query
        products.reshape(len(some), length, -1).max(axis=1, out=best[start : start + step])
    return best @ part.share


def bits(tokens: NDArray[Any], part: Part, dim: int) -> Float:
    """Sign bits (words, n, length): a pair's similarity is dim - 2 x the bits that differ."""
    n_words, n, length = tokens.shape
    best = np.empty((n, part.tokens.shape[1]), dtype=np.float32)
    differing = np.empty((n, length), dtype=WORD)
    counts = np.empty((n, length), dtype=np.uint8 if dim < 256 else np.uint32)
    more = np.empty((n, length), dtype=np.uint8)
    # A query token at a time, over words that lie together: nothing larger than the block is made.
    for j in range(part.tokens.shape[1]):
        for word in range(n_words):
            np.bitwise_xor(tokens[word], part.tokens[word, j], out=differing)
            if word == 0:
                np.bitwise_count(differing, out=counts)
            else:
                np.add(counts, np.bitwise_count(differing, out=more), out=counts)
        best[:, j] = counts.min(axis=1)
    return np.asarray((dim - 2 * best) @ part.share, dtype=np.float32)


def kernel(output_dtype: OutputDtype, dim: int, device: str, threads: int) -> tuple[Kernel, int]:
    """What scores blocks of that form on that device, and on how many threads of the caller.

    Raises as runtime.open_session.
    """
    if output_dtype == "binary":
        return functools.partial(bits, dim=dim), threads
    session = _session(os.getpid(), output_dtype, device, threads)
    if session is None:  # NumPy's product has threads of its own
        return (exact if output_dtype == "float32" else rounded), 1
    # ONNX Runtime's threads share a block: with a block a thread two of them wait for memory, and a
    # pair took 1.3 times as long (1.5 in int8).

    def run(tokens: NDArray[Any], part: Part) -> Float:
        feeds = {"documents": tokens, "query": part.tokens, "share": part.share}
        # Finite vectors may give infinity too, for which a session's advice is that for models.
        scores: Float = session.run(feeds, unchecked=True)[0]
        return scores

    return run, 1


def check_device(output_dtype: OutputDtype, device: str) -> None:
    """Raises ConfigError for a device other than the CPU where there are no float products."""
    if output_dtype != "float32" and device not in ("auto", "cpu"):
        raise ConfigError(f"{output_dtype} documents are scored on the CPU, not on {shown(device)}")


# A session for all packs: it is a few kilobytes. By process, since a fork cannot use its parent's.
@functools.cache
def _session(
    _pid: int, output_dtype: OutputDtype, device: str, threads: int | None
) -> Session | None:
    """None where there is no onnxruntime."""
    try:
        onnxruntime()
    except DeviceError as error:
        if device not in ("auto", "cpu"):
            raise
        logger.warning("MaxSim runs in NumPy, about four times slower: %s", error)
        return None
    path = Path(__file__).with_name(GRAPHS[output_dtype])
    integers = output_dtype == "int8"
    return open_session(
        dict.fromkeys(PROVIDERS, (path.name, path.read_bytes)),
        device=device,
        static=False,
        int8_on_cuda=integers,
        threads=threads,
        workers=1,
        inputs=INPUTS,
        outputs={"scores": (1, 1)},
        probe={
            "documents": np.ones((1, 1, 1), dtype=np.uint8 if integers else np.float32),
            "query": np.ones((1, 1), dtype=np.int8 if integers else np.float32),
            "share": np.ones((1, 1), dtype=np.float32),
        },
    )
