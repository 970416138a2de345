"""Model, the base of the public classes: their shared options, open, close and pickle."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict

from tessera_onnx.errors import DeviceError, LoadError
from tessera_onnx.models import rules
from tessera_onnx.models.artifact import FOLDER, Artifact
from tessera_onnx.models.resolve import resolve
from tessera_onnx.models.spec import KIND_TABLES, Graph, Kind, ModelSpec, Pooling, Precision
from tessera_onnx.models.spec_media import SubGraph
from tessera_onnx.runtime import cpu, devices, session


class Options(TypedDict, total=False):
    """The keyword arguments of `Model`: a subclass takes them as `**options: Unpack[Options]`."""

    path: str | os.PathLike[str] | None
    device: str
    precision: Precision | None
    threads: int | None
    cache_dir: str | os.PathLike[str] | None
    offline: bool | None
    file: str | None


class Model:
    """An open model of any kind. Several threads may use it at once.

    Leaving a `with` block closes it. Its pickle holds the arguments of the constructor, so
    unpickling opens the model again.
    """

    _kind: ClassVar[Kind]
    _recipe: Any  # the table of the kind
    _found: Artifact | None = None  # set by `_from_artifact`
    _pooling: Pooling | None = None  # set by the classes that read texts
    _session: session.Session | None = None  # set by the class of a kind that runs a graph
    __signature__: ClassVar[inspect.Signature | None]  # None: that of __init__

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let `help` and notebooks show the inherited options by name in place of `**options`."""
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            parent = inspect.signature(cls.__mro__[1])
            cls.__signature__ = _with_options(inspect.signature(cls.__init__), parent)

    def __init__(
        self,
        model_id: str | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        device: str = "auto",
        precision: Precision | None = None,
        threads: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        offline: bool | None = None,
        file: str | None = None,
    ) -> None:
        """Open a model. Whatever is wrong with it is an error here, not at the first input.

        Args:
            model_id: id or alias, a folder, or a repository "owner/name" of the hub; None takes the
                first installed model of this kind.
            path: a model folder (an artifact, or one of sentence-transformers and its like with an
                ONNX file), or a catalogue (.toml) in which to look the id up.
            device: "auto", "cpu", "cuda", "cuda:N" or "coreml". Only "auto" may fall back.
            precision: "fp32", "fp16", "int8" or "int4", of all graphs of the model; None takes the
                model's best for the device.
            threads: CPU threads; None takes TESSERA_THREADS, else the affinity and cgroup quota.
            cache_dir: folder of local models; None takes TESSERA_CACHE, else the user's cache.
            offline: True fetches nothing; None lets HF_HUB_OFFLINE decide. A model that is on
                this machine is opened without a network in any case.
            file: the graph to run of a folder or repository that no catalogue describes, such as
                "onnx/model_O2.onnx"; None takes the one in fp32, or that of `precision`.

        Raises:
            ModelNotFound, LoadError, IntegrityError, DeviceError: the model cannot be opened.
            FileError: the model cannot be written to the hub cache.
            ConfigError: an argument cannot work with this model.
        """
        artifact = self._found or resolve(
            model_id,
            kind=self._kind,
            path=path,
            cache_dir=cache_dir,
            offline=offline,
            file=file,
            pooling=self._pooling,
            precision=precision,
            processor=cpu.byte_products(),
        )
        if path is None and artifact.origin in {FOLDER, "path"}:  # the id was the name of a folder
            path, model_id = artifact.folder, None
        # Absolute, because the working directory may be another one when a graph is read again or
        # when the object is unpickled.
        try:
            self._artifact = dataclasses.replace(artifact, folder=artifact.folder.absolute())
            path = None if path is None else Path(path).absolute()
            cache_dir = None if cache_dir is None else Path(cache_dir).absolute()
        except OSError as error:
            raise LoadError(f"the working directory is gone: {error.strerror}") from error
        # The content of a pickle; subclasses add their own options.
        self._options: dict[str, Any] = {
            "model_id": model_id,
            "path": path,
            "device": device,
            "precision": precision,
            "threads": threads,
            "cache_dir": cache_dir,
            "offline": offline,
            "file": file,
        }
        self._spec = artifact.spec
        self._recipe = getattr(self._spec, KIND_TABLES[self._kind])
        if precision is not None:
            rules.check_precision(self._spec, precision)
        if self._spec.graph is None and device not in {"auto", "cpu"}:
            raise DeviceError(f"model {self._spec.id!r} has no graph: leave device out")

    @classmethod
    def _from_artifact(cls, artifact: Artifact, model_id: str | None, **options: Any) -> Self:
        """Open an artifact that `resolve` found for `model_id` and `options`.

        The pickle is the same as that of `cls(model_id, **options)`.
        """
        model = cls.__new__(cls)
        model._found = artifact  # noqa: SLF001 (of its own class)
        model.__init__(model_id, **options)  # type: ignore[misc]
        return model

    def _devices(self) -> list[str]:
        """Devices to try in order."""
        return devices.choose_device(
            self._options["device"],
            static=self._spec.main_graph().static,
            int8_on_cuda=self._precision("cuda") == "int8",
        )

    def _open(
        self,
        wanted: session.Wanted,
        *,
        table: Graph | SubGraph | None = None,
        device: str | None = None,
        workers: int | None = None,
    ) -> session.Session:
        """Open the session of a graph, the main one or `table`, in the precision asked for."""
        table = table or self._spec.main_graph()
        return session.open_session(
            {name: self._graph_file(table, name) for name in devices.PROVIDERS},
            device=device or self._options["device"],
            static=self._spec.main_graph().static,
            int8_on_cuda=self._precision("cuda") == "int8",
            threads=self._options["threads"],
            wanted=wanted,
            read_beside=self._artifact.read_beside,
            workers=workers,
        )

    def _precision(self, device: str) -> Precision:
        """The precision to run on a device: the one asked for, else the model's best."""
        precision: Precision | None = self._options["precision"]
        best: Precision = getattr(self._spec.main_graph(), f"best_{device}")
        return best if precision is None else precision

    def _graph_file(self, table: Graph | SubGraph, device: str) -> tuple[str, Callable[[], bytes]]:
        """Name of the file of a graph for a device, and a function that reads it."""
        name = getattr(table, self._precision(device))
        return name, functools.partial(self._artifact.read, name)

    @property
    def spec(self) -> ModelSpec:
        """Every fact known of the model."""
        return self._spec

    @property
    def device(self) -> str:
        """The device that the model really runs on, such as "cpu" or "cuda:0"."""
        return self._session.device if self._session else "cpu"

    @property
    def precision(self) -> Precision | None:
        """The precision of the graph in use; None for a model without a graph."""
        return self._precision(self.device.partition(":")[0]) if self._spec.graph else None

    def model(self) -> str:
        """The model's id."""
        return self._spec.id

    def close(self) -> None:
        """Free the graph; running calls finish, later ones raise EncodingError. Idempotent."""
        if self._session:
            self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._options)


def _rebuild(cls: type[Model], options: dict[str, Any]) -> Model:
    return cls(**options)


def _with_options(own: inspect.Signature, parent: inspect.Signature) -> inspect.Signature | None:
    """The signature of a constructor with the parameters of its parent in place of `**options`.

    None for a constructor that is not of this form, such as one of a user's subclass.
    """
    _, *parameters = own.parameters.values()
    if not parameters or not str(parameters[-1].annotation).startswith("Unpack["):
        return None
    parameters.pop()
    names = {parameter.name for parameter in parameters}
    parameters += [p for p in parent.parameters.values() if p.name not in names]
    return inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))
