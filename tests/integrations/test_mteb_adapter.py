"""mteb itself on a made-up task, its nDCG against one computed here, and its other protocols."""

import mteb
import numpy as np
import pytest
import ranx
from datasets import Dataset
from framework_corpus import QUERIES, dot_scores, maxsim_scores, texts
from framework_page import run_section
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol, SearchProtocol
from scipy.stats import spearmanr
from server_process import ARTIFACTS

from tessera_onnx import LoadError, ModelNotFound, TesseraDense, TesseraReranker, TesseraSparse
from tessera_onnx.integrations.mteb import TesseraCrossEncoder, TesseraEncoder, TesseraSearch

pytestmark = [
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore"),  # mteb warns of all that a made-up task lacks
    pytest.mark.filterwarnings("error::tessera_onnx.TruncationWarning"),
]

MINILM = "all-minilm-l6-v2"
N = 300
TITLES = [f"title {i}" if i % 3 == 0 else "" for i in range(N)]
JOINED = [f"{t} {text}".strip() for t, text in zip(TITLES, texts(), strict=False)]
NAMES = [f"d{i}" for i in range(N)]


def relevant():
    """Grades of documents by the words that they share with a query: no model is asked."""
    rng = np.random.default_rng(5)
    found = {}
    for number, query in enumerate(QUERIES):
        shared = [len({*query.split()} & {*text.split()}) for text in texts()[:N]]
        grades = {NAMES[i]: int(n) for i, n in enumerate(shared) if n and rng.random() < 0.7}
        found[f"q{number}"] = grades | {NAMES[int(rng.integers(N))]: 1}
    return found


def metadata(name, kind, main, path="made/up"):
    return TaskMetadata(
        name=name,
        dataset={"path": path, "revision": "1"},
        description="Made-up sentences.",
        type=kind,
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main,
    )


AMONG = {
    f"q{i}": [NAMES[n] for n in np.random.default_rng(i).choice(N, 40, replace=False)]
    for i in range(len(QUERIES))
}


class MadeUp(AbsTaskRetrieval):
    metadata = metadata("MadeUpRetrieval", "Retrieval", "ndcg_at_10")
    top_ranked = None

    def load_data(self, **_):
        corpus = Dataset.from_dict({"id": NAMES, "title": TITLES, "text": texts()[:N]})
        queries = Dataset.from_dict({"id": list(relevant()), "text": list(QUERIES)})
        split = {"corpus": corpus, "queries": queries, "relevant_docs": relevant()}
        self.dataset = {"default": {"test": {**split, "top_ranked": self.top_ranked}}}
        self.data_loaded = True


class MadeUpReranking(MadeUp):
    metadata = metadata("MadeUpReranking", "Reranking", "map_at_1000")
    top_ranked = AMONG


class MadeUpSTS(AbsTaskSTS):
    metadata = metadata("MadeUpSTS", "STS", "cosine_spearman")
    min_score, max_score = 0, 1

    def load_data(self, **_):
        rng = np.random.default_rng(1)
        rows = {"sentence1": texts()[:50], "sentence2": texts()[50:100], "score": rng.random(50)}
        self.dataset = {"test": Dataset.from_dict(rows)}
        self.data_loaded = True


def run(model, task):
    return mteb.evaluate(
        model, task, cache=None, co2_tracker=False, encode_kwargs={"show_progress_bar": False}
    )[0].scores["test"][0]


def ndcg(scores, among=None, k=10):
    """nDCG at k by its definition, with linear gains as trec_eval's; scores (queries, N)."""
    values = []
    for row, (name, grades) in zip(scores, relevant().items(), strict=True):
        chosen = NAMES if among is None else among[name]
        # trec_eval breaks ties by the larger name.
        order = sorted(chosen, reverse=True, key=lambda each: (row[NAMES.index(each)], each))[:k]
        gains = [grades.get(each, 0) for each in order]
        ideal = sorted(grades.values(), reverse=True)[:k]
        dcg, best = (
            sum(gain / np.log2(place + 2) for place, gain in enumerate(each))
            for each in (gains, ideal)
        )
        values.append(dcg / best)
    return float(np.mean(values))


def ndcg_of_ranx(scores):
    runs = {
        name: {document: float(value) for document, value in zip(NAMES, row, strict=True)}
        for row, name in zip(scores, relevant(), strict=True)
    }
    return ranx.evaluate(ranx.Qrels(relevant()), ranx.Run(runs), "ndcg@10")


def scores_of(kind, dense, sparse, multi):
    """The score of each query with each document, made in NumPy from the library's vectors."""
    if kind == "dense":
        return dense.encode_query(list(QUERIES)) @ dense.encode_document(JOINED).T
    model, score = {"sparse": (sparse, dot_scores), "multi-vector": (multi, maxsim_scores)}[kind]
    documents = model.encode_document(JOINED)
    return np.array([score(query, documents) for query in model.encode_query(list(QUERIES))])


@pytest.mark.parametrize("kind", ["dense", "sparse", "multi-vector"])
def test_ndcg_is_what_exact_search_gives(kind, dense, sparse, multi):
    model = TesseraSearch("splade-tiny" if kind == "sparse" else MINILM, kind=kind)
    assert isinstance(model, SearchProtocol)
    scores = scores_of(kind, dense, sparse, multi)
    found = run(model, MadeUp())
    assert found["ndcg_at_10"] == pytest.approx(ndcg(scores), abs=1e-5)
    assert found["ndcg_at_10"] == pytest.approx(ndcg_of_ranx(scores), abs=1e-5)
    assert 0.2 < found["ndcg_at_10"] < 0.99
    found = run(model, MadeUpReranking())
    assert found["ndcg_at_10"] == pytest.approx(ndcg(scores, AMONG), abs=1e-5)


