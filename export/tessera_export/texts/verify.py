"""Compare the ONNX graphs of a folder with the torch weights beside them.

The weights run in sentence-transformers, which reads the folder by its own rules; it does not know
the token vectors and sparse weights of bge-m3, which are computed as the gate of an export does.
The graphs run in the runtime, as users run them: so tokenizer, pooling and modules are compared as
well. Prompts of dense and sparse models are given to both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_export.errors import ExportError, install
from tessera_export.parity import LIMITS, Metric, Shape, is_met, measure, rounded
from tessera_export.texts import sample_groups, sample_pairs, samples
from tessera_onnx import LoadError, SparseVector, Tessera, TesseraReranker
from tessera_onnx.models import resolve
from tessera_onnx.models.spec import (
    Dense,
    Kind,
    ModelSpec,
    MultiVector,
    Parity,
    Pooling,
    Precision,
    Sparse,
)

Array = NDArray[Any]
BATCH = 8
SHAPES: dict[Kind, Shape] = {"dense": "pooled", "multi-vector": "tokens", "sparse": "sparse"}
ROLES = ("query", "document")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*/*.safetensors", "*/pytorch_model*.bin")
# sentence-transformers' names of poolings that the runtime calls otherwise.
MODES = {"last": "lasttoken"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far the vectors of one graph, kind and role are from those of torch.

    `figures` are those that have a limit. `fault` says what cannot be compared, such as another
    number of token vectors; "" = nothing. Scores of pairs have no cosine, NaN.
    """

    file: str
    kind: Kind
    role: str
    max_abs: float
    min_cosine: float
    figures: tuple[Parity, ...]
    fault: str = ""

    def is_near(self) -> bool:
        """Whether every figure keeps its limit."""
        return not self.fault and all(is_met(f.metric, f.value, f.limit) for f in self.figures)

    def line(self) -> str:
        """The comparison as a line: the distances, the figures with their limits, the verdict."""
        place = f"{self.file}  {self.kind}  {self.role}"
        if self.fault:
            return f"{place}  {self.fault}: DIFFERS"
        figures = ", ".join(f"{f.metric} {f.value:g} (limit {f.limit:g})" for f in self.figures)
        verdict = "within the limits" if self.is_near() else "DIFFERS"
        cosine = "" if np.isnan(self.min_cosine) else f"  min_cosine {self.min_cosine:.6f}"
        distances = f"max_abs {self.max_abs:.2g}{cosine}"
        return f"{place}  {distances}  {figures}: {verdict}"


def verify(
    folder: Path,
    kinds: Sequence[Kind] = (),
    *,
    file: str | None = None,
    pooling: Pooling | None = None,
) -> list[Comparison]:
    """Compare every graph of `folder`, or the graph `file`, for the kinds that it serves.

    `pooling` is that of a dense model whose files do not say it. If the graph pools itself, it is
    what the graph should do.

    Raises ExportError where sentence-transformers is missing, cannot read the folder, or the folder
    holds no weights; LoadError where the runtime cannot open it.
    """
    check(folder)
    options: dict[str, Any] = {"file": file, "device": "cpu", "on_long": "truncate"}
    if not _pools(folder, file):
        options["pooling"] = pooling
    with Tessera(path=folder, **options) as model:
        spec = model.spec
    texts = [*samples.texts(), *(text for _, text in sample_groups.judged())]
    found = []
    if spec.reranker is not None:
        return _scores(folder, spec, options)
    for kind in kinds or spec.kinds:
        truth = _reference(folder, kind, spec, texts, pooling)
        for precision in spec.precisions():
            with Tessera(path=folder, kind=kind, precision=precision, **options) as model:
                found += [_compared(model, kind, role, truth[role], texts) for role in ROLES]
    return found


