"""A collection finds what exact search finds, and holds what its files hold."""

import dataclasses
import json
import shutil

import lancedb
import numpy as np
import pytest
from artifact_tools import ARTIFACTS
from store_cases import check_threads

from tessera_onnx import (
    Collection,
    ConfigError,
    EncodingError,
    FileError,
    TesseraError,
    TesseraReranker,
    TesseraSparse,
    TruncationWarning,
)
from tessera_onnx.collection import store
from tessera_onnx.collection.documents import Document

pytestmark = pytest.mark.integrations

DENSE = "tessera-static-mini"
WORDS = (
    *("fresh", "bread", "rain", "storm", "letter", "ledger", "mill", "river", "clay", "lamp"),
    *("garden", "stone", "winter", "apple", "horse", "violin", "market", "bridge", "forest"),
    "candle",
)


def sentences(n, rng):
    return [f"{' '.join(rng.choice(WORDS, rng.integers(4, 15)))} number {i}." for i in range(n)]


def write_rows(path, texts, **columns):
    rows = [
        {"key": f"k{i}", "text": text, **{name: values[i] for name, values in columns.items()}}
        for i, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stored(folder):
    """All rows of the store, in the order of sources and chunks."""
    rows = lancedb.connect(folder).open_table("chunks").to_arrow().to_pylist()
    return sorted(rows, key=lambda row: (row["source"], row["number"], row["sha256"]))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rng = np.random.default_rng(5)
    texts = sentences(1000, rng)
    folder = tmp_path_factory.mktemp("corpus")
    path = write_rows(
        folder / "rows.jsonl", texts, part=["odd" if i % 2 else "even" for i in range(1000)]
    )
    return path, texts


@pytest.fixture(scope="module")
def hybrid(corpus, tmp_path_factory):
    with Collection(tmp_path_factory.mktemp("hybrid") / "c", model="all-minilm-l6-v2") as found:
        found.sync([corpus[0]], id_field="key")
        yield found


QUERIES = ("rain on the river", "a letter to the market", "winter bread number 7", "violin")
SOME = [QUERIES[0], *(pytest.param(each, marks=pytest.mark.slow) for each in QUERIES[1:])]


def dense_order(dense, texts, query):
    scores = dense.encode_document(texts) @ dense.encode_query(query)
    return np.argsort(-scores, kind="stable"), scores


def bm25_order(texts, query):
    """BM25 as a matrix, with the IDF of Lucene; texts without a word of the query are left out."""
    with TesseraSparse("bm25") as model:
        weights = [vector.to_dict() for vector in model.encode_document(texts)]
        asked = model.encode_query(query).to_dict()
    scores = np.zeros(len(texts))
    for term in asked:
        column = np.array([row.get(term, 0.0) for row in weights])
        df = (column > 0).sum()
        scores += column * np.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
    order = np.argsort(-scores.astype(np.float32), kind="stable")
    return [i for i in order if scores[i] > 0]


@pytest.mark.parametrize("query", SOME)
def test_dense_search_is_exact(corpus, dense, tmp_path_factory, query):
    path, texts = corpus
    folder = tmp_path_factory.getbasetemp() / "dense-only"
    with Collection(folder, model="all-minilm-l6-v2", sparse="none") as collection:
        collection.sync([path], id_field="key")
        found = collection.search(query, 10)
    order, scores = dense_order(dense, texts, query)
    assert [row.source for row in found] == [f"{path}#k{i}" for i in order[:10]]
    assert [row.score for row in found] == pytest.approx(scores[order[:10]], abs=1e-5)
    assert [row.text for row in found] == [texts[i] for i in order[:10]]


@pytest.mark.parametrize("query", SOME)
def test_hybrid_search_is_rrf_of_exact_rankings(corpus, dense, hybrid, query):
    path, texts = corpus
    rankings = [dense_order(dense, texts, query)[0][:100].tolist(), bm25_order(texts, query)[:100]]
    sums = {}
    for ranking in rankings:
        for rank, i in enumerate(ranking, 1):
            sums[i] = sums.get(i, 0) + 1 / (60 + rank)
    wanted = sorted(sums, key=lambda i: -sums[i])[:50]  # stable: the dense ranking comes first
    found = hybrid.search(query, 50)
    assert [row.source for row in found] == [f"{path}#k{i}" for i in wanted]
    assert [row.score for row in found] == pytest.approx([sums[i] for i in wanted])


def test_a_filter_keeps_what_has_the_values(corpus, dense, hybrid):
    path, texts = corpus
    order, _ = dense_order(dense, texts, QUERIES[0])
    words = bm25_order(texts, QUERIES[0])
    sums = {}
    for ranking in (order, words):  # BM25 keeps the IDF of the whole collection
        for rank, i in enumerate([i for i in ranking if i % 2][:100], 1):
            sums[i] = sums.get(i, 0) + 1 / (60 + rank)
    found = hybrid.search(QUERIES[0], 20, filter={"part": "odd"})
    assert [row.source for row in found] == [
        f"{path}#k{i}" for i in sorted(sums, key=lambda i: -sums[i])[:20]
    ]
    assert {row.fields["part"] for row in found} == {"odd"}
    both = hybrid.search(QUERIES[0], 20, filter={"part": ["odd", "even"]})
    assert both == hybrid.search(QUERIES[0], 20)
    assert hybrid.search(QUERIES[0], filter={"part": "odd", "key": "k2"}) == []
    assert [row.source for row in hybrid.search("x", filter={"part": "even", "key": "k2"})] == [
        f"{path}#k2"
    ]
    for strange in ("it's", "'; DROP", "a\\", '"', "%"):
        assert hybrid.search("x", filter={"part": strange}) == []
    assert hybrid.search("x", filter={"part": []}) == []


def test_a_multi_vector_model_ranks_the_candidates_by_maxsim(corpus, multi, tmp_path):
    texts = corpus[1][:200]
    path = write_rows(tmp_path / "rows.jsonl", texts)
    name = "all-minilm-l6-v2"
    with Collection(tmp_path / "c", model=name, multi_vector=name) as collection:
        collection.sync([path], id_field="key")
        found = collection.search(QUERIES[0], 200, candidates=200)
        first = collection.search(QUERIES[0], 5, candidates=5)
    query = multi.encode_query(QUERIES[0])
    scores = np.array([
        (query @ tokens.astype(np.float16).astype(np.float32).T).max(axis=1).sum()
        for tokens in multi.encode_document(texts)
    ])  # fmt: skip
    assert len(found) == 200
    by_source = {f"{path}#k{i}": score for i, score in enumerate(scores)}
    assert [row.score for row in found] == pytest.approx(
        [by_source[r.source] for r in found], abs=2e-3
    )
    assert [row.score for row in found] == sorted((row.score for row in found), reverse=True)
    assert found[0].source == f"{path}#k{int(scores.argmax())}"
    assert len(first) == 5


def test_a_reranker_has_the_last_word(corpus, hybrid):
    model = str(ARTIFACTS / "reranker")
    texts = [row.text for row in hybrid.search(QUERIES[0], 30, candidates=30)]
    assert len(texts) == 30
    with pytest.warns(TruncationWarning, match="of 30 documents were cut to 64 tokens"):
        found = hybrid.search(QUERIES[0], 5, candidates=30, rerank=model)
    with TesseraReranker(path=model, on_long="truncate") as reranker:
        wanted = reranker.rank(QUERIES[0], texts, 5)
    assert [row.text for row in found] == [texts[i] for i, _ in wanted]
    assert [row.score for row in found] == pytest.approx([score for _, score in wanted], abs=1e-5)
    with pytest.raises(ConfigError, match="is dense: give a reranker or multi-vector model"):
        hybrid.search("x", rerank=DENSE)


# ---------------------------------------------------------------- what it holds


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "bread.md").write_text("Fresh bread keeps three days.\n\nRye keeps a week.")
    (folder / "rain.txt").write_text("It rains in the winter. " * 200)
    return folder


