"""Odd files, wrong arguments and damaged folders: a clear error, and nothing is lost or made up."""

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import run, run_json

from tessera_onnx import Collection, ConfigError, FileError, TesseraError
from tessera_onnx.collection.documents import Document

pytestmark = pytest.mark.integrations

MODEL = "tessera-static-mini"


@pytest.fixture
def collection(tmp_path):
    first = {"year": 2020, "half": 0.5, "new": True}
    with Collection(tmp_path / "c", model=MODEL) as found:
        found.add([
            Document("a", "Bread keeps three days.", fields=first),
            Document("b", "A violin needs rosin.", fields={"year": 2021.0, "day": "2020-01-31"}),
        ])  # fmt: skip
        yield found


def sources(rows):
    return sorted(row.source for row in rows)


# ---------------------------------------------------------------- files


@pytest.mark.linux
def test_a_name_that_is_not_utf8_is_told_and_the_others_are_indexed(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "naïve 漢字.txt").write_text("Fresh bread.")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("Rye.")
    done = run("index", folder, "--to", tmp_path / "c", "--model", MODEL, code=1)
    assert done.stdout == "1 document in c: 1 new chunk\n"
    assert f"Error: the name of {folder}/caf\\xe9.txt is not UTF-8: rename it" in done.stderr
    (found,) = run_json("search", tmp_path / "c", "bread")["results"]
    assert found["source"] == str(folder / "naïve 漢字.txt")


@pytest.mark.linux
def test_a_folder_that_cannot_be_read_keeps_its_documents(tmp_path, monkeypatch, collection):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("Fresh bread.")
    monkeypatch.chdir(folder)
    for _ in range(20):  # a path longer than the system opens, which stops root as well
        os.mkdir("d" * 250)  # noqa: PTH102
        os.chdir("d" * 250)
    deep = str(folder.joinpath(*["d" * 250] * 20, "old.txt"))
    collection.add(
        [Document(deep, "Rye.", file=deep), Document("gone", "x", file=f"{folder}/g.md")]
    )
    report = collection.sync([folder])
    assert (report.documents, report.chunks, report.removed) == (1, 1, 1)
    (message,) = report.failed
    assert message.endswith("cannot be read: File name too long")
    assert deep in sources(collection.search("rye"))


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_tokens": 0}, "chunk_tokens must be at least 1, got 0"),
        ({"chunk_tokens": 5}, "chunk_tokens must be at least 8 with this model, got 5"),
        ({"chunk_tokens": "64"}, "chunk_tokens must be int, got str"),
        ({"chunk_tokens": 64.0}, "chunk_tokens must be int, got float"),
        ({"overlap": 300}, "overlap must be from 0 to 128 tokens, got 300"),
        ({"overlap": 1.5}, "overlap must be int, got float"),
        ({"model": 3}, "a model must be an id or a folder, got int"),
    ],
)
def test_what_cannot_work_leaves_no_collection_behind(tmp_path, options, message):
    documents = [Document("a", "Bread keeps three days.")]
    with pytest.raises((ConfigError, TypeError), match=message):
        Collection(tmp_path / "c", **{"model": MODEL, **options}).add(documents)
    assert not (tmp_path / "c").exists()
    assert Collection(tmp_path / "c", model=MODEL, chunk_tokens=8).add(documents).chunks


def test_one_str_is_not_read_as_several_names(collection):
    with pytest.raises(TypeError, match="sources must be a list of sources"):
        collection.remove(sources="ab")
    with pytest.raises(TypeError, match="text_fields must be a list of names"):
        collection.sync([], text_fields="text")
    with pytest.raises(ConfigError, match="text_fields must name a key or column"):
        collection.sync([], text_fields=())
    with pytest.raises(TypeError, match="paths must be a list of paths"):
        collection.sync(None)
    assert len(collection) == 2
    assert collection.remove(sources={"a", "b"}) == 2


