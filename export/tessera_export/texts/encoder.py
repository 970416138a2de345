"""Export a text encoder: trace, convert, compare with torch, write the artifact folder."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tessera_export.artifact import (
    USUAL,
    Backend,
    Origin,
    document,
    entry,
    graph_name,
    is_near,
    listed,
    new_folder,
    ordered,
)
from tessera_export.errors import ExportError
from tessera_export.texts import calibration, optimum
from tessera_export.texts.folder import Facts
from tessera_onnx.models.spec import KIND_TABLES, File, ModelSpec, Parity, Precision


class Compared(Protocol):
    """A gate: the inputs of one model and what torch makes of them."""

    def check(self, path: Path, precision: Precision) -> list[Parity]:
        """The figures of an ONNX file. Raises ExportError when one misses its limit."""


def export(
    facts: Facts,
    output: Path,
    origin: Origin,
    precisions: Collection[Precision] = USUAL,
    *,
    rotation: NDArray[np.float32] | None = None,
    int8_exclude: Sequence[str] = (),
    calibrate: bool | Sequence[str] = True,
    overwrite: bool = False,
    backend: Backend = "torch",
) -> ModelSpec:
    """Trace, convert, compare with torch and write the artifact folder `output`.

    `rotation` (dimension, k) multiplies the token vectors of a multi-vector recipe, whose
    `dimension` is then k. `int8_exclude` are patterns of node names that int8 leaves alone. Its
    scales are measured on the texts of `calibrate`, on built-in ones where that is True; False
    leaves them to run time, see graph/int8.py. `backend` "optimum" makes the graph with
    optimum-onnx. Raises ExportError, leaving `output` as it was, when a fact is missing, no
    exporter copes, a parity limit is missed, or `output` holds files and `overwrite` is false.
    """
    _check(facts, rotation)
    if backend == "optimum":
        facts = optimum.adapt(facts)
    wanted = ordered(precisions)
    contents = {facts.tokenizer.text.tokenizer: facts.tokenizer.json}
    if facts.sparse is not None and facts.sparse.idf:
        contents[facts.sparse.idf] = facts.idf
    # Before the work of minutes: is this a valid entry, whatever the graphs will measure?
    document(_spec(facts, origin, wanted, backend=backend))
    names: list[str] = []
    with new_folder(output, overwrite=overwrite) as folder:
        # From here on torch is needed, whose import takes seconds: nothing above loads it.
        from tessera_export.graph import storage
        from tessera_export.texts.gate import Gate
        from tessera_export.texts.torch_modules import load_model

        parity: list[Parity] = []
        traced = _traced(facts, rotation, backend)
        # Upstream's own default attention: a graph that copies a fault of eager attention fails.
        compared = Gate(load_model(facts, None), facts, rotation)

        inputs = (
            calibration.feeds(facts, _texts(facts, calibrate=calibrate)) if "int8" in wanted else []
        )
        for precision in wanted:
            path = folder / graph_name(precision)
            if precision == "int8":
                made, figures = save_int8(traced, path, compared, int8_exclude, inputs)
            else:
                made = storage.save(at(traced, precision), path)
                figures = compared.check(path, precision)
            names += made
            parity += figures
        for name, content in contents.items():
            (folder / name).write_text(content, "utf-8", newline="")
        spec = _spec(
            facts,
            origin,
            wanted,
            backend=backend,
            calibrated=len(inputs),
            parity=parity,
            files=listed(folder, [*names, *contents]),
        )
        (folder / "model.toml").write_text(document(spec), "utf-8")
    return spec


def _check(facts: Facts, rotation: NDArray[np.float32] | None) -> None:
    if not any((facts.dense, facts.multi_vector, facts.sparse)):
        raise ExportError("no kind was asked for: give --kind")
    multi = facts.multi_vector
    if rotation is not None and (multi is None or rotation.shape[1:] != (multi.dimension,)):
        raise ExportError(
            f"a rotation of shape {rotation.shape} does not make the multi-vector dimension"
        )


def _traced(facts: Facts, rotation: NDArray[np.float32] | None, backend: Backend) -> Any:
    if backend == "optimum":
        return optimum.trace(facts)
    from tessera_export.texts import tracing
    from tessera_export.texts.torch_modules import Wrapper, load_model, traced_attention

    return tracing.trace(Wrapper(load_model(facts, traced_attention(facts)), facts, rotation))


def _texts(facts: Facts, *, calibrate: bool | Sequence[str]) -> Sequence[str]:
    if isinstance(calibrate, bool):
        return calibration.built_in(facts) if calibrate else ()
    if not calibrate:
        raise ExportError("there is no text to calibrate int8 on")
    return calibrate


def at(traced: Any, precision: Precision) -> Any:
    """The graph in fp32, fp16 or int4. A tied decoder could not become an int8 product."""
    from tessera_export.graph import int4, splade_head, transforms

    if precision == "int4":
        return int4.quantize(traced)
    tied = transforms.tie(splade_head.sliced(traced))
    return transforms.half(tied) if precision == "fp16" else tied


def save_int8(
    traced: Any,
    path: Path,
    compared: Compared,
    exclude: Sequence[str],
    inputs: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[Parity]]:
    """Write the fastest int8 graph that is near enough to be a default, else the most exact.

    Returns the names of its files and its figures. Raises ExportError when that misses a limit.
    """
    from tessera_export.graph import int8, storage

    if inputs:
        names = storage.save(int8.quantize(traced, inputs, exclude), path)
        with contextlib.suppress(ExportError):
            figures = compared.check(path, "int8")
            if is_near(figures):
                return names, figures
    names = storage.save(int8.quantize(traced, inputs, exclude, careful=True), path)
    try:
        return names, compared.check(path, "int8")
    except ExportError as error:
        hint = (
            "leave int8 out with --precision fp32,fp16, or keep nodes in fp32 with --int8-exclude"
        )
        if not inputs:
            hint = f"measure activations, which --calibrate none left out; or {hint}"
        raise ExportError(f"{error}; {hint}") from error


def _spec(
    facts: Facts,
    origin: Origin,
    built: Sequence[Precision],
    *,
    backend: Backend,
    calibrated: int = 0,
    parity: Sequence[Parity] = (),
    files: Sequence[File] = (),
) -> ModelSpec:
    tables = {table: getattr(facts, table, None) for table in KIND_TABLES.values()}
    return entry(
        {"text": facts.tokenizer.text, **tables},
        origin,
        backend=backend,
        calibrated=calibrated,
        weights_sha256=facts.weights.sha256,
        built=built,
        parity=parity,
        files=files,
        best_cpu=("int8", "fp32", "fp16"),
    )
