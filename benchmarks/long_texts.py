"""Long texts, cut, averaged over windows, or in chunks: nDCG@10 and time, as one table.

    python benchmarks/long_texts.py [--data ../shared/data] [--folder cranfield] [--model FOLDER]
                                    [--size 64] [--max-length 128] [--only late]

Rows: the start of a document (`on_long="truncate"`), the mean of its windows (`on_long="window"`),
its best chunk, each encoded alone, and its best late chunk (`encode_chunks`). --model is a folder
of a dense model whose token states are averaged outside of its graph; without it, the token vectors
of the starter's all-MiniLM-L6-v2 are averaged, which is the same model but for int8. --max-length
makes the model read less, so that more documents are long. Times are processor seconds to encode
the documents. The collections are not part of this repository.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from quality import DATA, FOLDERS, collection, ndcg_at_10

from tessera_onnx import TesseraDense, TruncationWarning
from tessera_onnx.runtime.cpu import physical_summary


def averaging_starter(target: Path) -> Path:
    """A copy of the starter's all-MiniLM-L6-v2 whose recipe averages its token vectors."""
    starter = importlib.util.find_spec("tessera_onnx_starter")
    shutil.copytree(Path(starter.origin).parent / "minilm", target)
    facts = (target / "model.toml").read_text()
    dense = facts[facts.index("[model.dense]") : facts.index("[model.multi_vector]")]
    edited = dense.replace('"sentence_embedding"', '"token_embeddings"').replace(
        '"graph"', '"mean"'
    )
    (target / "model.toml").write_text(facts.replace(dense, edited))
    return target


def best(queries: np.ndarray, chunks: list) -> np.ndarray:
    """The score of each document's best chunk for each query."""
    scores = queries @ np.concatenate([found.vectors for found in chunks]).T
    counts = [len(found.vectors) for found in chunks]
    return np.maximum.reduceat(scores, np.cumsum([0, *counts[:-1]]), axis=1)


def ways(folder: Path, size: int, max_length: int | None) -> Iterator[tuple[str, Callable]]:
    """Each way by name: from texts and queries to the scores (queries, documents)."""
    shared = {"path": folder, "max_length": max_length}
    with TesseraDense(on_long="truncate", **shared) as model:
        yield "cut", lambda texts, q: model.encode_query(q) @ model.encode_document(texts).T
        for late, name in ((False, "chunks"), (True, "late chunks")):
            yield (
                f"{name} of {size}",
                lambda texts, q, late=late: best(
                    model.encode_query(q), model.encode_chunks(texts, size=size, late=late)
                ),
            )
    with TesseraDense(on_long="window", **shared) as model:
        yield "windows", lambda texts, q: model.encode_query(q) @ model.encode_document(texts).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--folder", action="append", help="of the data; default: all three")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--size", type=int, default=64, help="tokens of a chunk")
    parser.add_argument("--only", default="", help="ways whose names hold this")
    parser.add_argument("--max-length", type=int, help="tokens that the model reads")
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.exit(1, f"{options.data} is not there: nothing to measure\n")
    warnings.simplefilter("ignore", TruncationWarning)
    print(f"{physical_summary()}\n")
    for cells in (("collection", "long documents", "way", "nDCG@10", "seconds"), ("---",) * 5):
        print(f"| {' | '.join(cells)} |")
    with tempfile.TemporaryDirectory() as place:
        folder = options.model or averaging_starter(Path(place) / "model")
        with TesseraDense(path=folder, max_length=options.max_length) as model:
            reads = options.max_length or model.spec.dense.document.max_length
        for name in options.folder or FOLDERS:
            ids, texts, judged = collection(options.data / name)
            with TesseraDense(path=folder) as model:
                long = (model.token_count(texts, role="document") > reads).mean()
            queries = [query for query, _ in judged]
            for way, score in ways(folder, options.size, options.max_length):
                if options.only not in way:
                    continue
                start = time.process_time()
                scores = score(texts, queries)
                taken = time.process_time() - start
                pairs = zip(scores, judged, strict=True)
                quality = np.mean([ndcg_at_10(row, ids, relevant) for row, (_, relevant) in pairs])
                print(f"| {name} | {long:.0%} | {way} | {quality:.3f} | {taken:.0f} |", flush=True)


if __name__ == "__main__":
    main()
