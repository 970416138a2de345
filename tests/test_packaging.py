"""What a user's environment sees: imports, import time, names, layering, the wheel's content."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import layers
import pytest

import tessera_onnx
from tessera_onnx import errors

PACKAGE = Path(tessera_onnx.__file__).parent

# A file imports its own folder and those in earlier rows, but no other in its own row.
ROWS = (
    "errors",
    "checks files progress protobuf",
    "results",
    "models runtime vectors",
    "base search",
    "text series",
    "images",
    "kinds",
    "remote",
    "server client batch",
    "integrations",
    "collection",
    "cli",
    "__init__",  # only where a type checker reads it, and the switch of the telemetry
)
# Where each package from elsewhere may be imported; NumPy may be everywhere above models.
THIRD_PARTY = {
    "onnxruntime": "runtime",
    "tokenizers": "text/tokenizer.py models/foreign",
    "huggingface_hub": "models/hub.py",
    "tomli_w": "models/pins.py",
    "PIL": "images cli/demo.py remote/images.py",
    "pypdfium2": "images",
    "narwhals": "series/frames.py",
    "matplotlib": "cli/forecast_files.py",
    "starlette": "server",
    "uvicorn": "server",
    "orjson": "server",
    "ray": "integrations/ray.py",
    "pyarrow": "batch integrations collection",
    "daft": "integrations/daft.py integrations/daft_provider.py",
    "pyspark": "integrations/spark.py",
    "lance": "batch/places.py batch/formats.py",
    "qdrant_client": "integrations/qdrant",
    "lancedb": "integrations/lancedb collection/store.py",
    "pydantic": "integrations/lancedb.py integrations/langchain.py",
    "chromadb": "integrations/chroma.py",
    "pgvector": "integrations/pgvector",
    "psycopg": "integrations/pgvector",
    "pymilvus": "integrations/milvus.py",
    "fsspec": "batch/places.py",
    "filelock": "batch/places.py collection/lock.py",
    "scipy": "results.py integrations/txtai.py",
    "mmh3": "text/lexical.py",
    "py_rust_stemmers": "text/lexical.py",
    "langchain_core": "integrations/langchain.py",
    "langchain_qdrant": "integrations/langchain_qdrant.py",
    "llama_index": "integrations/llama_index.py",
    "haystack": "integrations/haystack_base.py",
    "txtai": "integrations/txtai.py",
    "mteb": "integrations/mteb.py",
    "click": "cli",
    "tqdm": "progress.py cli",
    "numpy": "checks.py results.py runtime vectors base.py search text series images server remote"
    " batch integrations collection client.py cli",
}


def test_layers():
    assert not list(layers.faults(PACKAGE, ROWS, THIRD_PARTY))


def test_no_module_is_longer_than_a_reader_takes_in():
    """400 lines, as CONTRIBUTING.md says."""
    folders = [PACKAGE, PACKAGE.parent / "export" / "tessera_export"]  # the second of a checkout
    sizes = {
        str(path.relative_to(folder.parent)): len(path.read_text("utf-8").splitlines())
        for folder in folders
        for path in folder.rglob("*.py")
    }
    assert {name: size for name, size in sizes.items() if size > 400} == {}


def test_layers_finds_what_the_tables_forbid(tmp_path):
    root = tmp_path / "made"
    (root / "low").mkdir(parents=True)
    (root / "low" / "a.py").write_text(
        "import os\nfrom made.low import b\nfrom made.high import c\n"
    )
    (root / "high.py").write_text("import numpy as np\nfrom made.low.a import x\nimport torch.nn\n")
    places = {"numpy": "low", "torch": "high.py"}
    found = list(layers.faults(root, ("low", "high"), places))
    assert found == [("high.py", "numpy"), ("low/a.py", "made.high.c")]


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
    assert run(code) == "tessera_onnx.runtime tessera_onnx.runtime.telemetry"
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
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and by_name.search(node.value):
                found.add((path.stem, node.value))
    assert {stem for stem, _ in found} == {"errors", "graph", "installed"}
    assert {text for stem, text in found if stem == "installed"} == {"tessera-onnx-starter"}
    (text,) = (text for stem, text in found if stem == "graph")
    assert 'pip install "onnxruntime-gpu[cuda,cudnn]"' in text  # which the index has
    asked = {"install_hint": set(), "part_hint": set()}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node.func, "id", None) if isinstance(node, ast.Call) else None
            if name in asked:
                asked[name].add(node.args[0].value)
    extras = {text.split("extra ==")[1].strip(" '\"") for text in metadata.requires("tessera-onnx")
              if "extra ==" in text}  # fmt: skip
    assert asked["install_hint"] == extras - {"dev", "docs"}
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
        tessera_onnx.Muvera,
        tessera_onnx.PackedDense,
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


@pytest.mark.slow
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