@pytest.fixture
def collection(tmp_path):
    with Collection(tmp_path / "c", model=DENSE, chunk_tokens=64, overlap=8) as found:
        yield found


def counts(report):
    found = dataclasses.asdict(report)
    return {name: value for name, value in found.items() if value}


def test_only_what_changed_is_encoded_and_what_is_gone_is_removed(notes, collection):
    first = collection.sync([notes])
    assert counts(first) == {"documents": 2, "chunks": len(collection)}
    assert counts(collection.sync([notes])) == {"documents": 2, "unchanged": 2}
    (notes / "bread.md").write_text("Toast.")
    (notes / "new.txt").write_text("A violin.")
    assert counts(collection.sync([notes])) == {"documents": 3, "unchanged": 1, "chunks": 2}
    assert {row.text for row in collection.search("bread", 100)} >= {"Toast.", "A violin."}
    assert not any("Rye" in row.text for row in collection.search("rye", 100))
    (notes / "rain.txt").unlink()
    assert counts(collection.sync([notes])) == {"documents": 2, "unchanged": 2, "removed": 1}
    assert len(collection) == 2
    (notes / "bread.md").write_text("")
    assert counts(collection.sync([notes])) == {"documents": 2, "unchanged": 1, "empty": 1}
    assert len(collection) == 1
    assert collection.remove([notes]) == 1
    assert len(collection) == 0
    assert collection.search("bread") == []


