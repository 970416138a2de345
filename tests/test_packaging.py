"""What a user's environment sees: imports, import time, names, layering, the wheel's content."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import tessera_onnx
from tessera_onnx import errors

PACKAGE = Path(tessera_onnx.__file__).parent

# What each module may import of the package. `explain` and below are pure NumPy.
LAYERS = {
    "errors": set(),
    "containers": {"errors"},
    "telemetry": set(),
    "schema": {"errors"},
    "registry": {"errors", "schema"},
    "hub": {"errors", "schema"},
    "pins": {"errors", "hub", "registry", "schema"},
    "artifacts": {"errors", "hub", "pins", "registry", "schema"},
    "protobuf": set(),
    "external": {"errors", "protobuf"},
    "saturation": {"protobuf"},
    "processor": {"errors"},
    "runtime": {"errors", "external", "processor", "saturation", "telemetry"},
    "batching": {"errors"},
    "results": {"errors"},
    "bounds": {"results"},
    "pooling": {"containers", "errors"},
    "quantization": {"containers", "errors", "pooling", "results"},
    "scoring": {"bounds", "containers", "errors", "quantization", "results"},
    "blocks": {"errors", "quantization", "results", "scoring"},
    "kernels": {"batching", "blocks", "bounds", "errors", "quantization", "runtime"},
    "numbering": {"containers", "errors"},
    "packing": {"blocks", "errors", "kernels", "processor", "quantization", "results", "scoring"}
    | {"numbering", "pack_file"},
    "mapped_file": {"errors", "numbering", "writing"},
    "pack_file": {"blocks", "errors", "mapped_file", "numbering", "quantization"},
    "postings": {"errors", "numbering", "postings_file", "results", "scoring"},
    "postings_file": {"errors", "mapped_file", "numbering", "postings"},
    "explain": {"bounds", "results"},
    "resizing": {"errors", "schema"},
    "sources": {"errors"},
    "greys": set(),
    "views": {"errors", "resizing", "schema"},
    "images": {"errors", "greys", "resizing", "schema", "sources"},
    "page_text": set(),
    "pages": {"containers", "errors", "images", "page_text", "schema", "sources", "views"},
    "prompts": {"errors", "schema"},
    "similarity": {"bounds", "errors", "quantization", "results"},
    "regions": {"image_encoder", "page_text", "resizing", "similarity"},
    "heatmap": {"errors", "regions", "writing"},
    "patching": set(),
    "exact": {"errors"},
    "frequency": {"errors"},
    "time_numbers": {"frequency"},
    "timestamps": {"csv_numbers", "frequency", "time_numbers"},
    "series_table": {"errors", "frequency", "time_numbers", "timestamps"},
    "series": {"errors", "exact", "series_table"},
    "frames": {
        "errors",
        "exact",
        "frequency",
        "series",
        "series_table",
        "time_numbers",
        "timestamps",
    },
    "csv_numbers": {"errors", "exact"},
    "csv_cells": {"csv_numbers", "errors", "reading", "time_numbers", "timestamps"},
    "csv_series": {"csv_cells", "csv_numbers", "errors", "frequency", "series_table"}
    | {"time_numbers", "timestamps"},
    "forecasts": {"csv_series", "errors", "reading", "series", "writing"},
    "text": {"batching", "containers", "errors", "registry", "schema", "runtime"},
    "heads": {
        "errors",
        "pooling",
        "quantization",
        "registry",
        "results",
        "runtime",
        "schema",
        "text",
    },
    "encoder": {"batching", "containers", "errors", "runtime", "schema", "text"},
    "combined": {"batching", "encoder", "errors", "heads", "registry", "schema", "results", "text"},
    "model": {
        "artifacts",
        "combined",
        "encoder",
        "errors",
        "heads",
        "quantization",
        "registry",
        "schema",
        "results",
    }
    | {"batching", "runtime", "text"},
}
TEXT_CLASS = {"batching", "containers", "explain", "pooling", "quantization", "scoring", "results"}
TEXT_CLASS |= {"errors", "heads", "model", "registry", "schema", "runtime", "text"}
LAYERS |= dict.fromkeys(("dense", "multi_vector", "sparse"), TEXT_CLASS)
LAYERS["multi_vector"] = TEXT_CLASS | {"packing"}
LAYERS["sparse"] = TEXT_CLASS | {"postings"}
LAYERS["timeseries"] = {
    "batching",
    "errors",
    "frames",
    "model",
    "patching",
    "registry",
    "schema",
    "runtime",
}
LAYERS["timeseries"] |= {"exact", "series", "series_table"}
LAYERS["towers"] = {"errors", "images", "pooling", "prompts", "runtime", "schema", "text"}
LAYERS["queries"] = {
    "batching",
    "containers",
    "dense",
    "encoder",
    "errors",
    "multi_vector",
    "pooling",
    "runtime",
    "schema",
    "text",
}
LAYERS["image_encoder"] = {"batching", "containers", "errors", "images", "resizing", "schema"}
LAYERS["image_encoder"] |= {"sources", "towers", "views"}
LAYERS["vision"] = TEXT_CLASS - {"explain"} | {"heatmap", "image_encoder", "images", "pages"}
LAYERS["vision"] |= {
    "bounds",
    "packing",
    "page_text",
    "queries",
    "regions",
    "similarity",
    "sources",
    "towers",
}
LAYERS["classes"] = {"artifacts", "dense", "errors", "model", "multi_vector", "registry", "schema"}
LAYERS["classes"] |= {"sparse", "timeseries", "vision"}
LAYERS["__init__"] = {"classes", "dense", "errors", "multi_vector", "results", "scoring", "sparse"}
LAYERS["__init__"] |= {"packing", "postings", "telemetry", "timeseries", "vision"}
THIRD_PARTY = {"numpy", "onnxruntime", "huggingface_hub", "tokenizers", "tqdm", "scipy", "PIL"}
THIRD_PARTY |= {"click", "matplotlib", "narwhals", "pypdfium2", "tomli_w"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "tessera_onnx":
                yield from (f"tessera_onnx.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_layers(path):
    found = list(imports(path))
    own = {name.split(".")[1] for name in found if name.startswith("tessera_onnx.")}
    others = {name.split(".")[0] for name in found} - {"tessera_onnx", "__future__"}
    if path.stem in LAYERS:
        assert own <= LAYERS[path.stem]
    assert others - set(sys.stdlib_module_names) <= THIRD_PARTY
    assert "pickle" not in others


def run(code, *options):
    done = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_import_loads_nothing_heavy():
    heavy = "onnxruntime torch PIL tokenizers huggingface_hub transformers onnx click tqdm scipy"
    heavy += " narwhals pandas polars matplotlib csv zoneinfo"
    code = (
        f"import sys; from tessera_onnx import *; print(*(set({heavy.split()}) & set(sys.modules)))"
    )
    assert run(code) == ""


def test_the_package_alone_imports_one_of_its_modules():
    """The one that has to come before any import of onnxruntime."""
    code = (
        "import sys, tessera_onnx\n"
        "print(*(name for name in sys.modules if name.startswith(('numpy', 'tessera_onnx.'))))\n"
        "tessera_onnx.ConfigError, tessera_onnx.TesseraDense\n"
        "assert {'TesseraDense', '__version__', 'maxsim'} <= set(dir(tessera_onnx))\n"
    )
    assert run(code) == "tessera_onnx.telemetry"
    listed = [name for names in tessera_onnx.MODULES.values() for name in names]
    assert sorted(listed) == tessera_onnx.__all__
    with pytest.raises(AttributeError, match="has no attribute 'TesseraDence'"):
        tessera_onnx.TesseraDence  # noqa: B018


def test_public_names_are_sorted_and_complete():
    assert tessera_onnx.__all__ == sorted(tessera_onnx.__all__)
    for name in tessera_onnx.__all__:
        assert getattr(tessera_onnx, name).__doc__


def test_version_is_the_distributions():
    assert metadata.version("tessera-onnx") == tessera_onnx.__version__


def test_catalogue_and_type_marker_are_shipped():
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "models.toml").exists() or (PACKAGE.parent / "models.toml").exists()


def test_messages_say_how_to_install_by_a_path():
    """No index has this package's names: a command that names them fails. Two functions say how."""
    by_name = re.compile(r"pip install|tessera-onnx\[|tessera-onnx-\w+")
    found = set()
    for path in sorted(PACKAGE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and by_name.search(node.value):
                found.add((path.stem, node.value))
    assert {stem for stem, _ in found} == {"artifacts", "errors", "runtime"}
    assert {text for stem, text in found if stem == "artifacts"} == {"tessera-onnx-starter"}
    (text,) = (text for stem, text in found if stem == "runtime")
    assert 'pip install "onnxruntime-gpu[cuda,cudnn]"' in text  # which the index has
    asked = {"install_hint": set(), "part_hint": set()}
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node.func, "id", None) if isinstance(node, ast.Call) else None
            if name in asked:
                asked[name].add(node.args[0].value)
    extras = {text.split("extra ==")[1].strip(" '\"") for text in metadata.requires("tessera-onnx")
              if "extra ==" in text}  # fmt: skip
    assert asked["install_hint"] == extras - {"dev"}
    assert asked["part_hint"] == {"starter", "export"}
    if (PACKAGE.parent / "pyproject.toml").exists():  # a checkout: its folders have those names
        for part in asked["part_hint"]:
            assert (PACKAGE.parent / part / "pyproject.toml").exists()
    assert '`pip install "PATH[plot]"`, where PATH is' in errors.install_hint("plot")
    assert "`pip install PATH/starter`, where PATH is" in errors.part_hint("starter")


