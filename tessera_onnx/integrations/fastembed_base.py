"""What the classes of fastembed share: opening a model, and what is known of others."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tessera_onnx.errors import ConfigError, shown
from tessera_onnx.kinds import KINDS, known_models
from tessera_onnx.models.spec import Kind
from tessera_onnx.runtime.devices import PROVIDERS

Provider = str | tuple[str, Mapping[str, Any]]


class Base:
    """A model of one kind, opened by the arguments of fastembed."""

    _kind: ClassVar[Kind]

    def __init__(  # noqa: PLR0917
        self,
        model_name: str | None = None,
        cache_dir: str | None = None,
        threads: int | None = None,
        providers: Sequence[Provider] | None = None,
        cuda: bool | str = "auto",  # noqa: FBT001 (fastembed's signature)
        device_ids: Sequence[int] | None = None,
        lazy_load: bool = False,  # noqa: FBT001, FBT002
        *,
        local_files_only: bool = False,
        specific_model_path: str | None = None,
        **options: Any,
    ) -> None:
        """Open a model. Errors are those of this package's classes.

        Args:
            model_name: a name that fastembed lists, or what this package's classes take; None
                takes the first installed model of the kind.
            cache_dir: the `cache_dir` of this package's classes, which is no cache of fastembed.
            threads: CPU threads.
            providers: providers of ONNX Runtime, of which the first is taken.
            cuda: True, False, "cuda", "cpu" or "auto".
            device_ids: the number of one CUDA device.
            lazy_load: open the model at its first use.
            local_files_only: fetch nothing.
            specific_model_path: the folder of the model, in place of `model_name`.
            **options: those of this package's class, such as precision, pooling or max_length.
        """
        self.model_name, self.cache_dir, self.threads = model_name, cache_dir, threads
        self._options = {
            "model_id": model_name if specific_model_path is None else None,
            "path": specific_model_path,
            "cache_dir": cache_dir,
            "threads": threads,
            "device": _device(providers, cuda, device_ids),
            "offline": local_files_only or None,
        } | options
        if not lazy_load:
            self.model  # noqa: B018 (opened now)

    @functools.cached_property
    def model(self) -> Any:
        """The open model of this package."""
        return KINDS[self._kind].cls(**self._options)

    @classmethod
    def list_supported_models(cls) -> list[dict[str, Any]]:
        """The models of the catalogue by their names on the hub. Other folders open too."""
        row = KINDS[cls._kind]
        return [
            {
                "model": next((name for name in spec.aliases if "/" in name), spec.id),
                "dim": row.sizes(row.recipe(spec))[0],
                "license": spec.licence,
                "sources": {"hf": spec.hub.repository if spec.hub else spec.source},
            }
            for spec in known_models(cls._kind)
        ]

    @classmethod
    def get_embedding_size(cls, model_name: str) -> int:
        """The dimension of a model of the catalogue. Raises ConfigError for another name."""
        row = KINDS[cls._kind]
        for spec in known_models(cls._kind):
            if model_name.lower() in {name.lower() for name in (spec.id, *spec.aliases)}:
                return row.sizes(row.recipe(spec))[0]
        raise ConfigError(f"no {cls._kind} model of the catalogue is named {shown(model_name)}")

    @property
    def embedding_size(self) -> int:
        """Numbers in a vector of this model."""
        return KINDS[self._kind].width(self.model)


def _device(
    providers: Sequence[Provider] | None,
    cuda: bool | str,  # noqa: FBT001
    device_ids: Sequence[int] | None,
) -> str:
    """The device that fastembed's three arguments name; "auto" where they say nothing."""
    if device_ids is not None and len(device_ids) != 1:
        raise ConfigError("an object runs on one device: give one number in device_ids")
    number = f":{device_ids[0]}" if device_ids else ""
    if providers:
        name, settings = (providers[0], {}) if isinstance(providers[0], str) else providers[0]
        known = {provider: device for device, provider in PROVIDERS.items()}
        if name not in known:
            raise ConfigError(f"providers must be of {', '.join(known)}, got {shown(name)}")
        if known[name] != "cuda":
            return known[name]
        return f"cuda:{settings['device_id']}" if "device_id" in settings else f"cuda{number}"
    chosen = getattr(cuda, "value", cuda)  # fastembed's own Device is an enumeration
    if isinstance(chosen, bool):
        chosen = "cuda" if chosen else "cpu"
    return f"cuda{number}" if number or chosen == "cuda" else str(chosen)
