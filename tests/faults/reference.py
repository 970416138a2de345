"""Texts to vectors by another way than the package's, for the small test models.

tokenizers' own truncation and template add the special tokens, ONNX Runtime's default session runs
one text, and pooling is written out in float64. tests/faults/test_battery.py holds this to the
values of the upstream classes before it holds the package to this.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from artifact_tools import ARTIFACTS
from tokenizers import Tokenizer

from tessera_onnx.models import catalogue

MODELS = {"dense": "prompts", "multi-vector": "colbert", "sparse": "splade"}


class Reference:
    """One of the small text models."""

    def __init__(self, kind: str) -> None:
        folder = ARTIFACTS / MODELS[kind]
        self.kind = kind
        self.spec = catalogue.read_catalogue(folder / "model.toml")[0]
        self.recipe: Any = self.spec.text_recipes()[kind]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.session = ort.InferenceSession(
            folder / "model.fp32.onnx", providers=["CPUExecutionProvider"]
        )

    def vector(self, text: str, role: str, prompt: str | None = None) -> np.ndarray:
        """(dim,), (n_tokens, dim) or (vocab,), float64."""
        facts = getattr(self.recipe, role)
        markers = list(getattr(facts, "marker_ids", ()))
        self.tokenizer.enable_truncation(facts.max_length - len(markers))
        ids = self.tokenizer.encode((facts.prompt if prompt is None else prompt) + text).ids
        ids = [*ids[:1], *markers, *ids[1:]]
        attended = len(ids)
        if getattr(facts, "expansion", "none") != "none":
            ids += [self.spec.text.mask_id] * (facts.max_length - len(ids))
        mask = [int(i < attended or facts.expansion == "attended") for i in range(len(ids))]
        feeds = {"input_ids": np.array([ids]), "attention_mask": np.array([mask])}
        out = self.session.run([self.recipe.output], feeds)[0][0].astype(np.float64)
        if self.kind == "sparse":
            return np.log1p(np.maximum(out.max(axis=0), 0))
        if self.kind == "multi-vector":
            kept = [i for i, token in enumerate(ids) if token not in facts.skip_ids]
            out = out[kept or slice(None)]
        return out / np.linalg.norm(out, axis=-1, keepdims=True)

    def tokens(self, text: str, role: str) -> int:
        """Tokens of a text before any cut, all special ones included."""
        facts = getattr(self.recipe, role)
        self.tokenizer.no_truncation()
        markers = len(getattr(facts, "marker_ids", ()))
        return len(self.tokenizer.encode(facts.prompt + text).ids) + markers

    def score(self, query: str, document: str) -> float:
        """Cosine, MaxSim or dot product."""
        a, b = self.vector(query, "query"), self.vector(document, "document")
        if self.kind == "multi-vector":
            return float((a @ b.T).max(axis=1).sum())
        return float(a @ b)

    def ranked(self, query: str, documents: list[str], picks: range) -> list[float]:
        """The scores of the documents at `picks`."""
        return [self.score(query, documents[i]) for i in picks]


def plain(found: Any, width: int) -> np.ndarray:
    """A SparseVector as a row of `width`, its ids modulo that; everything else as it is."""
    if not isinstance(found, tuple):
        return np.asarray(found)
    row = np.zeros(width)
    np.add.at(row, found[0] % width, found[1])
    return row
