"""Say what an export made: its files, the figures of its graphs, and what to do with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tessera_onnx.models.spec import ModelSpec

CLASSES = {
    "dense": "Dense",
    "multi-vector": "MultiVector",
    "reranker": "Reranker",
    "sparse": "Sparse",
    "time-series": "TimeSeries",
    "vision": "Vision",
}


def lines(spec: ModelSpec, output: Path) -> Iterator[str]:
    """The report on the artifact in `output`."""
    for file in spec.files:
        yield f"{file.size / 1e6:9.2f} MB  {output / file.name}"
    for row in spec.export.parity if spec.export else ():
        figure = f"{row.metric} {row.value:g} (limit {row.limit:g})"
        yield f"{row.precision}  {row.output}  {figure}"
    classes = ", ".join(f"Tessera{CLASSES[kind]}(path={str(output)!r})" for kind in spec.kinds)
    yield f"Next: {classes}"
    yield f"  or: tessera-export pack {output} --name NAME"
