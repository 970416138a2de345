"""TesseraReranker: one score per pair of a query and a document, which the model reads together."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, Unpack, get_args

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.base import Model, Options
from tessera_onnx.checks import check_top_k
from tessera_onnx.errors import ConfigError, EncodingError, InputTooLong, LoadError, shown
from tessera_onnx.models import rules
from tessera_onnx.models.spec import Kind, Reranker, Role, TokenizerSpec
from tessera_onnx.results import Ranked, ranking
from tessera_onnx.runtime.graph import is_saturating
from tessera_onnx.runtime.session import Array, Session
from tessera_onnx.runtime.workers import Event, Limit
from tessera_onnx.text import encoder, modules, pair_outputs, probe_difference
from tessera_onnx.text import tokenizer as text_tokenizer
from tessera_onnx.text.calls import Prepared
from tessera_onnx.text.pairs import Pair, PairTokenizer, Query, check_pairs
from tessera_onnx.text.probe_difference import PROBES
from tessera_onnx.text.templates import TemplateTokenizer
from tessera_onnx.text.tokenizer import Batch, Head, check_text, check_texts
from tessera_onnx.vectors import explain
from tessera_onnx.vectors.activations import ACTIVATIONS
from tessera_onnx.vectors.pooling import POOLINGS

logger = logging.getLogger("tessera_onnx")

Float = NDArray[np.float32]
Activation = Literal["default", "raw", "sigmoid"]
# How much padding may change a score; rounding changes it by less.
PADDING = 1e-2
ONE_INSTRUCTION = "one instruction is for all pairs of a call"
ONE = "`score` compares one query with several documents; `score_pairs` takes several queries"


class TesseraReranker(Model):
    """Score how well documents answer a query, with a model that reads both together.

    A reranker (cross-encoder) is slower than vectors, which are made once a document, and mostly
    better: it sorts the first results of a search. A score is a float32 number, higher for a better
    document. Its range is the model's own: by its `activation` a probability in [0, 1] or any
    number, so scores of two models do not compare.

    A pair of more tokens than the model reads is cut as the model's library cuts it, the longer of
    the two texts first, with a warning unless `on_long` says otherwise. The score of a pair does
    not depend on the other pairs of the call, except with an int8 graph that computes the scales of
    its activations per batch.

    A language model that answers yes or no (Qwen3-Reranker) reads the pair in a template of texts.
    `instruction` of the methods says there what a good document does, in a sentence; None is the
    model's own. Query, document and instruction are read as they are, as by the model's library: a
    control token that one of them spells, such as `<|im_end|>`, is that token to the model.

    `activation` of the methods: "default" is the model's own, "raw" the number that the graph
    gives, "sigmoid" 1 / (1 + exp(-raw)).
    """

    _kind: ClassVar[Kind] = "reranker"
    _recipe: Reranker
    _session: Session

    def __init__(
        self,
        model_id: str | None = None,
        *,
        max_length: int | None = None,
        on_long: text_tokenizer.OnLong = "warn",
        **options: Unpack[Options],
    ) -> None:
        """Open a model; `options` are those of `Model`, and its errors are raised.

        Args:
            model_id: id or alias, folder or repository; None takes the first installed reranker.
            max_length: tokens read of a pair, special tokens included; up to what the graph takes.
            on_long: what to do with a pair of more tokens: "warn" (cut it, and say once per call
                how many were cut), "truncate" (cut it silently) or "error".
            **options: path, device, precision, threads, cache_dir, offline and file.
        """
        super().__init__(model_id, **options)
        self._heads: dict[str, Head] = {}
        self._options |= {"max_length": max_length, "on_long": on_long}
        facts = self._spec.text
        if facts is None:
            raise LoadError(f"model {self._spec.id!r} has no [model.text] table")
        if max_length is not None:
            self._set_length(max_length)
        self._tokenizer = self._open_tokenizer(facts, given=max_length is not None)
        self._steps: modules.Step | None = None
        self._answers = self._tokenizer.answer_ids(self._spec.id)
        self._session = self._open(self._wanted)
        self._encoder = encoder.TextEncoder(self._tokenizer, self._session, on_long)
        if self._artifact.is_foreign:
            try:
                self._check_padding()
                self._check_int8()
            except EncodingError as error:
                raise LoadError(f"{self._session.name} fails on a short pair: {error}") from error

    def _open_tokenizer(self, facts: TokenizerSpec, *, given: bool) -> PairTokenizer:
        """The tokenizer of pairs. Raises ConfigError for a `given` max_length that leaves no room
        for texts, LoadError where it is the model's.
        """
        content, template = self._artifact.read(facts.tokenizer), self._recipe.template
        made = (
            PairTokenizer(content, facts, self._recipe)
            if template is None
            else TemplateTokenizer(content, facts, self._recipe, template)
        )
        made.check(f"model {self._spec.id!r}")
        try:
            made.role(None, self._recipe.max_length, facts.max_positions)
        except ConfigError as error:
            if given:
                raise
            raise LoadError(f"model {self._spec.id!r}: {error}") from None
        return made

    def _role(self, instruction: str | None = None) -> Role:
        """The role of all pairs of a call. Raises TypeError, TokenizationError or ConfigError."""
        if instruction is not None:
            instruction = check_text(instruction, "instruction", several=ONE_INSTRUCTION)
        facts = self._spec.text
        most = self._recipe.max_length if facts is None else facts.max_positions
        return self._tokenizer.role(instruction, self._recipe.max_length, most)

    def _probed(self) -> Float:
        """The raw scores of the probe texts, each as query of the next, one by one."""
        quiet = encoder.TextEncoder(self._tokenizer, self._session, "truncate")
        role, head = self._role(), self._head("raw")
        pairs = [Pair(Query(query), text) for query, text in itertools.pairwise(PROBES)]
        return np.concatenate([quiet.encode_known([pair], role, head)[:, 0] for pair in pairs])

    def _check_padding(self) -> None:
        """Raises LoadError for a graph whose score of a pair depends on the padding of its batch.

        Such is a graph that reads the last position, since it was made for padding on the left. An
        int8 graph may compute its scales per batch, so only others are tried.
        """
        if self.precision == "int8":
            return
        rows, _ = self._tokenizer.rows(
            [Pair(Query("a"), "b"), Pair(Query(PROBES[1]), PROBES[2])], self._role()
        )
        head = self._head("raw")

        def scores(rows: list[text_tokenizer.Row]) -> Float:
            batch = text_tokenizer.padded(rows, self._tokenizer.facts)
            given = text_tokenizer.feeds(batch, None, self._session.inputs)
            return np.asarray(head.apply(self._session.run(given, outputs=head.outputs), batch))

        alone, beside = scores(rows[:1])[0, 0], scores(rows)[0, 0]
        if not abs(alone - beside) <= PADDING * max(1.0, abs(alone)):
            raise LoadError(
                f"{self._session.name} gives a short pair the score {alone:.4f} alone and "
                f"{beside:.4f} beside a longer one: it was made for another padding than the one "
                "on the right, so its scores would depend on the batch; export the model with "
                "`tessera-export MODEL --kind reranker --output DIR`"
            )

    def _check_int8(self) -> None:
        """Measure what an int8 graph that saturates here differs by from the model's fp32 graph.

        Logs a warning. Raises LoadError where the two rank the probe texts differently.
        """
        graph, name = self._spec.main_graph(), self._session.name
        if name != graph.int8 or not is_saturating(name):
            return
        if graph.fp32 not in self._artifact.present():
            return  # the log has named the graph already
        options = {**self._options, "precision": "fp32"}
        with type(self)._from_artifact(self._artifact, **options) as reference:  # noqa: SLF001
            ours, theirs = self._probed(), reference._probed()  # noqa: SLF001
        alike = float(np.corrcoef(ours, theirs)[0, 1])
        figure = (
            f"int8 products of {name} can saturate on this processor, which has no VNNI: on "
            f"{len(ours)} probe pairs its scores and those of {graph.fp32} correlate by {alike:.3f}"
        )
        if not alike >= probe_difference.LEAST:  # NaN too
            raise LoadError(f"{figure}, below {probe_difference.LEAST}: use precision='fp32'")
        logger.warning("%s; precision='fp32' has no such difference", figure)

    def _set_length(self, max_length: int) -> None:
        if isinstance(max_length, bool) or not isinstance(max_length, int):
            raise TypeError(f"max_length must be int or None, got {type(max_length).__name__}")
        self._recipe = dataclasses.replace(self._recipe, max_length=max_length)
        try:
            rules.check_model(dataclasses.replace(self._spec, reranker=self._recipe), "this model")
        except LoadError as error:
            raise ConfigError(str(error)) from None

    def _wanted(self, session: Session) -> tuple[dict[str, Any], dict[str, Any]]:
        """The output that the recipe reads, with its shape for the probe, and the probe.

        Raises LoadError where the graph is not what the recipe describes.
        """
        batch = text_tokenizer.padded([self._tokenizer.probe()], self._tokenizer.facts)
        probe = pair_outputs.feeds(batch, session, self._spec)
        if self._answers:
            self._recipe, wanted = pair_outputs.answered(
                self._recipe, session, probe, self._answers
            )
            self._spec = dataclasses.replace(self._spec, reranker=self._recipe)
            return {self._recipe.output: wanted}, probe
        self._recipe, self._steps = pair_outputs.settled(
            self._recipe, session, probe, self._artifact.read
        )
        self._spec = dataclasses.replace(self._spec, reranker=self._recipe)
        shape = pair_outputs.shape(self._recipe, batch.ids.shape[1])
        return {self._recipe.output: shape}, probe

    def score(
        self,
        query: str,
        documents: Iterable[str],
        *,
        activation: Activation = "default",
        instruction: str | None = None,
        progress: bool = False,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Float:
        """How well each of the documents answers the query: (n,) float32; (0,) for no documents.

        Raises TypeError for anything but texts, TokenizationError for a lone surrogate,
        InputTooLong with on_long="error", EncodingError when the graph fails, each with the
        document's `index`; ConfigError for an unknown activation, and for an `instruction` that the
        model does not read or that leaves no room. After `timeout` seconds, or when
        another thread sets the event `cancel`, no further batch starts and TimedOut or Cancelled is
        raised.
        """
        limit = Limit(timeout, cancel)
        head, role = self._head(activation), self._role(instruction)
        shared = Query(check_text(query, "query", several=ONE))
        pairs = [Pair(shared, text) for text in check_texts(documents, "documents")]
        return self._run(pairs, role, head, limit, "document", progress=progress)

    def score_pairs(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        activation: Activation = "default",
        instruction: str | None = None,
        progress: bool = False,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> Float:
        """The score of each (query, document): (n,) float32; (0,) for no pairs.

        Raises the errors of `score`, with the pair's `index`.
        """
        limit = Limit(timeout, cancel)
        head, role = self._head(activation), self._role(instruction)
        return self._run(check_pairs(pairs), role, head, limit, "pair", progress=progress)

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        *,
        activation: Activation = "default",
        instruction: str | None = None,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> list[Ranked]:
        """Rank documents by their score, highest first: the `top_k` best, or all.

        Documents of equal scores keep their order. No documents give []. Raises the errors of
        `score`, and TypeError or ConfigError for a `top_k` below 1.
        """
        check_top_k(top_k, 0)
        scores = self.score(
            query,
            documents,
            activation=activation,
            instruction=instruction,
            timeout=timeout,
            cancel=cancel,
        )
        return ranking(scores, top_k)

    def explain(
        self,
        query: str,
        document: str,
        top_k: int | None = 10,
        *,
        timeout: float | None = None,
        cancel: Event | None = None,
    ) -> list[tuple[str, float]]:
        """List (word, fall) of the document's `top_k` weightiest words; None lists all.

        The fall is how much lower the raw score is without the word (leave one out:
        arXiv:1612.08220), the largest first, equal ones in the order of the text. It is below 0 for
        a word that speaks against the document. The falls of all words do not add up to the score.
        White space separates words, so a text without spaces is one word. The model runs once a
        word, on whole documents: a multi-vector model explains its score from one run.

        No words give []. Raises the errors of `score`, and InputTooLong for more words than the
        model reads tokens.
        """
        words, texts = explain.without_each_word(check_text(document, "document"))
        if len(words) > self.max_length():
            raise InputTooLong(
                f"the document has {len(words)} words, and the model reads {self.max_length()} "
                "tokens: explain one passage of it"
            )
        count = check_top_k(top_k, len(words))
        whole, *scores = self.score(
            query, [document, *texts], activation="raw", timeout=timeout, cancel=cancel
        ).tolist()
        falls = [(word, whole - score) for word, score in zip(words, scores, strict=True)]
        return sorted(falls, key=lambda item: -item[1])[:count]

    def prepare(
        self,
        query: str,
        documents: Iterable[str],
        *,
        activation: Activation = "default",
        instruction: str | None = None,
    ) -> list[Prepared]:
        """Tokenize a query with each document, for batches that the caller makes.

        `run_prepared` gives the score of each, (1,) float32. Raises the errors of `score`.
        """
        # One head for all calls, so that their pairs share a batch.
        head = self._heads.setdefault(activation, self._head(activation))
        shared = Query(check_text(query, "query", several=ONE))
        pairs = [Pair(shared, text) for text in check_texts(documents, "documents")]
        return self._encoder.prepare(pairs, self._role(instruction), head, noun="document")

    def run_prepared(self, pairs: Sequence[Prepared], *, parallel: bool = True) -> list[Any]:
        """The scores of pairs that `prepare` gave: one batch. Raises EncodingError."""
        return self._encoder.run_prepared(pairs, parallel=parallel)

    def _run(
        self,
        pairs: Sequence[Pair],
        role: Role,
        head: Head,
        limit: Limit,
        noun: str,
        *,
        progress: bool,
    ) -> Float:
        found: Float = self._encoder.encode_known(
            pairs, role, head, progress=progress, limit=limit, noun=noun
        )
        return found[:, 0]

    def _head(self, activation: Activation) -> Head:
        if activation not in get_args(Activation):
            raise ConfigError(
                f'activation must be "default", "raw" or "sigmoid", got {shown(activation)}'
            )
        recipe, steps, answers = self._recipe, self._steps, self._answers
        name = recipe.activation if activation == "default" else activation
        final = ACTIVATIONS["identity" if name == "raw" else name]

        def apply(outputs: list[Array], batch: Batch) -> Float:
            if answers:
                scores = pair_outputs.answer_scores(outputs[0], batch, answers)
                return np.asarray(final(scores), np.float32)
            columns = np.asarray(outputs[0], np.float32)
            if recipe.pooling != "graph" and steps is not None:
                columns = steps(POOLINGS[recipe.pooling](columns, batch.attention))
            column = max(recipe.column, 0)
            return np.asarray(final(columns[:, column, None]), np.float32)

        return Head((recipe.output,), apply, 1)

    def activation(self) -> str:
        """What `activation="default"` applies: "identity" or "sigmoid"."""
        return self._recipe.activation

    def max_length(self) -> int:
        """Tokens read of a pair, special tokens included.

        A template may be beside that number: `spec.reranker.template.limits` says it.
        """
        return self._recipe.max_length

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self._spec.id!r}, activation={self.activation()!r})"
