"""Define the torch module that is traced: an encoder with one named output for each kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForTextEncoding,
    PreTrainedModel,
)

from tessera_export import tensors
from tessera_export.errors import ExportError
from tessera_export.texts.folder import Facts
from tessera_onnx.models.foreign.layers import Layer
from tessera_onnx.models.foreign.tokenizer_file import ENCODER_DECODERS


def traced_attention(facts: Facts) -> str:
    """The attention to trace: "eager", whose graphs are the fastest, but where it would be wrong.

    A mask token that expands a query unattended sees the text alone; in a layer with a window the
    text may be out of reach, and it sees nothing. Upstream's "sdpa" makes 0 of nothing, eager
    attention the mean of everything.
    """
    window = facts.config.get("local_attention", facts.config.get("sliding_window"))
    query = facts.multi_vector.query if facts.multi_vector is not None else None
    if query is None or query.expansion != "unattended" or not isinstance(window, int):
        return "eager"
    return "sdpa" if window // 2 < query.max_length else "eager"  # half of it on either side


def load_model(facts: Facts, attention: str | None) -> PreTrainedModel:
    """The folder's model in fp32 with its own weights, in eval mode.

    Code of the folder runs with `facts.trust_remote_code` only. `attention` is a name for
    tracing, None for what upstream runs. Raises ExportError when the weights lack a tensor, since
    transformers would fill it with random numbers.
    """
    factory: Any = AutoModelForMaskedLM if facts.decodes else AutoModel
    if facts.config.get("model_type") in ENCODER_DECODERS:
        factory = AutoModelForTextEncoding  # AutoModel would want the decoder's inputs too
    try:
        model, report = factory.from_pretrained(
            facts.folder,
            dtype=torch.float32,
            attn_implementation=attention,
            local_files_only=True,
            trust_remote_code=facts.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # the folder's own code may raise anything
        raise ExportError(f"transformers cannot load {facts.folder}: {reason(error)}") from error
    # No output reads BERT's pooler, and sentence-transformers' checkpoints often lack it.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    wrong = missing + sorted(str(key) for key in report["mismatched_keys"])
    if wrong:
        raise ExportError(
            f"the weights in {facts.folder} do not fill the tensor {wrong[0]!r} "
            f"({len(wrong)} in all): is this the kind of model that was asked for?"
        )
    model.config.use_cache = False
    loaded: PreTrainedModel = model.eval()
    return loaded


def reason(error: Exception) -> str:
    """Why transformers cannot load a model, and what to do."""
    if "trust_remote_code" in str(error):
        return (
            "its architecture is Python code in its repository; read that code, and if you trust "
            "it give --trust-remote-code"
        )
    return str(error)


class Step(nn.Module):
    """One layer of a stack."""

    def __init__(self, layer: Layer) -> None:
        """Load the weights that the layer names."""
        super().__init__()
        self.linear = _linear(layer.file, layer.weight, layer.bias)
        self.activation: nn.Module = getattr(nn, layer.activation)()
        self.residual: nn.Module | None = nn.Identity() if layer.residual else None
        if layer.residual_weight:
            self.residual = _linear(layer.file, layer.residual_weight, "")

    def forward(self, x: Tensor) -> Tensor:
        """activation(W x + b) + residual, (..., in) to (..., out)."""
        y: Tensor = self.activation(self.linear(x))
        return y if self.residual is None else y + self.residual(x)


class DenseHead(nn.Module):
    """Hidden states (batch, n, hidden) to unit vectors (batch, dimension)."""

    def __init__(self, pooling: str, layers: Sequence[Layer]) -> None:
        """`pooling` is "cls" (the first token), "mean" over the mask or "last" in the mask."""
        super().__init__()
        self.pooling = pooling
        self.stack = nn.Sequential(*map(Step, layers))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Pool over the tokens whose mask is 1, apply the layers, normalise."""
        return functional.normalize(self.stack(pool(hidden, mask, self.pooling)), p=2.0, dim=-1)


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """States (batch, n, hidden) pooled over the tokens whose mask is 1: (batch, hidden)."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    # The largest position that is real: right for any padding, and no int64 ArgMax of a constant
    # tie, which ONNX and torch may break differently.
    positions = torch.cumsum(torch.ones_like(mask), dim=1)
    last = (mask * positions).argmax(dim=1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]


class TokenHead(nn.Module):
    """Hidden states (batch, n, hidden) to unit vectors (batch, n, dimension), padding included."""

    def __init__(
        self,
        layers: Sequence[Layer],
        rotation: NDArray[np.float32] | None,
        *,
        drop_first: bool,
    ) -> None:
        """`rotation` (dimension, k) multiplies the row vectors from the right, before the norm.

        With `drop_first` there are n - 1 rows: none for the first token.
        """
        super().__init__()
        self.first = int(drop_first)
        self.stack = nn.Sequential(*map(Step, layers))
        self.rotation = None
        if rotation is not None:
            matrix = torch.from_numpy(np.ascontiguousarray(rotation, dtype=np.float32))
            self.rotation = nn.Parameter(matrix, requires_grad=False)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Project and normalise every row; which rows count is the runtime's affair."""
        del mask
        tokens = self.stack(hidden[:, self.first :])
        if self.rotation is not None:
            tokens = tokens @ self.rotation
        return functional.normalize(tokens, p=2.0, dim=-1)


