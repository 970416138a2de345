"""Wrong arguments of stores that run in the process: a clear error, and no document is lost."""

import pytest

from tessera_onnx import ConfigError, StoreError, TesseraDense
from tessera_onnx.integrations.lancedb_store import LanceStore
from tessera_onnx.integrations.milvus import MilvusStore
from tessera_onnx.integrations.qdrant import QdrantStore

pytestmark = [
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Local mode"),
]
STORES = {"qdrant": QdrantStore, "lancedb": LanceStore, "milvus": MilvusStore}
TEXTS = ["Fresh bread.", "A violin.", "Rain on the mill."]


@pytest.fixture(scope="module")
def model():
    with TesseraDense("tessera-static-mini") as found:
        yield found


@pytest.fixture(params=STORES)
def store(request, model, tmp_path):
    place = tmp_path / ("s.db" if request.param == "milvus" else "s")
    found = STORES[request.param].connect(str(place), "c", models=[model])
    yield found
    found.close()


def test_a_store_that_is_not_there_is_an_error(store):
    for call in (store.count, lambda: store.search("bread")):
        with pytest.raises(StoreError, match="collection 'c' at "):
            call()


@pytest.mark.parametrize("limit", [0, -1, 1.5, None, "3", True])
def test_limits_are_positive_whole_numbers(store, limit):
    with pytest.raises((ConfigError, TypeError), match="limit must be "):
        store.search("bread", limit)


def test_a_limit_beyond_the_documents_gives_all(store):
    store.add(["1", "2", "3"], TEXTS)
    first, *others = store.search("bread", 10**9)
    assert first.id == "1"
    assert {hit.id for hit in others} == {"2", "3"}


def test_documents_that_do_not_pair_with_ids_are_refused(store):
    for ids, documents, payload in (
        ("abc", TEXTS, None),
        (["1", "2", "3"], "abc", None),
        (["1", None, "3"], TEXTS, None),
        (["1", "2", "3"], [TEXTS[0], None, TEXTS[2]], None),
        (["1", "2", "3"], TEXTS[:2], None),
        (["1", "2"], TEXTS, None),
        (["1", "2", "3"], TEXTS, [{}]),
        (["1", "2", "2"], TEXTS, None),
    ):
        with pytest.raises((ConfigError, TypeError)):
            store.add(ids, documents, payload)
    with pytest.raises(TypeError, match="query must be str"):
        store.search(None)
    store.add(iter(["1", "2", "3"]), iter(TEXTS), iter([{"a": 1}, {}, {"a": 2}]))
    assert store.count() == 3


def test_ids_of_any_letters_and_payloads_that_take_the_ids_place(store):
    ids = ["ü'\"漢 😀", "", "x" * 400]
    store.add(ids, TEXTS)
    assert {hit.id for hit in store.search("bread")} == {*ids}
    own = "_id" if isinstance(store, QdrantStore) else "id"
    store.add(["same"], TEXTS[:1], [{own: "same"}])
    assert "same" in {hit.id for hit in store.search("bread")}
    with pytest.raises(ConfigError, match=f"a payload has the key '{own}', which .* needs: rename"):
        store.add(["other"], TEXTS[:1], [{own: "stolen"}])
    if own == "id":
        with pytest.raises(ConfigError, match="a payload has the key 'embedding'"):
            store.add(["other"], TEXTS[:1], [{"embedding": 3}])
    assert store.count() == 4
