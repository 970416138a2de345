"""bge-m3: one encoder, three heads. The truth is FlagEmbedding's formula, in torch."""

import json

import numpy as np
import pytest
import torch
import transformers
from architectures import small
from safetensors.torch import save_file

from tessera_export.errors import ExportError
from tessera_export.texts import folder
from tessera_onnx import TesseraDense, TesseraMultiVector, TesseraSparse

pytestmark = pytest.mark.export


@pytest.fixture
def place(make, dense_files):
    place = make("m3", small("xlm-roberta"), dense_files("cls", 80))
    torch.manual_seed(2)
    colbert, sparse = torch.nn.Linear(64, 64), torch.nn.Linear(64, 1)
    torch.nn.init.constant_(sparse.bias, 0.3)
    torch.save(colbert.state_dict(), place / "colbert_linear.pt")
    torch.save(sparse.state_dict(), place / "sparse_linear.pt")
    config = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "[SEP]"}))
    return place


def upstream(place, text):
    """dense, {id: weight} and token vectors, as EncoderOnlyEmbedderM3Model computes them."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    model = transformers.AutoModel.from_pretrained(place).eval()
    inputs = tokenizer(text, truncation=True, max_length=80, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    heads = {}
    for name, size in (("colbert_linear", 64), ("sparse_linear", 1)):
        heads[name] = torch.nn.Linear(64, size)
        heads[name].load_state_dict(torch.load(place / f"{name}.pt", weights_only=True))
    with torch.no_grad():
        states = model(**inputs).last_hidden_state[0]
        dense = torch.nn.functional.normalize(states[0], dim=-1)
        weights = torch.relu(heads["sparse_linear"](states))[:, 0]
        tokens = torch.nn.functional.normalize(heads["colbert_linear"](states[1:]), dim=-1)
    unused = {tokenizer.cls_token_id, tokenizer.eos_token_id}
    unused |= {tokenizer.pad_token_id, tokenizer.unk_token_id}
    table = {}
    for number, weight in zip(inputs["input_ids"][0].tolist(), weights.tolist(), strict=True):
        if number not in unused and weight > table.get(number, 0):
            table[number] = weight
    return dense.numpy(), table, tokens.numpy()


def test_three_heads_of_one_graph(place, exported, texts):
    kinds = ("dense", "multi-vector", "sparse")
    running = exported(place, *kinds, precisions=("fp32", "fp16", "int8"))
    spec = running.spec
    assert (spec.kinds, spec.graph.precisions()) == (kinds, ["fp32", "fp16", "int8"])
    assert (spec.multi_vector.drop_first, spec.multi_vector.score) == (True, "mean")
    assert (spec.sparse.head, spec.sparse.activation) == ("tokens", "relu")
    assert spec.sparse.zero_ids == (0, 100, 101, 102)
    assert {row.output for row in spec.export.parity} == {
        "sentence_embedding",
        "token_embeddings",
        "token_weights",
    }
    options = {"path": running.place, "precision": "fp32", "on_long": "truncate"}
    with (
        TesseraDense(**options) as dense,
        TesseraMultiVector(**options) as multi,
        TesseraSparse(**options) as sparse,
    ):
        found = (dense.encode_batch(texts), multi.encode_batch(texts), sparse.encode_batch(texts))
        for text, vector, tokens, weights in zip(texts, *found, strict=True):
            theirs = upstream(place, text)
            assert np.abs(vector - theirs[0]).max() <= 1e-5
            assert weights.indices.tolist() == sorted(theirs[1])
            expected = [theirs[1][number] for number in sorted(theirs[1])]
            assert np.abs(weights.values - expected).max() <= 1e-4
            assert tokens.shape == theirs[2].shape
            assert np.abs(tokens - theirs[2]).max() <= 1e-4


def test_heads_as_safetensors(place, exported, texts):
    state = torch.load(place / "sparse_linear.pt", weights_only=True)
    save_file(state, place / "sparse_linear.safetensors")
    _, theirs, _ = upstream(place, texts[1])
    (place / "sparse_linear.pt").unlink()
    running = exported(place, "sparse")
    with TesseraSparse(path=running.place) as sparse:
        assert sparse.encode(texts[1]).to_dict() == pytest.approx(theirs, abs=1e-4)


class Harmful:
    def __reduce__(self):
        return print, ("code of a pickle ran",)


def test_heads_that_are_no_tensors(place, capsys):
    torch.save({"weight": Harmful(), "bias": torch.zeros(1)}, place / "sparse_linear.pt")
    with pytest.raises(ExportError, match="not a file of tensors alone"):
        folder.read(place, ["sparse"])
    assert "ran" not in capsys.readouterr().out
    torch.save({"weight": torch.zeros(2, 64), "bias": torch.zeros(2)}, place / "sparse_linear.pt")
    with pytest.raises(ExportError, match="gives 2 numbers a token"):
        folder.read(place, ["sparse"])
    torch.save(
        {"weight": torch.zeros(64, 60), "bias": torch.zeros(64)}, place / "colbert_linear.pt"
    )
    with pytest.raises(ExportError, match=r"expected \(n, 64\)"):
        folder.read(place, ["multi-vector"])
    torch.save({"bias": torch.zeros(64)}, place / "colbert_linear.pt")
    with pytest.raises(ExportError, match="holds no tensor 'weight'"):
        folder.read(place, ["multi-vector"])
    (place / "colbert_linear.pt").write_bytes(b"")  # torch's error has no text
    with pytest.raises(ExportError, match="not a file of tensors alone"):
        folder.read(place, ["multi-vector"])
    path = place / "colbert_linear.safetensors"
    save_file({"weight": torch.zeros(64, 64)}, path)
    with pytest.raises(ExportError, match="gives no tensor 'bias'"):
        folder.read(place, ["multi-vector"])
    path.write_text("version https://git-lfs.github.com/spec/v1")  # what git leaves without LFS
    with pytest.raises(ExportError, match="gives no tensor 'weight'"):
        folder.read(place, ["multi-vector"])
