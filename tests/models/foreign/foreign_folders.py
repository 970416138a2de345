"""Small foreign folders, made of the JSON files that their libraries write and of a tiny graph."""

import json
import struct

import pytest
from artifact_tools import ARTIFACTS
from faults import graphs

from tessera_onnx import LoadError
from tessera_onnx.models.foreign.reader import read

SIZE, VOCABULARY = 8, 64
GRAPH = "onnx/model.onnx"
SETTINGS = "config_sentence_transformers.json"
FLOAT, INT64 = 1, 7
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]", "[Q] ", "[D] "]
WORDS += ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", ".", ",", "!", "two"]
WORDS += ["plus", "is", "four", ";", "three", "six", "a", "b"]


def tokenizer(**changes):
    """A tokenizer.json of words, as BERT's: [CLS] text [SEP]."""
    special = [
        {"id": number, "content": word, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for number, word in enumerate(WORDS[:9])
    ]  # fmt: skip
    pieces = [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ]
    tokens = {
        word: {"id": word, "ids": [WORDS.index(word)], "tokens": [word]}
        for word in ("[CLS]", "[SEP]")
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing", "single": pieces, "pair": pieces,
            "special_tokens": tokens,
        },
        "decoder": None,
        "model": {
            "type": "WordLevel", "vocab": {word: i for i, word in enumerate(WORDS)},
            "unk_token": "[UNK]",
        },
    } | changes  # fmt: skip


CONFIG = {
    "model_type": "bert", "architectures": ["BertModel"], "hidden_size": SIZE,
    "vocab_size": VOCABULARY, "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip
TOKENIZER_CONFIG = {"pad_token": "[PAD]", "mask_token": "[MASK]", "model_max_length": 10**30}
POOLING = {"embedding_dimension": SIZE, "pooling_mode": "mean", "include_prompt": True}
NEW = "sentence_transformers.{}.modules."
OLD = "sentence_transformers.models."


def graph(*outputs, inputs=("input_ids", "attention_mask"), dims=("batch", "tokens")):
    """An ONNX file of those inputs and (name, dims) outputs, which is not run."""
    ports = b"".join(graphs.field(11, graphs.value(name, INT64, list(dims))) for name in inputs)
    for name, sizes in outputs or (("last_hidden_state", ("batch", "tokens", SIZE)),):
        ports += graphs.field(12, graphs.value(name, FLOAT, list(sizes)))
    return graphs.number(1, 8) + graphs.field(7, ports) + graphs.field(8, graphs.number(2, 17))


def tensors(**shapes):
    """A safetensors file of zeros, whose tensors are named as the keys with "." for "__"."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4
        for dim in shape:
            size *= dim
        entry = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        header[name.replace("__", ".")] = entry
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def modules(*types):
    """modules.json of classes with their whole names, or of sentence-transformers'."""
    return [
        {
            "idx": index,
            "name": str(index),
            "path": "" if index == 0 else f"{index}_{name.rsplit('.', 1)[-1]}",
            "type": name if "." in name else f"{OLD}{name}",
        }
        for index, name in enumerate(types)
    ]


def write(folder, files):
    """Write files by name: bytes, text, or JSON; None removes one."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(
                content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
            )
    return folder


def plain(folder, **files):
    """An encoder with its tokenizer and graph, as optimum leaves them."""
    return write(
        folder,
        {
            "config.json": CONFIG,
            "tokenizer.json": tokenizer(),
            "tokenizer_config.json": TOKENIZER_CONFIG,
            GRAPH: graph(),
        }
        | files,
    )


def dense(folder, *after, types=None, **settings):
    """A folder that sentence-transformers saved: Transformer, Pooling and the classes `after`."""
    plain(folder)
    return write(
        folder,
        {
            "modules.json": modules(*(types or ("Transformer", "Pooling", *after))),
            "1_Pooling/config.json": POOLING,
            "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
            SETTINGS: {"__version__": {"sentence_transformers": "5.1.0"}, "prompts": {}} | settings,
        },
    )


def edit(folder, name, **changes):
    """Change keys of a JSON object; a value of None removes one."""
    path = folder / name
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content = {key: value for key, value in (content | changes).items() if value is not None}
    write(folder, {name: content})


def real(folder):
    """The graph and tokenizer of a test artifact, which gives token states of 32 numbers."""
    source = ARTIFACTS / "states"
    return write(
        folder,
        {name: (source / name).read_bytes() for name in ("model.onnx", "tokenizer.json")},
    )


def refused(folder, message, error=LoadError, **options):
    """The error of a folder that is not opened: one line, which `message` matches."""
    with pytest.raises(error, match=message) as caught:
        read(folder, **options)
    assert "\n" not in str(caught.value)
    return caught.value