def test_other_paths_are_left_alone(notes, collection, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("A ledger of clay.")
    collection.sync([notes])
    collection.sync([other])
    collection.add([Document("mine", "A lamp.", fields={"lang": "en"})])
    for path in notes.iterdir():
        path.unlink()
    assert counts(collection.sync([notes])) == {"removed": 2}
    assert {row.text for row in collection.search("x", 10)} == {"A ledger of clay.", "A lamp."}
    assert collection.search("x", filter={"lang": "en"})[0].source == "mine"
    collection.add([Document("mine", "A candle.")])
    assert [row.text for row in collection.search("candle", 1)] == ["A candle."]
    assert len(collection) == 2


def test_chunks_name_their_place(notes, collection):
    collection.sync([notes])
    for row in collection.search("rain winter", 100):
        text = (notes / row.source.rpartition("/")[2]).read_text()
        assert text[row.start : row.stop] == row.text
    assert len({(row.source, row.number) for row in collection.search("rain", 100)}) == len(
        collection
    )


def test_a_file_that_cannot_be_read_keeps_what_is_stored(notes, collection):
    collection.sync([notes])
    before = stored(collection.folder)
    (notes / "bread.md").write_bytes(b"\0\1\2")
    (notes / "latin.txt").write_bytes(b"caf\xe9")
    (notes / "scan.pdf").write_bytes(b"%PDF-1.4 broken")
    report = collection.sync([notes])
    assert counts(report)["documents"] == 1
    assert len(report.failed) == 3
    assert all(str(notes) in message for message in report.failed)
    assert stored(collection.folder) == before


def test_a_model_that_fails_names_the_source_and_commits_no_more(notes, collection, monkeypatch):
    collection.sync([notes / "bread.md"])
    before = stored(collection.folder)
    model = collection._resources.parts().models.by_kind["dense"]

    def fail(texts):
        raise EncodingError("text 1 fails", index=1)

    monkeypatch.setattr(model, "encode_document", fail)
    with pytest.raises(
        EncodingError, match="a chunk of .*rain.txt cannot be encoded: text 1 fails"
    ):
        collection.sync([notes])
    assert stored(collection.folder) == before
    monkeypatch.undo()
    assert collection.sync([notes]).unchanged == 1
    assert len(collection) > 10


def test_rows_with_ids_may_move_and_an_id_twice_is_told(tmp_path, collection):
    path = write_rows(tmp_path / "rows.jsonl", ["A violin.", "A lamp."])
    collection.sync([path], id_field="key")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({"key": "k9", "text": "First."}), *lines]))
    assert counts(collection.sync([path], id_field="key")) == {
        "documents": 3,
        "unchanged": 2,
        "chunks": 1,
    }
    path.write_text("\n".join([*lines, lines[0]]))
    report = collection.sync([path], id_field="key")
    assert report.failed == [f"{path}#k0: an earlier row has this id"]


