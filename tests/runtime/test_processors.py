"""int8 gives the same numbers on every processor: shown by reading the weights, and by running.

QEMU's user mode runs this Python with the instructions of another processor. Haswell has AVX2 and
no VNNI, and ONNX Runtime takes other kernels there.
"""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tessera_onnx_starter
from artifact_tools import ARTIFACTS

from tessera_onnx import (
    PackedTokens,
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    TesseraVision,
)
from tessera_onnx.runtime import saturation

STARTER = Path(tessera_onnx_starter.__file__).parent
TEXTS = json.loads((ARTIFACTS / "starter" / "texts.json").read_text())
TEXTS = [text[:200] for text in TEXTS] + [
    "!" * 40,
    "図書館は休館します。",
    "спасибо",
    "a",
    "0 1 1 2 3 5",
]
QEMU = shutil.which("qemu-x86_64")


def maxsim():
    """Scores of random unit rows by the int8 graph of packs, whose two sides are inputs."""
    rng = np.random.default_rng(1)
    rows = [rng.normal(size=(n, 128)).astype(np.float32) for n in (9, 40, 7, 120, 32)]
    query, *documents = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in rows]
    return PackedTokens([*documents, query], output_dtype="int8").score(query)[None]


def results():
    """Vectors of every int8 model of the starter, and scores of packs, as rows of arrays."""
    pixels = (np.random.default_rng(0).integers(0, 2, (40, 120, 3)) * 255).astype(np.uint8)
    with (
        TesseraDense("all-minilm-l6-v2", threads=1) as dense,
        TesseraMultiVector("all-minilm-l6-v2", threads=1) as tokens,
        TesseraSparse("splade-tiny", threads=1) as sparse,
        TesseraVision("tessera-page-mini", threads=1) as pages,
    ):
        weights = sparse.encode_batch(TEXTS)
        full = np.zeros((len(TEXTS), sparse.vocab_size()), np.float32)
        for row, (indices, values) in enumerate(weights):
            full[row, indices] = values
        return {
            "dense": dense.encode_batch(TEXTS),
            "tokens": np.concatenate(tokens.encode_batch(TEXTS)),
            "sparse": full,
            "page": pages.encode_document(pixels),
            "maxsim": maxsim(),
        }


@pytest.mark.slow
@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not installed (Debian: qemu-user)")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="QEMU would run x86 code on x86 alone")
def test_haswell_gives_the_same_vectors(tmp_path):
    target = tmp_path / "found.npz"
    code = (
        f"import sys; sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}\n"
        "import numpy as np, test_processors\n"
        "features = np._core._multiarray_umath.__cpu_features__\n"
        "assert features['AVX2'] and not features['AVX512F'], 'not a Haswell'\n"
        f"np.savez({str(target)!r}, **test_processors.results())\n"
    )
    command = [QEMU, "-cpu", "Haswell", sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(target)
    for name, expected in results().items():
        assert found[name].shape == expected.shape
        # Sums of fp32 in another order may move an 8-bit code to its neighbour, no more.
        a, b = found[name].astype(float), expected.astype(float)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines = np.where(norms > 0, (a * b).sum(axis=1) / np.maximum(norms, 1e-30), 1)
        assert cosines.min() > 0.9995, name
        assert cosines.mean() > 0.99998, name


def test_no_product_of_the_starter_can_saturate():
    graphs = sorted(STARTER.glob("*/model.int8.onnx"))
    assert len(graphs) == 3
    for path in graphs:
        content = path.read_bytes()
        assert b"MatMulInteger" in content
        assert saturation.products(content) == []
