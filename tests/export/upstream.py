"""What upstream gives for a folder, next to what its folder gives here: the same numbers.

Pooled vectors may differ by 1e-5, token vectors and weights by 1e-4 of the largest number; raw
values are compared, so that a missing or a second L2 shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from tessera_export.texts import samples, token_check
from tessera_onnx import Tessera, TesseraDense, TesseraMultiVector, TesseraSparse

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
POOLED, RELATIVE = 1e-5, 1e-4
OPTIONS = {"on_long": "truncate", "precision": "fp32"}
DOCUMENTS = ("document", "passage", "corpus")  # as TesseraDense looks for a document's prompt


def hostile() -> list[str]:
    """The texts on which implementations differ: scripts, spaces, special tokens, lengths."""
    own = json.loads((ARTIFACTS / "texts.json").read_text("utf-8"))
    odd = [text for group in token_check.HOSTILE.values() for text in group]
    return [*own, *samples.texts(), *odd]


def close(ours: Any, theirs: Any, limit: float = POOLED) -> None:
    """Raises AssertionError where the largest difference is above `limit`."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.isfinite(theirs).all()
    assert np.abs(ours - theirs).max() <= limit


def near(ours: Any, theirs: Any) -> None:
    """As `close`, in relation to the largest number."""
    close(ours, theirs, RELATIVE * max(float(np.abs(np.asarray(theirs)).max()), 1e-6))


def compare_dense(
    place: Path, texts: list[str], weights: Path | None = None, **options: Any
) -> None:
    """Every method, in batches and one by one, and what SentenceTransformer gives.

    `weights` is the folder that upstream reads, where it is not the same.
    """
    theirs = SentenceTransformer(str(weights or place), device="cpu")
    settings = place / "config_sentence_transformers.json"
    said = json.loads(settings.read_text("utf-8")) if settings.exists() else {}
    prompts = said.get("prompts") or {}
    # Upstream adds an empty "document" to the prompts of a folder without one, which hides the
    # "passage" that the folder has.
    name = next((name for name in DOCUMENTS if name in prompts), "document")
    expected = {
        "query": theirs.encode_query(texts),
        "document": theirs.encode_document(texts, prompt_name=name),
    }
    # A text of neither role: the folder's default prompt, else it is read as a document.
    default = theirs.default_prompt_name
    plain = theirs.encode(texts) if default else expected["document"]
    with TesseraDense(path=place, **OPTIONS, **options) as ours:
        assert ours.dimension() == theirs.get_embedding_dimension()
        close(ours.encode_query(texts), expected["query"])
        close(ours.encode_document(texts), expected["document"])
        close(ours.encode_batch(texts), plain)
        few = texts[:6]
        close([ours.encode(text) for text in few], plain[:6])
        close([ours.encode_query(text) for text in few], expected["query"][:6])
        rows = expected["query"][:2], expected["document"][1:3]
        known = theirs.similarity(*map(torch.from_numpy, rows)).numpy()
        for i, a in enumerate(rows[0]):
            for j, b in enumerate(rows[1]):
                assert abs(ours.similarity(a, b) - known[i, j]) <= 1e-4 * max(1, abs(known[i, j]))


def compare_plain(place: Path, texts: list[str], encoder: Path, mode: str, **options: Any) -> None:
    """A folder that names no pooling, with the mode that the caller gives: L2 after it."""
    options = OPTIONS | options
    with TesseraDense(path=place, **options) as ours:
        length = ours.spec.dense.document.max_length
    module = Transformer(str(encoder), max_seq_length=length)
    modules = [module, Pooling(module.get_embedding_dimension(), mode), Normalize()]
    expected = SentenceTransformer(modules=modules, device="cpu").encode(texts)
    with TesseraDense(path=place, **options) as ours:
        close(ours.encode_batch(texts), expected)
        close([ours.encode(text) for text in texts[:6]], expected[:6])


def compare_sparse(place: Path, texts: list[str], **options: Any) -> None:
    theirs = SparseEncoder(str(place), device="cpu")
    plain = {"convert_to_sparse_tensor": False}
    with TesseraSparse(path=place, **OPTIONS, **options) as ours:
        for mine, other in (
            (ours.encode_query, theirs.encode_query),
            (ours.encode_document, theirs.encode_document),
            (ours.encode_batch, theirs.encode_document),
        ):
            expected = other(texts, **plain).numpy()
            near(rows(mine(texts), expected.shape[1]), expected)
            near(rows([mine([text])[0] for text in texts[:6]], expected.shape[1]), expected[:6])


def rows(vectors: Any, size: int) -> np.ndarray:
    """Sparse vectors as rows of all entries."""
    found = np.zeros((len(vectors), size), np.float32)
    for row, vector in zip(found, vectors, strict=True):
        row[vector.indices] = vector.values
    return found


def compare_tokens(place: Path, texts: list[str], **options: Any) -> None:
    from sentence_transformers import MultiVectorEncoder

    theirs = MultiVectorEncoder(str(place), device="cpu")
    with TesseraMultiVector(path=place, **OPTIONS, **options) as ours:
        for mine, other in (
            (ours.encode_query, theirs.encode_query),
            (ours.encode_document, theirs.encode_document),
        ):
            expected = [vector.numpy() for vector in other(texts)]
            same_rows(mine(texts), expected)
            same_rows([mine([text])[0] for text in texts[:6]], expected[:6])
        # As a reranker: MaxSim of the query with each document, by upstream's own padding and mask.
        documents = [text for text in texts if len(theirs.encode_document(text))]
        query = theirs.encode_query([texts[0]])
        known = theirs.similarity(query, theirs.encode_document(documents)).numpy()[0]
        assert len(known) > 4
        assert np.ptp(known) > 0.01
        near(ours.score(texts[0], documents), known)
        ranked = [row.index for row in ours.rank(texts[0], documents)]
        assert (np.diff(known[ranked]) <= 1e-4 * np.abs(known).max()).all()


def same_rows(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        if other.size:
            near(mine, other)


def compare_m3(place: Path, texts: list[str], heads: Callable[[str], tuple]) -> None:
    """The three kinds of bge-m3; `heads` gives dense, {id: weight} and token vectors of a text."""
    with Tessera(path=place, kind="dense", **OPTIONS) as model:
        dense = model.encode_batch(texts)
    with TesseraSparse(path=place, **OPTIONS) as model:
        sparse = model.encode_batch(texts)
    with TesseraMultiVector(path=place, **OPTIONS) as model:
        tokens = model.encode_batch(texts)
    for text, vector, weights, matrix in zip(texts, dense, sparse, tokens, strict=True):
        expected = heads(text)
        close(vector, expected[0])
        assert weights.indices.tolist() == sorted(expected[1])
        if expected[1]:
            near(weights.values, [expected[1][number] for number in sorted(expected[1])])
        same_rows([matrix], [expected[2]])
