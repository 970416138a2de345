"""Every bad and odd input at every entry point that can meet it: a result or one clear error."""

from __future__ import annotations

from collections import Counter

import cases_arrays
import cases_files
import cases_series
import cases_text
import numpy as np
import outcomes
import pytest
from artifact_tools import TEXTS, golden
from reference import Reference

GROUPS = {
    "text": cases_text.cases,
    "arrays": cases_arrays.cases,
    "series": cases_series.cases,
    "files": cases_files.cases,
}


@pytest.mark.parametrize("group", list(GROUPS))
def test_no_case_ends_in_a_crash_or_in_silence(group, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [outcomes.run(case) for case in GROUPS[group](tmp_path)]
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
