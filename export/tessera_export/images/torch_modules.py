"""Load image models with transformers, and split them into the torch modules that are traced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_vl import modeling_qwen2_vl

from tessera_export import tensors
from tessera_export.errors import ExportError
from tessera_export.files import Weights
from tessera_export.images.recipe import READERS, RETRIEVERS

# The projection in transformers, in ColPali and ColModernVBert, and in ColIdefics3.
PROJECTIONS = ("embedding_proj_layer", "custom_text_proj", "linear")
# Outputs of the other graphs: of tiles, of token ids, the vectors of texts.
FEATURES, EMBEDS, TEXT_VECTORS = "features", "inputs_embeds", "text_embeds"
# colpali-engine puts "model." before the reader's names, merged adapters "base_model.model." too.
SHELL = {r"^(base_model\.model\.)?model\.": ""}
# But ColQwen2 is its own reader, of which older files name only the language model.
COLQWEN = {
    rf"^model\.{name}": f"language_model.{name}" for name in ("layers", "embed_tokens", "norm")
}


def load(folder: Path, kind: str, attention: str | None) -> Any:
    """Upstream's model in fp32 with its own weights, in eval mode; None = its own attention.

    For `kind` "colpali", "paligemma" and so on it is the model that reads images, without its
    projection. Raises ExportError when transformers cannot load it or the weights lack a tensor.
    """
    factory: Any = getattr(transformers, RETRIEVERS.get(kind, "AutoModel"))
    mapping = {"key_mapping": COLQWEN if kind == "qwen2_vl" else SHELL} if kind in READERS else {}
    try:
        model, report = factory.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **mapping,
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError) as error:
        raise ExportError(f"transformers cannot load {folder}: {error}") from error
    wrong = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if wrong:
        raise ExportError(
            f"the weights in {folder} do not fill the tensor {wrong[0]!r} ({len(wrong)} in all)"
        )
    model.eval().requires_grad_(requires_grad=False)
    return model.vlm if kind in RETRIEVERS else model


def projection(weights: Weights) -> nn.Linear:
    """The layer from hidden states to token vectors. Raises ExportError when there is none."""
    for name in PROJECTIONS:
        found = [key for key in weights.shapes if f".{key}".endswith(f".{name}.weight")]
        if len(found) == 1:
            matrix = tensors.load(weights.owner[found[0]], found[0]).float()
            linear = nn.Linear(matrix.shape[1], matrix.shape[0])
            bias = found[0].removesuffix("weight") + "bias"
            if bias not in weights.owner:
                raise ExportError(f"the projection {name} has no bias, upstream's has one")
            linear.weight = nn.Parameter(matrix, requires_grad=False)
            values = tensors.load(weights.owner[bias], bias).float()
            linear.bias = nn.Parameter(values, requires_grad=False)
            return linear
    raise ExportError(f"the weights hold no projection: one of {', '.join(PROJECTIONS)}")


class Tiles(nn.Module):
    """pixel_values (n, 3, size, size) to features (n, tokens, hidden), as the texts' embeddings."""

    def __init__(self, model: Any) -> None:
        """`model` is of PaliGemmaModel, Idefics3Model or ModernVBertModel."""
        super().__init__()
        paligemma = hasattr(model, "vision_tower")
        self.tower = model.vision_tower if paligemma else model.vision_model
        self.connector = model.multi_modal_projector if paligemma else model.connector
        self.positions: nn.Parameter | None = None
        if isinstance(self.tower, transformers.Idefics3VisionTransformer):
            self.positions = _positions(self.tower)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Tower, then the connector that makes tokens of the language model of its patches."""
        if self.positions is None:
            hidden = self.tower(pixel_values).last_hidden_state
        else:  # the masks are for images of other sizes than the square, which no tile is
            patches = self.tower.embeddings.patch_embedding(pixel_values)
            embedded = patches.flatten(2).transpose(1, 2) + self.positions
            hidden = self.tower.encoder(inputs_embeds=embedded).last_hidden_state
            hidden = self.tower.post_layernorm(hidden)
        features: Tensor = self.connector(hidden)
        return features


def _positions(tower: Any) -> nn.Parameter:
    """The position embeddings (1, patches, hidden) that Idefics3's tower gives to a full square.

    It computes the row of the table from fractions, whose rounding is not ours to repeat.
    """
    kept: list[Tensor] = []
    table = tower.embeddings.position_embedding
    handle = table.register_forward_hook(lambda *call: kept.append(call[-1]))
    size, patch = tower.config.image_size, tower.config.patch_size
    grid = size // patch
    with torch.no_grad():
        tower.embeddings(torch.zeros(1, 3, size, size), torch.ones(1, grid, grid, dtype=torch.bool))
    handle.remove()
    return nn.Parameter(kept[0], requires_grad=False)


class QwenTiles(nn.Module):
    """pixel_values (n, 3, h, w) to features (n, h * w / 784, hidden), for images of any size.

    Qwen2-VL's own module takes patches that its processor cut, and splits them by the images that
    they are of, which no exporter follows. Equal to it for images of one size each.
    """

    def __init__(self, model: Any) -> None:
        """`model` is a Qwen2VLModel."""
        super().__init__()
        self.tower = model.visual
        self.patch = self.tower.config.patch_size
        self.merge = self.tower.config.spatial_merge_size
        # A still image is two equal frames for the convolution over time.
        self.kernel = nn.Parameter(self.tower.patch_embed.proj.weight.sum(2), requires_grad=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Row by row of squares of merge x merge patches, which become one feature."""
        n, channels, height, width = pixel_values.shape
        side, merge = self.patch, self.merge
        down, across = height // (side * merge), width // (side * merge)
        parts = pixel_values.reshape(n, channels, down, merge, side, across, merge, side)
        parts = parts.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(n, -1, channels * side * side)
        hidden = parts @ self.kernel.flatten(1).T
        rows, inner = torch.arange(down), torch.arange(merge)
        rows = (rows[:, None, None, None] * merge + inner[:, None]).expand(-1, across, -1, merge)
        columns = torch.arange(across)[:, None, None] * merge + inner
        columns = columns.expand(down, -1, merge, -1)
        places = torch.stack([rows.reshape(-1), columns.reshape(-1)], dim=-1)
        turns = self.tower.rotary_pos_emb(hidden, places)
        for block in self.tower.blocks:
            hidden = hidden + self._attention(block.attn, block.norm1(hidden), *turns)
            hidden = hidden + block.mlp(block.norm2(hidden))
        features: Tensor = self.tower.merger(hidden).reshape(n, down * across, -1)
        return features

    def _attention(self, layer: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        parts = layer.qkv(x).unflatten(-1, (3, layer.num_heads, -1))
        query, key, value = parts.permute(2, 0, 1, 3, 4).unbind(0)  # (n, patches, heads, size)
        query, key = modeling_qwen2_vl.apply_rotary_pos_emb_vision(query, key, cos, sin)
        weights = query.transpose(1, 2) @ key.permute(0, 2, 3, 1) * layer.scaling
        seen = torch.softmax(weights, dim=-1) @ value.transpose(1, 2)
        mixed: Tensor = layer.proj(seen.transpose(1, 2).flatten(2))
        return mixed


class Tokens(nn.Module):
    """input_ids (batch, n) to embeddings (batch, n, hidden), Gemma's scale included."""

    def __init__(self, model: Any) -> None:
        """`model` as for Tiles."""
        super().__init__()
        self.table = model.get_input_embeddings()
        image, words = model.config.image_token_id, self.table.num_embeddings
        self.absent: int | None = image if image >= words else None

    def forward(self, input_ids: Tensor) -> Tensor:
        """The image token's rows are replaced by features; it may have none in the table."""
        if self.absent is not None:
            input_ids = torch.where(input_ids == self.absent, 0, input_ids)
        embeddings: Tensor = self.table(input_ids)
        return embeddings


class Language(nn.Module):
    """inputs_embeds (batch, n, hidden) and attention_mask (batch, n) to unit vectors (b, n, d)."""

    def __init__(self, model: Any, projection: nn.Linear) -> None:
        """`model` as for Tiles."""
        super().__init__()
        self.prefix = model.config.model_type == "paligemma"
        named = hasattr(model, "language_model")
        self.language = model.language_model if named else model.text_model
        self.projection = projection

    def forward(
        self, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None
    ) -> Tensor:
        """Qwen2-VL takes positions in time, down and across, (3, batch, n).

        What the vectors of padding are is nobody's promise.
        """
        # Without token_type_ids transformers lets PaliGemma's prefix see what follows it on
        # unpadded input only. They are 0 for all that ColPali reads (its processor's output, and
        # the mask it was trained with): every token sees every other. Positions count from 1.
        options = {"attention_mask": attention_mask, "position_ids": position_ids}
        if self.prefix:
            hidden = (1 - attention_mask[:, None, None, :]).to(inputs_embeds.dtype)
            options["attention_mask"] = hidden * torch.finfo(inputs_embeds.dtype).min
            options["position_ids"] = torch.cumsum(torch.ones_like(attention_mask), dim=1)
        states = self.language(inputs_embeds=inputs_embeds, use_cache=False, **options)
        vectors = self.projection(states.last_hidden_state)
        return functional.normalize(vectors, p=2.0, dim=-1)


class Pictures(nn.Module):
    """pixel_values (n, 3, size, size) to unit vectors (n, dimension): the image tower of a pair."""

    def __init__(self, model: Any) -> None:
        """`model` is of CLIPModel or SiglipModel."""
        super().__init__()
        self.tower = model.vision_model
        self.projection = getattr(model, "visual_projection", nn.Identity())

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The pooled state, projected where the model projects it."""
        pooled = self.tower(pixel_values=pixel_values).pooler_output
        return functional.normalize(self.projection(pooled), p=2.0, dim=-1)


class Texts(nn.Module):
    """input_ids (batch, n) to unit vectors (batch, dimension): the text tower of a pair."""

    def __init__(self, model: Any) -> None:
        """`model` as for Pictures."""
        super().__init__()
        self.tower = model.text_model
        self.projection = getattr(model, "text_projection", nn.Identity())

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """SigLIP reads its padding and takes no mask."""
        pooled = self.tower(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return functional.normalize(self.projection(pooled), p=2.0, dim=-1)