def test_bm25_weighs_by_the_frequencies_of_the_corpus():
    model, library = TesseraSearch("bm25"), TesseraSparse("bm25")
    scores = np.full((len(QUERIES), N), -1.0)
    for row, query in zip(scores, QUERIES, strict=True):
        for ranked in library.rank(query, JOINED):
            row[ranked.index] = ranked.score
    assert run(model, MadeUp())["ndcg_at_10"] == pytest.approx(ndcg(scores), abs=1e-5)


def test_an_encoder_by_mtebs_own_search_and_by_ours(dense):
    model = TesseraEncoder(MINILM)
    assert isinstance(model, EncoderProtocol)
    assert isinstance(model, SearchProtocol)

    class ByMteb:
        """The encoder alone, so that mteb searches."""

        def __init__(self, *_, **__): ...

        encode = model.encode
        similarity = model.similarity
        similarity_pairwise = model.similarity_pairwise
        mteb_model_meta = model.mteb_model_meta

    by_us, by_mteb = run(model, MadeUp()), run(ByMteb(), MadeUp())
    assert by_us["ndcg_at_10"] == pytest.approx(by_mteb["ndcg_at_10"], abs=1e-5)
    found = run(model, MadeUpSTS())
    pairs = dense.encode_batch(texts()[:50]), dense.encode_batch(texts()[50:100])
    wanted = spearmanr((pairs[0] * pairs[1]).sum(axis=1), np.random.default_rng(1).random(50))
    assert found["cosine_spearman"] == pytest.approx(wanted.statistic, abs=1e-4)


def test_roles_and_tasks_of_the_model():
    where = {"path": ARTIFACTS / "tasks"}
    with TesseraDense(**where) as library:
        model = TesseraEncoder(**where)
        loader = [{"text": ["a cat"]}, {"text": ["dog", "a dog"]}]
        some = ["a cat", "dog", "a dog"]
        facts = metadata("A", "Clustering", "v_measure")
        role = mteb.types.PromptType
        for prompt, wanted in (
            (role.query, library.encode_query(some)),
            (role.document, library.encode_document(some)),
        ):
            found = model.encode(iter(loader), task_metadata=facts, prompt_type=prompt)
            np.testing.assert_allclose(found, wanted, atol=1e-6)
        names = {task.name for task in library.spec.dense.tasks}
        task = "clustering" if "clustering" in names else None
        found = model.encode(iter(loader), task_metadata=facts)
        np.testing.assert_allclose(found, library.encode_batch(some, task=task), atol=1e-6)


def test_a_reranker():
    where = {"path": ARTIFACTS / "reranker", "on_long": "truncate"}
    model = TesseraCrossEncoder(**where)
    assert isinstance(model, CrossEncoderProtocol)
    with TesseraReranker(**where) as library:
        scores = np.array([library.score(query, JOINED) for query in QUERIES])
    found = run(model, MadeUpReranking())
    wanted = ndcg(scores, AMONG)
    assert found["ndcg_at_10"] == pytest.approx(wanted, abs=1e-5)


def test_the_facts_that_mteb_stores():
    facts = TesseraSearch(MINILM, kind="multi-vector").mteb_model_meta
    assert facts.name == "tessera-onnx/all-minilm-l6-v2"
    assert facts.embed_dim == 384
    assert facts.similarity_fn_name.value == "MaxSim"
    assert facts.model_type == ["late-interaction"]
    assert facts.experiment_kwargs == {"precision": "int8"}
    assert TesseraSearch("splade-tiny").mteb_model_meta.similarity_fn_name.value == "dot"
    assert TesseraSearch("bm25").mteb_model_meta.experiment_kwargs == {"precision": None}
    assert TesseraEncoder(path=ARTIFACTS / "prompts").mteb_model_meta.use_instructions
    assert TesseraCrossEncoder(path=ARTIFACTS / "reranker").mteb_model_meta.is_cross_encoder


def test_instructions_follow_queries(dense):
    model = TesseraSearch(MINILM)
    model.index(Dataset.from_dict({"id": ["a", "b"], "text": [" dough ", "a song"]}))
    queries = Dataset.from_dict(
        {"id": ["1", "2"], "text": ["x", "x"], "instruction": ["dough", None]}
    )
    found = model.search(queries, top_k=2)
    wanted = dense.encode_query(["x dough", "x"]) @ dense.encode_document(["dough", "a song"]).T
    for row, scores in zip(found.values(), wanted, strict=True):
        assert row == pytest.approx(dict(zip("ab", scores.tolist(), strict=True)), abs=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TesseraSearch("all-minilm"), ModelNotFound, "all-minilm-l6-v2"),
        (
            lambda: TesseraSearch(path=ARTIFACTS / "reranker").index(None),
            LoadError,
            "no vectors of texts",
        ),
        (lambda: TesseraEncoder("splade-tiny"), LoadError, "not dense"),
        (lambda: TesseraCrossEncoder("splade-tiny"), LoadError, "not reranker"),
        (lambda: TesseraSearch(MINILM, kind="nope"), ValueError, "kind must be one of"),
        (lambda: TesseraSearch(MINILM, device="nope"), ValueError, "device"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_snippets_of_the_page():
    run_section("MTEB")
