"""Make docs/layouts.md of the reports of test runs: model, way and result.

    pytest --junitxml=a.xml -m export tests/export    (where torch is)
    python tests/make_layout_table.py a.xml

A row comes from a test that passed and recorded it (tests/export/ways.py). A test that failed or
was skipped takes its rows off the page, and the exit status is 1 where a row was lost. Rows of
tests that are not in the reports stay as they are.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[1] / "docs" / "layouts.md"
WAYS = ("upstream", "path", "hub", "catalogue", "pack")
HEAD = """# Layouts that open

Made by `tests/make_layout_table.py` from a run of tests/export, where upstream libraries make the
folders with random weights and save them; do not change this page by hand. The ways are `path=`
(the folder as it lies), `hub` (a repository `owner/name`, served by a hub on loopback, opened a
second time without a request), `catalogue` (an entry with the hash of every file) and `pack` (a
wheel of what `tessera adopt` writes).

`upstream` is "equal" where `encode`, `encode_query` and `encode_document` of the folder give the
numbers of the library that made it, for up to 86 texts of many scripts and lengths: vectors of a
text within 1e-5, token vectors and weights within 1e-4 of the largest number. Raw values are
compared, so a missing L2 shows. A way is "equal" where it gives the same bits as the folder.
"refused" says that opening is an error with these words in it. `.ci/nightly` repeats the comparison
with folders and ONNX files that sentence-transformers 5 and optimum make, and with
all-mpnet-base-v2.
"""


class Row(NamedTuple):
    """One model and what each way to it gave."""

    kind: str
    model: str
    results: tuple[str, ...]  # in the order of WAYS


def rows_of(reports: Iterable[Path]) -> tuple[dict[tuple[str, str], dict[str, str]], set[str]]:
    """Results by kind and model, and then by way; and the models whose test did not pass."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    lost: set[str] = set()
    for report in reports:
        for case in ET.parse(report).iter("testcase"):
            said = [json.loads(each.get("value", "")) for each in case.iter("property")
                    if each.get("name") == "layout"]  # fmt: skip
            bad = any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
            for row in said:
                if bad:
                    lost.add(row["model"])
                else:
                    found.setdefault((row["kind"], row["model"]), {})[row["way"]] = row["result"]
    return found, lost


def read_page() -> list[Row]:
    """The rows that the page has."""
    if not PAGE.exists():
        return []
    cells = [
        [cell.strip() for cell in line.strip("| \n").split(" | ")]
        for line in PAGE.read_text("utf-8").splitlines()
        if line.startswith("| ")
    ]
    return [
        Row(c[1], c[0], tuple(c[2:]))
        for c in cells
        if len(c) == 2 + len(WAYS) and c[0] not in HEADINGS
    ]


HEADINGS = {"model", "---"}


def page(rows: Iterable[Row]) -> str:
    """The page with these rows, those that open first."""
    rows = sorted(rows, key=lambda row: (row.kind, row.model.lower()))
    opened = [row for row in rows if "equal" in row.results]
    refused = [row for row in rows if "equal" not in row.results]
    parts = [HEAD, f"\n## Opened: {len(opened)}\n\n", *table(opened)]
    return "".join([*parts, f"\n## Refused: {len(refused)}\n\n", *table(refused)])


def table(rows: list[Row]) -> Iterable[str]:
    yield f"| model | kind | {' | '.join(WAYS)} |\n| --- | --- |{' --- |' * len(WAYS)}\n"
    for row in rows:
        yield f"| {row.model} | {row.kind} | {' | '.join(row.results)} |\n"


def main() -> None:
    found, lost = rows_of(map(Path, sys.argv[1:]))
    kept = {(row.kind, row.model): row for row in read_page()}
    for (kind, model), results in found.items():
        before = kept[kind, model].results if (kind, model) in kept else ("-",) * len(WAYS)
        told = zip(WAYS, before, strict=True)
        new = tuple(results.get(way, old).replace("|", "or") for way, old in told)
        kept[kind, model] = Row(kind, model, new)
    rows = [row for row in kept.values() if row.model not in lost]
    PAGE.write_text(page(rows), "utf-8")
    for model in sorted(lost):
        print(f"{model}: its test has not passed", file=sys.stderr)  # noqa: T201
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
