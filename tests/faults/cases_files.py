"""Damaged, foreign and hostile files of a model, and every fact of model.toml gone wrong."""

from __future__ import annotations

import copy as copying
import json
import os
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from artifact_tools import ARTIFACTS
from outcomes import Case, command

import tessera_onnx
from tessera_onnx import (
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    TesseraTimeSeries,
    TesseraVision,
)
from tessera_onnx.cli import doctor
from tessera_onnx.models import artifact, installed, resolve
from tessera_onnx.models import catalogue as models_catalogue

CLASSES: dict[str, Any] = {
    "prompts": TesseraDense,
    "colbert": TesseraMultiVector,
    "splade": TesseraSparse,
    "bolt": TesseraTimeSeries,
    "chronos2": TesseraTimeSeries,
}
GRAPH = "model.fp32.onnx"
PAGE = np.arange(60 * 90 * 3, dtype=np.uint8).reshape(60, 90, 3)
OTHER = {GRAPH: "model.onnx"}


def _flip(path: Path, part: float) -> None:
    content = bytearray(path.read_bytes())
    content[min(int(part * len(content)), len(content) - 1)] ^= 16
    path.write_bytes(content)


def _again(path: Path, make: Callable[[], Any]) -> None:
    path.unlink()
    make()


def _outside(path: Path) -> None:
    away = path.parent.parent / f"away-{path.name}"
    shutil.move(path, away)
    path.symlink_to(away)


def _foreign(file: str) -> Path:
    """The file of that role of another model."""
    if file == "tokenizer.json":  # the small artifacts share theirs
        return resolve.resolve("splade-tiny").folder / file
    return ARTIFACTS / "m3" / OTHER.get(file, file)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "empty": lambda p: p.write_bytes(b""),
    "cut in half": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "a byte too long": lambda p: p.write_bytes(p.read_bytes() + b"\n"),
    "a bit of its start flipped": lambda p: _flip(p, 0.0),
    "a bit of its middle flipped": lambda p: _flip(p, 0.5),
    "a bit of its end flipped": lambda p: _flip(p, 1.0),
    "zeros": lambda p: p.write_bytes(b"\0" * p.stat().st_size),
    "a folder": lambda p: _again(p, p.mkdir),
    "a pipe": lambda p: _again(p, lambda: os.mkfifo(p)),
    "a link out of the folder": _outside,
    "a link to nothing": lambda p: _again(p, lambda: p.symlink_to("nothing")),
    "a ring of links": lambda p: _again(p, lambda: p.symlink_to(p.name)),
    "a link to a device": lambda p: _again(p, lambda: p.symlink_to("/dev/zero")),
    "another model's": lambda p: shutil.copy(_foreign(p.name), p),
}


def cases(folder: Path) -> Iterator[Case]:
    numbers = iter(range(10**9))

    def fresh(name: str) -> Path:
        """A copy of an artifact, alone in a cache folder."""
        target = folder / str(next(numbers)) / name
        shutil.copytree(ARTIFACTS / name, target)
        return target

    for name, cls in CLASSES.items():
        yield from _damaged(name, cls, fresh)
        if name != "bolt":  # its tables are those of chronos2
            yield from _facts(name, cls, fresh)
    vision = ("model", 0, "vision")
    yield from _facts("colqwen2", TesseraVision, fresh, below=vision)
    yield from _facts("colsmol", TesseraVision, fresh, below=(*vision, "image"))  # tiles
    yield from _catalogues(folder)
    yield from _names(fresh)


def _damaged(name: str, cls: Any, fresh: Callable[[str], Path]) -> Iterator[Case]:
    files = [GRAPH] + ["tokenizer.json"] * (cls is not TesseraTimeSeries)
    model_id = f"test-{name}"
    entries: dict[str, Callable[[Path], Any]] = {
        cls.__name__: lambda place: cls(path=place),
        "Tessera, from the cache": lambda place: tessera_onnx.Tessera(
            model_id, cache_dir=place.parent
        ),
        "the command": lambda place: (
            command("forecast", "-", "-m", place, stdin="v\n1\n")
            if cls is TesseraTimeSeries
            else command("similarity", "-m", place, "a", "b")
        ),
    }
    for file in files:
        for what, damage in DAMAGE.items():

            def damaged(damage: Any = damage, file: str = file) -> Path:
                place = fresh(name)
                damage(place / file)
                return place

            for entry, call in entries.items():
                run = lambda c=call, d=damaged: c(d())
                yield Case("files", entry, f"{name}, {file}: {what}", run, None, True, file)

            def told(report: Any, file: str = file) -> None:
                assert any(file in problem for problem in report["problems"])

            run = lambda d=damaged: _doctor(d().parent)
            yield Case("files", "tessera doctor", f"{name}, {file}: {what}", run, told, error=False)
    for what, damage in DAMAGE.items():

        def broken(damage: Any = damage) -> Path:
            place = fresh(name)
            damage(place / "model.toml")
            return place

        if "a bit" in what or what in ("a byte too long", "another model's"):
            continue  # model.toml has no hash: the facts below are its damage
        for entry, call in entries.items():
            # A graph that pools and its tokenizer are a model without a model.toml too.
            error = not (name == "prompts" and what == "missing" and "cache" not in entry)
            run = lambda c=call, b=broken: c(b())
            judge = None if error else lambda found: bool(found)  # opened as it lies
            yield Case("files", entry, f"{name}, model.toml: {what}", run, judge, error=error)