def _scores(folder: Path, spec: ModelSpec, options: dict[str, Any]) -> list[Comparison]:
    """Compare the raw scores of a reranker's graphs with those of CrossEncoder."""
    import torch
    from sentence_transformers import CrossEncoder

    pairs = sample_pairs.judged()
    try:
        upstream = CrossEncoder(str(folder), device="cpu", local_files_only=True)
        found = upstream.predict(pairs, batch_size=BATCH, activation_fn=torch.nn.Identity())
    except Exception as error:  # upstream raises whatever the folder made it meet
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"sentence-transformers cannot run {folder}: {first:.300}") from error
    columns = np.asarray(found, np.float32).reshape(len(pairs), -1)
    truth = columns[:, max(spec.reranker.column, 0) if spec.reranker else 0][:, None]
    rows = []
    for precision in spec.precisions():
        with TesseraReranker(path=folder, precision=precision, **options) as model:
            graph: str = getattr(model.spec.main_graph(), precision)
            compared = [(model.score_pairs(pairs, activation="raw")[:, None], truth)]
        limits = LIMITS[precision, "scores"]
        figures = [
            Parity(precision, "scores", metric, rounded(metric, measure(metric, compared)), limit)
            for metric, limit in limits.items()
        ]
        worst = measure("max_abs", compared)
        rows.append(Comparison(graph, "reranker", "pair", worst, np.nan, tuple(figures)))
    return rows


def _pools(folder: Path, file: str | None) -> bool:
    """Whether the folder has no modules.json, and a graph that needs no pooling."""
    if (folder / "modules.json").is_file():
        return False
    try:
        resolve.resolve(None, path=folder, file=file)
    except LoadError:  # it is raised again where the folder is opened, if it is another one
        return False
    return True


def check(folder: Path) -> None:
    """Raises ExportError before anything is imported that takes seconds."""
    if not any(True for pattern in WEIGHTS for _ in folder.glob(pattern)):
        raise ExportError(
            f"{folder} holds no weights for torch (*.safetensors or pytorch_model.bin): there is "
            "nothing to compare its graph with"
        )
    try:
        version = metadata.version("sentence-transformers")
    except metadata.PackageNotFoundError:
        raise ExportError(f"verify needs sentence-transformers: {install('verify')}") from None
    if int(version.split(".")[0]) < 6:
        raise ExportError(
            f"verify needs sentence-transformers 6, found {version}: {install('verify')}"
        )


def _reference(
    folder: Path, kind: Kind, spec: ModelSpec, texts: Sequence[str], pooling: Pooling | None
) -> dict[str, list[Array]]:
    """What sentence-transformers makes of the texts in each role: an array a text."""
    recipe = spec.text_recipes()[kind]
    if _has_own_rules(folder, recipe):
        return _by_rules(folder, kind, spec, texts, pooling)
    try:
        model = _upstream(folder, kind, spec)
        results = {}
        for role in ROLES:
            options: dict[str, Any] = {"batch_size": BATCH, "show_progress_bar": False}
            if kind != "multi-vector":  # whose prompts are markers
                options["prompt"] = getattr(recipe, role).prompt
            if kind == "sparse":
                options["convert_to_sparse_tensor"] = False
            rows = getattr(model, f"encode_{role}")(list(texts), **options)
            results[role] = [np.asarray(row, np.float32) for row in rows]
    except Exception as error:  # upstream raises whatever the folder made it meet
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"sentence-transformers cannot run {folder}: {first:.300}") from error
    return results


def _has_own_rules(folder: Path, recipe: Dense | MultiVector | Sparse) -> bool:
    """Whether the reference is that of an export: heads of bge-m3, or no modules.json."""
    if isinstance(recipe, MultiVector):
        return recipe.drop_first
    if isinstance(recipe, Sparse):
        return recipe.head == "tokens"
    return recipe.pooling == "graph" and not (folder / "modules.json").is_file()


