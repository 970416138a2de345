"""Layers of the exporter: what its files import of each other, of the runtime and from elsewhere.

Read from the source alone, without torch.
"""

import ast
import sys
from pathlib import Path

import pytest

import tessera_onnx

EXPORT = Path(__file__).parents[1] / "export" / "tessera_export"

# A file imports its own package and packages in earlier rows; those in one row do not know each
# other.
ROWS = (
    "__version__ errors",
    "files",
    "pickles refused",
    "tensors parity artifact graph",
    "texts series training",
    "images",
    "source starter pack",
    "cli",
    "__main__",
)
# Of tessera_onnx the exporter imports models and public names. The gates run the runtime's own
# code as well, so that what they compare with torch is what runs.
RUNTIME = {
    "models": "",
    "runtime.saturation": "graph/storage.py",
    "runtime.graph.open_graph": "graph/storage.py",
    "text.tokenizer": "texts/token_check.py",
    "images.preprocess": "images/gate.py",
    "images.prompt_ids": "images/gate.py",
    "series.patching": "series/timeseries.py",
    "series.rollout": "series/timeseries.py",
}
# Where each package from elsewhere may be imported; NumPy may be everywhere.
THIRD_PARTY = {
    "PIL": "images/gate.py training",
    "chronos": "series training/bolt.py",
    "click": "cli.py",
    "huggingface_hub": "source.py",
    "numpy": "",
    "onnx": "graph texts images series training",
    "onnxruntime": "graph/storage.py",
    "optimum": "texts/optimum.py",
    "safetensors": "pickles.py tensors.py texts/splade.py",
    "tokenizers": "texts",
    "tomli_w": "artifact.py",
    "torch": "pickles.py tensors.py graph texts images series training",
    "transformers": "cli.py texts images training",
    "wordfreq": "training/page_text.py",
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def among(here, places):
    return here.as_posix().startswith(tuple(places.split()) or "")


@pytest.mark.skipif(not EXPORT.is_dir(), reason="a checkout holds the exporter, a wheel does not")
def test_layers():
    row_of = {name: row for row, names in enumerate(ROWS) for name in names.split()}
    for path in sorted(EXPORT.rglob("*.py")):
        here = path.relative_to(EXPORT)
        home = here.parts[0].removesuffix(".py")
        for name in imports(path):
            first, _, rest = name.partition(".")
            if first == "tessera_export":
                package = rest.split(".")[0]
                assert package == home or row_of[package] < row_of[home], (here, name)
            elif first == "tessera_onnx":
                places = [RUNTIME[part] for part in RUNTIME if f"{rest}.".startswith(f"{part}.")]
                public = rest in {"", *tessera_onnx.__all__}
                assert public or any(among(here, place) for place in places), (here, name)
            elif first not in sys.stdlib_module_names:
                assert among(here, THIRD_PARTY[first]), (here, name)
