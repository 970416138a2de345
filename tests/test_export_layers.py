"""Layers of the exporter: what its files import of each other, of the runtime and from elsewhere.

Read from the source alone, without torch.
"""

from pathlib import Path

import layers
import pytest

import tessera_onnx

EXPORT = Path(__file__).parents[1] / "export" / "tessera_export"

ROWS = (
    "__version__ errors",
    "files",
    "pickles refused",
    "tensors parity artifact graph",
    "texts series training",
    "source",
    "images pairs",
    "starter pack report",
    "cli_options",
    "cli",
    "__main__",
)
# Of tessera_onnx the exporter imports models and public names. The gates run the runtime's own
# code as well, so that what they compare with torch is what runs.
RUNTIME = {f"tessera_onnx.{name}": "" for name in tessera_onnx.__all__} | {
    "tessera_onnx.models": "",
    "tessera_onnx.runtime.saturation": "graph/storage.py",
    "tessera_onnx.runtime.graph.open_graph": "graph/storage.py",
    "tessera_onnx.text.tokenizer": "texts/token_check.py pairs/gate.py",
    "tessera_onnx.text.pairs": "pairs",
    "tessera_onnx.text.templates": "pairs",
    "tessera_onnx.images.preprocess": "images/gate.py",
    "tessera_onnx.images.prompt_ids": "images/gate.py",
    "tessera_onnx.series.patching": "series/timeseries.py",
    "tessera_onnx.series.forms": "series/timeseries.py",
}
# Where each package from elsewhere may be imported; NumPy may be everywhere.
THIRD_PARTY = {
    "PIL": "images/gate.py training",
    "chronos": "series training/bolt.py",
    "click": "cli.py cli_options.py",
    "huggingface_hub": "source.py",
    "model2vec": "texts/static.py",
    "numpy": "",
    "onnx": "graph texts images series training",
    "onnxruntime": "graph/storage.py graph/int4.py",
    "optimum": "texts/optimum.py",
    "safetensors": "pickles.py tensors.py texts/tables.py",
    "sentence_transformers": "texts/verify.py",
    "tokenizers": "texts",
    "tomli_w": "artifact.py",
    "torch": "pickles.py tensors.py graph texts images pairs series training",
    "transformers": "cli.py texts images pairs training",
    "tsfm_public": "series/ttm.py",
    "wordfreq": "training/page_text.py",
}


@pytest.mark.skipif(not EXPORT.is_dir(), reason="a checkout holds the exporter, a wheel does not")
def test_layers():
    found = layers.faults(EXPORT, ROWS, RUNTIME | THIRD_PARTY)
    assert not [fault for fault in found if fault[1] != "tessera_onnx"]  # its attributes are public
