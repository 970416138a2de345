"""Folders of every layout, made by upstream libraries: opened as they lie, equal to upstream."""

import layouts
import layouts_tokens
import numpy as np
import pytest
import torch
import transformers
import upstream
import ways
from layouts_tokens import M3

from tessera_onnx import LoadError, Tessera

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]
EVERY = [
    *layouts.DENSE, *layouts_tokens.SPARSE, *layouts_tokens.MULTI_VECTOR, *layouts_tokens.PLAIN,
    *layouts_tokens.GRAPHS,
]  # fmt: skip
OPENED = [layout for layout in EVERY if not layout.refused]
REFUSED = [layout for layout in EVERY if layout.refused]


@pytest.fixture(scope="session")
def workshop(tmp_path_factory, minilm):
    return layouts.Workshop(tmp_path_factory.mktemp("encoders"), minilm)


@pytest.fixture(scope="session")
def hostile():
    return upstream.hostile()


@pytest.mark.parametrize("layout", OPENED, ids=str)
def test_opened(workshop, tmp_path, hostile, layout, record_property):
    place = tmp_path / "model"
    layout.make(workshop, place)
    options = dict(layout.options)
    if layout.kind == "dense":
        upstream.compare_dense(place, hostile, **options)
    elif layout.kind == "sparse":
        upstream.compare_sparse(place, hostile, **options)
    elif layout.kind == "multi-vector":
        upstream.compare_tokens(place, hostile, **options)
    else:
        encoder = place if (place / "config.json").exists() else workshop.encoder("bert")
        upstream.compare_plain(place, hostile, encoder, options["pooling"], **options)
    kind = "dense" if layout.kind == "plain" else layout.kind
    ways.record(record_property, model=layout.name, kind=kind, way="upstream", result="equal")


@pytest.mark.parametrize("layout", REFUSED, ids=str)
def test_refused_by_name(workshop, tmp_path, layout):
    place = tmp_path / "model"
    layout.make(workshop, place)
    with pytest.raises(LoadError, match=layout.refused):
        Tessera(path=place, **layout.options)


def test_three_outputs(workshop, tmp_path, hostile, record_property):
    place = tmp_path / "model"
    M3.make(workshop, place)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(place)
    model = transformers.AutoModel.from_pretrained(place).eval()
    heads = {}
    for name, size in (("colbert", layouts.SIZE), ("sparse", 1)):
        heads[name] = torch.nn.Linear(layouts.SIZE, size)
        heads[name].load_state_dict(torch.load(place / f"{name}_linear.pt", weights_only=True))
    unit = torch.nn.functional.normalize
    unused = {tokenizer.cls_token_id, tokenizer.eos_token_id}
    unused |= {tokenizer.pad_token_id, tokenizer.unk_token_id}

    def theirs(text):
        """As FlagEmbedding's EncoderOnlyEmbedderM3Model computes them."""
        inputs = tokenizer(text, truncation=True, max_length=128, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            states = model(**inputs).last_hidden_state[0]
            weights = torch.relu(heads["sparse"](states))[:, 0].tolist()
            rows = unit(heads["colbert"](states[1:]), dim=-1).numpy()
        table = {}
        for number, weight in zip(inputs["input_ids"][0].tolist(), weights, strict=True):
            if number not in unused and weight > table.get(number, 0):
                table[number] = weight
        return np.asarray(unit(states[0], dim=-1)), table, rows

    upstream.compare_m3(place, hostile, theirs)
    ways.record(record_property, model=M3.name, kind="dense", way="upstream", result="equal")
