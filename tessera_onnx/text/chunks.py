"""Vectors of the chunks of texts: each encoded alone, or pooled from the whole text (late)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.checks import check_limit
from tessera_onnx.errors import ConfigError, about_item
from tessera_onnx.models.spec import Dense, ModelSpec, Role
from tessera_onnx.results import Chunks
from tessera_onnx.runtime import batching, workers
from tessera_onnx.text import heads, windows
from tessera_onnx.text.calls import Encoder, Prepared
from tessera_onnx.text.encoder import TextEncoder
from tessera_onnx.text.modules import Step
from tessera_onnx.text.tokenizer import Head, check_texts

Float = NDArray[np.float32]
GROUP = 1 << 16  # tokens whose states are in memory at the same time, unless one text has more


class Cut:
    """How texts are cut: tokens of a chunk (None: as many as the model reads), shared tokens."""

    def __init__(self, size: int | None, overlap: int, limit: workers.Limit) -> None:
        """`limit` is when the call ends. Raises TypeError or ConfigError for a wrong size."""
        if size is not None:
            check_limit(size, "size")
            windows.check_overlap(overlap, size)
        self.size = size
        self.overlap = overlap
        self.limit = limit


class _Read(NamedTuple):
    """A text as token ids, the range of ids of each chunk, and its characters."""

    ids: NDArray[np.int64]
    ranges: list[tuple[int, int]]
    places: list[tuple[int, int]]


def encode_alone(
    encoder: Encoder, texts: Iterable[str], role: Role, head: Head, cut: Cut
) -> list[Chunks]:
    """Each chunk as a text of its own."""
    known, split = check_texts(texts), []
    for i, text in enumerate(known):
        cut.limit.check()
        with about_item(i):
            split.append(windows.split(encoder, text, role, cut.size, cut.overlap))
    parts = [
        text[window.start : window.stop]
        for text, found in zip(known, split, strict=True)
        for window in found
    ]
    vectors = encoder.encode_known(parts, role, head, limit=cut.limit, noun="chunk")
    ends = np.cumsum([len(found) for found in split])
    return [
        Chunks(
            vectors[end - len(found) : end],
            np.array([(window.start, window.stop) for window in found], np.int64),
        )
        for found, end in zip(split, ends, strict=True)
    ]


class LateChunking:
    """Late chunking (Günther et al., arXiv:2409.04701), as jina-ai/late-chunking computes it.

    The model reads the whole text once. A chunk's vector is the mean of the states of its tokens,
    which have seen the tokens around the chunk. The states of the tokens before the text (CLS,
    prompt) count in the first chunk, those after it in the last. A text of more tokens than the
    model reads is read in windows that overlap by an eighth, without special tokens where they are
    cut; of a later window, the states of the overlap are dropped.
    """

    def __init__(
        self,
        encoder: Encoder,
        spec: ModelSpec,
        recipe: Dense,
        dimension: int,
        modules: Step | None,
    ) -> None:
        """Raises ConfigError unless the model pools its token states by their mean."""
        states = recipe.pooling == "mean" and not recipe.further_poolings
        if not isinstance(encoder, TextEncoder) or not states:
            raise ConfigError(
                f"model {spec.id!r} does not average the states of its tokens outside of its "
                "graph, so it has no late chunks: leave late out"
            )
        self._encoder = encoder
        self._head = heads.states_head(recipe, spec, None)
        self._recipe, self._dimension, self._modules = recipe, dimension, modules

    def encode(self, texts: Iterable[str], role: Role, cut: Cut) -> list[Chunks]:
        """The chunks of each text."""
        size = role.max_length if cut.size is None else cut.size
        windows.check_overlap(cut.overlap, size)
        found: list[Chunks] = []
        group: list[_Read] = []
        for i, text in enumerate(check_texts(texts)):
            cut.limit.check()
            with about_item(i):
                group.append(self._read(text, role, size, cut.overlap))
            if sum(len(read.ids) for read in group) >= GROUP:
                found += self._pooled(group, role, cut.limit)
                group.clear()
        return found + list(self._pooled(group, role, cut.limit))

    def _read(self, text: str, role: Role, size: int, overlap: int) -> _Read:
        tokenizer = self._encoder.tokenizer
        facts = tokenizer.facts
        prompted = role.prompt + text
        pieces = tokenizer.pieces(prompted)
        n_prompt = sum(piece.stop <= len(role.prompt) for piece in pieces) if role.prompt else 0
        own = pieces[n_prompt:]
        spans = windows.token_spans(own, prompted, size, overlap)
        offset = len(role.prompt)
        places = [
            (max(start - offset, 0), stop - offset)
            for start, stop in windows.characters(own, spans)
        ]
        ids = [*facts.prefix_ids, *(piece.id for piece in pieces), *facts.suffix_ids]
        before = len(facts.prefix_ids) + n_prompt
        ranges = [(first + before, end + before) for first, end in spans or [(0, 0)]]
        ranges[0] = (0, ranges[0][1])
        ranges[-1] = (ranges[-1][0], len(ids))
        return _Read(np.array(ids, np.int64), ranges, places or [(0, len(text))])

    def _pooled(self, group: Sequence[_Read], role: Role, limit: workers.Limit) -> Iterator[Chunks]:
        most = role.max_length
        shared = most // windows.PART
        parts = [
            (i, start, read.ids[start : start + most])
            for i, read in enumerate(group)
            for start in range(0, len(read.ids), most - shared)
            if start == 0 or start + shared < len(read.ids)  # else it has nothing new
        ]
        states = self._states([ids for _, _, ids in parts], role, limit)
        joined: list[list[Float]] = [[] for _ in group]
        for (i, start, _), rows in zip(parts, states, strict=True):
            joined[i].append(rows[shared:] if start else rows)
        for read, rows_of_text in zip(group, joined, strict=True):
            rows = np.concatenate(rows_of_text)
            means = np.stack([rows[first:end].mean(axis=0) for first, end in read.ranges])
            vectors = heads.finish_dense(means, self._recipe, self._dimension, self._modules)
            yield Chunks(vectors, np.array(read.places, np.int64))

    def _states(self, ids: Sequence[Any], role: Role, limit: workers.Limit) -> list[Float]:
        """The states (n_tokens, width) of each list of token ids, run in batches of like length."""
        prepared: list[Prepared] = self._encoder.prepare_ids(ids, role, self._head)
        states: list[Any] = [None] * len(prepared)
        count = self._encoder.session.workers
        lengths = [text.size for text in prepared]
        batches = batching.plan_batches(lengths, batching.budget(sum(lengths), count))

        def work(rows: NDArray[np.intp]) -> None:
            found = self._encoder.run_prepared(
                [prepared[i] for i in rows], parallel=len(batches) > 1
            )
            for i, result in zip(rows, found, strict=True):
                states[i] = result

        workers.run_batches(work, batches, count, limit=limit).check()
        return states
