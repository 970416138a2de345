"""Files of indexes: those of earlier versions, ids and gaps in them, sparse ones, and damage."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tessera_onnx import FileError, IntegrityError, LoadError, PackedSparse, PackedTokens
from tessera_onnx.cli import vector_files
from tessera_onnx.search import index_file

# Written by PackedTokens.save as it was before there were ids: two documents, then two more.
VERSION_1 = Path(__file__).parents[1] / "packs"
QUERY = [[1, 2, -1], [0.5, -0.5, 1]]


@pytest.mark.parametrize(
    ("output", "scores"),
    [
        ("float32", [2.5, -2, -2.25, 3.25]),
        ("int8", [2.4959380626678467, -2, -2.232095956802368, 3.2162230014801025]),
        ("binary", [2 / 3, -2, -2 / 3, 4 / 3]),
    ],
)
def test_a_file_of_version_1_still_opens(output, scores, tmp_path):
    path = VERSION_1 / f"version1.{output}.pack"
    index = PackedTokens.load(path, verify=True)
    np.testing.assert_allclose(index.score(QUERY), scores, rtol=1e-6)
    assert (
        index.ids is None
        and index.numbers.tolist() == [0, 1, 2, 3]
        and index.output_dtype == output
    )
    index.save(tmp_path / "again")  # a index without ids and gaps is what it was, for older readers
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    index.remove([1])
    index.save(tmp_path / "again")
    again = PackedTokens.load(tmp_path / "again", verify=True)
    np.testing.assert_allclose(again.score(QUERY), [scores[0], -np.inf, *scores[2:]], rtol=1e-6)


def test_numpy_reads_a_sparse_file(tmp_path):
    index = PackedSparse([([1, 3], [2, 4]), ([], []), ([3], [1]), ([7], [5])], ids=list("abcd"))
    index.remove(["d"])
    index.save(tmp_path / "p")
    with (tmp_path / "p").open("rb") as stream:
        header, entries, starts, lengths, removed, ids, documents, values = (
            np.load(stream) for _ in range(8)
        )
        assert stream.read() == b""
    facts = json.loads(header.tobytes())
    assert facts["format"] == "tessera-onnx packed sparse vectors" and facts["version"] == 1
    assert (entries.tolist(), starts.tolist()) == ([1, 3], [0, 1, 3])
    assert (lengths.tolist(), removed.tolist()) == ([2, 0, 1, 0], [3])
    assert json.loads(ids.tobytes()) == ["a", "b", "c"]
    assert (documents.tolist(), values.tolist()) == ([0, 0, 2], [2, 4, 1])


def test_a_sparse_file_is_mapped_and_goes_on(rng, tmp_path):
    rows = [np.flatnonzero(rng.random(60) < 0.3).astype("i4") for _ in range(50)]
    documents = [(ids, rng.random(len(ids), "f4") + 1) for ids in rows]
    query = (np.arange(0, 60, 4), np.ones(15))
    index = PackedSparse(documents[:30])
    index.add(documents[30:])
    index.save(tmp_path / "p")
    loaded = PackedSparse.load(tmp_path / "p")
    (segment,) = loaded._state.segments
    for part in (segment.documents, segment.values):
        assert isinstance(part.base, np.memmap) and part.flags.aligned
    np.testing.assert_allclose(loaded.score(query), index.score(query), rtol=1e-6)
    assert (len(loaded), loaded.ids, repr(loaded)) == (50, None, repr(index))
    for each in (loaded, index):
        each.add(documents[:3])
        each.remove([0, 51])
    loaded.save(tmp_path / "p")  # over the file that it is mapped from
    assert PackedSparse.load(tmp_path / "p", verify=True).numbers.tolist() == [
        *range(1, 51),
        52,
    ]
    np.testing.assert_allclose(loaded.score(query), index.score(query), rtol=1e-6)
    assert [found.name for found in tmp_path.iterdir()] == ["p"]


def test_vectors_without_any_entry(tmp_path):
    index = PackedSparse([([], []), ([], [])], ids=["a", "b"])
    index.save(tmp_path / "p")
    again = PackedSparse.load(tmp_path / "p", verify=True)
    assert again.rank(([1], [1.0])) == [(0, 0), (1, 0)] and again.ids == ["a", "b"]


@pytest.mark.parametrize("ids", [["a", "ü €", ""], ['"', "\\", "\n\0"], ["\ud800", "x" * 99, "é"]])
@pytest.mark.parametrize("kind", ["tokens", "sparse"])
def test_any_text_is_an_id(kind, ids, tmp_path):
    if kind == "tokens":
        cls, index = PackedTokens, PackedTokens(np.eye(3)[:, None], ids=ids)
    else:
        cls, index = PackedSparse, PackedSparse([([i], [1.0]) for i in range(3)], ids=ids)
    index.save(tmp_path / "p")
    assert cls.load(tmp_path / "p").ids == ids


def named_tokens():
    index = PackedTokens(
        [np.full((n, 4), n) for n in (1, 3, 2, 5)], ids=["a", "b", "c", "d"], output_dtype="int8"
    )
    index.remove(["b"])
    return index


def named_sparse():
    index = PackedSparse([([1, 3], [2, 4]), ([2], [1]), ([3], [1]), ([7], [5])], ids=list("abcd"))
    index.remove([1])
    return index


@pytest.fixture(params=["tokens", "sparse"])
def saved(request, tmp_path):
    """A file with ids and a gap, its class and how many arrays of it are mapped."""
    index = named_tokens() if request.param == "tokens" else named_sparse()
    index.save(tmp_path / "p")
    return tmp_path / "p", type(index), 1 if request.param == "tokens" else 2


def test_every_cut_is_found(saved):
    path, cls, _ = saved
    content = path.read_bytes()
    for size in [*range(0, len(content), 61), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(LoadError):
            cls.load(path)
    path.write_bytes(content + b"x")
    with pytest.raises(IntegrityError, match="should have"):
        cls.load(path)


def test_every_changed_bit_is_found(saved):
    path, cls, _ = saved
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            cls.load(path, verify=True)
        except LoadError:
            continue
        # The header's spaces and the paddings of .npy headers say nothing.
        assert chr(content[place]).isspace(), place


def rewrite(path, n_mapped, facts=None, index=None):
    """The file with other facts or index, checksums made right again."""
    with path.open("rb") as stream:
        header = np.load(stream)
        arrays = []
        while stream.peek(1):
            arrays.append(np.load(stream))
    known = json.loads(header.tobytes()) | (facts or {})
    for number, array in (index or {}).items():
        arrays[number] = np.asarray(array, dtype=arrays[number].dtype)
    known["index_crc32"] = index_file.crc(arrays[:-n_mapped])
    header = np.frombuffer(json.dumps(known).ljust(512).encode(), np.uint8)
    with path.open("wb") as stream:
        for array in (header, *arrays):
            np.lib.format.write_array(stream, array, version=(1, 0))


def ids_of(value, size=64):
    return np.frombuffer(json.dumps(value).ljust(size).encode(), np.uint8)


IDS = [["a", "c"], ["a", "c", "c"], ["a", "c", 3], {"a": 1, "b": 2, "c": 3}, "abc", 7, ["a"] * 4]


@pytest.mark.parametrize("ids", IDS, ids=str)
def test_hostile_ids(saved, ids):
    path, cls, n_mapped = saved
    place = 5 if cls is PackedTokens else 4
    rewrite(path, n_mapped, index={place: ids_of(ids)})
    with pytest.raises(IntegrityError, match="its ids do not fit its documents"):
        cls.load(path)
    rewrite(path, n_mapped, index={place: np.frombuffer(b"[" * 64, np.uint8)})
    with pytest.raises(IntegrityError, match="its ids do not fit its documents"):
        cls.load(path)


FACTS = [
    {"format": "another"}, {"version": 9}, {"removed": 1 << 50}, {"removed": -1}, {"ids": 1 << 50},
    {"ids": "64"}, {"documents": 1 << 50}, {"documents": True}, {"entries": 1 << 50},
    {"postings": 1 << 50}, {"elements": 1 << 50}, {"postings": 0}, {"elements": 0},
]  # fmt: skip


@pytest.mark.parametrize("facts", FACTS, ids=str)
def test_hostile_facts(saved, facts):
    path, cls, n_mapped = saved
    with path.open("rb") as stream:
        known = json.loads(np.load(stream).tobytes())
    if not facts.keys() <= known.keys():
        return  # a fact of the other kind
    rewrite(path, n_mapped, facts)
    with pytest.raises(LoadError):
        cls.load(path)


def test_a_hostile_index_of_tokens(tmp_path):
    path = tmp_path / "p"
    for removed in ([0], [4], [-1], [1 << 40]):
        named_tokens().save(path)
        rewrite(path, 1, index={4: removed})
        with pytest.raises(IntegrityError, match="its index do not fit each other"):
            PackedTokens.load(path)


def test_a_hostile_index_of_sparse_vectors(tmp_path):
    path = tmp_path / "p"
    named_sparse().save(path)
    with path.open("rb") as stream:
        np.load(stream)
        entries, starts, lengths, removed, _ids, _documents, _values = (
            np.load(stream) for _ in range(7)
        )
    cases = [{0: entries[::-1]}, {0: entries - 5}, {0: entries * 0}, {1: starts + 1}]
    cases += [{1: starts[::-1]}, {1: starts * 2}, {2: lengths + 1}, {2: lengths - 1}]
    cases += [{2: lengths[::-1]}, {3: removed - 2}, {3: removed + 9}, {3: removed * 0}]
    for index in cases:
        named_sparse().save(path)
        rewrite(path, 2, index=index)
        with pytest.raises(IntegrityError, match="its index do not fit each other"):
            PackedSparse.load(path)


@pytest.mark.parametrize("number", [-1, 4, 2**31 - 1])
def test_a_damaged_number_of_a_document_is_found_when_it_is_read(tmp_path, number):
    """The content is not read when a file is opened; what it says is looked at before it counts."""
    path = tmp_path / "p"
    named_sparse().save(path)
    content = bytearray(path.read_bytes())
    with path.open("rb") as stream:
        for _ in range(7):
            documents = np.load(stream)
        end = stream.tell()
    content[end - 4 : end] = np.int32(number).tobytes()
    assert documents[-1] == 3
    path.write_bytes(content)
    index = PackedSparse.load(path)
    assert index.score(([1], [1.0])).tolist() == [2, -np.inf, 0, 0]
    with pytest.raises(IntegrityError, match="the file of this index is damaged"):
        index.rank(([7], [1.0]))
    with pytest.raises(IntegrityError, match="the file of this index is damaged"):
        index.remove([0])
    with pytest.raises(IntegrityError, match="the file of this index is damaged"):
        index.save(tmp_path / "another")
    with pytest.raises(IntegrityError, match="the checksum of its documents and values is wrong"):
        PackedSparse.load(path, verify=True)


@pytest.mark.posix
def test_a_sparse_file_that_cannot_be_read_or_written(tmp_path):
    index = named_sparse()
    for bad in (tmp_path / "no folder" / "p", tmp_path):
        with pytest.raises(FileError):
            index.save(bad)
    for bad in (tmp_path / "missing", tmp_path, "a\0b", "/dev/zero"):
        with pytest.raises(FileError):
            PackedSparse.load(bad)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="not a regular file"):
        PackedSparse.load(tmp_path / "pipe")


def test_a_file_of_the_other_kind(saved, tmp_path):
    path, cls, _ = saved
    other, what = (
        (PackedSparse, "index of sparse vectors")
        if cls is PackedTokens
        else (PackedTokens, "index of token vectors")
    )
    with pytest.raises(LoadError, match=f"is not an {what}: write one with {other.__name__}.save"):
        other.load(path)
    np.save(tmp_path / "p.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(LoadError, match=f"is not an {what}"):
        other.load(tmp_path / "p.npy")


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    path, cls, _ = saved
    content = path.read_bytes()
    monkeypatch.setattr(vector_files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(FileError):
        cls.load(path).save(path)
    assert path.read_bytes() == content
    assert [found.name for found in path.parent.iterdir()] == ["p"]
