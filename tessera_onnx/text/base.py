"""TextModel, the base of the classes that read texts: opening, token counts, encode_all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.base import Options
from tessera_onnx.errors import ConfigError, LoadError
from tessera_onnx.models.spec import Pooling
from tessera_onnx.models.spec_words import Lexical
from tessera_onnx.results import Embeddings
from tessera_onnx.runtime import workers
from tessera_onnx.runtime.cpu import cpu_threads
from tessera_onnx.runtime.graph import is_saturating
from tessera_onnx.runtime.session import Session
from tessera_onnx.text import (
    all_kinds,
    encoder,
    heads,
    lexical,
    outputs,
    probe_difference,
    static,
)
from tessera_onnx.text import tokenizer as text_tokenizer
from tessera_onnx.text.reading import RoleName, TextReader
from tessera_onnx.text.token_check import check_ids

# Advice in the message for a list of texts in the place of one text.
SEVERAL = "`encode_batch` takes several texts"
COMPARED = "`rank` compares one text with several"


class TextModel(TextReader):
    """A model that reads texts.

    A text is read as a query or as a document if the method or `role` says so. The other methods,
    such as `encode` and `encode_batch`, read a document, unless the authors of the model chose a
    prompt for such texts (`plain` in the spec; default_prompt_name in sentence-transformers).

    The vector of a text does not depend on the other texts of the call, except with an int8 graph
    that computes the scales of its activations per batch. Graphs of tessera-export do so only if
    that was asked for.

    Several texts are given as any iterable of str; results have the same order. A list, a
    generator, a column of a frame and an array of NumPy or Arrow are such iterables. A frame, a
    dict, a set and an open file do not iterate over texts: they raise a TypeError that says what to
    give instead.
    """

    _session: Session
    _language: str | None = None  # of a lexical model; None: its first

    def __init__(
        self,
        model_id: str | None = None,
        *,
        dimension: int | None = None,
        max_length: int | None = None,
        on_long: text_tokenizer.OnLong = "warn",
        pooling: Pooling | None = None,
        **options: Unpack[Options],
    ) -> None:
        """Open a model; `options` are those of `Model`, and its errors are raised.

        Args:
            model_id: id or alias; None takes the first installed model of this kind.
            dimension: cut vectors to this size, one that the model was trained for (Matryoshka).
            max_length: tokens read of a document, and of a query unless queries have a fixed
                length; up to what the graph takes.
            on_long: what to do with a text of more tokens: "warn" (cut it, and say once per call
                how many were cut), "truncate" (cut it silently) or "error".
            pooling: how token states become the vector of a text, for a dense model whose files
                do not say it: "cls", "mean", "last", "max", "mean_sqrt_len_tokens" or
                "weightedmean".
            **options: path, device, precision, threads, cache_dir, offline and file.

        Raises:
            UnsupportedDimension: the model was not trained to be cut to `dimension`.
        """
        self._pooling = pooling
        self._readings = {}
        super().__init__(model_id, **options)
        self._options |= {"dimension": dimension, "max_length": max_length, "on_long": on_long}
        self._options["pooling"] = pooling
        if self._spec.lexical is not None:
            self._open_words(self._spec.lexical)
            return
        facts = self._spec.text
        if facts is None:
            raise LoadError(f"model {self._spec.id!r} has no [model.text] table")
        recipe = self._recipe
        self._query = self._with_length(recipe.query, facts, max_length)
        self._document = self._with_length(recipe.document, facts, max_length)
        self._plain = self._with_length(recipe.plain or recipe.document, facts, max_length)
        if getattr(recipe, "dimension", 1):  # else the graph tells
            self._width(dimension)
        tokenizer = text_tokenizer.Tokenizer(self._artifact.read(facts.tokenizer), facts)
        if self._spec.static is not None:
            table = static.load_table(self._spec.static, self._artifact, tokenizer)
            read = self._artifact.read
            self._spec, self._modules = static.settled(self._spec, table, read)
            self._encoder = static.StaticEncoder(
                tokenizer, table, self._spec, on_long, self._options["threads"]
            )
            self._recipe = self._spec.text_recipes()[self._kind]
            self._dimension = self._width(dimension)
            return
        check_ids(tokenizer, self._spec)
        self._session = self._open(self._wanted)
        self._recipe = self._spec.text_recipes()[self._kind]
        self._dimension = self._width(dimension)
        self._encoder = encoder.TextEncoder(tokenizer, self._session, on_long)
        if self._artifact.is_foreign:
            self._check_int8()

    def close(self) -> None:
        """Free the graph or table; running calls finish, later ones raise EncodingError.

        Idempotent.
        """
        super().close()
        self._encoder.close()

    def _open_words(self, facts: Lexical) -> None:
        """Open a model of words. Raises ConfigError for a limit on the length of its texts."""
        cpu_threads(self._options["threads"])  # raises for a wrong one; words take one thread
        if self._options["max_length"] is not None:
            raise ConfigError(
                f"model {self._spec.id!r} reads whole texts, whatever their length: leave "
                "max_length out"
            )
        recipe = self._recipe
        self._query, self._document = recipe.query, recipe.document
        self._plain = recipe.plain or recipe.document
        self._dimension = self._width(self._options["dimension"])
        language = lexical.find_language(facts, self._language)
        words = lexical.load_words(facts.longest_word, language, self._artifact)
        self._encoder = lexical.LexicalEncoder(words, self._options["on_long"])
        self._modules = {}

    def _check_int8(self) -> None:
        """Measure what an int8 graph that saturates here differs by from the model's fp32 graph.

        Logs a warning. Raises LoadError where the vectors are too far apart.
        """
        graph, name = self._spec.main_graph(), self._session.name
        if name != graph.int8 or not is_saturating(name):
            return
        if graph.fp32 not in self._artifact.present():
            return  # the log has named the graph already
        options = {**self._options, "precision": "fp32"}
        with type(self)._from_artifact(self._artifact, **options) as reference:  # noqa: SLF001
            pair = [model._probed() for model in (self, reference)]  # noqa: SLF001
            least = probe_difference.least_cosine(*pair)
        probe_difference.report(least, name, graph.fp32)

    def _probed(self) -> probe_difference.Encode:
        """The function that gives this model's result for each of some texts."""
        quiet = encoder.TextEncoder(self._encoder.tokenizer, self._session, "truncate")
        modules = self._modules.get(self._kind)
        head = all_kinds.head(self._recipe, self._document, modules, self._dimension)
        return lambda texts: quiet.encode(texts, self._document, head)

    def _wanted(self, session: Session) -> tuple[dict[str, Any], dict[str, Any]]:
        """The outputs that the recipes read, with their shapes for the probe, and the probe.

        The spec then names them. Those of all kinds are checked, because encode_all reads them from
        this session. Raises LoadError where the graph is not what the recipes describe.
        """
        facts, name = self._spec.text, session.name
        if facts is None:
            raise LoadError(f"model {self._spec.id!r} has no [model.text] table")
        outputs.check_inputs(session.inputs, self._spec, name)
        batch = text_tokenizer.probe(facts)
        n_tokens = batch.ids.shape[1]
        role = next(iter(self._spec.text_recipes().values())).document
        probe = text_tokenizer.feeds(batch, role, session.inputs, name)
        settled = outputs.settled(self._spec, session, probe, n_tokens, self._artifact.read)
        self._spec, self._modules = settled.spec, settled.modules
        recipes = self._spec.text_recipes().values()
        return {each.output: heads.output_shape(each, n_tokens) for each in recipes}, probe

    def token_count(self, texts: Iterable[str], *, role: RoleName = "plain") -> NDArray[np.int64]:
        """Number of tokens of each text, (n,) int64; (0,) for no texts.

        Prompt, marker and special tokens are counted, and nothing is cut. The role "plain" reads a
        text as `encode` does. Raises what `encode_batch` raises for wrong texts.
        """
        return self._encoder.token_counts(texts, self._role(role))

    def token(self, number: int) -> str:
        """The name of an entry of the vocabulary, "" outside of it."""
        return self._encoder.token(number)

    def encode_all(
        self,
        texts: Iterable[str],
        *,
        role: RoleName = "plain",
        progress: bool = False,
        timeout: float | None = None,
        cancel: workers.Event | None = None,
    ) -> Embeddings:
        """Encode the texts for every kind that the model serves, in one run of the graph (bge-m3).

        Each part of the result is what the class of that kind gives for the same texts and role;
        the part of a kind that the model does not serve is None. `dimension` and `max_active_dims`
        of this object apply to the vectors of its own kind only.

        Raises ConfigError if the kinds of the model read the same text differently, and for queries
        whose weights one of the kinds looks up in a table; otherwise what `encode_batch` raises,
        TimedOut and Cancelled included.
        """
        limit = workers.Limit(timeout, cancel)
        reads, recipes = self._role(role), self._spec.text_recipes()
        _, parts = self._together(role, tuple(recipes), None)
        head = heads.combine(parts)
        rows = self._encoder.encode(texts, reads, head, progress=progress, limit=limit)
        return all_kinds.collected(rows, recipes, {self._kind: self._dimension})

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self._spec.id!r}, dimension={self._dimension})"