def test_removing_from_nothing_makes_no_collection(tmp_path):
    done = run("index", tmp_path, "--to", tmp_path / "x" / "typo", "--remove", code=1)
    assert done.stderr.endswith("typo holds no collection: tessera index makes one\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("most", [10**9, 2**40, 2**63, 10**30])
def test_more_results_than_chunks_are_all_of_them(collection, most):
    assert len(collection.search("bread", most)) == 2
    assert len(collection.search("bread", candidates=most)) == 2


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"year": 2020.0}, ["a"]),
        ({"year": 2021}, ["b"]),
        ({"year": "2021"}, ["b"]),
        ({"year": np.int64(2020)}, ["a"]),
        ({"year": np.arange(2019, 2022)}, ["a", "b"]),
        ({"year": range(2021, 2030)}, ["b"]),
        ({"year": {2020, 1}}, ["a"]),
        ({"half": 0.5}, ["a"]),
        ({"day": dt.date(2020, 1, 31)}, ["b"]),
        ({"day": [dt.date(2020, 1, 30)]}, []),
        ({"new": True}, ["a"]),
        ({"new": "true"}, ["a"]),  # as --filter new=true
        ({"none": 1}, []),
        ({"year": float("nan")}, []),
        ({}, ["a", "b"]),
    ],
)
def test_equal_values_are_found_whatever_their_type(collection, filters, wanted):
    assert sources(collection.search("bread", filter=filters)) == wanted


def test_a_filter_keeps_a_row_that_many_others_precede(collection):
    collection.add(Document(f"n{i}", "Fresh bread.", fields={"year": 1}) for i in range(60))
    assert sources(collection.search("bread", 1, filter={"year": 2021}, candidates=1)) == ["b"]


@pytest.mark.parametrize(
    ("filters", "wrong"),
    [
        ({"year": None}, "NoneType"),
        ({"year": [2020, None]}, "NoneType"),
        ({"year": {"gt": 3}}, "dict"),
        ({"year": b"2020"}, "bytes"),
        ({"year": [[2020]]}, "list"),
        ({3: 2020}, "int"),
        ("year=2020", "str"),
        ([("year", 2020)], "list"),
    ],
)
def test_a_filter_of_another_type_is_an_error(collection, filters, wrong):
    with pytest.raises(TypeError, match=rf"filter must .*got {wrong}$"):
        collection.search("bread", filter=filters)


def test_an_equals_sign_belongs_to_the_name_or_to_the_value(collection):
    collection.add([Document("c", "Rye.", fields={"k=v": "w"}),
                    Document("d", "Rye.", fields={"k": "v=w", "k\\": "v"})])  # fmt: skip
    assert sources(collection.search("rye", filter={"k=v": "w"})) == ["c"]
    assert sources(collection.search("rye", filter={"k": "v=w"})) == ["d"]
    assert sources(collection.search("rye", filter={"k\\": "v"})) == ["d"]


def test_texts_that_are_not_unicode_are_refused_wherever_they_stand(collection):
    for wrong in (
        Document("q", "Rye.", file="\udce9"),
        Document("q", "Rye.", fields={"a": "\ud800"}),
        Document("q", "Rye.", fields={"\ud800": "a"}),
    ):
        with pytest.raises(TesseraError, match="lone surrogate") as caught:
            collection.add([Document("c", "Oats."), wrong])
        assert caught.value.index == 1
    strange = ["ü'\"漢\n\t😀", "", "n\0ul", "x" * 10_000, "%_*"]
    collection.add(Document(each, "Rye.", file=each) for each in strange)
    assert set(strange) <= set(sources(collection.search("rye")))
    assert collection.remove(sources=strange) == len(strange)


def test_a_query_of_unknown_words_finds_nothing(collection):
    for query in ("", "ხაჭაპური"):
        assert collection.search(query) == []


# ---------------------------------------------------------------- the folder


