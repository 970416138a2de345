"""Make tests/artifacts/minicoil: the files of Qdrant/minicoil-v1 with random weights, and goldens.

`python tests/make_minicoil.py` where fastembed 0.9.1 and its packages are installed, and this
package is not. The graph and its words are those of tests/artifacts/states; fastembed computes
golden.json. Nothing in it comes from this project's code.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from fastembed.sparse.minicoil import MiniCOIL
from make_lexical_goldens import ODD, STOP_WORDS, WORDS
from word_artifacts import describe

ARTIFACTS = Path(__file__).parent / "artifacts"
FOLDER = ARTIFACTS / "minicoil"
WEIGHTS, VOCABULARY = "minicoil.triplet.model.npy", "minicoil.triplet.model.vocab"
# Words of several pieces and of one, a stop word, and stems that stand for other words.
VOCAB = ["cat", "dog", "model", "vector", "machine", "the", "rain", "cats", "spain", "search"]
STEMS = {"cat": "cat", "model": "model", "vector": "vector", "machin": "machine", "these": "the",
         "rain": "rain", "search": "search", "spain": "spain", "dogg": "dog"}  # fmt: skip
MORE = [
    "dogging dogged models modeling vectored vectoring machines machined",
    "these cat^s are cats and cat+cat+zebra of rain-rain",  # pieces of unknown words are known
    "cat cat dog. dogs: the cat's dog_cat",
    "zebras zebra zebraing 9 9%9 x" + "y" * 45,
    "cat",
    "search " * 60 + "cat",
    "[MASK] [UNK] mask unk cls",
]
OPTIONS = {"k": 0.9, "b": 0.4, "avg_len": 3.5}
# The recipe of the catalogue's minicoil-v1, with these words' special tokens.
FACTS = {
    "id": "test-minicoil",
    "graph": "onnx/model.onnx",
    "words": """\
[model.minicoil]
stemmer = "english"
stop_words = "stopwords.txt"
vocabulary = "minicoil.triplet.model.vocab"
weights = "minicoil.triplet.model.npy"
k = 1.2
b = 0.75
average_length = 150.0
""",
    "head": 'output = ""\nhead = "states"',
    "query_weights": "model",
}


def rows(folder: Path, **options: float) -> list[dict[str, object]]:
    """What fastembed gives for each text: ids and weights of a document and of a query."""
    model = MiniCOIL("Qdrant/minicoil-v1", specific_model_path=str(folder), **options)
    found = []
    for text in (*WORDS, *ODD, *MORE):
        row: dict[str, object] = {"text": text}
        for role, call in (("document", model.embed), ("query", model.query_embed)):
            (vector,) = call([text])
            order = vector.indices.argsort()
            row[role] = [vector.indices[order].tolist(), vector.values[order].tolist()]
        found.append(row)
    return found


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "onnx").mkdir(parents=True)
    shutil.copy(ARTIFACTS / "states" / "model.onnx", FOLDER / "onnx")
    shutil.copy(ARTIFACTS / "states" / "tokenizer.json", FOLDER)
    shutil.copy(STOP_WORDS / "english.txt", FOLDER / "stopwords.txt")
    numbers = np.random.default_rng(10).standard_normal((len(VOCAB) + 1, 32, 4)) * 0.3
    np.save(FOLDER / WEIGHTS, numbers.astype(np.float32))
    (FOLDER / VOCABULARY).write_text(json.dumps({"vocab": VOCAB, "stem_mapping": STEMS}))
    names = ("onnx/model.onnx", "tokenizer.json", "stopwords.txt", WEIGHTS, VOCABULARY)
    describe(FOLDER, names, **FACTS)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(shutil.copytree(FOLDER, folder, dirs_exist_ok=True))
        (place / "config.json").write_text('{"pad_token_id": 0}')
        limits = {"model_max_length": 32, "pad_token": "[PAD]"}
        (place / "tokenizer_config.json").write_text(json.dumps(limits))
        special = {
            f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")
        }
        (place / "special_tokens_map.json").write_text(json.dumps(special))
        content = {
            "rows": rows(place),
            "tuned": {"options": OPTIONS, "rows": rows(place, **OPTIONS)},
        }
    (FOLDER / "golden.json").write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
