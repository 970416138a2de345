"""Compare the ONNX graphs of a folder with the torch weights beside them.

The weights run in sentence-transformers, which reads the folder by its own rules. The graphs run in
the runtime, as users run them: so tokenizer, prompts, pooling and modules are compared as well.
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
from tessera_export.texts import sample_groups, samples
from tessera_onnx import SparseVector, Tessera
from tessera_onnx.models.spec import Dense, Kind, ModelSpec, Parity, Pooling, Precision

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
    number of token vectors; "" = nothing.
    """

    file: str
    kind: Kind
    role: str
    max_abs: float
    min_cosine: float
    figures: tuple[Parity, ...]
    fault: str = ""

    def is_equal(self) -> bool:
        """Whether every figure keeps its limit."""
        return not self.fault and all(is_met(f.metric, f.value, f.limit) for f in self.figures)

    def line(self) -> str:
        """The comparison as a line: the distances, the figures with their limits, the verdict."""
        place = f"{self.file}  {self.kind}  {self.role}"
        if self.fault:
            return f"{place}  {self.fault}: DIFFERS"
        figures = ", ".join(f"{f.metric} {f.value:g} (limit {f.limit:g})" for f in self.figures)
        verdict = "equal" if self.is_equal() else "DIFFERS"
        distances = f"max_abs {self.max_abs:.2g}  min_cosine {self.min_cosine:.6f}"
        return f"{place}  {distances}  {figures}: {verdict}"


def verify(
    folder: Path,
    kinds: Sequence[Kind] = (),
    *,
    file: str | None = None,
    pooling: Pooling | None = None,
) -> list[Comparison]:
    """Compare every graph of `folder`, or the graph `file`, for the kinds that it serves.

    Raises ExportError where sentence-transformers is missing, cannot read the folder, or the folder
    holds no weights; LoadError where the runtime cannot open it.
    """
    check(folder)
    options = {"file": file, "pooling": pooling, "device": "cpu", "on_long": "truncate"}
    with Tessera(path=folder, **options) as model:
        spec = model.spec
    texts = [*samples.texts(), *(text for _, text in sample_groups.judged())]
    found = []
    for kind in kinds or spec.kinds:
        truth = _reference(folder, kind, spec, texts)
        for precision in spec.precisions():
            with Tessera(path=folder, kind=kind, precision=precision, **options) as model:
                found += [_compared(model, kind, role, truth[role], texts) for role in ROLES]
    return found


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
    folder: Path, kind: Kind, spec: ModelSpec, texts: Sequence[str]
) -> dict[str, list[Array]]:
    """What sentence-transformers makes of the texts in each role: an array a text."""
    try:
        model = _upstream(folder, kind, spec)
        results = {}
        for role in ROLES:
            options: dict[str, Any] = {"batch_size": BATCH, "show_progress_bar": False}
            if kind != "multi-vector":  # whose prompts are markers
                options["prompt"] = getattr(spec.text_recipes()[kind], role).prompt
            if kind == "sparse":
                options["convert_to_sparse_tensor"] = False
            rows = getattr(model, f"encode_{role}")(list(texts), **options)
            results[role] = [np.asarray(row, np.float32) for row in rows]
    except Exception as error:  # upstream raises whatever the folder made it meet
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"sentence-transformers cannot run {folder}: {first:.300}") from error
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
    if mode == "graph":
        raise ExportError(f"{folder} does not say how its graph pools: give --pooling")
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
