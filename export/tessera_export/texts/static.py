"""Distil a static model of a dense one by model2vec's own method, and save it as an artifact.

model2vec runs every token of the vocabulary through the model alone, keeps the leading principal
components and weighs each token by its rank (Zipf's law and SIF); nothing is trained. All settings
are model2vec's defaults; the finished table is rounded to int8, the smallest of its dtypes.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from pathlib import Path

import numpy as np

from tessera_export import __version__
from tessera_export.artifact import Origin, document, listed, new_folder
from tessera_export.errors import ExportError
from tessera_export.files import sha256
from tessera_export.parity import LIMITS, figure, measure
from tessera_export.texts.samples import TEXTS
from tessera_onnx import TesseraDense
from tessera_onnx.models.foreign import reader
from tessera_onnx.models.spec import Export, ModelSpec

FILES = ("model.safetensors", "tokenizer.json", "config.json")
EQUAL = 1e-6  # to model2vec on the same files: both add up the same rows in float32
TOOLS = ("model2vec", "skeletoken", "torch", "transformers", "numpy")


def export(source: Path, output: Path, origin: Origin) -> ModelSpec:
    """Write the static model of the dense model in the folder `source`, and give its entry.

    Raises ExportError where model2vec's extra `distill` is not installed, where the vectors of the
    runtime are not model2vec's, and where int8 is too far from float32.
    """
    try:
        from model2vec import StaticModel
        from model2vec.distill import distill
        from model2vec.model import quantize_model
    except ImportError as error:
        raise ExportError(f'{error}: pip install "./export[static]" in a new environment') from None
    with new_folder(output, overwrite=True) as folder:
        exact = distill(str(source), device="cpu", quantize_to="float32")
        # A path of this machine otherwise, which nobody else can use.
        exact.config["tokenizer_name"] = origin.source
        expected = exact.encode(list(TEXTS))
        quantize_model(exact, quantize_to="int8").save_pretrained(folder)
        for path in folder.iterdir():
            if path.name in FILES:
                path.chmod(0o644)  # safetensors makes it private
            else:
                path.unlink()
        saved = StaticModel.from_pretrained(folder).encode(list(TEXTS))
        with TesseraDense(path=folder) as model:
            found = model.encode_batch(TEXTS)
        gap = float(np.abs(found - saved).max())
        if not gap <= EQUAL:
            raise ExportError(f"vectors differ from model2vec's by {gap:.2g}: nothing was written")
        rows = [(found, expected)]
        spec = dataclasses.replace(
            reader.read(folder).spec,
            id=origin.id,
            aliases=origin.aliases,
            source=origin.source,
            licence=origin.licence,
            unverified=origin.unverified,
            files=tuple(listed(folder, FILES)),
            export=Export(
                _tools(),
                sha256(source / "model.safetensors"),
                tuple(
                    figure("int8", "embeddings", metric, measure(metric, rows), limit)
                    for metric, limit in LIMITS["int8", "pooled"].items()
                ),
            ),
        )
        (folder / "model.toml").write_text(document(spec), "utf-8")
    return spec


def _tools() -> str:
    versions = [f"{name} {importlib.metadata.version(name).split('+')[0]}" for name in TOOLS]
    return ", ".join([f"tessera-onnx-export {__version__}", *versions])
