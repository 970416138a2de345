"""Export a reranker: trace, convert, compare with torch, write the artifact folder."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from tessera_export.artifact import (
    USUAL,
    Origin,
    document,
    entry,
    graph_name,
    listed,
    new_folder,
    ordered,
)
from tessera_export.pairs.facts import OUTPUT, PairFacts
from tessera_export.texts import encoder, sample_pairs
from tessera_onnx.models.spec import File, ModelSpec, Parity, Precision


def export(
    facts: PairFacts,
    output: Path,
    origin: Origin,
    precisions: Collection[Precision] = USUAL,
    *,
    int8_exclude: Sequence[str] = (),
    overwrite: bool = False,
) -> ModelSpec:
    """Trace, convert, compare with torch and write the artifact folder `output`.

    `int8_exclude` are patterns of node names that int8 leaves alone. Raises ExportError, leaving
    `output` as it was, when no exporter copes, a parity limit is missed, or `output` holds files
    and `overwrite` is false.
    """
    wanted = ordered(precisions)
    name, content = facts.tokenizer.text.tokenizer, facts.tokenizer.json
    # Before the work of minutes: is this a valid entry, whatever the graphs will measure?
    document(_spec(facts, origin, wanted))
    names: list[str] = []
    parity: list[Parity] = []
    with new_folder(output, overwrite=overwrite) as folder:
        # From here on torch is needed, whose import takes seconds: nothing above loads it.
        from tessera_export.graph import storage, tracing
        from tessera_export.pairs import gate
        from tessera_export.pairs.torch_modules import Scorer, examples, load_model

        scorer = Scorer(load_model(facts, "eager"), facts)
        traced = tracing.trace(scorer, OUTPUT, examples(facts), ["batch"])
        # Upstream's own default attention: a graph that copies a fault of eager attention fails.
        compared = gate.Gate(load_model(facts, None), facts)
        inputs = (
            [gate.feeds(facts, [row]) for row in gate.rows(facts, sample_pairs.measured())]
            if "int8" in wanted
            else []
        )
        for precision in wanted:
            path = folder / graph_name(precision)
            if precision == "int8":
                made, figures = encoder.save_int8(traced, path, compared, int8_exclude, inputs)
            else:
                made = storage.save(encoder.at(traced, precision), path)
                figures = compared.check(path, precision)
            names += made
            parity += figures
        (folder / name).write_text(content, "utf-8", newline="")
        spec = _spec(
            facts,
            origin,
            wanted,
            calibrated=len(inputs),
            parity=parity,
            files=listed(folder, [*names, name]),
        )
        (folder / "model.toml").write_text(document(spec), "utf-8")
    return spec


def _spec(
    facts: PairFacts,
    origin: Origin,
    built: Sequence[Precision],
    *,
    calibrated: int = 0,
    parity: Sequence[Parity] = (),
    files: Sequence[File] = (),
) -> ModelSpec:
    return entry(
        {"text": facts.tokenizer.text, "reranker": facts.recipe},
        origin,
        calibrated=calibrated,
        weights_sha256=facts.weights.sha256,
        built=built,
        parity=parity,
        files=files,
        best_cpu=("int8", "fp32", "fp16"),
    )
