"""The class of each kind, and what finds a model's own."""

from __future__ import annotations

from typing import Any, get_args

from tessera_onnx.base import Model
from tessera_onnx.errors import ConfigError, shown
from tessera_onnx.images.vision import TesseraVision
from tessera_onnx.models import catalogue, resolve
from tessera_onnx.models import installed as models_installed
from tessera_onnx.models.spec import Kind
from tessera_onnx.series.timeseries import TesseraTimeSeries
from tessera_onnx.text.dense import TesseraDense
from tessera_onnx.text.multi_vector import TesseraMultiVector
from tessera_onnx.text.sparse import TesseraSparse

CLASSES: dict[Kind, type[Model]] = {
    "dense": TesseraDense,
    "multi-vector": TesseraMultiVector,
    "sparse": TesseraSparse,
    "vision": TesseraVision,
    "time-series": TesseraTimeSeries,
}


def Tessera(model_id: str | None = None, *, kind: Kind | None = None, **options: Any) -> Model:  # noqa: N802 (the original's name)
    """The object of the right class for a model; `options` are those of the class.

    A model of several kinds gives the first that its entry names unless `kind` says otherwise;
    `encode_all` of any of them gives every kind from one run.
    Raises ModelNotFound, LoadError, ConfigError.
    """
    if kind is not None and kind not in tuple(CLASSES):
        raise ConfigError(f"kind must be one of {', '.join(CLASSES)}, got {shown(kind)}")
    artifact = resolve.resolve(
        model_id,
        kind=kind,
        **{name: options.get(name) for name in ("path", "cache_dir", "offline")},
    )
    return CLASSES[kind or artifact.spec.kinds[0]](model_id or artifact.spec.id, **options)


def list_models(kind: Kind | None = None, *, installed: bool = False) -> list[str]:
    """Ids of the models that this version knows, installed ones first.

    `kind` keeps those of one kind, `installed=True` those that run without a network.
    """
    if kind is not None and kind not in get_args(Kind):
        raise ConfigError(f"kind must be one of {', '.join(get_args(Kind))}, got {shown(kind)}")
    specs = [artifact.spec for artifact in models_installed.installed()]
    if not installed:
        here = {spec.id for spec in specs}
        specs += [spec for spec in catalogue.catalogue() if spec.id not in here]
    return [spec.id for spec in specs if kind is None or kind in spec.kinds]
