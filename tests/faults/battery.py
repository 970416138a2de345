"""All cases of the battery by the module that makes them, each run once a process."""

from __future__ import annotations

import contextlib
import functools
import itertools
import tempfile
from pathlib import Path

import cases_arrays
import cases_files
import cases_images
import cases_pairs
import cases_ranking
import cases_rerankers
import cases_series
import cases_text
import outcomes

GROUPS = {
    "text": cases_text.cases,
    "static": cases_text.static_cases,
    "lexical": cases_text.lexical_cases,
    "pairs": cases_pairs.cases,
    "rerankers": cases_rerankers.cases,
    "ranking": cases_ranking.cases,
    "arrays": cases_arrays.cases,
    "series": cases_series.cases,
    "files": cases_files.cases,
    "images": cases_images.cases,
}


@functools.cache
def found(group: str, step: int = 1) -> tuple[outcomes.Outcome, ...]:
    """What became of every case of a group, or of one in `step`, in a directory of its own."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        cases = itertools.islice(GROUPS[group](Path(folder)), 0, None, step)
        return tuple(outcomes.run(case) for case in cases)
