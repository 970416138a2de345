"""Small random-weight models of the true classes, two layers each, with MiniLM's vocabulary."""

import torch
import transformers
from conftest import SMALL

MODERN = {
    "pad_token_id": 0,
    "cls_token_id": 101,
    "sep_token_id": 102,
    "bos_token_id": 101,
    "eos_token_id": 102,
    "local_attention": 16,
    "global_attn_every_n_layers": 2,
}
DECODER = {
    "num_key_value_heads": 1,
    "head_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": 101,
    "eos_token_id": 102,
}
# embeddinggemma's: attention both ways, and a window in every second layer
GEMMA = {
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"],
    "use_bidirectional_attention": True,
}
ROBERTA = {"pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102}
# EmbeddingGemma 2's: its own layer makes the vectors, and full attention has heads of another size.
GEMMA2 = {
    "num_key_value_heads": 1,
    "head_dim": 32,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 16,
    "per_layer_config": {"1": {"head_dim": 48, "num_key_value_heads": 1}},
    "hidden_size_per_layer_input": 16,
    "embedding_dim": 96,
    "pad_token_id": 0,
    "bos_token_id": 101,
    "eos_token_id": 102,
}
CLASSES = {
    "bert": ("Bert", {}),
    "bert-untied": ("Bert", {"tie_word_embeddings": False}),
    "roberta": ("Roberta", ROBERTA),
    "xlm-roberta": ("XLMRoberta", ROBERTA),
    "mpnet": ("MPNet", ROBERTA),
    "modernbert": ("ModernBert", MODERN),
    "nomic": ("NomicBert", ROBERTA),
    "gte": ("Gte", ROBERTA),
    "eurobert": ("EuroBert", ROBERTA),
    "qwen3": ("Qwen3", DECODER),
    "gemma3": ("Gemma3Text", DECODER | GEMMA),
    "embeddinggemma2": ("EmbeddingGemma2Text", GEMMA2),
    # harrier's: each token sees those before it
    "gemma3-causal": ("Gemma3Text", DECODER | GEMMA | {"use_bidirectional_attention": False}),
    # a decoder made an encoder, as transformers says it in config.json
    "qwen3-bidirectional": ("Qwen3", DECODER | {"is_causal": False}),
}


def small(name, head="Model", **changes):
    """A model by family; `head` may be "ForMaskedLM", `changes` replaces what its config has."""
    size = SMALL | changes
    torch.manual_seed(1)
    if name == "distilbert":
        config = transformers.DistilBertConfig(
            dim=size["hidden_size"], n_layers=2, n_heads=2, hidden_dim=size["intermediate_size"],
            vocab_size=size["vocab_size"], max_position_embeddings=size["max_position_embeddings"],
        )  # fmt: skip
        return getattr(transformers, f"DistilBert{head}")(config)
    if name == "t5":
        config = transformers.T5Config(
            vocab_size=size["vocab_size"], d_model=size["hidden_size"], d_kv=32, d_ff=96,
            num_layers=2, num_heads=2, relative_attention_num_buckets=8,
            relative_attention_max_distance=20, n_positions=size["max_position_embeddings"],
        )  # fmt: skip
        return transformers.T5EncoderModel(config)
    prefix, own = CLASSES[name]
    config = getattr(transformers, f"{prefix}Config")(**SMALL | own | changes)
    return getattr(transformers, f"{prefix}{head}")(config)
