"""Every bad and odd input at every entry point that can meet it: a result or one clear error."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from pathlib import Path

import battery
import cases_pairs
import cases_text
import make_reliability
import numpy as np
import outcomes
import pytest
import soak
from artifact_tools import ARTIFACTS, TEXTS, golden
from reference import Reference
from reference_words import Bm25, Bm42, Static

pytestmark = pytest.mark.linux  # its limits of memory


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("group", list(battery.GROUPS))
def test_no_case_ends_in_a_crash_or_in_silence(group, step):
    """One case in five, and by night all."""
    found = battery.found(group, step)
    bad = [outcome for outcome in found if outcome.kind in outcomes.BAD]
    shown = "\n".join(f"{o.kind}  {o.case}\n    {o.detail}" for o in bad[:40])
    assert not bad, f"{len(bad)} of {len(found)}: {Counter(o.kind for o in bad)}\n{shown}"


@pytest.mark.parametrize("kind", ["dense", "multi-vector", "sparse"])
def test_the_reference_is_the_upstream_classes(kind):
    stored, reference = golden(cases_text.MODELS[kind]), Reference(kind)
    for i, text in enumerate(TEXTS):
        for role in ("query", "document"):
            expected = stored.get(f"{role}_{i}", stored.get(role, [None] * len(TEXTS))[i])
            if expected is not None:
                np.testing.assert_allclose(reference.vector(text, role), expected, atol=1e-5)


def test_the_reference_of_static_models_is_model2vec():
    stored, reference = golden("static"), Static()
    found = [reference.vector(text, "query") for text in stored["texts"].tolist()]
    np.testing.assert_allclose(found, stored["vectors"], atol=1e-6)


@pytest.mark.parametrize(("reference", "atol"), [(Bm25, 1e-6), (Bm42, 1e-4)])
def test_the_references_of_lexical_models_are_fastembed(reference, atol):
    stored, model = json.loads((ARTIFACTS / "lexical.json").read_text("utf-8")), reference()
    rows = stored["languages"]["english"] if reference is Bm25 else stored["attention"]
    assert len(rows) > 5
    for row in rows:
        for role, ids, values in (
            ("document", row["indices"], row["values"]),
            ("query", row["query"], [1.0] * len(row["query"])),
        ):
            found = sorted(model.weights(row["text"], role).items())
            assert [number for number, _ in found] == ids
            np.testing.assert_allclose([weight for _, weight in found], values, atol=atol)


def test_the_reference_of_pairs_is_the_upstream_class():
    expected, reference = golden("reranker")["default"], cases_pairs.Reference()
    found = [[reference.score(query, text) for text in TEXTS] for query in TEXTS]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_judge_judges():
    """Each fault that the battery looks for is seen when it is there."""

    def case(call, judge=None, *, error=True, says=""):
        return outcomes.run(outcomes.Case("g", "e", "w", call, judge, error, says)).kind

    from tessera_onnx import ConfigError

    def refuse(message):
        raise ConfigError(message)

    assert case(lambda: refuse("item 1 is wrong"), says="item 1") == "error"
    assert case(lambda: refuse("wrong"), says="item 1") == "told"
    assert case(lambda: refuse(f"wrong: {outcomes.MARKER}")) == "told"
    assert case(lambda: refuse("wrong"), lambda _: None, error=False) == "silent"
    assert case(lambda: np.zeros(3)[9]) == "crash"
    assert case(lambda: len(3)) == "crash"  # a TypeError, but not the package's
    assert case(lambda: 3) == "silent"
    assert case(lambda: 3, lambda found: np.testing.assert_equal(found, 4)) == "silent"
    assert case(lambda: 3, lambda found: np.testing.assert_equal(found, 3)) == "result"
    with pytest.MonkeyPatch().context() as context:
        context.setattr(outcomes, "SECONDS", 0.1)
        assert case(lambda: [0 for _ in iter(int, 1)]) == "slow"


@pytest.mark.nightly
def test_the_page_says_what_was_counted():
    counted = outcomes.tally(o for group in battery.GROUPS for o in battery.found(group))
    assert make_reliability.PAGE.read_text("utf-8") == make_reliability.page(counted), (
        "run `python tests/make_reliability.py`"
    )


def test_the_long_run_on_record_holds_its_limits():
    record = tomllib.loads(make_reliability.SOAK.read_text("utf-8"))
    assert record["minutes"] >= 30
    assert soak.broken(record, soak.LIMIT) == []
    worse = {"rss_mb_a_minute": 1.0, "descriptors_more": 1, "threads_more": 1,
             "p99_last_third_ms": 2.1 * record["p99_middle_third_ms"]}  # fmt: skip
    for name, value in worse.items():
        assert len(soak.broken({**record, name: value}, soak.LIMIT)) == 1, name


def test_the_tests_that_the_page_names_are_there():
    tests = Path(make_reliability.__file__).parent
    for test in make_reliability.TESTS.values():
        file, _, name = test.partition("::")
        assert re.search(rf"^def {name}\(", (tests / file).read_text(), re.MULTILINE), test
