"""The models of a server: opened one after the other in a thread, found by name."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Any, NoReturn, TypeVar

from tessera_onnx.errors import ConfigError, TesseraError
from tessera_onnx.kinds import find_model
from tessera_onnx.models.spec import ModelSpec
from tessera_onnx.server.failures import Loading, UnknownModel
from tessera_onnx.server.served import Served
from tessera_onnx.text.reading import RoleName

logger = logging.getLogger("tessera_onnx.server")
T = TypeVar("T")

# A name may end with the role of its texts, as in NVIDIA's API.
SUFFIXES: dict[str, RoleName] = {
    "-query": "query",
    "-passage": "document",
    "-document": "document",
}
# Errors whose message says what to do, without a traceback.
SENTENCES = (TesseraError, OSError, MemoryError, TypeError, ImportError)
WARM_UP = "a typical paragraph of a document that is read in a batch with others "


class Opening(Exception):
    """A request needs a model that is being opened; it is answered anew when `model` is done."""

    def __init__(self, model: Future[Served]) -> None:
        """The result of `model` is the model, or the error with which opening it failed."""
        super().__init__()
        self.model = model


class Registry:
    """The models that are open, are being opened, or could not be opened."""

    def __init__(
        self,
        models: Sequence[str],
        aliases: Mapping[str, str],
        options: Mapping[str, Any],
        *,
        lazy: bool = False,
    ) -> None:
        """`aliases` give the model of a further name; `options` are those of every model.

        With `lazy` a model is opened when a request asks for it.
        """
        self.aliases = dict(aliases)
        self._options = dict(options)
        self._wanted = list(models)
        self._served: dict[str, Served] = {}  # by its first name, in the order asked for
        self._failed: dict[str, str] = {}
        self._lazy = lazy
        # By the names asked for: models that no request has asked for yet, and that are opened now.
        self._closed: dict[str, ModelSpec] = {}
        self._opening: dict[str, Future[Served]] = {}
        self._opener = ThreadPoolExecutor(1, "tessera-open")
        self._lock = threading.Lock()
        self._started = monotonic()
        self.on_open: Callable[[Served], None] = lambda _: None
        self.on_fail: Callable[[], None] = lambda: None

    def load(self) -> None:
        """Open the models that were asked for; `state` tells how far it is."""
        for name in self._wanted:
            try:
                if self._lazy:
                    self._add_closed(name)
                else:
                    self.add(name)
            except Exception as error:  # whatever it is: else the model is being opened for ever
                self._failed[name] = str(error) or type(error).__name__
                tell = logger.error if isinstance(error, SENTENCES) else logger.exception
                tell("the model %s cannot be opened: %s", name, error)
                self.on_fail()

    def _add_closed(self, name: str) -> None:
        """Find a model, which is opened later. Raises what `Tessera` does where it is not found."""
        spec = find_model(name, **self._options)[1].spec
        if any(each.id == spec.id for each in self.closed()):
            raise ConfigError(f"a model {spec.id!r} is served already")
        with self._lock:
            self._closed[name] = spec

    def add(self, name: str) -> Served:
        """Open a model, by id, folder or repository, and warm it up. Raises what `Tessera` does."""
        start = monotonic()
        row, artifact = find_model(name, **self._options)
        known = inspect.signature(row.cls).parameters  # a forecaster cuts no texts
        options = {key: value for key, value in self._options.items() if key in known}
        model = row.open(artifact, name, **options)
        more = [alias for alias, target in self.aliases.items() if target == name]
        names = list(dict.fromkeys([model.model(), name, *more]))
        served = Served(model, row.kind, names)
        warm_up(served)
        with self._lock:
            old = self._served.get(served.name)
            if old is not None:
                model.close()
                raise ConfigError(f"a model {served.name!r} is served already")
            self._served[served.name] = served
            self._closed.pop(name, None)
            self._failed.pop(name, None)
        self.on_open(served)
        logger.info(
            "model %s: %s, %s, %s, opened and warm in %.1f s",
            *(served.name, ", ".join(served.kinds), model.precision or "no graph", model.device),
            monotonic() - start,
        )
        return served

    def drop(self, name: str) -> Served:
        """Find a model no longer, and hand it back to be closed. Raises UnknownModel."""
        served, _ = self.find(name)
        with self._lock:
            self._served.pop(served.name, None)
            self._wanted = [each for each in self._wanted if each not in served.names]
        return served

    def all(self) -> list[Served]:
        """The models that are open."""
        with self._lock:
            return list(self._served.values())

    def closed(self) -> list[ModelSpec]:
        """The models that are opened when a request asks for them."""
        with self._lock:
            return list(self._closed.values())

    @property
    def failed(self) -> str | None:
        """What could not be opened, in words; None while nothing has failed."""
        return "; ".join(f"{name}: {why}" for name, why in self._failed.items()) or None

    def state(self) -> tuple[bool, str]:
        """Whether all models are open, and in words what is missing."""
        if self._failed:
            return False, self.failed or ""
        waiting = len(self._wanted) - len(self.all()) - len(self._closed)
        if waiting > 0:
            seconds = monotonic() - self._started
            left = f"{waiting} of {len(self._wanted)} models are being opened"
            return False, f"{left} ({seconds:.0f} s)"
        return True, "ready"

    def find(
        self,
        name: str | None,
        can: Callable[[Served], bool] = lambda _: True,
        what: str = "this request",
    ) -> tuple[Served, RoleName | None]:
        """The model of a name, and the role at the name's end; the first that `can` without a name.

        A model that is closed begins to open; without a name they open in turn until one can.
        Raises Opening then, UnknownModel, Loading while models are being opened, ConfigError for a
        model that cannot do what is asked for.
        """
        served = self.all()
        if not name:
            found = next((each for each in served if can(each)), None)
            if found is not None:
                return found, None
            if first := next(iter(self._closed), None):
                self._open_later(first)
            self._check_ready()
            raise UnknownModel(f"no model of this server serves {what}")
        for model, role in _matches(name, {n: each for each in served for n in each.names}):
            if not can(model):
                kinds = ", ".join(model.kinds)
                raise ConfigError(f"model {model.name!r} ({kinds}) does not serve {what}")
            return model, role
        for wanted, _ in _matches(name, self._closed_names()):
            self._open_later(wanted)
        self._check_ready()
        ids = [*(each.name for each in served), *(each.id for each in self.closed())]
        known = ", ".join(ids) or "none"
        raise UnknownModel(f"no model of that name is served; the models are: {known}")

    def _closed_names(self) -> dict[str, str]:
        """The names of closed models, each with the name by which it was asked for."""
        with self._lock:
            names = {spec.id: wanted for wanted, spec in self._closed.items()}
            more = {alias: name for alias, name in self.aliases.items() if name in self._closed}
            return {**names, **{wanted: wanted for wanted in self._closed}, **more}

    def _open_later(self, wanted: str) -> NoReturn:
        """Open a closed model in a thread. Raises Opening, which requests wait for."""
        opening = self._opening.get(wanted)
        if opening is None or opening.done():
            opening = self._opener.submit(self.add, wanted)
            self._opening[wanted] = opening
        raise Opening(opening)

    def _check_ready(self) -> None:
        ready, why = self.state()
        if not ready:
            raise Loading(f"the server is not ready: {why}")


def _matches(name: str, models: Mapping[str, T]) -> list[tuple[T, RoleName | None]]:
    """The model of a name among models by name, with the role at the name's end."""
    wanted = name.casefold()
    by_name = {each.casefold(): model for each, model in models.items()}
    if wanted in by_name:
        return [(by_name[wanted], None)]
    for suffix, role in SUFFIXES.items():
        if wanted.endswith(suffix) and (model := by_name.get(wanted.removesuffix(suffix))):
            return [(model, role)]
    return []


def warm_up(served: Served) -> None:
    """Run a tiny input alone and, of a text model, a batch of a typical length.

    Raises EncodingError.
    """
    for _ in range(2):  # a session that was used once is taken for one that is not needed
        for item in served.probe().items:
            item.lane.run([item.content], parallel=False)
    typical = [WARM_UP * 4] * 4
    if served.row.reads == "texts":
        items = served.texts(typical).items
    elif served.row.reads == "pairs":
        items = served.scores([("a question", text) for text in typical]).items
    else:
        return
    items[0].lane.run([item.content for item in items], parallel=True)
