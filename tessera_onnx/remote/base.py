"""What the remote classes share: their description from the server, their link, their pickle."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

from tessera_onnx.errors import ConfigError, LoadError
from tessera_onnx.models import parse
from tessera_onnx.models.spec import KIND_TABLES, Kind, ModelSpec, Precision
from tessera_onnx.remote.link import Link

if TYPE_CHECKING:
    from tessera_onnx.base import Model

    _Base = Model
else:
    _Base = object


class RemoteModel(_Base):
    """A model at a server, in the place of a local one of the class that follows in the MRO."""

    _link: Link
    _described: dict[str, Any]
    _server_name: str

    def __init__(self, link: Link, described: dict[str, Any], **options: Any) -> None:
        """Read the description that `Link.describe` gave. Raises LoadError, ConfigError.

        `options` are those of a local model that do not concern its files, device and threads.
        """
        self._link, self._described = link, described
        self._options = options
        self._server_name = described["id"]
        self._session = None
        self._spec = parse.build(ModelSpec, described["spec"], "the server's description")
        self._recipe = getattr(self._spec, KIND_TABLES[self._kind])
        if self._recipe is None:
            kinds = ", ".join(self._spec.kinds)
            raise LoadError(f"model {self._spec.id!r} gives no {self._kind} vectors: {kinds}")
        self._start(**options)

    @abc.abstractmethod
    def _start(self, **options: Any) -> None:
        """Set what the constructor of the local class sets. Raises TypeError, ConfigError."""

    @property
    def kind(self) -> Kind:
        """The kind that the model is used as."""
        return self._kind

    @property
    def device(self) -> str:
        """The device of the server that runs the model."""
        found: str = self._described["device"]
        return found

    @property
    def precision(self) -> Precision | None:
        """The precision of the server's graph; None for a model without a graph."""
        found: Precision | None = self._described["precision"]
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return reopened, (self._link.arguments, self._server_name, self._kind, self._options)


def reopened(
    link: tuple[str, str | None, float], model: str, kind: Kind, options: dict[str, Any]
) -> Any:
    """The model of a pickle, on a link of its own."""
    return opened(Link(*link), model, kind, options)


def opened(link: Link, model: str | None, kind: Kind | None, options: dict[str, Any]) -> Any:
    """A model at a server, with the class of its kind.

    Raises LoadError where the server cannot be reached, ModelNotFound, ConfigError for a kind that
    the model does not have, TypeError for an option that the class does not take.
    """
    from tessera_onnx.remote.models import CLASSES

    described = link.describe(model, kind)
    kinds = described["kinds"]
    chosen = kind or kinds[0]
    if chosen not in kinds or chosen not in CLASSES:
        raise ConfigError(f"kind must be one of {', '.join(kinds)} for model {described['id']!r}")
    return CLASSES[chosen](link, described, **options)