def test_every_public_callable_is_documented():
    for cls in (
        tessera_onnx.TesseraDense,
        tessera_onnx.TesseraMultiVector,
        tessera_onnx.TesseraSparse,
        tessera_onnx.TesseraTimeSeries,
        tessera_onnx.TesseraVision,
        tessera_onnx.PackedSparse,
        tessera_onnx.PackedTokens,
    ):
        for name in dir(cls):
            if not name.startswith("_"):
                assert getattr(cls, name).__doc__, f"{cls.__name__}.{name}"


ORIGINAL = """
# The original bindings' script: create, encode, encode_batch of 3, similarity, names, errors.
import numpy as np
from tessera_onnx import Tessera{cls}

embedder = Tessera{cls}("{model}")
embeddings = embedder.encode("What is machine learning?")
{check}
batch = embedder.encode_batch(["Query one", "Query two", "Query three"])
assert len(batch) == 3
score = embedder.similarity("machine learning and AI", "artificial intelligence and ML")
assert isinstance(score, float)
assert isinstance(embedder.{size}(), int) and embedder.{size}() > 0
assert embedder.model() == "{model}"
assert "Tessera{cls}" in repr(embedder) and isinstance(str(embedder), str)
try:
    Tessera{cls}("invalid-model-name-xyz")
except RuntimeError:
    print("ok")
"""


