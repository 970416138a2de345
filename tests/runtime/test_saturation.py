"""int8 graphs of other people that give other numbers on processors without VNNI are told of.

tests/export holds the reader of weights to what ONNX Runtime's own tools make.
"""

import json
import logging

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, copy, relist, replace
from command import run
from faults import graphs

from tessera_onnx import TesseraDense
from tessera_onnx.models.foreign import graphs as graphs_by_name
from tessera_onnx.runtime import cpu, saturation
from tessera_onnx.runtime import graph as runtime_graph

HASWELL = ("fma", "avx", "avx2", "bmi2")
SKYLAKE = (*HASWELL, "avx512f", "avx512bw")
ALDER_LAKE = (*HASWELL, "avx_vnni")
ICE_LAKE = (*SKYLAKE, "avx512_vnni")
INT8, UINT8 = 3, 2


def graph(weight):
    """The sum of the ids times 1 to 2, cut to a byte, times an int8 matrix (64, 32)."""
    codes = np.full((64, graphs.DIM), weight, np.int8)
    return graphs.model(
        graphs.constant("axis", np.array([1]))
        + graphs.constant("row", np.linspace(1, 2, 64, dtype=np.float32)[None])
        + graphs.field(5, graphs.tensor("w", INT8, list(codes.shape), codes.tobytes()))
        + graphs.node("Mul", ["input_ids", "attention_mask"], "real")
        + graphs.node("ReduceSum", ["real", "axis"], "sum", keepdims=1)
        + graphs.node("Cast", ["sum"], "wide", to=graphs.FLOAT)
        + graphs.node("Mul", ["wide", "row"], "values")
        + graphs.node("Cast", ["values"], "bytes", to=UINT8)
        + graphs.node("MatMulInteger", ["bytes", "w"], "whole")
        + graphs.node("Cast", ["whole"], "sentence_embedding", to=graphs.FLOAT)
    )


def artifact(tmp_path, weight):
    edit = replace(('int8 = ""', 'int8 = "model.fp32.onnx"'))
    folder = copy("prompts", tmp_path / str(weight), edit)
    relist(folder, "model.fp32.onnx", graph(weight))
    return folder


@pytest.fixture
def haswell(monkeypatch):
    """What /proc/cpuinfo says of such a processor."""
    monkeypatch.setattr(cpu, "_cpuinfo", lambda: ("a Haswell", HASWELL))
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(runtime_graph, "_saturating", set())


@pytest.mark.parametrize(
    ("machine", "flags", "expected", "products"),
    [
        ("x86_64", HASWELL, True, "x86"),
        ("AMD64", SKYLAKE, True, "x86"),
        ("x86_64", ALDER_LAKE, False, "vnni"),
        ("x86_64", ICE_LAKE, False, "vnni"),
        ("aarch64", ("asimd",), False, "arm64"),
        ("arm64", (), False, "arm64"),
        ("riscv64", (), False, "other"),
    ],
)
def test_processors(monkeypatch, machine, flags, expected, products):
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    assert cpu.saturates(flags) is expected
    assert cpu.byte_products(flags) == products
    assert products in graphs_by_name.INT8_ORDER


def test_where_there_is_no_file_of_the_processor_numpy_tells(monkeypatch):
    from numpy._core import _multiarray_umath

    monkeypatch.setattr(cpu.platform, "machine", lambda: "AMD64")
    monkeypatch.setattr(cpu, "_cpuinfo", lambda: ("", ()))
    for vnni in (True, False):
        features = {**_multiarray_umath.__cpu_features__, "AVX512VNNI": vnni}
        monkeypatch.setattr(_multiarray_umath, "__cpu_features__", features)
        assert cpu.saturates() is not vnni


def test_one_warning_a_graph(tmp_path, haswell, caplog):
    folder = artifact(tmp_path, 100)
    assert saturation.products((folder / "model.fp32.onnx").read_bytes()) == ["whole"]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with TesseraDense(path=folder, precision="int8") as model:
                model.encode("a cat")
                model.encode_batch(["a", "cat"])
    (record,) = [r for r in caplog.records if "saturate" in r.message]
    assert record.message.startswith("1 int8 products of model.fp32.onnx can saturate on this")
    assert "precision='fp32'" in record.message


def test_small_weights_and_other_processors_are_not_told_of(tmp_path, haswell, caplog, monkeypatch):
    with TesseraDense(path=artifact(tmp_path, 60), precision="int8") as model:
        model.encode("a cat")
    monkeypatch.setattr(cpu, "_cpuinfo", lambda: ("an Ice Lake", ICE_LAKE))
    with TesseraDense(path=artifact(tmp_path, 100), precision="int8") as model:
        model.encode("a cat")
    assert not caplog.records


@pytest.mark.slow
def test_info_and_doctor_say_so(tmp_path, haswell):
    (tmp_path / "cache").mkdir()
    folder = artifact(tmp_path / "cache", 100)
    shown = run("info", folder).stdout
    assert "saturates on x86 without VNNI" in shown
    assert "saturates" not in run("info", ARTIFACTS / "prompts").stdout
    done = run("doctor", "--cache-dir", tmp_path / "cache", code=1)
    assert "(cache): files verified; int8 saturates on x86 without VNNI" in done.stdout
    assert "test-prompts: int8 products of model.fp32.onnx can saturate on this" in done.stdout
    report = json.loads(run("doctor", "--cache-dir", tmp_path / "cache", "--json", code=1).stdout)
    found = {model["id"]: model["saturating"] for model in report["models"]}
    assert found.pop("test-prompts") == ["model.fp32.onnx"]
    assert not any(found.values())