def _doctor(cache: Path) -> dict[str, Any]:
    """What it says of one cache folder: it would try all packs too, every time."""
    group, installed.ENTRY_POINTS = installed.ENTRY_POINTS, "tessera_onnx.none"
    try:
        return doctor.examine(str(cache))
    finally:
        installed.ENTRY_POINTS = group


def _dump(value: Any) -> str:
    """TOML of what tomllib read."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_dump(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dump, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _document(document: dict[str, Any]) -> str:
    return "\n".join(f"{json.dumps(key)} = {_dump(value)}" for key, value in document.items())


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document, tables and lists included."""
    children = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list) and path:
        children = enumerate(value[:2])
    for key, child in children:
        yield (*path, key)
        yield from _places(child, (*path, key))


def _wrong_types(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"a number": 3, "a list": [value], "a table": {"a": 1}}
    if isinstance(value, bool):
        return {"a text": "true", "a number": 1}
    if isinstance(value, int | float):
        return {"a text": str(value), "a list": [value], "true": True}
    return {"a number": 3, "a text": "x"}


def _extremes(value: Any) -> dict[str, Any]:
    """Values of the right type that are hardly right."""
    if isinstance(value, bool):
        return {"the other": not value}
    if isinstance(value, int):
        return {str(n): n for n in (-1, 0, 1, 2**31, 2**40, 2**62, -(2**63), 2**64)}
    if isinstance(value, float):
        return {str(n): n for n in (-1.0, 0.0, 1e308, float("nan"), float("inf"))}
    if isinstance(value, str):
        return {"empty": "", "a path out": "../../etc/passwd", "long": "x" * 20_000,
                "a format": "%s{0}{__class__}", "control characters": "\x1b]0;x\x07",
                "a line end": "a\nb"}  # fmt: skip
    if isinstance(value, list):
        return {"empty": [], "twice": value * 2, "many": value * 2000}
    return {}


OPTIONAL = {("model", 0, "export")}


