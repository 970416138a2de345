"""A model that the server has open: its requests become items of the queue, and results come back.

One object of the model's first kind serves all kinds of texts, since they share one graph.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np

from tessera_onnx.base import Model
from tessera_onnx.errors import (
    ConfigError,
    EncodingError,
    FileError,
    InputTooLong,
    TesseraError,
    about_item,
    collected_warnings,
)
from tessera_onnx.kinds import KINDS, KindRow
from tessera_onnx.models.spec import Kind, MultiVector
from tessera_onnx.server.work import Item, Lane
from tessera_onnx.text.base import TextModel
from tessera_onnx.text.calls import Prepared
from tessera_onnx.text.reading import PrepareOptions
from tessera_onnx.text.reranker import Activation, TesseraReranker
from tessera_onnx.vectors import scoring

# What an image costs in the queue where the model does not say how many patches it has.
IMAGE_TOKENS = 1024


class BadInput(EncodingError):
    """A file or series that a client sent cannot be read or encoded."""


@dataclass(slots=True)
class Job:
    """The items of a request for one model, and what becomes of their results."""

    model: Served
    kind: Kind
    items: list[Item]
    tokens: list[int]  # that are read of each input
    counts: list[int]  # of each input before the cut
    finish: Callable[[list[Any]], Any] = field(default=lambda results: results)
    told: list[str] = field(default_factory=list)  # warnings of the library
    shared: int = 0  # tokens that stand in `tokens` again though they are read once
    numbers: int = 0  # of the answer, where they can be many more than its tokens
    left: threading.Event = field(default_factory=threading.Event)  # nobody waits for it any more

    @property
    def size(self) -> int:
        """Tokens that are read."""
        return sum(self.tokens) - self.shared

    @property
    def cut(self) -> list[int]:
        """The numbers of the inputs whose end is not read."""
        pairs = zip(self.tokens, self.counts, strict=True)
        return [i for i, (kept, count) in enumerate(pairs) if kept < count]


class Served:
    """An open model, by the names under which clients ask for it."""

    def __init__(self, model: Model, kind: Kind, names: Sequence[str]) -> None:
        """`names` are the id and the aliases; the first of them is shown."""
        self.model = model
        self.names = tuple(names)
        self.row: KindRow = KINDS[kind]
        texts = tuple(model.spec.text_recipes()) if isinstance(model, TextModel) else ()
        self.kinds: tuple[Kind, ...] = texts or (kind,)
        self.is_suspect = False  # it failed on an input; /readyz then asks whether it runs at all
        self.requests = 0  # that wait for it
        self._lanes: dict[int | None, Lane] = {}  # by the task id that a graph takes

    @property
    def name(self) -> str:
        """The name that answers show."""
        return self.names[0]

    def max_length(self) -> int:
        """Tokens, or values of a series, that the model reads of an input; 0 = no limit."""
        return self.row.sizes(self.row.recipe(self.model.spec))[1]

    def texts(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]],
        *,
        truncate: bool = True,
        **how: Unpack[PrepareOptions],
    ) -> Job:
        """Encode texts; options and the result of each are those of `TextModel.prepare`.

        Raises the errors of that method, and InputTooLong with truncate=False.
        """
        model = self.model
        kinds, states = how.get("kinds", ()), how.get("states", False)
        if not isinstance(model, TextModel):
            if how.get("keep_end") or how.get("are_ids") or states:
                raise ConfigError(f"model {self.name!r} takes texts, which lose their end if cut")
            if kinds and tuple(kinds) != (self.row.kind,):
                raise ConfigError(f"model {self.name!r} gives no {kinds[0]} vectors of texts")
            return self._queries(texts)
        found = model.prepare(texts, **how)
        kind = kinds[0] if len(kinds) == 1 else self.row.kind
        job = self._job(kind, found, truncate=truncate)
        recipe = model.spec.multi_vector if "multi-vector" in (kinds or self.kinds[:1]) else None
        wide = model.spec.dense if states else recipe
        job.numbers = sum(job.tokens) * wide.dimension if wide is not None else 0
        return job

    def scores(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        activation: Activation = "default",
        truncate: bool = True,
    ) -> Job:
        """How well each document answers its query, for (query, document): (n,) float32.

        A multi-vector model gives its MaxSim. Raises the errors of `TesseraReranker.score`,
        ConfigError for a model of another kind and for several queries of a multi-vector model.
        """
        model = self.model
        groups = [
            (query, [document for _, document in group])
            for query, group in itertools.groupby(pairs, key=lambda pair: pair[0])
        ]
        if isinstance(model, TesseraReranker):
            found: list[Prepared] = []
            for query, documents in groups:
                with shifted(len(found)):
                    found += model.prepare(query, documents, activation=activation)
            job = self._job("reranker", found, truncate=truncate)
            job.finish = lambda results: np.array([score[0] for score in results], np.float32)
            return job
        recipe = model.spec.multi_vector
        if not isinstance(model, TextModel) or recipe is None:
            raise ConfigError(
                f"model {self.name!r} gives {self.row.result}: reranking takes a reranker or a "
                "multi-vector model"
            )
        if len(groups) > 1:
            raise ConfigError("several queries in one request are for rerankers: send one query")
        return (
            self._maxsim(model, recipe, *groups[0], truncate=truncate)
            if groups
            else Job(self, "multi-vector", [], [], [], lambda _: np.empty(0, np.float32))
        )

    def _maxsim(
        self,
        model: TextModel,
        recipe: MultiVector,
        query: str,
        documents: Sequence[str],
        *,
        truncate: bool,
    ) -> Job:
        """MaxSim of a query with documents; the tokens of a pair are those of both texts."""
        kinds: tuple[Kind, ...] = ("multi-vector",)
        (asked,) = model.prepare([query], role="query", kinds=kinds)
        if asked.cut and not truncate:
            raise InputTooLong(f"the query {_too_long(asked)}")
        job = self._job(
            "multi-vector",
            model.prepare(documents, role="document", kinds=kinds),
            truncate=truncate,
        )
        job.items = [*self._job("multi-vector", [asked], truncate=True).items, *job.items]
        job.tokens = [size + asked.size for size in job.tokens]
        job.counts = [count + _counted(asked) for count in job.counts]
        job.shared = asked.size * (len(documents) - 1)

        def finish(results: list[Any]) -> Any:
            scores = scoring.maxsim_scores(results[0], results[1:])
            return scores / np.float32(len(results[0])) if recipe.score == "mean" else scores

        job.finish = finish
        return job

    def images(self, images: Sequence[Any], **options: Any) -> Job:
        """Encode images, bytes of a file each; the result of each is its array of vectors."""
        encode = self._method("encode_document", "images")
        calls = [
            functools.partial(_about_input, functools.partial(encode, image, **options), i)
            for i, image in enumerate(images)
        ]
        return self._calls(calls, self._patches())

    def pages(self, document: bytes, **options: Any) -> Job:
        """Encode the pages of a PDF or TIFF, with the options of `encode_pages`.

        The job has one item, since how many pages there are is known when the document is read.
        """
        encode = self._method("encode_pages", "pages")
        left = threading.Event()
        options["cancel"] = left
        run = functools.partial(_about_input, lambda: list(encode(document, **options)), None)
        job = self._calls([run], self._patches())
        job.left = left
        job.finish = lambda results: results[0]
        return job

    def locate(self, query: str, image: bytes, page: int | None) -> Job:
        """Where a page or image answers a query; the result is a similarity_map.Answer."""
        locate = functools.partial(self._method("locate", "similarity maps"), query, image)
        run = functools.partial(_about_input, functools.partial(locate, page=page), None)
        job = self._calls([run], self._patches())
        job.finish = lambda results: results[0]
        return job

    def _patches(self) -> int:
        return getattr(self.model, "num_patches", lambda: None)() or IMAGE_TOKENS

    def forecast(self, series: Sequence[Any], **options: Any) -> Job:
        """Quantiles of each series: one array (n, horizon, levels)."""
        forecast = self._method("forecast_quantiles", "series")
        table = self.model.spec.time_series
        if table is not None and table.point is not None and options.pop("levels", None) is None:
            options = {name: value for name, value in options.items() if value is not None}
            point = self._method("forecast", "series")

            def forecast(*args: Any, **given: Any) -> Any:
                return point(*args, **given)[..., None]

        left = threading.Event()
        options["cancel"] = left
        cost = max(1, sum(min(len(each), self.max_length()) for each in series) // 16)

        def run() -> Any:
            try:
                return forecast(series, **options)
            except EncodingError as error:
                cause = error.__cause__  # has a cause itself where the graph failed
                if error.indices and (cause is None or cause.__cause__ is None):
                    raise BadInput(str(error), indices=error.indices) from error
                raise

        job = self._calls([run], cost)
        job.left = left
        job.finish = lambda results: results[0]
        return job

    def probe(self) -> Job:
        """A tiny input, which shows whether the model runs."""
        kind = self.row.reads
        if kind == "texts":
            return self.texts(["a"])
        if kind == "pairs":
            return self.scores([("a", "b")])
        if kind == "images":
            return self.images([np.full((32, 32, 3), 255, np.uint8)])
        return self.forecast([np.arange(64, dtype=np.float32)])

    def run_each(self, contents: Sequence[Callable[[], Any]], **_: Any) -> list[Any]:
        """Call each of some functions, on a thread of the queue."""
        return [content() for content in contents]

    def run_texts(self, contents: Sequence[Prepared], *, parallel: bool = True) -> list[Any]:
        """Run texts that are tokenized, on a thread of the queue."""
        model = self.model
        if not isinstance(model, TextModel | TesseraReranker):
            raise ConfigError(f"model {self.name!r} runs no texts")
        return model.run_prepared(contents, parallel=parallel)

    def _queries(self, texts: Sequence[Any]) -> Job:
        """Texts that look for images."""
        encode = self._method("encode_query", "queries")
        calls = [functools.partial(_numbered, encode, text, i) for i, text in enumerate(texts)]
        job = self._calls(calls, 16)
        job.tokens = job.counts = [max(1, len(text) // 4) for text in texts]
        return job

    def _method(self, name: str, what: str) -> Callable[..., Any]:
        found = getattr(self.model, name, None)
        if found is None:
            raise ConfigError(f"model {self.name!r} is a {self.row.kind} model: it has no {what}")
        method: Callable[..., Any] = found
        return method

    def _calls(self, calls: Iterable[Callable[[], Any]], size: int) -> Job:
        lane = self._lanes.setdefault(-1, Lane(self.run_each, alone=True))
        told: list[str] = []
        items = [Item(functools.partial(_quiet, call, told), size, lane) for call in calls]
        sizes = [size] * len(items)
        return Job(self, self.row.kind, items, sizes, sizes, told=told)

    def _job(self, kind: Kind, prepared: Sequence[Prepared], *, truncate: bool) -> Job:
        for i, text in enumerate(prepared):
            if text.cut and not truncate:
                raise InputTooLong(_too_long(text), index=i)
        items = []
        for text in prepared:
            lane = self._lanes.get(text.lane)
            if lane is None:
                lane = self._lanes.setdefault(text.lane, Lane(self.run_texts))
            items.append(Item(text, text.size, lane))
        sizes = [text.size for text in prepared]
        return Job(self, kind, items, sizes, [_counted(text) for text in prepared])


def _too_long(text: Prepared) -> str:
    return (
        f"has {text.count} tokens, the model reads {text.size}: shorten it, or let it be cut with "
        "truncate"
    )


def _counted(text: Prepared) -> int:
    """The tokens of a text before the cut."""
    return text.count if text.cut else text.size


def _quiet(function: Callable[[], Any], told: list[str]) -> Any:
    """Call a function; its warnings are for the client, not for the server's own stderr."""
    with collected_warnings(told):
        return function()


def _numbered(function: Callable[[Any], Any], value: Any, index: int) -> Any:
    """Call a function for one of several inputs."""
    with about_item(index):
        return function(value)


def _about_input(function: Callable[[], Any], index: int | None) -> Any:
    """Call a function that reads a client's file: what cannot be read of it is his fault."""
    try:
        with about_item(index):
            return function()
    except (EncodingError, FileError) as error:
        if isinstance(error.__cause__, EncodingError):  # of the graph
            raise
        name = "" if index is None else f"images[{index}]: "
        raise BadInput(f"{name}{error}", index=error.index) from error


@contextlib.contextmanager
def shifted(first: int) -> Iterator[None]:
    """Count the index of an error from the first item of the whole request."""
    try:
        yield
    except TesseraError as error:
        if error.index is not None:
            error.index += first
        raise
