"""Learn an orthogonal rotation of token vectors, so that they can be cut to leading dimensions."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tessera_export.errors import ExportError
from tessera_export.texts import corpus
from tessera_export.texts.folder import Facts
from tessera_export.texts.torch_modules import load_model

Float64 = NDArray[np.float64]
# How much more the spread between passages counts than the spread within one. Late interaction
# must tell passages apart; the plain covariance of tokens is mostly what they all share.
BETWEEN = 8.0
TOKENS = 250  # a passage's length, near the longest document of the recipe
LEAST_PASSAGES = 400  # about as many tokens as dimensions squared over two


def learn(facts: Facts) -> NDArray[np.float32]:
    """An orthogonal matrix (hidden, hidden), columns by falling importance.

    Token states @ matrix keeps every dot product, so full-size scores do not change, while the
    first k columns keep as much as k can of B and W: `BETWEEN` times the scatter of the passages'
    mean directions plus the scatter of unit token vectors around them, each of trace 1.
    """
    passages = corpus.passages(lambda text: len(facts.tokenizer.ids(text)), TOKENS)
    if len(passages) < LEAST_PASSAGES:
        raise ExportError(f"{len(passages)} passages are too few to learn a rotation from")
    model = load_model(facts, None)
    between = within = torch.zeros((), dtype=torch.float64)
    text = facts.tokenizer.text
    for passage in passages:
        body = facts.tokenizer.ids(passage)[: TOKENS + 4]
        ids = torch.tensor([[*text.prefix_ids, *body, *text.suffix_ids]])
        # All of it in torch: NumPy's thread pool beside torch's would slow both down.
        with torch.inference_mode():
            states = model(input_ids=ids).last_hidden_state[0].double()
            tokens = functional.normalize(states, dim=1)
            mean = tokens.mean(dim=0)
            around = tokens - mean
            within = within + around.T @ around
            direction = functional.normalize(mean, dim=0)
            between = between + torch.outer(direction, direction)
    return _principal_axes(BETWEEN * _of_trace_one(between.numpy()) + _of_trace_one(within.numpy()))


def _of_trace_one(scatter: Float64) -> Float64:
    return scatter / np.trace(scatter)


def _principal_axes(scatter: Float64) -> NDArray[np.float32]:
    """Eigenvectors by falling eigenvalue; the largest component of each is positive."""
    _, vectors = np.linalg.eigh(scatter)
    vectors = vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return np.ascontiguousarray(vectors * signs, dtype=np.float32)
