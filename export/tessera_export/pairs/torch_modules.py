"""Define the torch module that is traced: a classifier, an encoder with a head, or an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from tessera_export import tensors
from tessera_export.errors import ExportError
from tessera_export.pairs.facts import PairFacts
from tessera_export.texts import torch_modules
from tessera_onnx.models.foreign.pooled import Step

EPSILON = 1e-5  # of sentence-transformers' LayerNorm module


def load_model(facts: PairFacts, attention: str | None) -> PreTrainedModel:
    """The folder's model in fp32 with its own weights, in eval mode.

    `attention` is a name for tracing, None for what upstream runs. Raises ExportError when the
    weights lack a tensor, since transformers would fill it with random numbers.
    """
    factory: Any = AutoModel if facts.pooling else AutoModelForSequenceClassification
    if facts.answers:
        factory = AutoModelForCausalLM
    try:
        model, report = factory.from_pretrained(
            facts.folder,
            dtype=torch.float32,
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises whatever a damaged file made it meet
        raise ExportError(
            f"transformers cannot load {facts.folder}: {torch_modules.reason(error)}"
        ) from error
    missing = sorted(
        key for key in report["missing_keys"] if not (facts.pooling and key.startswith("pooler."))
    )
    wrong = missing + sorted(str(key) for key in report["mismatched_keys"])
    if wrong:
        raise ExportError(
            f"the weights in {facts.folder} do not fill the tensor {wrong[0]!r} "
            f"({len(wrong)} in all): is this a reranker?"
        )
    model.config.use_cache = False
    loaded: PreTrainedModel = model.eval()
    return loaded


class Scorer(nn.Module):
    """The columns (batch, labels) of a batch of pairs."""

    def __init__(self, model: PreTrainedModel, facts: PairFacts) -> None:
        """`model` is the folder's."""
        super().__init__()
        self.model = model
        self.pooling = facts.pooling
        self.steps = nn.Sequential(*(_step(step, file) for step, file in facts.steps))
        self.answer: nn.Parameter | None = None
        if facts.answers:
            self.answer = nn.Parameter(_answer(model, facts), requires_grad=False)
            self.model = model.get_decoder()
        self.eval()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Ids, mask and token types, all int64 (batch, n), to (batch, labels)."""
        if self.answer is not None:
            return self._answered(input_ids, attention_mask)
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, **types)
        if not self.pooling:
            logits: Tensor = result.logits
            return logits
        pooled = torch_modules.pool(result.last_hidden_state, attention_mask, self.pooling)
        scores: Tensor = self.steps(pooled)
        return scores

    def _answered(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The logit of the answer, (batch, 1), whichever side the padding is on.

        The last state times one row in place of the whole vocabulary's matrix: a graph of 152,000
        columns less. A product and a sum, since int8 would round the factors of a MatMul.
        """
        positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        result = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions
        )
        state = torch_modules.pool(result.last_hidden_state, attention_mask, "last")
        return (state * self.answer).sum(dim=-1, keepdim=True)


def _answer(model: PreTrainedModel, facts: PairFacts) -> Tensor:
    """W[true] - W[false] of the matrix that makes logits, (hidden,); W[true] for one answer."""
    head: Any = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        raise ExportError(f"the logits of {facts.folder} are no product of states and a matrix")
    rows = [head.weight[number].detach().clone() for number in facts.answers]
    return rows[0] - rows[1] if len(rows) > 1 else rows[0]


def examples(facts: PairFacts) -> list[dict[str, Tensor]]:
    """Inputs to trace at, the first, and to compare at; no two have a size in common."""
    made = []
    generator = torch.Generator().manual_seed(0)
    for batch, length in ((2, 9), (1, 4), (3, 33)):
        ids = torch.randint(3, 10, (batch, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, length - 2 :] = 0  # a mask of ones might be traced away
        types = torch.zeros_like(ids)
        types[:, length // 2 :] = 1
        made.append({"input_ids": ids, "attention_mask": mask})
        if facts.typed:
            made[-1]["token_type_ids"] = types * mask
    if facts.answers:  # padding on the left
        ids = torch.randint(3, 10, (2, 11), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, :4] = 0
        made.append({"input_ids": ids, "attention_mask": mask})
    return made


def _step(step: Step, file: Path) -> nn.Module:
    if step.layer is not None:
        return torch_modules.Step(step.layer)
    if step.type == "layer-norm":
        norm = nn.LayerNorm(step.dimension, eps=EPSILON)
        for name in ("weight", "bias"):
            value = tensors.load(file, f"norm.{name}").float()
            setattr(norm, name, nn.Parameter(value, requires_grad=False))
        return norm
    return Unit() if step.type == "normalize" else nn.Identity()


class Unit(nn.Module):
    """Vectors of unit length."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) to (..., n)."""
        return nn.functional.normalize(x, p=2.0, dim=-1)
