"""Whether two versions of tessera-onnx give the same numbers, byte for byte.

    python benchmarks/same_numbers.py write FOLDER      with the Python of one version
    python benchmarks/same_numbers.py write OTHER       with the Python of another
    python benchmarks/same_numbers.py compare FOLDER OTHER

`write` needs the starter's models. It runs them and the small test artifacts of this tree, all
kinds of each, with one thread. FOLDER/arrays.npz then holds vectors in each form and from each
method, scores, rankings, explanations, similarity maps and forecasts, and FOLDER/*.pack what
PackedTokens and PackedSparse save. A call that is refused is stored as the name of its error.

`compare` exits with 0 only if both folders hold the same arrays, with the same bytes, dtypes and
shapes, and the same packed files, and if the version that runs it opens the packed files of the
first folder, scores them as stored there, and saves them with the same bytes.
"""

import dataclasses
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from model_calls import CALLS, FORM, FORMS, IMAGES, QUERIES, TEXTS

import tessera_onnx as tessera

TESTS = Path(__file__).resolve().parents[1] / "tests"


def leaves(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays, numbers and words in a result, each with a name that says its place."""
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, list | tuple | Iterator):
        for i, part in enumerate(value):
            yield from leaves(f"{name}/{i}", part)
        if isinstance(value, tessera.Ranked):  # its id is no part of the tuple
            yield from leaves(f"{name}/id", value.id)
    else:
        yield name, np.asarray("None" if value is None else value)


def scored(pack: Any, queries: list[Any]) -> list[Any]:
    return [[pack.score(query), pack.rank(query, 3)] for query in queries] + [pack.ids]


def packs(model: Any, kind: str) -> dict[str, Any]:
    """Packed documents of each form, where a document is not one vector."""
    if kind in ("dense", "time-series"):
        return {}
    documents = model.encode_documents(IMAGES) if kind == "vision" else model.encode_document(TEXTS)
    ids = [f"item {i}" for i in range(len(documents))]
    if kind == "sparse":
        return {"sparse": tessera.PackedSparse(documents, ids=ids)}
    if documents[0].ndim == 1:
        return {}
    found = {f: tessera.PackedTokens(documents, ids=ids, threads=1, **{FORM: f}) for f in FORMS}
    for pack in found.values():
        pack.add(documents[:2], ids=["more", "and more"])
        pack.remove([1])
    return found


def results(model_id: str, kind: str, folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    with tessera.Tessera(model_id, kind=kind, threads=1) as model:
        for name, call in CALLS.items():
            if kind[0] not in name.split(":")[0]:
                continue
            try:
                yield from list(leaves(f"{model_id} {kind} {name}", call(model)))
            except tessera.TesseraError as error:
                print("  refused:", name, type(error).__name__)
                yield f"{model_id} {kind} {name}", np.array(type(error).__name__)
        for form, pack in packs(model, kind).items():
            queries = list(model.encode_query(QUERIES))
            name = f"{model_id} {kind} {form}.pack"
            pack.save(folder / name)
            yield from leaves(f"{name}/queries", queries)
            yield from leaves(f"{name}/scores", scored(pack, queries))


def write(folder: Path) -> None:
    folder.mkdir(parents=True)
    found: dict[str, np.ndarray] = {}
    for kind in ("dense", "multi-vector", "sparse", "vision", "time-series"):
        for model_id in tessera.list_models(kind, installed=True):
            print(model_id, kind, flush=True)
            found.update(results(model_id, kind, folder))
    np.savez(folder / "arrays.npz", **found)


def read(folder: Path) -> dict[str, np.ndarray]:
    """All arrays of a folder, its packed files as bytes among them."""
    with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
        files = {p.name: np.frombuffer(p.read_bytes(), np.uint8) for p in folder.glob("*.pack")}
        return dict(stored) | files


def reopened(path: Path, arrays: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """What a packed file, opened again, answers to the stored queries, and its bytes when saved."""
    at = [f"{path.name}/queries/{i}" for i in range(len(QUERIES))]
    if path.stem.endswith("sparse"):
        pack = tessera.PackedSparse.load(path, verify=True)
        queries = [tessera.SparseVector(arrays[f"{place}/0"], arrays[f"{place}/1"]) for place in at]
    else:
        pack = tessera.PackedTokens.load(path, verify=True, threads=1)
        queries = [arrays[place] for place in at]
    yield from leaves(f"{path.name}/scores", scored(pack, queries))
    with tempfile.TemporaryDirectory() as work:
        pack.save(Path(work, "again"))
        yield path.name, np.fromfile(Path(work, "again"), np.uint8)


def compare(first: Path, second: Path) -> None:
    a, b = read(first), read(second)
    again = dict(pair for path in first.glob("*.pack") for pair in reopened(path, a))
    faults = [f"not in both: {name}" for name in (a.keys() ^ b.keys()) | (again.keys() - a.keys())]
    for what, found in (("differs", b), ("differs when opened again", again)):
        for name in a.keys() & found.keys():
            x, y = a[name], found[name]
            if (x.dtype, x.shape, x.tobytes()) != (y.dtype, y.shape, y.tobytes()):
                faults.append(f"{what}: {name}")
    print(*sorted(faults), sep="\n", end="\n" * bool(faults))
    size, files = sum(array.nbytes for array in a.values()), len(list(first.glob("*.pack")))
    print(f"{len(a)} arrays of {size} bytes; {files} packed files opened again gave {len(again)}")
    print(f"{len(faults)} differences")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    print(tessera.__file__)
    warnings.simplefilter("ignore")
    os.environ |= {"TESSERA_CACHE": str(TESTS / "artifacts")}
    os.environ |= {"HF_HUB_CACHE": os.devnull, "HF_HUB_OFFLINE": "1"}
    match sys.argv[1:]:
        case ["write", folder]:
            write(Path(folder))
        case ["compare", first, second]:
            compare(Path(first), Path(second))
        case _:
            raise SystemExit(__doc__)
