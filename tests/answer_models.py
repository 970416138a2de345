"""Small language models that rerank by yes and no, with a byte-level tokenizer as Qwen's."""

from __future__ import annotations

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

# What the vocabulary is trained on: the prose of a licence, and words of several scripts.
CORPUS = [
    "Given a query and a passage, say whether the passage holds an answer to the query.",
    "The committee could not agree on a date, so the ship left the harbour without them.",
    "What is machine learning, and how does it differ from statistics?",
    "Venus is the second planet; Mars is the fourth, and is often called the Red Planet.",
    "Ça coûte trois euros, déjà ? Москва и Киев. 東京和北京。 γνῶθι σεαυτόν",
] * 4
VOCABULARY = 500
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>", "<bos>", "<eos>"]
# Qwen2's rule for words.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
ANSWERS = ("yes", "no", "Yes")
SIZE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 48, "max_position_embeddings": 1024, "head_dim": 16,
}  # fmt: skip


def tokenizer(pad: str = "<|endoftext|>", **special: str) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer that knows every answer as one token, and puts nothing around a text."""
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior="isolated", invert=False)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator([*CORPUS, *ANSWERS * 500], trainer)
    assert all(made.token_to_id(token) for token in ANSWERS)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=pad, padding_side="left", model_max_length=1024, **special
    )


def language_model(family: str, **changes: object) -> transformers.PreTrainedModel:
    """Random weights of Qwen2, Qwen3 or Gemma whose scores are far from each other."""
    torch.manual_seed(3)
    own = {"pad_token_id": 0, "bos_token_id": 4, "eos_token_id": 5, "vocab_size": VOCABULARY}
    config = getattr(transformers, f"{family}Config")(**SIZE | own | changes)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.15)
    return model.eval()
