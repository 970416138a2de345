"""XLM-R tokenizers: tokenizer.json as it lies is what the models were trained with.

The models of XLM-R's family (multilingual-e5, bge-m3, …) were trained with sentencepiece.
transformers 4 reads tokenizer.json as it is. The XLMRobertaTokenizer of transformers 5 takes the
vocabulary and the precompiled character map out of that file and builds the rest anew, so it loses
every other normalizer and the file's way to split at white space.
"""

import io
import json
import types

import numpy as np
import pytest
import sentencepiece
import tokenizers
import torch
import transformers
import upstream
import vocabularies
from architectures import small
from layouts import GRAPH, States, trace
from transformers.convert_slow_tokenizer import XLMRobertaConverter

from tessera_onnx import TesseraDense

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]
SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", "<mask>")
# NEL: a character for sentencepiece, white space for the steps of `tokenizers`: the file loses it
# at the end of a text, the class of transformers 5 splits the text there.
SPLIT = "\x85"
TEXTS = [
    "  leading", "trailing  ", "a  b   c", "tab\there", "new\r\nline", "a\u00a0b", "a\u3000b",
    "a\u2028b", "a\u200bb", "▁meta a ▁ b", "ﬁne ½ ①", "cafe\u0301 Å",
    "a\x00b\x07c", "\uff46\uff55\uff4c\uff4c", "ﷺ",
    "한국어 \u1112\u1161\u11ab", "…", f"x{SPLIT}y", f"{SPLIT} x",
]  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A sentencepiece model with XLM-R's settings, and what the upstream converter makes of it."""
    place = tmp_path_factory.mktemp("xlm-r")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for text in vocabularies.corpus() if text.strip()]),
        model_writer=model, vocab_size=vocabularies.SIZE, model_type="unigram",
        normalization_rule_name="nmt_nfkc", hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (place / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    numbers = {"<s>": 0, "</s>": 2}
    slow = types.SimpleNamespace(
        vocab_file=str(place / "sentencepiece.bpe.model"), convert_tokens_to_ids=numbers.get
    )
    made = XLMRobertaConverter(slow).converted()
    special = [tokenizers.AddedToken(name, normalized=False, special=True) for name in SPECIAL[:4]]
    mask = tokenizers.AddedToken("<mask>", lstrip=True, normalized=False, special=True)
    made.add_special_tokens([*special, mask])
    made.save(str(place / "tokenizer.json"))
    names = {"bos": 0, "eos": 1, "sep": 1, "cls": 0, "unk": 3, "pad": 2, "mask": 4}
    config = {f"{name}_token": SPECIAL[number] for name, number in names.items()}
    config |= {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512}
    (place / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return place


def ids_of_sentencepiece(place, texts):
    """XLM-R's ids: those of sentencepiece plus 1, and 3 for what it does not know."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(place / "sentencepiece.bpe.model"))
    return [[0, *(3 if i == 0 else i + 1 for i in model.encode(text)), 2] for text in texts]


def plain_texts():
    """Without special tokens in the text, which sentencepiece does not know."""
    every = [*upstream.hostile(), *TEXTS]
    odd = (*SPECIAL, "\u2028\u2029\x85")
    return [text for text in every if not any(part in text for part in odd)]


def rebuilt(place, texts):
    """The ids of transformers' own class."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    assert type(tokenizer).__name__ == "XLMRobertaTokenizer"
    return [tokenizer(text)["input_ids"] for text in texts]


def test_tokenizer_json_gives_the_ids_of_sentencepiece(trained):
    texts = plain_texts()
    truth = ids_of_sentencepiece(trained, texts)
    file = tokenizers.Tokenizer.from_file(str(trained / "tokenizer.json"))
    assert [file.encode(text).ids for text in texts] == truth
    theirs = rebuilt(trained, texts)
    differ = [t for t, a, b in zip(texts, truth, theirs, strict=True) if a != b]
    assert all(SPLIT in text for text in differ)


def test_a_file_without_the_character_map(trained, tmp_path):
    """A tokenizer.json with NFKC in its place, as the trainers of `tokenizers` write it."""
    document = json.loads((trained / "tokenizer.json").read_text("utf-8"))
    document["normalizer"] = {"type": "NFKC"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    config = (trained / "tokenizer_config.json").read_text("utf-8")
    (tmp_path / "tokenizer_config.json").write_text(config, "utf-8")
    texts = ["ﬁne ½ ①", "\uff46\uff55\uff4c\uff4c", "cafe\u0301"]
    truth = ids_of_sentencepiece(trained, texts)
    file = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [file.encode(text).ids for text in texts] == truth
    assert all(a != b for a, b in zip(rebuilt(tmp_path, texts), truth, strict=True))


def test_vectors_are_those_of_sentencepiece(trained, tmp_path):
    """From a text to its vector: XLMRobertaModel reads the ids of sentencepiece."""
    place = tmp_path / "model"
    place.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (place / name).write_bytes((trained / name).read_bytes())
    size = tokenizers.Tokenizer.from_file(str(place / "tokenizer.json")).get_vocab_size()
    model = small("xlm-roberta", vocab_size=size, pad_token_id=1).eval()
    model.save_pretrained(place)
    trace(States(model, ("input_ids", "attention_mask"), "last_hidden_state"), place / GRAPH)
    texts = [text[:90] for text in plain_texts()]
    expected = []
    for row in ids_of_sentencepiece(trained, texts):
        with torch.no_grad():
            mean = model(torch.tensor([row])).last_hidden_state[0].mean(0)
        expected.append((mean / mean.norm()).numpy())
    with TesseraDense(path=place, pooling="mean") as ours:
        upstream.close(ours.encode_batch(texts), np.stack(expected))
