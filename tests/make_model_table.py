"""Make docs/models.md of models.toml, of tests/checks.toml and of the reports of test runs.

    pytest --junitxml=a.xml
    pytest --junitxml=b.xml -m export tests/export    (where torch is)
    python tests/make_model_table.py a.xml b.xml

A check whose test did not pass in those runs is left out of the table, and the exit status is 1.
Without reports the checks stay that the page has: a change of models.toml alone needs no run.
"""

from __future__ import annotations

import string
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator
from pathlib import Path

from tessera_onnx.models import catalogue
from tessera_onnx.models.spec import UNPINNED, ModelSpec

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "models.md"
CHECKS = ROOT / "tests" / "checks.toml"
TITLES = {
    "dense": "Dense",
    "multi-vector": "Multi-vector",
    "sparse": "Sparse",
    "reranker": "Rerankers",
    "time-series": "Time series",
    "vision": "Vision",
}
HEAD = """# Models

Made by `tests/make_model_table.py`; change models.toml or tests/checks.toml, not this page.

A model is a table of facts in models.toml. **ONNX** names the repository whose file is read, or
says that `tessera-export` is to make one from the weights. **Checked** says by which tests the
model's recipe was held to upstream code; the letters are explained below the tables. No file of a
model hub has been opened where this page was made: what a letter says is all that was checked, and
a dash means that the recipe follows its sources and nothing more. **Unverified** lists the facts
that no two public sources agree on (`tessera info ID` marks them too): `files` where a file of the
ONNX repository has no known hash, `graph` where it is not certain that the file computes the whole
model, `text` the special token ids, `revision` the commit of the weights.

**Pins** says who names the same commit of the ONNX repository, independently of each other: public
repositories by name, others by their number. "all" means that every file has its sha256, "2 of 3"
that two have; a file with a known hash is refused if its content is another. Revision and hashes
that are not known are recorded at the first download (`tessera pin ID` prints them), and `tessera
verify-catalogue` compares everything with the hub.

For images, pixels and prompts are those of transformers' own classes; where LoRA adapters are all
that a repository holds, merge them before `tessera-export` reads it, as it says. The texts of
nomic-embed-vision-v1.5 are read by nomic-embed-text-v1.5.

Licences with `nc` forbid commercial use; nxai-community limits it, to companies with at most 100
million euros of revenue a year.
"""
ABSENT = """
## Left out, and why

- Qdrant/minicoil-v1 multiplies BM25's weights by vectors of words; its recipe is not written yet.
- google/timesfm-1.0-200m is a JAX checkpoint, and no ONNX file of it is known.
- google/timesfm-2.5-200m-pytorch: no ONNX file is known, and `tessera-export` does not read it.
- ibm-granite/granite-timeseries-ttm-r2, releases 2.1: they read a number for the frequency.
- BAAI/bge-reranker-large: only one source's facts are public. It opens by its repository's name.
- ibm-granite/granite-embedding-311m-multilingual-r2, granite-embedding-125m-english,
  jinaai/jina-embeddings-v2-base-de, -es and -zh, mixedbread-ai/mxbai-embed-xsmall-v1,
  sentence-transformers/LaBSE, distiluse-base-multilingual-cased-v2 and multi-qa-mpnet-base-dot-v1:
  special token ids, pooling or the files of the layers after it have no two public sources. Each
  opens by its repository's name, which reads them from the repository's own files.
- The architectures of voyageai/voyage-4-nano, perplexity-ai/pplx-embed-v1-0.6b,
  nomic-ai/nomic-embed-text-v2-moe, BidirLM and KaLM-embedding-multilingual-mini-instruct-v2.5 are
  Python code in their repositories. `tessera-export` runs it with `--trust-remote-code` only, and
  there is no other code to compare the result with.
- minishlab/potion-base-2M, 4M, 32M, potion-multilingual-128M and
  sentence-transformers/static-similarity-mrl-multilingual-v1: where their texts are cut, or
  whether their vectors have unit length, is known from the files alone. Each opens by its
  repository's name.
- zeroentropy/zerank-1, zerank-2: how their code scales the answer is not known, so they are refused
  until a folder says its template. Listwise rerankers (jinaai/jina-reranker-v3, LightOn-rerank-LW),
  those of images (Qwen3-VL-Reranker) and those of remote code (bge-reranker-v2-minicpm-layerwise,
  bge-reranker-v2.5-gemma2-lightweight) are refused.
- Files that take token ids and pixels at once (Qdrant/colpali-v1.3-fp16, Qdrant/colmodernvbert) are
  not read: they want an image of zeros with every text, and nobody here has opened one.
  `tessera-export` makes graphs of those models in which a text needs no pixels.
- jinaai/jina-clip-v2: image size, ONNX files and recipe are not known.

`jina-colbert-v2` with `dimension=96` or `64` is the sure way to those sizes.
"""


