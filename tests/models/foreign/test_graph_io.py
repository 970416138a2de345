"""The inputs, outputs and weight files of ONNX graphs, against ONNX Runtime, and hostile files."""

import os
import random
import time

import pytest
from artifact_tools import ARTIFACTS
from faults import graphs

from tessera_onnx import LoadError
from tessera_onnx.models.foreign import graph_io
from tessera_onnx.models.foreign.graph_io import Port
from tessera_onnx.runtime.devices import onnxruntime

FILES = sorted(ARTIFACTS.glob("*/*.onnx"))
FLOAT, UINT8, INT8, INT64, HALF = 1, 2, 3, 7, 10


def read(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    return graph_io.read(path)


def weight(name, kind, dims, *, file=""):
    """An initializer; with `file`, its bytes lie there."""
    pair = graphs.field(13, graphs.field(1, "location") + graphs.field(2, file))
    return graphs.field(5, graphs.tensor(name, kind, dims, b"", pair if file else b""))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_ports_are_those_that_onnxruntime_sees(path):
    ours = graph_io.read(path)
    session = onnxruntime().InferenceSession(path, providers=["CPUExecutionProvider"])
    for found, truth in (
        (ours.inputs, session.get_inputs()),
        (ours.outputs, session.get_outputs()),
    ):
        assert [(port.name, f"tensor({port.type})") for port in found] == [
            (port.name, port.type) for port in truth
        ]
        assert [len(port.dims) for port in found] == [len(port.shape) for port in truth]
        for port, their in zip(found, truth, strict=True):
            for size, known in zip(port.dims, their.shape, strict=True):
                assert size == known or isinstance(size, str)  # ONNX Runtime infers some sizes
    assert not ours.locations
    assert ours.precision == "fp32"
    assert ours.opsets[""] >= 14


def test_an_initializer_among_the_inputs_is_no_input(tmp_path):
    """Files of IR versions below 4 list all of them there."""
    listed = graphs.field(11, graphs.value("row", FLOAT, [1, 32]))
    found = read(tmp_path, graphs.model(graphs.summing(half=False) + listed))
    assert [port.name for port in found.inputs] == ["input_ids", "attention_mask"]


def test_sizes_names_and_what_is_left_open(tmp_path):
    extra = graphs.value("x", HALF, [2, "n", 0, ""])
    negative = graphs.value("y", 6, [-1])
    shapeless = graphs.field(1, "z") + graphs.field(2, graphs.field(1, graphs.number(1, INT64)))
    sequence = graphs.field(1, "s") + graphs.field(2, graphs.field(4, b""))
    unknown = graphs.value("u", 99, [])
    body = b"".join(
        graphs.field(12, one) for one in (extra, negative, shapeless, sequence, unknown)
    )
    found = read(tmp_path, graphs.model(body))
    assert found.outputs == (
        Port("x", "float16", (2, "n", None, None)),
        Port("y", "int32", (None,)),
        Port("z", "int64", ()),
        Port("s", "", ()),
        Port("u", "", ()),
        Port("sentence_embedding", "float", ("batch", 32)),
    )
    assert found.opsets == {"": 17, "com.microsoft": 1, "evil": 1}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([("w", FLOAT, [64, 64])], "fp32"),
        ([("w", FLOAT, [64, 64]), ("h", HALF, [64, 64])], "fp16"),
        ([("w", HALF, [64, 64]), ("q", INT8, [64, 64])], "int8"),
        ([("e", FLOAT, [512, 64]), ("q", UINT8, [64, 2, 32])], "int8"),  # in bytes
        ([("w", FLOAT, [64, 64]), ("q", 22, [64, 64])], "int4"),
        ([("w", FLOAT, [64, 64]), ("table", UINT8, [8192]), ("small", INT8, [8, 8])], "fp32"),
        ([("w", FLOAT, [64, 64]), ("positions", INT64, [1, 8192])], "fp32"),
    ],
)
def test_precision_is_that_of_the_large_weights(tmp_path, weights, expected):
    body = b"".join(weight(*one) for one in weights)
    assert read(tmp_path, graphs.model(body)).precision == expected


@pytest.mark.parametrize(
    ("kind", "attributes", "expected"),
    [
        ("MatMulNBits", {"K": 64, "bits": 4}, "int4"),
        ("MatMulNBits", {"bits": 8}, "int8"),
        ("MatMulNBits", {"K": 64}, "int4"),  # the operator's default
        ("MatMul", {"bits": 4}, "int8"),
    ],
)
def test_packed_weights_have_the_bits_of_their_product(tmp_path, kind, attributes, expected):
    parts = [
        graphs.field(5, graphs.field(1, name) + graphs.number(3, value))
        for name, value in attributes.items()
    ]
    node = graphs.field(1, graphs.field(4, kind) + b"".join(parts))
    body = weight("w", FLOAT, [64, 64]) + node + weight("q", UINT8, [64, 2, 32])
    assert read(tmp_path, graphs.model(body)).precision == expected


