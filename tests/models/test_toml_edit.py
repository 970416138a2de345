"""Single values of a catalogue are changed in its text, and everything else stays."""

import pytest

from tessera_onnx.models import catalogue, pins, toml_edit
from tessera_onnx.models.spec import KIND_TABLES

TEXT = catalogue.shipped_path().read_text("utf-8")
SPECS = {spec.id: spec for spec in catalogue.parse(TEXT, "the shipped catalogue")}
_, *BLOCKS = TEXT.split("[[model]]\n")
ENTRIES = dict(zip(SPECS, (f"schema = 1\n[[model]]\n{block}" for block in BLOCKS), strict=True))


def changed_lines(new, old=TEXT):
    lines = toml_edit.diff(old, new, "models.toml").splitlines()
    return [line for line in lines if line[:1] in "+-" and line[:3] not in {"+++", "---"}]


@pytest.mark.parametrize("model", SPECS)
def test_each_pin_and_fact_of_the_shipped_catalogue_can_be_changed(model):
    spec = SPECS[model]
    keys = {("revision",): "f" * 40, ("licence",): "other"}
    for file in spec.files:
        keys |= {("files", file.name, "sha256"): "a" * 64, ("files", file.name, "size"): 12}
    if spec.hub is not None:
        keys |= {("hub", "revision"): "e" * 40, ("hub", "repository"): "o/n"}
    if spec.text is not None:
        keys |= {("text", "prefix_ids"): (1, 2), ("text", "max_positions"): 7}
    for kind in spec.text_recipes():
        table = KIND_TABLES[kind]
        keys |= {(table, "query", "max_length"): 9, (table, "document", "prompt"): 'a "b"\n\\'}
    for key, value in keys.items():
        new = toml_edit.set_value(ENTRIES[model], model, key, value)
        assert new is not None, key
        assert len(changed_lines(new, ENTRIES[model])) == 2, key


def test_a_row_is_added_in_both_forms_of_the_list():
    row = {"name": "model.onnx_data", "sha256": "unpinned", "size": -1}
    for text in (TEXT, pins.toml(SPECS["colbertv2.0"])):
        new = toml_edit.set_value(text, "colbertv2.0", ("files", "model.onnx_data"), row)
        names = [
            file.name
            for s in catalogue.parse(new, "it")
            if s.id == "colbertv2.0"
            for file in s.files
        ]
        assert sorted(names) == ["model.onnx", "model.onnx_data", "tokenizer.json"]
        assert all(line.startswith("+") for line in changed_lines(new, text))


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("no-such-model", ("revision",)),
        ("colbertv2.0", ("dense", "pooling")),
        ("colbertv2.0", ("files", "nothing", "size")),
        ("chronos-2", ("time_series", "no_such_key")),
    ],
)
def test_what_is_not_in_the_text_cannot_be_changed(model, key):
    assert toml_edit.set_value(TEXT, model, key, 1) is None


def test_a_list_over_several_lines_and_a_text_that_looks_like_a_table():
    head = '[[model]]\nid = "a"\nname = "[model.x]\\nid = 1"\n'
    text = f"{head}[model.x]\nlist = [\n  1,\n  2,\n]\nlast = 1\n"
    new = toml_edit.set_value(text, "a", ("x", "list"), [3])
    assert new == text.replace("[\n  1,\n  2,\n]", "[3]")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ('a\n"b" \\ é \x7f', r'"a\n\"b\" \\ é \u007f"'),
        ((1, 2.5, True), "[1, 2.5, true]"),
        ({"a": "b", "c": -1}, '{ a = "b", c = -1 }'),
    ],
)
def test_values_as_toml_writes_them(value, written):
    assert toml_edit.in_toml(value) == written