@pytest.mark.posix
def test_a_full_disk_loses_nothing_and_the_next_run_goes_on(tmp_path):
    rng = np.random.default_rng(2)
    words = ("bread", "rain", "mill", "violin", "ledger", "clay", "lamp", "river")
    text = " ".join(f"{' '.join(rng.choice(words, 9))} {i}." for i in range(4000))
    (tmp_path / "big.txt").write_text(text)
    (tmp_path / "small.txt").write_text("A violin needs rosin.")
    options = ("--to", tmp_path / "c", "--model", MODEL)
    run("index", tmp_path / "small.txt", *options)
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
    code += "from tessera_onnx.cli.main import main; main()"
    command = [sys.executable, "-c", code, "index", tmp_path / "big.txt", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"Error: the store in {tmp_path / 'c'} fails: ")
    assert "File too large" in done.stderr
    assert ".rs:" not in done.stderr
    with Collection(tmp_path / "c") as collection:
        assert sources(collection.search("violin")) == [str(tmp_path / "small.txt")]
        assert collection.sync([tmp_path / "big.txt"]).chunks > 100


def test_the_saved_sparse_index_is_made_anew_if_it_is_damaged_or_of_other_rows(collection):
    before = collection.search("rosin violins")
    (place,) = collection.folder.glob("sparse-*.index")
    whole = place.read_bytes()
    with Collection(collection.folder.with_name("other"), model=MODEL) as other:
        other.add([Document("z", "Quartz.")])
    (stale,) = other.folder.glob("sparse-*.index")
    for content in (b"", b"xx", whole[: len(whole) // 2], stale.read_bytes()):
        place.write_bytes(content)
        with Collection(collection.folder) as reader:
            assert reader.search("rosin violins") == before
    collection.remove([], sources=["none"])  # a writer repairs it
    assert place.read_bytes() == whole


def test_a_store_that_is_gone_is_no_empty_collection(collection):
    folder = collection.folder
    collection.close()
    shutil.rmtree(folder / "chunks.lance")
    with pytest.raises(FileError, match="has no store of chunks: index its files again"):
        Collection(folder).search("bread")
    assert not (folder / "chunks.lance").exists()
    with Collection(folder) as again:
        again.add([Document("n", "New bread."), Document("m", "New rain.")])
        assert sources(again.search("bread rosin violin")) == ["m", "n"]


def test_a_reader_notices_that_its_folder_was_removed_and_made_anew(collection):
    folder = collection.folder
    with Collection(folder) as reader:
        assert sources(reader.search("bread")) == ["a", "b"]
        collection.close()
        shutil.rmtree(folder)
        with pytest.raises(FileError, match="holds no collection"):
            reader.search("bread")
        assert not folder.exists()
        with Collection(folder, model="all-minilm-l6-v2", sparse="none") as other:
            other.add([Document("new", "Bread of another collection.")])
        (found,) = reader.search("bread")
        assert found.source == "new"
        assert found.text == "Bread of another collection."


def _change(content, path, value):
    *keys, last = path.split(".")
    for key in keys:
        content = content[key]
    content[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [("models", {}), ("models", []), ("chunk_tokens", "64"), ("chunk_tokens", None),
     ("overlap", 0.5), ("models.dense.options", None), ("models.dense.options", {"nope": 1}),
     ("models.dense.name", None), ("models.dense.sha256", 3), ("models.dense.new", 1),
     ("models.other", {"name": "bm25", "model": "bm25", "sha256": "", "precision": None,
                       "options": {}})],
)  # fmt: skip
def test_settings_that_were_changed_by_hand_are_damaged(collection, path, value):
    place = collection.folder / "collection.json"
    content = json.loads(place.read_text())
    _change(content, path, value)
    place.write_text(json.dumps(content))
    for call in (lambda c: c.search("x"), lambda c: c.add([Document("n", "Rain.")])):
        with Collection(collection.folder) as again, pytest.raises(FileError, match="is damaged"):
            call(again)


def test_an_error_of_the_store_names_no_document(collection):
    for path in (collection.folder / "chunks.lance" / "_versions").iterdir():
        path.write_bytes(b"xx")
    with Collection(collection.folder) as again, pytest.raises(FileError) as caught:
        again.add([Document("n", "Rain.")])
    assert caught.value.index is None
    assert str(caught.value).startswith(f"the store in {collection.folder} fails: ")