def page(passed: Collection[str] | None = None) -> str:
    """The page, with the checks that are in `passed` (None = all)."""
    checks = [c for c in read_checks() if passed is None or c["test"] in passed]
    names = [*string.ascii_uppercase, *(f"A{letter}" for letter in string.ascii_uppercase)]
    letters = dict(zip((check["test"] for check in checks), names, strict=False))
    by_model: dict[str, list[str]] = {}
    for check in checks:
        for model in check["models"]:
            by_model.setdefault(model, []).append(letters[check["test"]])
    parts = [HEAD]
    for kind, title in TITLES.items():
        rows = [spec for spec in catalogue.catalogue() if kind in spec.kinds]
        parts.append(f"\n## {title}\n\n" + "\n".join(table(rows, by_model)) + "\n")
    legend = [f"| {letters[c['test']]} | {c['what']} | `{c['test']}` |" for c in checks]
    parts.append("\n## The checks\n\n| | what | test |\n| --- | --- | --- |\n" + "\n".join(legend))
    return "".join([*parts, "\n", ABSENT])


def table(specs: list[ModelSpec], checked: dict[str, list[str]]) -> Iterator[str]:
    """One row a model."""
    yield "| id | source | licence | ONNX | checked | unverified | pins |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for spec in specs:
        cells = (
            spec.id,
            spec.source,
            spec.licence,
            f"{spec.hub.repository} ({', '.join(spec.precisions()) or 'a table, no graph'})"
            if spec.hub
            else ("part of the package" if spec.lexical else "by `tessera-export`"),
            " ".join(checked.get(spec.id, ["-"])),
            ", ".join(spec.unverified) or "-",
            pins(spec),
        )
        yield f"| {' | '.join(cells)} |"


def pins(spec: ModelSpec) -> str:
    """How many files have their hash, and who names the same commit."""
    if spec.hub is None or spec.hub.sources is None:
        return "-"
    known = sum(file.sha256 != UNPINNED for file in spec.files)
    hashed = "all" if known == len(spec.files) else f"{known} of {len(spec.files)}"
    return f"{hashed}: {', '.join(spec.hub.sources)}"


def read_checks() -> list[dict]:
    return tomllib.loads(CHECKS.read_text("utf-8"))["check"]


def tests_passed(reports: list[Path]) -> set[str]:
    """Test functions all of whose cases passed, as "tests/test_x.py::test_y"."""
    good: set[str] = set()
    bad: set[str] = set()
    for report in reports:
        for case in ET.parse(report).iter("testcase"):
            name = case.get("name", "").split("[")[0]
            test = f"{case.get('classname', '').replace('.', '/')}.py::{name}"
            failed = any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
            (bad if failed else good).add(test)
    return good - bad


def tests_claimed() -> set[str]:
    """The tests that the page names as it is."""
    rows = PAGE.read_text("utf-8").partition("\n## The checks\n")[2].splitlines()
    cells = (row.split(" | ")[-1].strip("| `") for row in rows if row.startswith("| "))
    return {cell for cell in cells if "::" in cell}


def main() -> None:
    reports = [Path(name) for name in sys.argv[1:]]
    passed = tests_passed(reports) if reports else tests_claimed()
    missing = [check["test"] for check in read_checks() if check["test"] not in passed]
    PAGE.write_text(page(passed), "utf-8")
    for test in missing:
        where = "in these runs" if reports else "yet: give reports of runs"
        print(f"{test} has not passed {where}", file=sys.stderr)  # noqa: T201
    sys.exit(bool(missing))


if __name__ == "__main__":
    main()
