"""Weights in a file beside the graph: the same vectors, and no way to a file that nobody listed.

The graphs are rewritten here by hand, a field at a time, since the runtime's tests know no onnx.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, TEXTS, add_file, copy, relist, replace
from graph_bytes import (
    DATA_LOCATION,
    EXTERNAL_DATA,
    entry,
    field,
    number,
    outside,
)

from tessera_onnx import IntegrityError, LoadError, TesseraSparse
from tessera_onnx.runtime import devices, external_data
from tessera_onnx.runtime import graph as runtime_graph

GRAPH = "model.fp32.onnx"


def moved(target, location=b"weights.bin"):
    """A copy of the small SPLADE artifact whose weights lie outside its graph."""
    folder = copy("splade", target)
    graph, data = outside((folder / GRAPH).read_bytes(), lambda _: location)
    assert len(graph) < 0.5 * (folder / GRAPH).stat().st_size
    relist(folder, GRAPH, graph)
    return folder, data


def encode(folder):
    with TesseraSparse(path=folder, threads=2, on_long="truncate") as model:
        # The batch and the single text have a session each, and each reads the weights.
        return [*model.encode_batch(TEXTS), model.encode(TEXTS[0])]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The working directory is another one, with a file of the name that the graph wants."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def test_a_listed_file_beside_the_graph(tmp_path):
    folder, data = moved(tmp_path / "m")
    add_file(folder, "weights.bin", data)
    for ours, inline in zip(encode(folder), encode(ARTIFACTS / "splade"), strict=True):
        assert np.array_equal(ours.indices, inline.indices)
        assert np.array_equal(ours.values, inline.values)


def test_a_graph_in_a_folder_of_its_own(tmp_path):
    """As on the hub: onnx/model.onnx and onnx/model.onnx_data."""
    folder, data = moved(tmp_path / "m", b"model.onnx_data")
    (folder / "onnx").mkdir()
    shutil.move(folder / GRAPH, folder / "onnx" / GRAPH)
    toml = folder / "model.toml"
    toml.write_text(replace((f'"{GRAPH}"', f'"onnx/{GRAPH}"'))(toml.read_text()))
    add_file(folder, "onnx/model.onnx_data", data)
    assert len(encode(folder)) == len(TEXTS) + 1


def test_several_files(tmp_path):
    folder = copy("splade", tmp_path / "m")
    graph, data = outside((folder / GRAPH).read_bytes(), lambda offset: b"part_%d" % (offset > 0))
    relist(folder, GRAPH, graph)
    for name in ("part_0", "part_1"):
        add_file(folder, name, data)
    assert external_data.locations(graph, GRAPH) == ["part_0", "part_1"]
    assert np.array_equal(encode(folder)[0].values, encode(ARTIFACTS / "splade")[0].values)


def test_an_unlisted_file_is_never_opened(tmp_path):
    folder, data = moved(tmp_path / "m")
    (folder / "weights.bin").write_bytes(data)
    (tmp_path / "cwd" / "weights.bin").write_bytes(data)
    with pytest.raises(LoadError, match="'weights.bin' but does not list it"):
        encode(folder)


def test_a_changed_missing_or_short_file(tmp_path):
    folder, data = moved(tmp_path / "m")
    add_file(folder, "weights.bin", data)
    path = folder / "weights.bin"
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="has sha256"):
        encode(folder)
    path.unlink()
    with pytest.raises(IntegrityError, match=r"weights.bin is missing"):
        encode(folder)
    path.write_bytes(data)
    relist(folder, "weights.bin", data[:100])
    with pytest.raises(LoadError, match="cannot be opened on cpu"):
        encode(folder)


def test_a_link_out_of_the_folder(tmp_path):
    folder, data = moved(tmp_path / "m")
    add_file(folder, "weights.bin", data)
    shutil.move(folder / "weights.bin", tmp_path / "elsewhere")
    (folder / "weights.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="link out of its folder"):
        encode(folder)


@pytest.mark.parametrize(
    "location",
    [
        b"/etc/passwd",
        b"../weights.bin",
        b"..",
        b"",
        b"sub/weights.bin",
        b"sub\\weights.bin",
        b"C:weights.bin",
        b"weights.bin\x00",
        b"*/_ORT_MEM_ADDR_/*",  # an address in memory, to ONNX Runtime
        b"\xff",
    ],
)
def test_names_that_lead_elsewhere(tmp_path, location):
    folder, data = moved(tmp_path / "m", location)
    (tmp_path / "weights.bin").write_bytes(data)
    with pytest.raises(IntegrityError, match="no file of the same folder|not a readable"):
        encode(folder)


def test_a_graph_alone_may_name_no_file(tmp_path):
    """ONNX Runtime would open it in the working directory, although the graph is in memory."""
    graph, data = outside((ARTIFACTS / "splade" / GRAPH).read_bytes(), lambda _: b"weights.bin")
    (tmp_path / "cwd" / "weights.bin").write_bytes(data)
    assert Path("weights.bin").exists()
    with pytest.raises(IntegrityError, match="keeps weights in 'weights.bin', and may not"):
        runtime_graph.open_graph("graph", graph, "cpu", 1)


def test_other_ways_to_write_the_same():
    """A parser takes keys in any order and numbers in more bytes than they need."""
    long = b"\x0a\x88\x80\x00location" + field(2, b"w.bin")
    turned = field(2, b"w.bin") + field(1, b"location")
    for written in (long, turned):
        tensor = field(EXTERNAL_DATA, written)
        graph = field(7, field(5, tensor))
        assert external_data.locations(graph, "g") == ["w.bin"]
        # Anywhere but in a weight of the main graph it is refused, here in a node's attribute.
        for place in (field(7, field(1, field(5, field(5, tensor)))), field(25, field(7, tensor))):
            with pytest.raises(IntegrityError, match="not weights of its graph"):
                external_data.locations(place, "g")
    twice = field(7, field(5, entry(b"location", b"a"))) + field(
        7, field(5, entry(b"location", b"b"))
    )
    assert external_data.locations(twice, "g") == ["a", "b"]


# Fields of onnx.proto3 by the way down to a tensor: 7 graph, 1 node, 5 attribute, 6 subgraph of it.
@pytest.mark.parametrize(
    "way",
    [
        pytest.param([7, 15, 1], id="the values of a sparse weight"),
        pytest.param([7, 15, 2], id="the indices of a sparse weight"),
        pytest.param([7, 1, 5, 5], id="an attribute"),
        pytest.param([7, 1, 5, 10], id="one of an attribute's tensors"),
        pytest.param([7, 1, 5, 22, 1], id="a sparse attribute"),
        pytest.param([7, 1, 5, 6, 5], id="a weight of a branch"),
        pytest.param([7, 1, 5, 11, 5], id="a weight of one of an attribute's graphs"),
        pytest.param([7, 1, 5, 6, 1, 5, 6, 5], id="a weight of a branch of a branch"),
        pytest.param([25, 7, 5, 5], id="a function's node"),
        pytest.param([25, 11, 5], id="a function's attribute"),
        pytest.param([20, 1, 5], id="a training graph's weight"),
        pytest.param([20, 2, 5], id="a training algorithm's weight"),
        pytest.param([14], id="anywhere else"),
    ],
)
@pytest.mark.parametrize("hidden", [False, True])
def test_a_file_that_is_named_elsewhere_than_in_a_weight(way, hidden):
    """Alone, and beside a weight that names a listed file as it may."""
    tensor = entry(b"location", b"w.bin") + number(DATA_LOCATION << 3) + number(1)
    for key in reversed(way):
        tensor = field(key, tensor)
    weight = field(7, field(5, entry(b"location", b"listed.bin")))
    with pytest.raises(IntegrityError, match="not weights of its graph"):
        external_data.locations(weight + tensor if hidden else tensor, "g")


def test_other_words_than_the_key_are_none():
    name = field(7, field(1, field(3, b"/allocation/relocation")))
    assert external_data.locations(name, "g") == []
    assert external_data.locations(b"", "g") == []
    for broken in (b"\x3b location", b"\x3a\xff location", b"\x3a" + b"\xff" * 12 + b"location"):
        with pytest.raises(IntegrityError, match="not a readable ONNX graph"):
            external_data.locations(broken, "g")


def test_an_old_onnxruntime_says_so(tmp_path, monkeypatch):
    folder, data = moved(tmp_path / "m")
    add_file(folder, "weights.bin", data)
    ort = devices.onnxruntime()

    class Old(ort.SessionOptions):
        def __getattribute__(self, name):
            if name == "add_external_initializers_from_files_in_memory":
                raise AttributeError(name)
            return super().__getattribute__(name)

    monkeypatch.setattr(ort, "SessionOptions", Old)
    with pytest.raises(LoadError, match="install a newer one"):
        encode(folder)


@pytest.mark.parametrize("name", ["prompts", "colbert", "splade", "bolt", "m3", "chronos2"])
def test_weights_given_beside_the_graph_are_the_same_weights(name, monkeypatch):
    """Whatever the graph, ONNX Runtime computes the same with its weights taken out of it."""
    folder = ARTIFACTS / name
    graphs = sorted(folder.glob("*.onnx"))
    assert graphs
    for path in graphs:
        graph = path.read_bytes()
        monkeypatch.setattr(external_data, "LARGE", 256)
        rest = external_data.without_weights(graph, path.name)
        assert len(rest) < 0.7 * len(graph)
        plain = runtime_graph.open_graph(path.name, graph, "cpu", 1)
        monkeypatch.setattr(runtime_graph, "LARGE_GRAPH", 0)
        split = runtime_graph.open_graph(path.name, graph, "cpu", 1)
        monkeypatch.undo()
        rng = np.random.default_rng(0)
        feeds = {}
        for item in plain.get_inputs():
            shape = [size if isinstance(size, int) else 4 for size in item.shape]
            values = rng.integers(1, 2, shape)
            feeds[item.name] = values.astype({"tensor(int64)": np.int64}.get(item.type, np.float32))
        for ours, truth in zip(split.run(None, feeds), plain.run(None, feeds), strict=True):
            np.testing.assert_array_equal(ours, truth)


def test_weights_beside_a_graph_and_in_a_file_of_it(tmp_path, monkeypatch):
    """Both ways at once, and a graph that names its own file: it gets no bytes of it by that."""
    folder, data = moved(tmp_path / "m")
    add_file(folder, "weights.bin", data)
    expected = encode(folder)
    monkeypatch.setattr(runtime_graph, "LARGE_GRAPH", 0)
    monkeypatch.setattr(external_data, "LARGE", 32)
    for ours, truth in zip(encode(folder), expected, strict=True):
        np.testing.assert_array_equal(ours.values, truth.values)
    folder, _ = moved(tmp_path / "itself", GRAPH.encode())
    with pytest.raises((LoadError, IntegrityError)):
        encode(folder)


def test_what_is_no_graph_keeps_its_own_error(monkeypatch):
    monkeypatch.setattr(runtime_graph, "LARGE_GRAPH", 0)
    with pytest.raises(LoadError, match="cannot be opened"):
        runtime_graph.open_graph("x.onnx", b"\xff" * 64, "cpu", 1)
