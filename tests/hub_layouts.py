"""Repositories as people publish them, made of the small graphs in tests/artifacts.

Each function gives the files of a repository by name. Names and keys are those that
sentence-transformers, optimum and transformers.js write.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from artifact_tools import ARTIFACTS
from graph_bytes import field, outside

# The files of sentence-transformers/all-MiniLM-L6-v2 with a graph: one recipe, several precisions.
GRAPHS = (
    *("onnx/model.onnx", "onnx/model_O1.onnx", "onnx/model_O2.onnx", "onnx/model_O3.onnx"),
    *("onnx/model_O4.onnx", "onnx/model_qint8_arm64.onnx", "onnx/model_qint8_avx512.onnx"),
    *("onnx/model_qint8_avx512_vnni.onnx", "onnx/model_quint8_avx2.onnx"),
)
DOC_STRING = 6  # of ModelProto
# Files that nobody has to download.
UNUSED = ("model.safetensors", "pytorch_model.bin", "tf_model.h5", "openvino/openvino_model.bin")
CARD = "---\nlicense: apache-2.0\nlibrary_name: sentence-transformers\n---\n# A model\n"


def graph(artifact: str = "states", note: str = "") -> bytes:
    """The graph of a test artifact; with a note its bytes are others and its results the same."""
    (path,) = (ARTIFACTS / artifact).glob("model*.onnx")
    return path.read_bytes() + (field(DOC_STRING, note.encode()) if note else b"")


def written(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()


def encoder(artifact: str = "states", **config: Any) -> dict[str, bytes]:
    """A BERT encoder as transformers saves it, without weights: config, tokenizer, card."""
    facts = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": 32,
        "vocab_size": 128,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        **config,
    }
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    special |= {"sep_token": "[SEP]", "mask_token": "[MASK]"}
    return {
        "README.md": CARD.encode(),
        ".gitattributes": b"*.onnx filter=lfs diff=lfs merge=lfs -text\n",
        "config.json": written(facts),
        "tokenizer.json": (ARTIFACTS / artifact / "tokenizer.json").read_bytes(),
        "tokenizer_config.json": written(
            {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **special}
        ),
        "special_tokens_map.json": written(special),
    }


def sentence_transformers(
    graphs: dict[str, bytes] | None = None,
    *,
    pooling: str = "mean_tokens",
    more: tuple[tuple[str, str], ...] = (("2_Normalize", "Normalize"),),
) -> dict[str, bytes]:
    """The repository of a dense model: its modules, a graph that ends at the encoder's states."""
    kind = "sentence_transformers.models"
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *more]
    poolings = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    return {
        **encoder(),
        "modules.json": written(
            [
                {"idx": i, "name": str(i), "path": path, "type": f"{kind}.{name}"}
                for i, (path, name) in enumerate(modules)
            ]
        ),
        "1_Pooling/config.json": written(
            {
                "word_embedding_dimension": 32,
                **{f"pooling_mode_{name}": name == pooling for name in poolings},
            }
        ),
        "sentence_bert_config.json": written({"max_seq_length": 40, "do_lower_case": False}),
        "config_sentence_transformers.json": written(
            {"__version__": {"sentence_transformers": "2.0.0", "transformers": "4.6.1"}}
        ),
        **dict.fromkeys(UNUSED, b"\0" * 50_000),
        **({"onnx/model.onnx": graph()} if graphs is None else graphs),
    }


def dense_module() -> dict[str, bytes]:
    """A Dense module of 32 numbers that changes none: the identity, without activation."""
    rows = b"".join(struct.pack("<32f", *(float(i == j) for j in range(32))) for i in range(32))
    facts = {"dtype": "F32", "shape": [32, 32], "data_offsets": [0, len(rows)]}
    head = json.dumps({"linear.weight": facts}).encode()
    config = {"in_features": 32, "out_features": 32, "bias": False}
    return {
        "2_Dense/config.json": written(
            {**config, "activation_function": "torch.nn.modules.linear.Identity"}
        ),
        "2_Dense/model.safetensors": struct.pack("<Q", len(head)) + head + rows,
        "2_Dense/pytorch_model.bin": b"\0" * 20_000,
    }


def weights_outside(*names: str) -> tuple[bytes, dict[str, bytes]]:
    """A graph whose weights lie in files of those names, and these files."""

    def locate(offset: int) -> bytes:
        return (names[0] if offset == 0 else names[-1]).encode()

    moved, data = outside(graph(), locate)
    # One content under two names would be downloaded once.
    return moved, {name: data + b"\0" * i for i, name in enumerate(names)}


def write(files: dict[str, bytes], folder: Path) -> Path:
    """The repository as a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
