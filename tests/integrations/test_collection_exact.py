"""Any documents, equal ones among them, any filter and removals: search is exact NumPy, row by row.

And documents whose indexing was interrupted at a commit are those of one that was not.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera_onnx import Collection, TesseraDense, TesseraSparse
from tessera_onnx.collection import indexing
from tessera_onnx.collection.documents import Document

pytestmark = pytest.mark.integrations

MODEL = "tessera-static-mini"
TEXTS = (
    "Fresh bread keeps three days.",
    "Bread.",
    "A violin needs rosin, and a violin needs a bow.",
    "Rain on the river, rain on the mill.",
    "The mill by the river grinds rye for bread.",
    "ხაჭაპური",  # no word of it is known: a vector of zeros
)
QUERIES = ("bread of rye", "violin", "the river", "quartz", "violin rye rye rye", "ხაჭაპური")
# Runs of one text are longer than the rows that a search reads beyond what it was asked for.
RUNS = st.lists(
    st.tuples(st.sampled_from(TEXTS), st.integers(1, 30), st.sampled_from("ab")),
    min_size=1, max_size=6,
)  # fmt: skip


@pytest.fixture(scope="module")
def models():
    with TesseraDense(MODEL) as dense, TesseraSparse("bm25") as words:
        yield dense, words


def fused(rankings):
    sums = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking, 1):
            sums[row] = sums.get(row, 0) + 1 / (60 + rank)
    return sorted(sums, key=lambda row: -sums[row])


def expected(models, texts, query, kept, most):
    """The best rows of `kept`; BM25 counts the words of all texts."""
    dense, words = models
    rows, asked = dense.encode_document(texts), dense.encode_query(query)
    cosines = rows.astype(np.float64) @ asked
    known = [i for i in kept if rows[i].any() and asked.any()]
    first = sorted(known, key=lambda i: -np.float32(cosines[i]))
    tables = [vector.to_dict() for vector in words.encode_document(texts)]
    scores = np.zeros(len(texts))
    for term in words.encode_query(query).to_dict():
        df = sum(term in table for table in tables)
        idf = np.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
        scores += [table.get(term, 0.0) * idf for table in tables]
    found = sorted((i for i in kept if scores[i]), key=lambda i: -np.float32(scores[i]))
    return fused([first[:most], found[:most]])[:most]


@settings(
    max_examples=12, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(RUNS, st.data())
def test_search_is_exact_over_all_rows(models, tmp_path_factory, runs, data):
    documents = [(text, group) for text, count, group in runs for _ in range(count)]
    gone = data.draw(st.sets(st.integers(0, len(documents) - 1), max_size=len(documents) // 2))
    most = data.draw(st.sampled_from([1, 3, 10, 1000]))
    filters = data.draw(st.sampled_from([None, {"group": "a"}, {"group": ["a", "b"]}]))
    with Collection(tmp_path_factory.mktemp("c") / "c", model=MODEL) as collection:
        collection.add(
            Document(f"d{i}", text, fields={"group": group})
            for i, (text, group) in enumerate(documents)
        )
        collection.remove(sources=[f"d{i}" for i in gone])
        left = [i for i in range(len(documents)) if i not in gone]
        groups = {"a"} if filters == {"group": "a"} else {"a", "b"}
        kept = [row for row, i in enumerate(left) if documents[i][1] in groups]
        texts = [documents[i][0] for i in left]
        for query in QUERIES:
            found = collection.search(query, most, filter=filters, candidates=1)
            rows = expected(models, texts, query, kept, most)
            assert [row.source for row in found] == [f"d{left[i]}" for i in rows]


class Stop(Exception):
    pass


def test_a_document_that_goes_back_to_its_old_text_after_an_interrupt_is_whole(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(indexing, "WINDOW", 2)
    texts = [
        " ".join(f"The {word} of {name} number {i}." for i in range(40))
        for word, name in (("mill", "old"), ("lamp", "new"), ("bow", "third"))
    ]

    def stop(report):
        seen.append(report.chunks)
        if len(seen) == 2:
            raise Stop

    def stored(collection):
        found = collection.search("number", 1000)
        return sorted((row.number, row.start, row.stop, row.text) for row in found)

    path = tmp_path / "a.txt"
    options = {"model": MODEL, "chunk_tokens": 32, "overlap": 0}
    with Collection(tmp_path / "c", **options) as collection:
        path.write_text(texts[0])
        collection.sync([path])
        whole = stored(collection)
        assert len(whole) > 6
        for text in texts[1:]:  # what is stored of one stays while the next is interrupted
            seen = []
            path.write_text(text)
            with pytest.raises(Stop):
                collection.sync([path], tell=stop)
            assert seen == [2, 4]
        assert len(stored(collection)) == len(whole) + 8
        report = collection.sync([path])  # goes on behind the chunks that are stored
        third = stored(collection)
        assert report.chunks == len(third) - 4
        assert {text for *_, text in third} == {texts[2][a:b] for _, a, b, _ in third}
        assert [number for number, *_ in third] == list(range(len(third)))
        seen = []
        path.write_text(texts[0])
        with pytest.raises(Stop):
            collection.sync([path], tell=stop)
        path.write_text(texts[2])
        assert collection.sync([path]).unchanged == 1
        assert stored(collection) == third