def test_an_empty_folder_is_no_error(tmp_path, collection):
    (tmp_path / "empty").mkdir()
    assert counts(collection.sync([tmp_path / "empty"])) == {}
    assert collection.search("bread") == []
    assert collection.search("bread", filter={"a": 1}) == []
    with pytest.raises(FileError, match="gone is not there"):
        collection.sync([tmp_path / "gone"])


def test_added_documents_are_checked_and_removed_by_source(collection):
    collection.add([Document("a", "A lamp."), Document("b", "A mill.")])
    wrong = {
        "two documents have the same source": [Document("c", "x"), Document("c", "y")],
        "documents must hold Document, got str": ["x"],
        "text must be str, got int": [Document("c", 3)],
        "fields must be str, int, float or bool, got list": [Document("c", "x", fields={"a": []})],
        "a field is no finite number": [Document("c", "x", fields={"a": float("nan")})],
        "has a lone surrogate": [Document("c", "\ud800")],
    }
    for message, documents in wrong.items():
        with pytest.raises((TypeError, TesseraError), match=message) as caught:
            collection.add(documents)
        assert caught.value.index == len(documents) - 1
    assert collection.remove(sources=["a", "none"]) == 1
    assert [row.source for row in collection.search("x")] == ["b"]


def test_a_row_that_is_no_text_any_more_is_removed(tmp_path, collection):
    path = write_rows(tmp_path / "rows.jsonl", ["A violin.", "A lamp.", "A mill."])
    collection.sync([path], id_field="key")
    first, *_ = path.read_text().splitlines()
    path.write_text(first + "\n" + json.dumps({"key": "k1", "text": None}))
    report = collection.sync([path], id_field="key")
    assert report.failed == [f"{path}, row 1: the cell in 'text' is null"]
    assert report.removed == 2
    assert [row.text for row in collection.search("x")] == ["A violin."]


def test_many_small_commits_are_joined_while_a_reader_holds_the_old_ones(collection, monkeypatch):
    monkeypatch.setattr(store, "MOST_FRAGMENTS", 3)
    for i in range(3):
        collection.add([Document(f"d{i}", f"A lamp of the {WORDS[i]}.")])
    reader = Collection(collection.folder)
    snapshot = reader._resources.parts().store.snapshot()
    before = reader.search("lamp", 10)
    for i in range(3, 8):
        collection.add([Document(f"d{i}", f"A lamp of the {WORDS[i]}.")])
    table = lancedb.connect(collection.folder).open_table("chunks")
    assert table.stats()["fragment_stats"]["num_fragments"] < 5
    assert {row.source for row in reader.search("lamp", 10)} == {f"d{i}" for i in range(8)}
    nearest = snapshot.nearest(np.ones(256, np.float32), 10, [])
    assert len(snapshot.rows([row.index for row in nearest], ["text"])) == 3
    assert len(before) == 3
    assert len(list(collection.folder.glob("sparse-*.index"))) == 1


# ---------------------------------------------------------------- what it is made with


