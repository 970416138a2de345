"""One row per kind of model: its class, its input, its output; Tessera() and list_models().

Code that depends on the kind of a model asks the row of the kind. A new kind needs a table in
models/spec.py, rules in models/rules.py, a class, and a row here.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Unpack

from tessera_onnx.base import Model
from tessera_onnx.errors import ConfigError, shown
from tessera_onnx.models import catalogue, resolve
from tessera_onnx.models import installed as models_installed
from tessera_onnx.models.artifact import Artifact
from tessera_onnx.models.spec import KIND_TABLES, Kind, ModelSpec
from tessera_onnx.runtime import cpu
from tessera_onnx.text.base import TextOptions


@dataclass(frozen=True)
class KindRow:
    """What the rest of the package needs to know about a kind."""

    kind: Kind
    module: str  # of the class, imported when a model of the kind is opened
    class_name: str
    # What its class takes as documents; "pairs": texts, each together with the query.
    reads: Literal["texts", "pairs", "images", "series"]
    # What the class gives for an input: one vector, a vector per token or patch, a SparseVector,
    # a score or quantiles.
    result: Literal["vector", "vectors", "sparse", "score", "forecast"]
    score: str | None  # name of the number that compares two inputs; None: they are not compared
    width: Callable[[Any], int]  # of an open model: numbers per vector, or steps per forecast
    # From the kind's table: that width, and the most tokens or values read of an input (0 = no
    # limit is known).
    sizes: Callable[[Any], tuple[int, int]]
    # What `explain` tells of a score: which tokens match, or which terms weigh most.
    explains: Literal["matches", "terms"] | None = None

    @property
    def cls(self) -> type[Model]:
        """The public class, imported at the first use."""
        found: type[Model] = getattr(importlib.import_module(self.module), self.class_name)
        return found

    @property
    def table(self) -> str:
        """The field of ModelSpec that holds the recipe of the kind."""
        return KIND_TABLES[self.kind]

    def recipe(self, spec: ModelSpec) -> Any:
        """The table of the kind in the description of a model."""
        return getattr(spec, self.table)

    def open(self, artifact: Artifact, model_id: str | None = None, **options: Any) -> Model:
        """Open an artifact that `resolve` found for `model_id` and `options`."""
        return self.cls._from_artifact(artifact, model_id, **options)  # noqa: SLF001


ROWS = (
    KindRow(
        kind="dense",
        module="tessera_onnx.text.dense",
        class_name="TesseraDense",
        reads="texts",
        result="vector",
        score="cosine",
        width=lambda model: model.dimension(),
        sizes=lambda recipe: (recipe.dimension, recipe.document.max_length),
    ),
    KindRow(
        kind="multi-vector",
        module="tessera_onnx.text.multi_vector",
        class_name="TesseraMultiVector",
        reads="texts",
        result="vectors",
        score="MaxSim",
        width=lambda model: model.dimension(),
        sizes=lambda recipe: (recipe.dimension, recipe.document.max_length),
        explains="matches",
    ),
    KindRow(
        kind="sparse",
        module="tessera_onnx.text.sparse",
        class_name="TesseraSparse",
        reads="texts",
        result="sparse",
        score="dot product",
        width=lambda model: model.vocab_size(),
        sizes=lambda recipe: (recipe.vocab_size, recipe.document.max_length),
        explains="terms",
    ),
    KindRow(
        kind="reranker",
        module="tessera_onnx.text.reranker",
        class_name="TesseraReranker",
        reads="pairs",
        result="score",
        score="relevance",
        width=lambda _model: 1,
        sizes=lambda recipe: (1, recipe.max_length),
    ),
    KindRow(
        kind="vision",
        module="tessera_onnx.images.vision",
        class_name="TesseraVision",
        reads="images",
        result="vectors",
        score="MaxSim",
        width=lambda model: model.embedding_dim(),
        sizes=lambda recipe: (recipe.dimension, recipe.query.max_length if recipe.query else 0),
    ),
    KindRow(
        kind="time-series",
        module="tessera_onnx.series.timeseries",
        class_name="TesseraTimeSeries",
        reads="series",
        result="forecast",
        score=None,
        width=lambda model: model.prediction_length(),
        sizes=lambda recipe: (recipe.prediction_length, recipe.context_length),
    ),
)
KINDS: dict[Kind, KindRow] = {row.kind: row for row in ROWS}
HYBRID: tuple[Kind, ...] = ("dense", "sparse")  # kinds whose rankings a hybrid search fuses


class AnyOptions(TextOptions, total=False):
    """The options of all classes; each class takes some of them."""

    max_active_dims: int | None
    language: str | None
    image_only: bool
    max_pixels: int


def Tessera(  # noqa: N802 (the original's name)
    model_id: str | None = None, *, kind: Kind | None = None, **options: Unpack[AnyOptions]
) -> Model:
    """Open a model with the class of its kind.

    Args:
        model_id: id or alias; None takes the first installed model.
        kind: the kind that a model of several kinds is used as; None takes the first that its
            entry names. `encode_all` of each text class gives every kind from one run.
        **options: those of the class.

    Raises:
        ModelNotFound, LoadError, ConfigError: as the class does. TypeError for an option that the
            class does not have.
    """
    _check_kind(kind)
    artifact = resolve.resolve(
        model_id,
        kind=kind,
        path=options.get("path"),
        cache_dir=options.get("cache_dir"),
        offline=options.get("offline"),
        file=options.get("file"),
        pooling=options.get("pooling"),
        precision=options.get("precision"),
        processor=cpu.byte_products(),
    )
    row = KINDS[kind or artifact.spec.kinds[0]]
    return row.open(artifact, model_id or artifact.spec.id, **options)


def list_models(kind: Kind | None = None, *, installed: bool = False) -> list[str]:
    """Ids of the models that this version knows, installed ones first.

    `kind` keeps those of one kind, `installed=True` those that run without a network.
    """
    _check_kind(kind)
    return [spec.id for spec in known_models(kind, installed=installed)]


def known_models(
    kind: Kind | None = None,
    *,
    installed: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> dict[ModelSpec, Artifact | None]:
    """As `list_models`: the description of each model, and its artifact if it is installed."""
    found: dict[ModelSpec, Artifact | None] = {
        artifact.spec: artifact for artifact in models_installed.installed(cache_dir)
    }
    here = {spec.id for spec in found}
    found |= {a.spec: a for a in models_installed.all_shipped() if a.spec.id not in here}
    if not installed:
        here = {spec.id for spec in found}
        found |= {spec: None for spec in catalogue.catalogue() if spec.id not in here}
    return {spec: place for spec, place in found.items() if kind is None or kind in spec.kinds}


def _check_kind(kind: Kind | None) -> None:
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"kind must be one of {', '.join(KINDS)}, got {shown(kind)}")