def _facts(
    name: str, cls: Any, fresh: Callable[[str], Path], below: tuple[Any, ...] = ()
) -> Iterator[Case]:
    """Of every fact, or of those in one table: what it is not, hardly is, or lacks."""
    good = tomllib.loads((ARTIFACTS / name / "model.toml").read_text())

    def written(place: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Path:
        document = copying.deepcopy(good)
        table: Any = document
        for key in place[:-1]:
            table = table[key]
        change(table, place[-1])
        target = fresh(name)
        (target / "model.toml").write_text(_document(document))
        return target

    def works(model: Any) -> None:
        """It may open: then it works, or says at the first text what does not."""
        with model:
            if cls is TesseraTimeSeries:
                assert np.isfinite(model.forecast([1.0, 2.0, 3.0], 3)).all()
            elif cls is TesseraVision:
                found = [*model.encode_documents([PAGE, PAGE[:40]]), model.encode_query("cat")]
                assert all(np.isfinite(part).all() for part in found)
            else:
                found = model.encode_batch(["cat", "the dog"])
                query = model.encode_query("cat")
                assert len(found) == 2
                for part in (*found, query):
                    numbers = part.values if isinstance(part, tuple) else part
                    assert np.isfinite(numbers).all()

    def opened(target: Path) -> Any:
        model = cls(path=target)
        try:
            works(model)
        except AssertionError as error:
            return error
        finally:
            shutil.rmtree(target.parent)
        return None

    def fine(found: Any) -> None:
        assert found is None, found

    for place in _places(good):
        if place[: len(below)] != below:
            continue
        shown = ".".join(str(key) for key in place if key != 0).removeprefix("model.")
        value = good
        for key in place:
            value = value[key]  # type: ignore[index]
        entry = f"{cls.__name__}, a model.toml"
        if isinstance(place[-1], str):
            judge = fine if place in OPTIONAL else None
            run = lambda p=place: opened(written(p, lambda t, k: t.pop(k)))
            yield Case("facts", entry, f"{name}: no {shown}", run, judge, error=judge is None)
        for what, other in _wrong_types(value).items():
            run = lambda p=place, o=other: opened(written(p, lambda t, k: t.__setitem__(k, o)))
            yield Case("facts", entry, f"{name}: {shown} is {what}", run, None, error=True)
        for what, other in _extremes(value).items():
            run = lambda p=place, o=other: opened(written(p, lambda t, k: t.__setitem__(k, o)))
            yield Case("facts", entry, f"{name}: {shown} is {what}", run, fine, error=True)
        if isinstance(value, dict):
            run = lambda p=place: opened(
                written(p, lambda t, k: t[k].__setitem__("no_such_key", 1))
            )
            yield Case(
                "facts", entry, f"{name}: an unknown key in {shown}", run, None, True, "no_s"
            )


def _catalogues(folder: Path) -> Iterator[Case]:
    good = (ARTIFACTS / "splade" / "model.toml").read_text()
    contents: dict[str, bytes] = {
        "empty": b"", "no TOML": b"= 3", "not UTF-8": b"\xff" * 40, "UTF-16": good.encode("utf-16"),
        "a NUL": b"schema = 1\0", "a hundred thousand brackets": b"a = " + b"[" * 100_000,
        "deep tables": b"[" + b"a." * 50_000 + b"a]", "a schema to come": b"schema = 2\nmodel = []",
        "no schema": b"model = []", "a schema of text": b'schema = "1"\nmodel = []',
        "a model that is no list": b"schema = 1\nmodel = 3",
        "a list of numbers": b"schema = 1\nmodel = [1]",
        "an id twice": f"{good}\n{good.removeprefix('schema = 1')}".encode(),
        "a key twice": good.replace("licence =", 'licence = "x"\nlicence =').encode(),
        "five megabytes": b"#" * (5 << 20),
        "a number of a million digits": b"schema = " + b"1" * 10**6,
        "a date": b"schema = 1979-05-27", "an unknown key": b"schema = 1\nother = 2\nmodel = []",
        "a bad hash": good.replace('sha256 = "', 'sha256 = "x').encode(),
        "a file that leaves": good.replace("tokenizer.json", "../tokenizer.json").encode(),
        "an absolute file": good.replace("tokenizer.json", "/etc/passwd").encode(),
        "a file of Windows": good.replace("tokenizer.json", "C:tokenizer.json").encode(),
        "an id that is a path": good.replace("test-splade", "../splade").encode(),
    }  # fmt: skip
    path = folder / "models.toml"

    def catalogue(content: bytes, call: Callable[[], Any]) -> Any:
        path.write_bytes(content)
        os.environ["TESSERA_MODELS"] = str(path)
        try:
            return call()
        finally:
            del os.environ["TESSERA_MODELS"]

    for what, content in contents.items():
        for entry, call in {
            "catalogue": models_catalogue.catalogue, "list_models": tessera_onnx.list_models,
            "Tessera": lambda: tessera_onnx.Tessera("test-splade"),
            "tessera models": lambda: command("models"),
            "TesseraSparse, path a catalogue": lambda: TesseraSparse("test-splade", path=path),
        }.items():  # fmt: skip
            run = lambda c=content, k=call: catalogue(c, k)
            yield Case("files", entry, f"a catalogue: {what}", run, None, error=True)
    for what, where in {"missing": "nowhere", "a folder": str(folder), "a NUL": "a\0b"}.items():
        if "\0" in where:
            continue  # no environment holds one

        def elsewhere(where: str = where) -> Any:
            os.environ["TESSERA_MODELS"] = where
            try:
                return models_catalogue.catalogue()
            finally:
                del os.environ["TESSERA_MODELS"]

        yield Case("files", "registry.catalogue", f"its file: {what}", elsewhere, None, error=True)


def _names(fresh: Callable[[str], Path]) -> Iterator[Case]:
    """Where a model may lie: any name that the system has."""
    for what, name in {
        "spaces": "a b  c", "unicode": "müll 模型 \U0001f680", "a quote": "it's \"x\"",
        "a line end": "a\nb", "a leading dash": "-x", "percent signs": "%41%s", "braces": "{0}",
        "200 letters": "x" * 200, "invalid UTF-8": os.fsdecode(b"\xff\xfe"), "a dot": ".hidden",
        "brackets": "[a-z]*?",
    }.items():  # fmt: skip

        def moved(name: str = name) -> Path:
            place = fresh("prompts")
            target = place.with_name(name)
            place.rename(target)
            return target

        for entry, call in {
            "TesseraDense": lambda p: TesseraDense(path=p).encode("cat").shape,
            "TesseraDense, from the cache": lambda p: TesseraDense(
                "test-prompts", cache_dir=p.parent
            ).encode("cat").shape,
            "artifacts.open_folder": lambda p: (artifact.open_folder(p).spec.dense.dimension,),
            "TesseraDense, from a cache of that name": lambda p: TesseraDense(
                "test-prompts", cache_dir=_under(p)
            ).encode("cat").shape,
        }.items():  # fmt: skip
            run = lambda m=moved, c=call: c(m())
            judge = lambda found: _equal(found, (32,))
            yield Case("files", entry, f"a folder's name: {what}", run, judge, error=False)


def _under(place: Path) -> Path:
    (place / "inner").mkdir()
    for file in place.iterdir():
        if file.is_file():
            shutil.move(file, place / "inner" / file.name)
    return place


def _equal(found: Any, expected: Any) -> None:
    assert found == expected
