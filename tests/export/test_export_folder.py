"""What a folder does not say is an error that names the fact."""

import json

import pytest

from tessera_export.errors import ExportError
from tessera_export.texts import folder

pytestmark = pytest.mark.export


@pytest.fixture
def place(make, dense_files, bert):
    return make("model", bert, dense_files("mean"))


def edit(path, **changes):
    content = json.loads(path.read_text())
    content = {key: value for key, value in (content | changes).items() if value is not None}
    path.write_text(json.dumps(content))


def refused(place, message, *kinds, **overrides):
    with pytest.raises(ExportError, match=message):
        folder.read(place, kinds or ["dense"], folder.Overrides(**overrides))


def test_pooling_is_never_guessed(place):
    config = place / "1_Pooling/config.json"
    edit(config, pooling_mode="max")
    refused(place, "asks for the pooling max")
    edit(config, pooling_mode=["cls", "mean"])
    refused(place, "asks for the pooling cls and mean")
    edit(config, pooling_mode=None)
    refused(place, "pooling is missing: .*; give --pooling")
    config.unlink()
    refused(place, "pooling is missing")
    (place / "modules.json").unlink()
    refused(place, "pooling is missing")
    assert folder.read(place, ["dense"], folder.Overrides(pooling="last")).pooling == "last"


def test_two_old_modes_are_ambiguous(make, dense_files, bert):
    files = dense_files("mean", old=True)
    files["1_Pooling/config.json"]["pooling_mode_cls_token"] = True
    refused(make("two", bert, files), "cls and mean")


def test_modules_that_no_graph_computes(place):
    modules = json.loads((place / "modules.json").read_text())
    modules[2]["type"] = "sentence_transformers.models.LayerNorm"
    (place / "modules.json").write_text(json.dumps(modules))
    refused(place, "LayerNorm")
    refused(place, "a sparse model is", "sparse")


def test_prompts_of_unknown_roles(place):
    path = place / "config_sentence_transformers.json"
    edit(path, prompts={"classification": "classify: "})
    refused(place, "give --query-prompt")
    facts = folder.read(place, ["dense"], folder.Overrides(query_prompt="q: "))
    assert (facts.dense.query.prompt, facts.dense.document.prompt) == ("q: ", "")
    edit(path, prompts={"query": "q: "})
    edit(place / "1_Pooling/config.json", include_prompt=False)
    refused(place, "leaves the prompt out")


def test_lengths(place):
    refused(place, r"max_length 131 must lie in 3\.\.130", max_length=131)
    (place / "sentence_bert_config.json").unlink()
    assert folder.read(place, ["dense"]).dense.query.max_length == 130
    edit(place / "tokenizer_config.json", model_max_length=None)
    assert folder.read(place, ["dense"]).dense.query.max_length == 130
    (place / "tokenizer_config.json").rename(place / "kept")
    edit(place / "config.json", pad_token_id=0)
    refused(place, "max_length is missing: .* or give --max-length")
    (place / "kept").rename(place / "tokenizer_config.json")
    edit(place / "config.json", max_position_embeddings=None)
    refused(place, "max_positions is missing")
    (place / "config.json").write_text("[]")
    refused(place, "must hold a JSON object")


def test_multi_vector_needs_a_layout(place):
    refused(place, "does not say how its token vectors are used", "multi-vector")


def test_sparse_needs_a_vocabulary_head(place):
    (place / "modules.json").unlink()
    refused(place, "needs a ...ForMaskedLM", "sparse")


def test_tokenizers(place):
    path = place / "tokenizer.json"
    original = json.loads(path.read_text())
    edit(path, truncation={"max_length": 5, "strategy": "LongestFirst", "stride": 0,
                           "direction": "Right"})  # fmt: skip
    plain = folder.read(place, ["dense"]).tokenizer
    assert '"truncation":null,"padding":null' in plain.json
    assert len(plain.ids("one two three four five six seven eight nine")) == 9
    twice = original["post_processor"] | {
        "single": [
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ]
    }
    edit(path, post_processor=twice)
    refused(place, "more than put fixed ids")
    edit(place / "tokenizer_config.json", pad_token="[NOPE]")
    path.write_text(json.dumps(original))
    refused(place, "not in the vocabulary")
    path.write_text("{}")
    refused(place, "not a tokenizer that `tokenizers` reads")
    path.write_text("not JSON")
    refused(place, "not valid JSON")
    path.unlink()
    refused(place, "has no tokenizer.json")


def test_modules_stay_in_the_folder(place):
    modules = json.loads((place / "modules.json").read_text())
    for path in ("/etc", "../other", "1_Pooling/../.."):
        modules[1]["path"] = path
        (place / "modules.json").write_text(json.dumps(modules))
        refused(place, "which is outside")


def test_weights_must_be_safetensors(place):
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    refused(place, "is a pickle and is not read")
    (place / "model.safetensors").write_bytes(b"\xff" * 64)
    refused(place, "not a safetensors file")
    for header in (b'{"a": {}}', b'{"a": 5}'):
        content = len(header).to_bytes(8, "little") + header
        (place / "model.safetensors").write_bytes(content)
        refused(place, "'a' has no shape")
    for shards in ("null", "[]", '{"a": 5}'):
        (place / "model.safetensors.index.json").write_text(f'{{"weight_map": {shards}}}')
        refused(place, "has no weight_map")
    refused(place / "nothing", "not a model folder")


def test_lower_casing_is_the_tokenizers_where_sentence_transformers_asks_for_it(place):
    edit(place / "sentence_bert_config.json", do_lower_case=True)
    assert folder.read(place, ["dense"]).tokenizer.text.lowercase is False
    path = place / "tokenizer.json"
    path.write_text(path.read_text().replace('"lowercase":true', '"lowercase":false'))
    path.write_text(path.read_text().replace('"lowercase": true', '"lowercase": false'))
    refused(place, "tokenizer_config.json says do_lower_case True: save the tokenizer")
    edit(place / "tokenizer_config.json", do_lower_case=False)
    found = folder.read(place, ["dense"]).tokenizer
    assert found.text.lowercase is False
    assert found.ids("CAT Sat") == found.ids("cat sat") != found.ids("[UNK] cat")
