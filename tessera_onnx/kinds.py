"""One row per kind of model: its class, its input, its output; Tessera() and list_models().

Code that depends on the kind of a model asks the row of the kind. A new kind needs a table in
models/spec.py, rules in models/rules.py, a class, and a row here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Unpack

from tessera_onnx.base import Model
from tessera_onnx.errors import ConfigError, shown
from tessera_onnx.models import catalogue, resolve
from tessera_onnx.models import installed as models_installed
from tessera_onnx.models.artifact import FOLDER, Artifact
from tessera_onnx.models.spec import KIND_TABLES, UNPINNED, Kind, ModelSpec, Precision
from tessera_onnx.runtime import cpu
from tessera_onnx.text.options import Settings
from tessera_onnx.text.tokenizer import OnLong


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
# Kinds that compare a query with each document again, and rank the first ones of a search anew: the
# first is preferred, since it reads pairs.
RERANKING: tuple[Kind, ...] = ("reranker", "multi-vector")


class AnyOptions(Settings, total=False):
    """The options of all classes; each class takes some of them."""

    on_long: OnLong | Literal["window"]
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
    row, artifact = find_model(model_id, kind=kind, **options)
    return row.open(artifact, model_id or artifact.spec.id, **options)


def find_model(
    model_id: str | None = None, *, kind: Kind | None = None, **options: Unpack[AnyOptions]
) -> tuple[KindRow, Artifact]:
    """The row and the artifact of a model, which is not opened; errors are those of `Tessera`."""
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
    return KINDS[kind or artifact.spec.kinds[0]], artifact


def result_of(model: Model) -> str:
    """What an open model gives for an input, as `KindRow.result`; an image may have one vector."""
    row = KINDS[model._kind]  # noqa: SLF001
    is_one = getattr(row.recipe(model.spec), "vectors", None) == "one"
    return "vector" if is_one else row.result


def model_facts(model: Model) -> dict[str, Any]:
    """What tells one model from another: id, precision, and a sha256 of recipes and files.

    The sha256 is the same for each kind that the model is opened as, and None for a model at a
    server. "similarity" is that of dense
    vectors; "idf" says that a search has to weigh terms by their inverse document frequency.
    """
    spec = model.spec
    artifact: Artifact | None = getattr(model, "_artifact", None)
    similarity = getattr(spec.dense, "similarity", None) or "cosine"
    return {
        "model": model.model(),
        "kind": model._kind,  # noqa: SLF001
        "precision": model.precision,
        "model sha256": artifact and _sha256(spec, artifact, model.precision),
        "similarity": similarity,
        "idf": spec.hashes_words(),
    }


def _stated(value: Any) -> Any:
    """A table without the facts that have their default, so that a digest of it lasts.

    A later version may add an optional fact, and what was made before is still of the same model.
    """
    if isinstance(value, tuple):
        return [_stated(each) for each in value]
    if not dataclasses.is_dataclass(value):
        return value
    facts = {each.name: (getattr(value, each.name), each) for each in dataclasses.fields(value)}
    return {name: _stated(fact) for name, (fact, each) in facts.items() if fact != each.default}


def _sha256(spec: ModelSpec, artifact: Artifact, precision: Precision | None) -> str:
    found = {row.kind: row.recipe(spec) for row in ROWS if row.recipe(spec) is not None}
    facts = {kind: _stated(recipe) for kind, recipe in found.items()}
    digest = hashlib.sha256(repr((facts, _stated(spec.text))).encode())
    for name in sorted(artifact.files_for(precision)):
        listed = artifact.spec.file(name).sha256
        if artifact.origin == FOLDER or listed == UNPINNED:
            with artifact.locate(name).open("rb") as stream:
                listed = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{name} {listed}\n".encode())
    return digest.hexdigest()


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
