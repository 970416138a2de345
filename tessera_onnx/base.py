"""What the public classes share: opening a model, naming it, closing it, pickling it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from tessera_onnx.errors import LoadError
from tessera_onnx.models import rules
from tessera_onnx.models.artifact import Artifact
from tessera_onnx.models.resolve import resolve
from tessera_onnx.models.spec import KIND_TABLES, Graph, Kind, ModelSpec, Precision, SubGraph
from tessera_onnx.runtime import devices, session


class Model:
    """An open model of any kind. Shared by threads, usable as a context manager.

    Pickled as its arguments, so that it is opened again where it is unpickled.
    """

    _kind: ClassVar[Kind]
    _recipe: Any  # the table of the kind
    _session: session.Session  # set by the class of the kind

    def __init__(self, model_id: str | None = None, **options: Any) -> None:
        """Find the model; `options` are all other arguments of the class of the kind."""
        artifact = resolve(
            model_id,
            kind=self._kind,
            path=options["path"],
            cache_dir=options["cache_dir"],
            offline=options["offline"],
        )
        # Absolute: a graph may be read again, and what is unpickled run, in another folder.
        try:
            artifact = dataclasses.replace(artifact, folder=artifact.folder.absolute())
            places = {
                name: None if options[name] is None else Path(options[name]).absolute()
                for name in ("path", "cache_dir")
            }
        except OSError as error:
            raise LoadError(f"the working directory is gone: {error.strerror}") from error
        self._options = {"model_id": model_id, **options, **places}
        self._artifact = artifact
        self._spec = artifact.spec
        self._recipe = getattr(self._spec, KIND_TABLES[self._kind])

    def _devices(self) -> list[str]:
        """Devices to try in order."""
        return devices.choose_device(
            self._options["device"],
            static=self._spec.graph.static,
            int8_on_cuda=_precision(self._spec, "cuda", self._options["precision"]) == "int8",
        )

    def _open(
        self,
        outputs: Mapping[str, tuple[int | None, ...]],
        probe: Mapping[str, session.Array],
        *,
        table: Graph | SubGraph | None = None,
        device: str | None = None,
        workers: int | None = None,
    ) -> session.Session:
        """The session of a graph (the main one), in the precision asked for."""
        precision = self._options["precision"]
        table = table or self._spec.graph
        return session.open_session(
            {name: _graph(self._artifact, table, name, precision) for name in devices.PROVIDERS},
            device=device or self._options["device"],
            static=self._spec.graph.static,
            int8_on_cuda=_precision(self._spec, "cuda", precision) == "int8",
            threads=self._options["threads"],
            inputs=table.inputs,
            outputs=outputs,
            probe=probe,
            read_beside=self._artifact.read_beside,
            workers=workers,
        )

    @property
    def spec(self) -> ModelSpec:
        """Every fact known of the model."""
        return self._spec

    @property
    def device(self) -> str:
        """The device that the session really runs on, such as "cpu" or "cuda:0"."""
        return self._session.device

    @property
    def precision(self) -> Precision:
        """The precision of the graph in use."""
        return _precision(self._spec, self.device.partition(":")[0], self._options["precision"])

    def model(self) -> str:
        """The model's id."""
        return self._spec.id

    def close(self) -> None:
        """Free the graph; running calls finish, later ones raise EncodingError. Idempotent."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._options)


def _rebuild(cls: type[Model], options: dict[str, Any]) -> Model:
    return cls(**options)


def _precision(spec: ModelSpec, device: str, precision: Precision | None) -> Precision:
    if precision is None:
        best: Precision = getattr(spec.graph, f"best_{device}")
        return best
    rules.check_precision(spec, precision)
    return precision


def _graph(
    artifact: Artifact, table: Graph | SubGraph, device: str, precision: Precision | None
) -> tuple[str, Callable[[], bytes]]:
    name = getattr(table, _precision(artifact.spec, device, precision))
    return name, functools.partial(artifact.read, name)
