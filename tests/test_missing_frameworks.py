"""Without a framework its adapter says which extra has it; no adapter loads more than it needs."""

import subprocess
import sys

import pytest


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("langchain_qdrant", "langchain_qdrant", "langchain-qdrant"),
        ("llama_index", "llama_index.core", "llama-index"),
        ("haystack", "haystack", "haystack"),
        ("txtai", "txtai", "txtai"),
        ("mteb", "mteb", "mteb"),
    ],
)
def test_the_error_names_the_extra(module, package, extra):
    code = f"import sys; sys.modules[{package!r}] = None; import tessera_onnx.integrations.{module}"
    done = run(code)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert f'`pip install "PATH[{extra}]"`' in last


def test_the_classes_of_fastembed_need_no_package_and_load_nothing_heavy():
    heavy = "fastembed onnxruntime PIL tokenizers huggingface_hub"
    code = (
        "import sys; sys.modules['fastembed'] = None\n"
        "from tessera_onnx.integrations.fastembed import TextEmbedding\n"
        f"print(*({{*{heavy.split()!r}}} & {{n for n, m in sys.modules.items() if m}}))"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