def test_files_beside_the_graph(tmp_path):
    names = ["model.onnx_data_1", "model.onnx_data", "model.onnx.data", "Constant_7_attr__value"]
    body = b"".join(weight(f"w{i}", FLOAT, [2, 2], file=name) for i, name in enumerate(names * 2))
    assert read(tmp_path, graphs.model(body)).locations == tuple(sorted(names))


@pytest.mark.parametrize(
    "name",
    ["../w.bin", "/etc/passwd", "sub/w.bin", "sub\\w.bin", "..", "C:w", "*/_ORT_MEM_ADDR_/*"],
)
def test_files_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(LoadError, match="which is no file of the same folder") as caught:
        read(tmp_path, graphs.model(weight("w", FLOAT, [2, 2], file=name)))
    assert caught.value.path == str(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"<!doctype html>", "is no ONNX file"),
        (b"\x3a\xff\xff", "is no ONNX file"),
        (graphs.field(7, b""), "no graph with an output"),
        (graphs.field(7, graphs.field(12, graphs.field(1, b"\xff"))), "is no ONNX file"),
        (graphs.field(7, graphs.field(12, graphs.field(1, b"x" * 2000))), "a name has 2,000 bytes"),
        (graphs.field(7, graphs.field(11, b"") * 5000), "more than 4,096 inputs"),
    ],
)
def test_what_is_no_graph(tmp_path, content, message):
    with pytest.raises(LoadError, match=message) as caught:
        read(tmp_path, content)
    assert caught.value.path == str(tmp_path / "model.onnx")


def test_what_is_no_file(tmp_path):
    with pytest.raises(LoadError, match="cannot be read: No such file"):
        graph_io.read(tmp_path / "model.onnx")
    with pytest.raises(LoadError, match="is no regular file"):
        graph_io.read(tmp_path)


@pytest.mark.posix
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(LoadError, match="is no regular file"):
        graph_io.read(tmp_path / "model.onnx")


def test_a_file_of_many_parts_ends_soon(tmp_path):
    parts = graphs.number(9, 1) * (3 << 20)
    for content in (
        parts,
        graphs.field(7, parts),
        graphs.field(7, graphs.field(5, parts)),
        graphs.field(7, graphs.field(5, graphs.field(1, bytes(3 << 20)))),
    ):
        start = time.process_time()
        with pytest.raises(LoadError, match="more than 1,048,576 parts"):
            read(tmp_path, content)
        assert time.process_time() - start < 20


def test_weights_are_not_read(tmp_path):
    """A sparse file of 8 GB: its one weight is stepped over."""
    head = graphs.model(weight("w", FLOAT, [64, 64]))
    size = 8 << 30
    path = tmp_path / "model.onnx"
    tensor = graphs.varint(9 << 3 | 2) + graphs.varint(size)
    initializer = graphs.varint(5 << 3 | 2) + graphs.varint(len(tensor) + size) + tensor
    graph = graphs.varint(7 << 3 | 2) + graphs.varint(len(initializer) + size) + initializer
    with path.open("wb") as stream:
        stream.write(head + graph)
        stream.truncate(len(head + graph) + size)
    start = time.process_time()
    assert len(graph_io.read(path).inputs) == 2
    assert time.process_time() - start < 1


def test_damaged_graphs_are_refused_or_read(tmp_path):
    """Bytes changed, cut out and put in at random: LoadError, or a result, and never more."""
    rng = random.Random(0)
    whole = (ARTIFACTS / "states" / "model.onnx").read_bytes()
    ends = graphs.model(weight("w", FLOAT, [2, 2], file="w.bin"))
    refused = 0
    for base, count in ((ends, 3000), (whole, 300)):
        for _ in range(count):
            content = bytearray(base)
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(content))
                change = rng.randrange(3)
                if change == 0:
                    content[at] = rng.randrange(256)
                elif change == 1:
                    del content[at : at + rng.randint(1, 9)]
                else:
                    content[at:at] = rng.randbytes(rng.randint(1, 9))
            try:
                found = graph_io.parse(bytes(content), tmp_path / "model.onnx")
            except LoadError:
                refused += 1
            else:
                assert found.outputs
    assert refused > 1000
