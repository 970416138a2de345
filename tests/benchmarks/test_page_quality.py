"""The metrics of the page benchmark by hand, the starter's scores, and the text layer's bound."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import page_quality as quality  # noqa: E402

from tessera_onnx import TesseraVision  # noqa: E402

FOLDER = quality.DATA / "docpages"
needs_data = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the pages are not in {FOLDER}")


def test_recall_and_ndcg_by_hand():
    # Ranked c, a, d, b, e, f: gains 0, 2, 0, 1 and, beyond five, 2.
    scores = np.array([0.9, 0.6, 1.0, 0.7, 0.5, 0.4])
    recall, ndcg = quality.recall_and_ndcg(scores, list("abcdef"), {"a": 2, "b": 1, "f": 2})
    ideal = 2 / np.log2(2) + 2 / np.log2(3) + 1 / np.log2(4)
    assert recall == 0
    assert ndcg == pytest.approx((2 / np.log2(3) + 1 / np.log2(5)) / ideal)
    assert quality.recall_and_ndcg(scores, list("abcdef"), {"c": 1}) == [1, 1]


def test_shuffled_names_find_one_page_in_so_many():
    asked = [quality.Question("", "text", {name: 2}) for name in "abcdefghij"]
    mean, best = quality.shuffled(np.eye(10), list("abcdefghij"), asked)
    assert mean == pytest.approx(0.1, abs=0.03)
    assert mean < best < 0.7


@needs_data
@pytest.mark.nightly
def test_the_text_layer_bounds_what_a_tower_can_find():
    """56 questions over 37 pages; the words of the text layer, each alone, find 50 of them."""
    asked, pages = quality.questions(FOLDER), quality.read_pages(FOLDER)
    ids = [page["_id"] for page in pages]
    assert (len(asked), len(ids)) == (56, 37)
    assert sum(len(question.relevant) for question in asked) == 58
    with quality.TesseraMultiVector("all-minilm-l6-v2", dimension=128) as model:
        texts = [quality.words_alone(model, page["text"]) for page in pages]
        queries = model.encode_query([question.text for question in asked])
    scores = quality.scoring.maxsim_matrix(queries, texts)
    pairs = zip(scores, asked, strict=True)
    found = [quality.recall_and_ndcg(row, ids, question.relevant) for row, question in pairs]
    recall, ndcg = np.mean(found, axis=0)
    assert recall >= 0.85
    assert ndcg >= 0.88


@needs_data
@pytest.mark.nightly
def test_the_starter_finds_pages():
    """Half of the questions find their page first, far above shuffled names (0.11 at best)."""
    asked, pages = quality.questions(FOLDER), quality.read_pages(FOLDER)
    ids = [page["_id"] for page in pages]
    with TesseraVision("tessera-page-mini") as model:
        files = [FOLDER / page["metadata"]["image"] for page in pages]
        documents = model.encode_documents(files)
        scores = [model.score(question.text, documents) for question in asked]
    pairs = zip(scores, asked, strict=True)
    found = [quality.recall_and_ndcg(row, ids, question.relevant)[0] for row, question in pairs]
    assert np.mean(found) >= 0.5