def test_another_model_is_refused_with_a_sentence(notes, collection, tmp_path):
    collection.sync([notes])
    folder = collection.folder
    with pytest.raises(
        ConfigError, match="made with the dense model 'tessera-static-mini', not 'all-minilm-l6-v2'"
    ):
        Collection(folder, model="all-minilm-l6-v2").sync([notes])
    with pytest.raises(ConfigError, match="made with chunk_tokens 64, not 128: leave that out"):
        Collection(folder, chunk_tokens=128).search("x")
    with pytest.raises(ConfigError, match="made with the sparse model 'bm25', not 'none'"):
        Collection(folder, sparse="none").search("x")
    with pytest.raises(ConfigError, match="made with language 'english', not 'german'"):
        Collection(folder, language="german").search("x")
    place = folder / "collection.json"
    content = json.loads(place.read_text())
    content["models"]["dense"]["sha256"] = "0" * 64
    place.write_text(json.dumps(content))
    with pytest.raises(
        ConfigError, match=r"made with tessera-static-mini \(sha256 000000000000\), and here"
    ) as caught:
        Collection(folder).search("x")
    assert "or make a new collection" in str(caught.value)
    place.write_text("{")
    with pytest.raises(FileError, match=r"collection.json is damaged: make a new collection"):
        Collection(folder).search("x")
    with pytest.raises(FileError, match="holds no collection: tessera index makes one"):
        Collection(tmp_path / "nothing").search("x")
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(FileError, match="holds files that are no collection"):
        Collection(notes, model=DENSE).sync([notes])


def test_a_language_is_for_words(notes, tmp_path):
    with Collection(tmp_path / "c", model=DENSE, language="german") as collection:
        collection.add([Document("a", "Die Brote sind frisch.")])
        found = collection.search("frisches Brot")[0]
    assert {found.text[start:stop] for start, stop in found.highlights} == {"Brote", "frisch"}
    with pytest.raises(ConfigError, match="language is for a lexical model"):
        Collection(tmp_path / "d", model=DENSE, sparse="none", language="german").sync([notes])
    with pytest.raises(ConfigError, match="knows no languages"):
        Collection(tmp_path / "e", model=DENSE, sparse="splade-tiny", language="german").sync(
            [notes]
        )
    assert not (tmp_path / "e").exists()


def test_sizes_that_the_models_do_not_read_are_refused(notes, tmp_path):
    with pytest.raises(ConfigError, match="chunk_tokens must be at most 256"):
        Collection(tmp_path / "c", model="all-minilm-l6-v2", chunk_tokens=300).sync([notes])
    assert not (tmp_path / "c").exists()


def test_a_model_of_a_folder_is_opened_from_anywhere(notes, tmp_path, monkeypatch):
    shutil.copytree(ARTIFACTS / "static", tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    Collection("c", model="own", sparse="none").sync(["notes"])
    monkeypatch.chdir("/")
    assert Collection(tmp_path / "c").search("bread", 1)
    assert json.loads((tmp_path / "c" / "collection.json").read_text())["models"]["dense"][
        "name"
    ] == str(tmp_path / "own")


# ---------------------------------------------------------------- highlights


@pytest.mark.parametrize(
    ("options", "query", "wanted"),
    [
        ({"sparse": "none"}, "how does BREAD keep?", {"bread"}),
        ({}, "keeping breads", {"bread", "keeps"}),  # stems
        ({"sparse": "splade-tiny"}, "bread", {"bread"}),
        ({"sparse": "none", "multi_vector": "all-minilm-l6-v2"}, "loaf of bread", {"bread"}),
    ],
)
def test_matching_words_are_marked(tmp_path, options, query, wanted):
    text = "Fresh bread keeps three days, if it lies in a dry place."
    with Collection(tmp_path / "c", model=DENSE, **options) as collection:
        collection.add([Document("a", text)])
        (found,) = collection.search(query)
    marked = {text[start:stop] for start, stop in found.highlights}
    assert wanted <= marked
    assert not marked & {"days", "dry", "place", "three"}


def test_threads_may_search_at_the_same_time(hybrid):
    check_threads(hybrid, QUERIES)
