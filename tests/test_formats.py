"""docs/formats.md says what the code does: its generated parts, its examples, its names."""

import ast
import re
import tomllib
from pathlib import Path

import make_formats
import pytest

from tessera_onnx.models import catalogue
from tessera_onnx.models.foreign import graphs, layers, pooled

PAGE = make_formats.PAGE.read_text("utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FOREIGN = Path(graphs.__file__).parent


def section(title):
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_page_is_up_to_date():
    assert make_formats.page(PAGE) == PAGE
    assert len(EXAMPLES) == len(make_formats.EXAMPLES)


@pytest.mark.parametrize("text", EXAMPLES, ids=make_formats.EXAMPLES)
def test_an_example_is_a_whole_model_and_stands_in_its_file(text):
    name = re.match(r"# [\w/]+/(\w+)/model.toml\n", text)[1]
    (spec,) = catalogue.parse(text, "the page")
    (entry,) = tomllib.loads(text)["model"]
    whole = make_formats.read_example(name)
    assert entry == {key: value for key, value in whole.items() if key != "export"}
    assert spec.kinds == tuple(whole["kinds"])


def test_every_kind_has_an_example():
    kinds = {kind for text in EXAMPLES for kind in tomllib.loads(text)["model"][0]["kinds"]}
    assert kinds == set(make_formats.spec.KIND_TABLES)


def test_every_key_of_an_entry_is_explained():
    rows = re.findall(r"^\| (\w+) \| [^|]+ \|(.*)\|$", section("model.toml"), re.MULTILINE)
    assert len(rows) > 100
    assert not [key for key, what in rows if not what.strip()]


def test_every_file_and_key_of_the_table_is_read():
    literals = " ".join(
        node.value
        for path in FOREIGN.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    rows = re.findall(
        r"^\| ([^|]*) \| ([^|]*) \|", section("What is read from which file"), re.MULTILINE
    )
    for file, keys in rows[2:]:
        for key in re.findall(r"`([\w*]+)`", keys):
            assert key.removesuffix("*") in literals, key
        for name in re.findall(r"[\w-]+\.(?:json|metadata|safetensors|md)\b", file):
            if name != "config.json":
                assert name in literals, name


def test_what_is_refused_and_known_is_what_the_code_says():
    text = section("What is refused, and what to do")
    known = re.search(r"an activation other than (.*?) \|", text)[1]
    assert re.findall(r"\w+", known.replace(" and ", " ")) == list(layers.ACTIVATIONS)
    for name in re.search(r"a module that is not in the table above: (.*?), Python", text)[1].split(
        ", "
    ):
        assert name in pooled.OTHERS
    listed = re.search(r"the steps, in order: (.*?) \|", PAGE)[1].split(", ")
    assert {
        *pooled.STEPS,
        "Transformer",
        "Pooling",
        "SpladePooling",
        "Router",
        "MultiVectorMask",
    } == {*listed}
