"""The recipes of bge-m3's token weights and token vectors, which heads beside its encoder make.

Source: FlagOpen/FlagEmbedding, FlagEmbedding/finetune/embedder/encoder_only/m3/modeling.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera_onnx.models.foreign import splade, tokenizer_check
from tessera_onnx.models.foreign.prompts import Prompts
from tessera_onnx.models.foreign.tokenizer_file import TokenizerFile
from tessera_onnx.models.spec import MultiVector, Role, Sparse, TokenRole

# Words that FlagEmbedding gives no weight, by the tokenizer's names for them.
UNUSED = ("cls", "eos", "pad", "unk")
# Outputs of graphs that make all three kinds of vectors.
OUTPUTS = {
    "dense": ("dense_vecs", "dense"),
    "sparse": ("sparse_vecs", "sparse", "token_weights"),
    "multi-vector": ("colbert_vecs", "colbert"),
}


def multi_vector(
    dimension: int, prompts: Prompts, query_length: int, document_length: int
) -> MultiVector:
    """The recipe of the token vectors: every token but the first, scores divided by the query's
    number of tokens.
    """
    default = prompts.default
    plain = TokenRole(default or "", document_length, (), "none", ())
    return MultiVector(
        output="",
        drop_first=True,
        dimension=dimension,
        matryoshka=(),
        score="mean",
        query=TokenRole(prompts.query, query_length, (), "none", ()),
        document=TokenRole(prompts.document, document_length, (), "none", ()),
        plain=None if default in (None, prompts.document) else plain,
    )


def sparse(
    places: Sequence[Path],
    config: Mapping[str, Any],
    tokenizer: TokenizerFile,
    roles: tuple[Role, Role, Role | None],
) -> Sparse:
    """The recipe of the token weights: a number a token, the largest of equal tokens counts.

    `places` are the folders of the tokenizer's configuration.
    """
    unused = {tokenizer_check.special(places, tokenizer.tokenizer, name) for name in UNUSED}
    return Sparse(
        output="",
        head="tokens",
        activation="relu",
        vocab_size=splade.vocabulary(config),
        zero_ids=tuple(sorted(number for number in unused if number is not None)),
        query_weights="model",
        idf="",
        query=roles[0],
        document=roles[1],
        plain=roles[2],
    )