def _by_rules(
    folder: Path, kind: Kind, spec: ModelSpec, texts: Sequence[str], pooling: Pooling | None
) -> dict[str, list[Array]]:
    """As `_reference`, by the rules of an export."""
    from tessera_export.texts import folder as folders
    from tessera_export.texts import gate
    from tessera_export.texts.torch_modules import load_model

    recipe, around = spec.text_recipes()[kind], spec.text
    if kind == "dense" and len(spec.kinds) > 1:
        pooling = "cls"  # bge-m3
    if kind == "dense" and pooling not in {"cls", "mean", "last"}:
        raise ExportError(
            f"{folder} does not say which pooling its graph does: give it with --pooling, one of "
            "cls, mean and last, as the model's authors say"
        )
    facts = folders.read(folder, [kind], folders.Overrides(pooling=pooling))
    model = load_model(facts, None)
    if around is None:
        raise ExportError(f"{folder} has no tokenizer")
    results: dict[str, list[Array]] = {name: [] for name in ROLES}
    for name, rows in results.items():
        role = getattr(recipe, name)
        room = role.max_length - len(around.prefix_ids) - len(around.suffix_ids)
        for text in texts:
            body = facts.tokenizer.ids(role.prompt + text)[:room]
            ids = np.array([*around.prefix_ids, *body, *around.suffix_ids], np.int64)
            item = samples.Item(ids, np.ones_like(ids), expanded=False)
            (found,) = gate.reference(model, facts, None, item).values()
            if isinstance(recipe, Sparse):
                weights = np.zeros(recipe.vocab_size, np.float32)
                np.maximum.at(weights, ids, found.astype(np.float32))
                weights[list(recipe.zero_ids)] = 0
                found = weights
            rows.append(found.astype(np.float32))
    return results


def _upstream(folder: Path, kind: Kind, spec: ModelSpec) -> Any:
    """The folder's model in sentence-transformers."""
    import sentence_transformers
    from sentence_transformers import SentenceTransformer

    options: dict[str, Any] = {"device": "cpu", "local_files_only": True}
    if kind == "multi-vector":
        return sentence_transformers.MultiVectorEncoder(str(folder), **options)
    if kind == "sparse":
        return sentence_transformers.SparseEncoder(str(folder), **options)
    recipe = spec.dense
    if (folder / "modules.json").is_file() or recipe is None:
        return SentenceTransformer(str(folder), **options)
    return SentenceTransformer(modules=_plain(folder, recipe), device="cpu")


def _plain(folder: Path, recipe: Dense) -> list[Any]:
    """The modules of an encoder without modules.json, which upstream would pool by the mean."""
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    transformer = Transformer(str(folder), max_seq_length=recipe.document.max_length)
    mode = MODES.get(recipe.pooling, recipe.pooling)
    return [transformer, Pooling(recipe.dimension, mode), Normalize()]


def _compared(
    model: Any,
    kind: Kind,
    role: str,
    truth: Sequence[Array],
    texts: Sequence[str],
) -> Comparison:
    precision: Precision = model.precision
    graph: str = getattr(model.spec.graph, precision)
    made = list(getattr(model, f"encode_{role}")(list(texts)))
    if kind == "sparse":
        made = [_row(vector, len(truth[0])) for vector in made]
    pairs = [
        (np.atleast_2d(ours), np.atleast_2d(theirs))
        for ours, theirs in zip(made, truth, strict=True)
    ]
    for number, (ours, theirs) in enumerate(pairs):
        if ours.shape != theirs.shape:
            fault = f"text {number} has the shape {ours.shape} here, {theirs.shape} in torch"
            return Comparison(graph, kind, role, np.inf, -1.0, (), fault)
    limits = LIMITS[precision, SHAPES[kind]]
    figures = []
    for metric, limit in limits.items():
        # Vectors of other lengths than 1 are compared by their scale.
        used: Metric = "max_relative" if metric == "max_abs" else metric
        value = rounded(used, measure(used, pairs))
        figures.append(Parity(precision, kind, used, value, limit))
    worst, least = measure("max_abs", pairs), measure("min_cosine", pairs)
    return Comparison(graph, kind, role, worst, least, tuple(figures))


def _row(vector: SparseVector, size: int) -> Array:
    row = np.zeros(size, np.float32)
    row[vector.indices] = vector.values
    return row
