"""Make the graph of tests/artifacts/attention: random BERT weights that give their attention.

`python tests/make_attention_artifact.py`, where torch, transformers and onnx are. Its words are
those of tests/artifacts/splade. tests/make_lexical_goldens.py then makes the golden weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import BertConfig, BertModel
from word_artifacts import describe

ARTIFACTS = Path(__file__).parent / "artifacts"
FOLDER = ARTIFACTS / "attention"
STOP_WORDS = Path(__file__).parents[1] / "tessera_onnx" / "models" / "stop_words" / "english.txt"

# The recipe of the catalogue's bm42-all-minilm-l6-v2-attentions, with these words' special tokens.
FACTS = {
    "id": "test-attention",
    "graph": "model.onnx",
    "words": """\
[model.attention]
stemmer = "english"
stop_words = "stopwords.txt"
alpha = 0.5
""",
    "head": 'output = "attention_6"\nhead = "attention"',
    "query_weights": "ones",
}


class Attention(torch.nn.Module):
    """The attention of the last layer, all heads."""

    def __init__(self, model: BertModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        found = self.model(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            output_attentions=True,
        )
        return found.attentions[-1]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    torch.manual_seed(8)
    config = BertConfig(
        vocab_size=128,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.6,  # so that heads differ in what they attend to
        attn_implementation="eager",
    )
    model = Attention(BertModel(config, add_pooling_layer=False)).eval()
    ids = torch.randint(7, 100, (2, 9))
    names = ("input_ids", "attention_mask", "token_type_ids")
    axes = {name: {0: "batch", 1: "tokens"} for name in names}
    torch.onnx.export(
        model,
        (ids, torch.ones_like(ids), torch.zeros_like(ids)),
        str(FOLDER / "model.onnx"),
        input_names=list(names),
        output_names=["attention_6"],
        dynamic_axes={**axes, "attention_6": {0: "batch", 2: "tokens", 3: "tokens"}},
        dynamo=False,
        opset_version=14,
    )
    shutil.copy(ARTIFACTS / "splade" / "tokenizer.json", FOLDER)
    shutil.copy(STOP_WORDS, FOLDER / "stopwords.txt")
    describe(FOLDER, ("model.onnx", "stopwords.txt", "tokenizer.json"), **FACTS)


if __name__ == "__main__":
    main()
