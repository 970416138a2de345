"""Make tests/artifacts/static and static-mean: tiny static models and their golden values.

In tests/artifacts/starter-static are model2vec's vectors of the starter's static model.

Run with model2vec, sentence-transformers and tessera-onnx: `python tests/make_static_artifacts.py`.
The folders lie as the libraries save them; the golden values are model2vec's of the first and
sentence-transformers' of the second. model.toml pins the files and says what the reader found.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from model2vec import StaticModel
from sentence_transformers import SentenceTransformer

HERE = Path(__file__).parent / "artifacts"
STARTER = Path(__file__).parents[1] / "starter" / "tessera_onnx_starter" / "tessera_static"
sys.path.insert(0, str(Path(__file__).parent / "export"))

import static_models  # noqa: E402

from tessera_onnx.models import pins  # noqa: E402
from tessera_onnx.models.foreign import files, reader  # noqa: E402


def describe(place: Path, name: str) -> None:
    (place / "README.md").unlink()
    found = reader.read(place).spec
    pinned = [
        dataclasses.replace(file, sha256=files.sha256(place / file.name)) for file in found.files
    ]
    spec = dataclasses.replace(
        found, id=f"test-{name}", source="random table", licence="apache-2.0", files=tuple(pinned)
    )
    (place / "model.toml").write_text(pins.toml(spec), "utf-8")


def main() -> None:
    texts = static_models.TEXTS
    for name in ("static", "static-mean"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    place = HERE / "static"
    static_models.model2vec(place, clusters=40, dtype="int8")
    vectors = StaticModel.from_pretrained(place).encode(texts)
    describe(place, "static")
    np.savez_compressed(place / "golden.npz", texts=np.array(texts), vectors=vectors)
    place = HERE / "static-mean"
    static_models.torch(place, normalize=False, prompts=True, cut=40)
    model = SentenceTransformer(str(place), device="cpu")
    found = {"query": model.encode_query(texts), "document": model.encode_document(texts)}
    describe(place, "static-mean")
    np.savez_compressed(place / "golden.npz", texts=np.array(texts), **found)
    starter(texts)


def starter(texts: list[str]) -> None:
    place = HERE / "starter-static"
    place.mkdir(exist_ok=True)
    texts = [*texts, *json.loads((HERE / "starter" / "texts.json").read_text())]
    vectors = StaticModel.from_pretrained(STARTER).encode(texts)
    np.savez_compressed(place / "golden.npz", texts=np.array(texts), vectors=vectors)


if __name__ == "__main__":
    main()