@pytest.mark.parametrize(
    ("cls", "model", "size", "check"),
    [
        (
            "Dense",
            "all-minilm-l6-v2",
            "dimension",
            "assert embeddings.ndim == 1 and embeddings.dtype == np.float32",
        ),
        (
            "MultiVector",
            "all-minilm-l6-v2",
            "dimension",
            "assert embeddings.ndim == 2 and embeddings.dtype == np.float32",
        ),
        (
            "Sparse",
            "splade-tiny",
            "vocab_size",
            "assert embeddings[0].dtype == np.int32 and embeddings.values.dtype == np.float32",
        ),
    ],
)
def test_the_original_bindings_script_runs(cls, model, size, check):
    assert run(ORIGINAL.format(cls=cls, model=model, size=size, check=check)) == "ok"


def test_forbidden_packages_are_never_wanted():
    """torch, transformers, onnx, optimum and pickle-based loading stay out of a real run."""
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('torch', 'transformers', 'onnx', 'optimum'):\n"
        "            raise ImportError(f'{name} was imported')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import tessera_onnx as t\n"
        "models = [t.TesseraDense(), t.TesseraMultiVector(), t.TesseraSparse()]\n"
        "print([len(m.encode_batch(['cat', 'dog'])) for m in models])"
    )
    assert run(code) == "[2, 2, 2]"
