"""Compare the graph of a text encoder with torch; an export that misses a limit writes nothing.

The reference runs the model as upstream does (its default attention), on one text at a time without
padding, and computes pooling and heads here in float64, apart from the traced modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from tessera_export import tensors
from tessera_export.errors import ExportError
from tessera_export.graph import storage
from tessera_export.parity import LIMITS, Shape, batches, figure, measure
from tessera_export.texts.folder import Facts
from tessera_export.texts.samples import Item, items
from tessera_onnx.models.foreign.layers import Layer
from tessera_onnx.models.spec import Parity, Precision

Array = NDArray[Any]
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
    "ReLU": torch.relu,
    "GELU": nn.functional.gelu,
    "SiLU": nn.functional.silu,
    "Sigmoid": torch.sigmoid,
}


class Gate:
    """The inputs of one model and what torch makes of them."""

    def __init__(
        self, model: PreTrainedModel, facts: Facts, rotation: NDArray[np.float32] | None = None
    ) -> None:
        """`model` is the folder's model, not the wrapper that was traced."""
        self._facts = facts
        self._outputs = _outputs(facts)
        self.items = list(items(facts))
        self._expected = [reference(model, facts, rotation, item) for item in self.items]

    def check(self, path: Path, precision: Precision) -> list[Parity]:
        """The figures of the ONNX file at `path`.

        Raises ExportError naming output, precision, metric, value and limit when one is missed.
        """
        session = storage.session(path)
        measured: dict[str, list[tuple[Array, Array]]] = {name: [] for name in self._outputs}
        for batch in batches(len(self.items)):
            results = self._run(session, batch)
            for row, index in enumerate(batch):
                for name, truth in self._expected[index].items():
                    ours = results[name][row][: len(truth)]  # rows of tokens end in padding
                    measured[name].append((np.atleast_2d(ours), np.atleast_2d(truth)))
        rows = []
        for name, shape in self._outputs.items():
            for metric, limit in LIMITS[precision, shape].items():
                value = measure(metric, measured[name])
                rows.append(figure(precision, name, metric, value, limit))
        return rows

    def _run(self, session: Any, batch: Sequence[int]) -> dict[str, Array]:
        rows = [self.items[index] for index in batch]
        shape = (len(rows), max(len(item.ids) for item in rows))
        ids = np.full(shape, self._facts.tokenizer.text.pad_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, item in enumerate(rows):
            ids[row, : len(item.ids)] = item.ids
            mask[row, : len(item.ids)] = item.mask
        names = list(self._outputs)
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        wanted = [item.name for item in session.get_inputs()]
        values = session.run(names, {name: feeds[name] for name in wanted})
        results = dict(zip(names, values, strict=True))
        dense = self._facts.dense
        if dense is not None and dense.pooling != "graph":
            results[dense.output] = _pooled(results[dense.output], mask, dense.pooling)
        sparse = self._facts.sparse
        if sparse is not None and sparse.head == "logits":
            logits = np.where(mask[:, :, None] > 0, results[sparse.output], -np.inf)
            results[sparse.output] = _splade(logits.max(axis=1), sparse.activation)
        if sparse is not None and sparse.head == "tokens":
            results[sparse.output] = np.maximum(results[sparse.output][:, :, 0], 0)
        return results


def _pooled(states: Array, mask: Array, pooling: str) -> Array:
    """Unit vectors (b, dimension) of states (b, n, dimension) that the graph left unpooled."""
    rows = []
    for tokens, count in zip(states.astype(np.float64), mask.sum(axis=1), strict=True):
        real = tokens[:count]
        rows.append({"cls": real[0], "mean": real.mean(axis=0), "last": real[-1]}[pooling])
    return _unit(np.array(rows))


def _outputs(facts: Facts) -> dict[str, Shape]:
    outputs: dict[str, Shape] = {}
    if facts.dense is not None:
        outputs[facts.dense.output] = "pooled"
    if facts.multi_vector is not None:
        outputs[facts.multi_vector.output] = "tokens"
    if facts.sparse is not None:
        outputs[facts.sparse.output] = "sparse"
    return outputs


def reference(
    model: PreTrainedModel, facts: Facts, rotation: NDArray[np.float32] | None, item: Item
) -> dict[str, Array]:
    """What torch makes of an input, by the name of the output. Raises ExportError."""
    ids, mask = torch.from_numpy(item.ids)[None], torch.from_numpy(item.mask)[None]
    try:
        with torch.no_grad():
            base = model.base_model if facts.decodes else model
            wants_hidden = not facts.decodes or bool(facts.dense or facts.multi_vector)
            hidden = (
                base(input_ids=ids, attention_mask=mask).last_hidden_state[0].double()
                if wants_hidden
                else None
            )
            logits = model(input_ids=ids, attention_mask=mask).logits[0] if facts.decodes else None
    except (IndexError, RuntimeError) as error:
        raise ExportError(
            f"the torch model fails on an input of {len(item.ids)} tokens: {str(error)[:200]}"
        ) from error
    results: dict[str, Array] = {}
    if facts.multi_vector is not None and hidden is not None:
        rows = apply_layers(hidden[int(facts.multi_vector.drop_first) :], facts.token_layers)
        if rotation is not None:
            rows = rows @ torch.from_numpy(rotation).double()
        results[facts.multi_vector.output] = _unit(rows.numpy())
    if item.expanded:
        return results
    if facts.dense is not None and hidden is not None:
        pooled = {"cls": hidden[0], "mean": hidden.mean(0), "last": hidden[-1]}[str(facts.pooling)]
        results[facts.dense.output] = _unit(apply_layers(pooled, facts.dense_layers).numpy())
    if facts.sparse is not None and hidden is not None and facts.weight_layers:
        weights = apply_layers(hidden, facts.weight_layers)[:, 0].numpy()
        results[facts.sparse.output] = np.maximum(weights, 0)
    if facts.sparse is not None and logits is not None:
        peak = logits.max(dim=0).values.double().numpy()
        results[facts.sparse.output] = _splade(peak, facts.sparse.activation)
    return results


def apply_layers(x: torch.Tensor, layers: Sequence[Layer]) -> torch.Tensor:
    """Dense layers of states (..., n) in float64, apart from the traced modules."""
    for layer in layers:
        y = x @ tensors.load(layer.file, layer.weight).double().T
        if layer.bias:
            y = y + tensors.load(layer.file, layer.bias).double()
        y = ACTIVATIONS[layer.activation](y)
        if layer.residual_weight:
            y = y + x @ tensors.load(layer.file, layer.residual_weight).double().T
        elif layer.residual:
            y = y + x
        x = y
    return x


def _splade(peak: Array, activation: str) -> Array:
    weights = np.log1p(np.maximum(peak, 0))
    return np.log1p(weights) if activation == "log1p-log1p" else weights


def _unit(rows: Array) -> Array:
    unit: Array = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    return unit