class SparseHead(nn.Module):
    """Vocabulary logits (batch, n, vocab) to weights (batch, vocab).

    The maximum first: relu and log1p rise monotonically, so the result is that of SPLADE (naver/
    splade, transformer_rep.py) without two passes over (batch, n, vocab). Padding is left out
    before the decoder, by `cover`: masking the logits would be another pass, and costs the int8
    graph a third of its speed.
    """

    def __init__(self, activation: str) -> None:
        """`activation` is "log1p" or "log1p-log1p"."""
        super().__init__()
        self.twice = activation == "log1p-log1p"
        self.mask: Tensor | None = None

    def cover(self, _decoder: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A pre-hook of the decoder: padded rows (batch, n, hidden) become copies of the first.

        The first token is always real, so a maximum over the logits then ignores the padding.
        """
        if self.mask is None:
            return inputs
        hidden = inputs[0]
        return (torch.where(self.mask.unsqueeze(-1) > 0, hidden, hidden[:, :1]), *inputs[1:])

    def forward(self, logits: Tensor) -> Tensor:
        """Maximum over the tokens, then log1p(relu)."""
        weights = torch.log1p(torch.relu(logits.amax(dim=1)))
        return torch.log1p(weights) if self.twice else weights


class WeightHead(nn.Module):
    """Hidden states (batch, n, hidden) to a weight a token (batch, n, 1), before the relu."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        """`layers` end in one feature."""
        super().__init__()
        self.stack = nn.Sequential(*map(Step, layers))

    def forward(self, hidden: Tensor) -> Tensor:
        """Which token's weight counts is the runtime's affair."""
        weights: Tensor = self.stack(hidden)
        return weights


class Wrapper(nn.Module):
    """One encoder and the heads of a model's kinds; `outputs` names its results in order."""

    def __init__(
        self, model: PreTrainedModel, facts: Facts, rotation: NDArray[np.float32] | None = None
    ) -> None:
        """Raises ExportError for a rotation without token output, and a model without decoder."""
        super().__init__()
        self.model = model
        self.outputs: list[str] = []
        self.dense: nn.Module | None = None
        self.tokens: nn.Module | None = None
        self.sparse: SparseHead | None = None
        self.weights: WeightHead | None = None
        self.logits = facts.decodes
        if facts.dense is not None and facts.pooling is not None:
            self.dense = DenseHead(facts.pooling, facts.dense_layers)
            self.outputs.append(facts.dense.output)
        if facts.multi_vector is not None:
            drop_first = facts.multi_vector.drop_first
            self.tokens = TokenHead(facts.token_layers, rotation, drop_first=drop_first)
            self.outputs.append(facts.multi_vector.output)
        elif rotation is not None:
            raise ExportError("a rotation needs a multi-vector recipe")
        if facts.sparse is not None:
            if facts.sparse.head == "tokens":
                self.weights = WeightHead(facts.weight_layers)
            elif facts.sparse.head == "graph":
                self.sparse = SparseHead(facts.sparse.activation)
                unannotated: Any = model
                decoder = unannotated.get_output_embeddings()
                if decoder is None:
                    raise ExportError("the masked language model names no decoder")
                decoder.register_forward_pre_hook(self.sparse.cover)
            self.outputs.append(facts.sparse.output)
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """The named outputs for ids and mask, both int64 (batch, n), 1 = real token."""
        logits, hidden = None, None
        if self.sparse is not None:
            self.sparse.mask = attention_mask
        if self.logits:
            wanted = self.dense is not None or self.tokens is not None
            result = self.model(
                input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=wanted
            )
            logits = result.logits
            hidden = result.hidden_states[-1] if wanted else None
        else:
            hidden = self.model(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state
        results: list[Any] = []
        if self.dense is not None:
            results.append(self.dense(hidden, attention_mask))
        if self.tokens is not None:
            results.append(self.tokens(hidden, attention_mask))
        if self.weights is not None:
            results.append(self.weights(hidden))
        if self.logits:
            results.append(logits if self.sparse is None else self.sparse(logits))
        return tuple(results)


def _linear(file: Path, weight: str, bias: str) -> nn.Linear:
    matrix = tensors.load(file, weight).float()
    linear = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bool(bias))
    linear.weight = nn.Parameter(matrix, requires_grad=False)
    if bias:
        linear.bias = nn.Parameter(tensors.load(file, bias).float(), requires_grad=False)
    return linear
