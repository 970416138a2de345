"""The steps after a graph, against their formulas in float64."""

import json
import math
import struct

import numpy as np
import pytest

from tessera_onnx import LoadError
from tessera_onnx.models.spec import Module
from tessera_onnx.text import modules
from tessera_onnx.vectors import tensors
from tessera_onnx.vectors.activations import ACTIVATIONS, erf

RNG = np.random.default_rng(7)
CODES = {"float32": "F32", "float16": "F16", "float64": "F64"}


def safetensors(**arrays):
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        data = array.tobytes()
        header[name.replace("__", ".")] = {
            "dtype": CODES[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def step(type_, size, content, *, dimension, activation="identity", residual=False):
    file = "w" if content else ""
    module = Module(type_, file, activation, residual, dimension)
    return modules.load([module], lambda _: content, size)


FORMULAS = {
    "identity": lambda x: x,
    "tanh": math.tanh,
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    values = np.linspace(-9, 9, 1001, dtype=np.float32)
    expected = [FORMULAS[name](float(x)) for x in values]
    np.testing.assert_allclose(ACTIVATIONS[name](values), expected, rtol=0, atol=2e-6)
    assert ACTIVATIONS[name](values).dtype == np.float32


def test_erf_is_exact_to_float32():
    values = np.linspace(-6, 6, 4001, dtype=np.float32)
    np.testing.assert_allclose(erf(values), [math.erf(float(x)) for x in values], atol=2e-7)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("out", "residual"), [(3, False), (5, False), (5, True), (3, True)])
def test_a_dense_layer(dtype, bias, out, residual):
    found = {"linear__weight": RNG.normal(size=(out, 5)).astype(dtype)}
    if bias:
        found["linear__bias"] = RNG.normal(size=out).astype(dtype)
    if residual and out != 5:
        found["residual__weight"] = RNG.normal(size=(out, 5)).astype(dtype)
    run = step(
        "dense", 5, safetensors(**found), dimension=out, activation="tanh", residual=residual
    )
    x = RNG.normal(size=(2, 4, 5)).astype(np.float32)
    wide = {name: array.astype(np.float64) for name, array in found.items()}
    expected = np.tanh(x @ wide["linear__weight"].T + wide.get("linear__bias", 0))
    if residual:
        expected += x @ wide["residual__weight"].T if out != 5 else x
    np.testing.assert_allclose(run(x), expected, atol=1e-5)


def test_a_layer_norm_normalize_and_truncate():
    weight, bias = (RNG.normal(size=6).astype(np.float32) for _ in range(2))
    run = step("layer-norm", 6, safetensors(norm__weight=weight, norm__bias=bias), dimension=6)
    x = RNG.normal(size=(3, 6)).astype(np.float32)
    wide = x.astype(np.float64)
    normed = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(run(x), normed * weight + bias, atol=1e-5)
    unit = step("normalize", 6, b"", dimension=6)(x)
    np.testing.assert_allclose(unit, wide / np.linalg.norm(wide, axis=1)[:, None], atol=1e-6)
    np.testing.assert_array_equal(step("truncate", 6, b"", dimension=2)(x), x[:, :2])


def test_bfloat16():
    values = np.array([1.5, -2.25, 0.0], np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    header = {"a": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + upper.tobytes()
    np.testing.assert_array_equal(tensors.read(content, "w")["a"], values)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "not a readable safetensors file"),
        (b"\x80\x04pickle", "not a readable safetensors file"),
        (struct.pack("<Q", 1 << 60) + b"{}", "not a readable safetensors file"),
        (safetensors(linear__weight=np.ones((3, 5), np.float32))[:-1], "ends outside the file"),
        (safetensors(linear__weight=np.ones((3, 4), np.float32)), r"'linear.weight': \(3, 4\)"),
        (safetensors(weight=np.ones((3, 5), np.float32)), "tensors of the shapes {}, a dense"),
        (safetensors(linear__weight=np.ones((3, 5), np.float32), norm__bias=np.ones(2, np.float32)),
         r"'norm.bias': \(2,\)"),
    ],
)  # fmt: skip
def test_weights_that_are_not_those_of_the_module(content, match):
    with pytest.raises(LoadError, match=match):
        step("dense", 5, content, dimension=3)


def test_a_layer_beside_the_weights_of_an_encoder():
    weight = RNG.normal(size=(3, 5)).astype(np.float32)
    content = safetensors(linear__weight=weight, bert__embeddings=np.ones((9, 9), np.float16))
    x = RNG.normal(size=(2, 5)).astype(np.float32)
    np.testing.assert_allclose(step("dense", 5, content, dimension=3)(x), x @ weight.T, atol=1e-6)


def test_sizes_that_do_not_follow():
    with pytest.raises(LoadError, match="a truncate module gives 8 of 6 numbers"):
        step("truncate", 6, b"", dimension=8)
    with pytest.raises(LoadError, match="a normalize module gives 5 of 6 numbers"):
        step("normalize", 6, b"", dimension=5)
