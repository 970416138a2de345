"""Read bge-m3's heads: token weights and token vectors from linear layers beside the encoder.

Source: FlagOpen/FlagEmbedding, FlagEmbedding/finetune/embedder/encoder_only/m3/modeling.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tessera_onnx.errors import LoadError
from tessera_onnx.models.foreign import layers, tokenizer_file
from tessera_onnx.models.foreign.layers import Layer
from tessera_onnx.models.foreign.prompts import Prompts
from tessera_onnx.models.foreign.tokenizer_file import TokenizerFile
from tessera_onnx.models.spec import MultiVector, Role, Sparse, TokenRole

SPARSE, COLBERT = "sparse_linear", "colbert_linear"
# Words that FlagEmbedding gives no weight, by the tokenizer's names for them.
UNUSED = ("cls", "eos", "pad", "unk")


def head_file(folder: Path, name: str) -> Path | None:
    """The file of the head `name`, safetensors rather than .pt, or None."""
    found = (folder / f"{name}{suffix}" for suffix in (".safetensors", ".pt"))
    return next((path for path in found if path.is_file()), None)


def multi_vector(
    file: Path,
    config: dict[str, Any],
    prompts: Prompts,
    query_length: int,
    document_length: int,
) -> tuple[MultiVector, tuple[Layer, ...]]:
    """The recipe of the token vectors: every token but the first, scores divided by the query's
    number of tokens.
    """
    hidden = layers.hidden_size(config)
    stack = (_layer(file, hidden),)
    default = prompts.default
    plain = TokenRole(default or "", document_length, (), "none", ())
    recipe = MultiVector(
        output="token_embeddings",
        drop_first=True,
        dimension=layers.width(stack, hidden),
        matryoshka=(),
        score="mean",
        query=TokenRole(prompts.query, query_length, (), "none", ()),
        document=TokenRole(prompts.document, document_length, (), "none", ()),
        plain=None if default in (None, prompts.document) else plain,
    )
    return recipe, stack


def sparse(
    folder: Path,
    file: Path,
    config: dict[str, Any],
    tokenizer: TokenizerFile,
    roles: tuple[Role, Role, Role | None],
) -> tuple[Sparse, tuple[Layer, ...]]:
    """The recipe of the token weights: a number a token, the largest of equal tokens counts."""
    layer = _layer(file, layers.hidden_size(config))
    if layer.out_features != 1:
        raise LoadError(f"{file} gives {layer.out_features} numbers a token, it must give one")
    unused = {tokenizer_file.special(folder, tokenizer.tokenizer, name) for name in UNUSED}
    recipe = Sparse(
        output="token_weights",
        head="tokens",
        activation="relu",
        vocab_size=int(config["vocab_size"]),
        zero_ids=tuple(sorted(number for number in unused if number is not None)),
        query_weights="model",
        idf="",
        query=roles[0],
        document=roles[1],
        plain=roles[2],
    )
    return recipe, (layer,)


def _layer(file: Path, hidden: int) -> Layer:
    from tessera_export import tensors

    weight, bias = (tensors.load(file, name) for name in ("weight", "bias"))
    rows, columns = weight.shape if weight.ndim == 2 else (0, 0)
    if columns != hidden or bias.shape != (rows,):
        raise LoadError(
            f"{file} holds tensors of the shapes {tuple(weight.shape)} and {tuple(bias.shape)}, "
            f"expected (n, {hidden}) and (n,)"
        )
    return Layer(
        file=file,
        weight="weight",
        bias="bias",
        activation="Identity",
        residual=False,
        residual_weight="",
        in_features=columns,
        out_features=rows,
    )
