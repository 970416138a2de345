"""Series and what stands where series are due: forecasts, groups, frames, the command."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from artifact_tools import ARTIFACTS
from outcomes import MARKER, Case, command

from tessera_onnx import TesseraTimeSeries

FORM = (np.sin(np.arange(300) / 5) + 2).astype(np.float32)
GAPS = np.where(np.arange(300) % 7 == 3, np.nan, FORM)


def _leading(values: np.ndarray) -> np.ndarray:
    return np.concatenate([np.full(40, np.nan), values])


# What has a forecast; the battery compares it alone, in a ragged batch and (where finite) scaled.
RIGHT: dict[str, Any] = {
    "one value": [3.0],
    "two values": [3.0, 4.0],
    "a patch less one": FORM[:15],
    "a patch": FORM[:16],
    "a patch and one": FORM[:17],
    "the context": np.resize(FORM, 2048),
    "the context and one": np.resize(FORM, 2049),
    "ten contexts": np.resize(FORM, 20480),
    "one value, missing": [np.nan],
    "all values missing": np.full(100, np.nan),
    "a context of gaps after a value": np.concatenate([[3.0], np.full(2048, np.nan)]),
    "leading gaps": _leading(FORM),
    "inner gaps": GAPS,
    "trailing gaps": np.concatenate([FORM, np.full(20, np.nan)]),
    "a constant": np.full(50, 7.5),
    "zeros": np.zeros(50),
    "a constant of 1e30": np.full(50, 1e30),
    "1e30 and -1e30": np.where(np.arange(60) % 2, 1e30, -1e30),
    "1e-30": FORM * 1e-30,
    "subnormal values": FORM * 1e-44,
    "an offset of 1e6": FORM + 1e6,
    "an offset of 1e8": FORM.astype(np.float64) + 1e8,
    "a counter of 3e9": np.arange(50) + 3_000_000_000,
    "an unsigned counter": np.arange(50, dtype=np.uint64) * 10**9 + 2**63,
    "decimals": [Decimal(i) / 4 for i in range(50)],
    "a spike": np.where(np.arange(100) == 50, 1e6, 1.0),
    "ints": np.arange(50),
    "unsigned bytes": np.arange(50, dtype=np.uint8),
    "float16": FORM.astype(np.float16),
    "big endian": FORM.astype(">f8"),
    "reversed strides": FORM[::-1],
    "a list of ints": list(range(30)),
    "a tuple": tuple(FORM.tolist()),
    "a pandas series": pd.Series(FORM, index=np.arange(300) * 3),
    "a pandas series with NA": pd.Series([1, None, 3] * 9, dtype="Int64"),
    "a polars series with nulls": pl.Series([1.0, None, 3.0] * 9),
    "a masked array": np.ma.masked_greater(FORM, 2.5),
}
WRONG: dict[str, Any] = {
    "no values": [[]],
    "no values, an array": np.empty(0),
    "infinity": [1.0, np.inf],
    "-infinity": [1.0, -np.inf, 2.0],
    "beyond float32": [1.0, 1e39],
    "whole numbers that float64 rounds": [[2**62 + i for i in range(9)]],
    "a text": MARKER,
    "texts": [[MARKER, "b"]],
    "numbers in texts": [["1", "2"]],
    "None": None,
    "a list with None": [[1.0, None]],
    "bytes": MARKER.encode(),
    "a number": 3.0,
    "True": True,
    "booleans": np.array([True, False]),
    "objects": np.array([1.0, 2.0], dtype=object),
    "complex": np.ones(3, complex),
    "dates": np.zeros(3, "M8[D]"),
    "three dimensions": np.ones((2, 3, 4)),
    "a scalar array": np.float32(3) * np.ones(()),
    "a dict": {"a": [1.0]},
    "a set": {1.0},
    "a generator": (value for value in [1.0]),
    "a frame": pd.DataFrame({"a": [1.0]}),
    "ragged nesting": [[[1.0], [2.0, 3.0]]],
    "records": np.zeros(3, [("x", "f4")]),
    "a function": len,
}
HORIZONS = {
    "1": 1,
    "the pass": None,
    "64": 64,
    "65": 65,
    "1000": 1000,
    "a NumPy integer": np.int32(3),
}
WRONG_HORIZONS = {"0": 0, "-1": -1, "65537": 65537, "beyond int64": 2**70, "a float": 3.0,
                  "a str": "3", "True": True, "NaN": float("nan"), "a list": [3]}  # fmt: skip
LEVELS = {"the median": [0.5], "unsorted": [0.9, 0.1], "repeated": [0.5, 0.5], "tiny": [1e-9],
          "near 1": [1 - 1e-9], "a tuple": (0.25,), "an array": np.array([0.3, 0.6]),
          "a generator": (0.1, 0.2)}  # fmt: skip
WRONG_LEVELS = {"0": [0.0], "1": [1.0], "negative": [-0.5], "above 1": [1.5], "NaN": [np.nan],
                "none": [], "a number": 0.5, "a str": "0.5", "texts": ["0.5"], "True": [True],
                "None in a list": [None], "nested": [[0.5]], "a dict": {"a": 1}}  # fmt: skip


def cases(folder: Path) -> Iterator[Case]:
    for name in ("bolt", "chronos2"):
        model = TesseraTimeSeries(path=ARTIFACTS / name)
        yield from _contexts(model, name)
        yield from _arguments(model, name)
    yield from _groups(TesseraTimeSeries(path=ARTIFACTS / "chronos2"))
    yield from _frames(TesseraTimeSeries(path=ARTIFACTS / "bolt"))
    yield from _command(folder)


def _values(series: Any) -> np.ndarray:
    if isinstance(series, np.ma.MaskedArray):
        series = series.astype(float).filled(np.nan)
    if isinstance(series, pd.Series):
        series = series.to_numpy(dtype=float, na_value=np.nan)
    return np.asarray(series, dtype=np.float64)


def _contexts(model: Any, name: str) -> Iterator[Case]:
    entry = f"TesseraTimeSeries ({name})"
    for what, series in RIGHT.items():
        # The same values as plain floats, alone: whatever form they came in, whatever beside them.
        values = _values(series)
        steps = 8

        def judge(found: np.ndarray, values: np.ndarray = values) -> None:
            level = np.nan_to_num(values[~np.isnan(values)][:1].sum())
            expected = model.forecast_quantiles(values - level, steps).astype(np.float64) + level
            assert found.shape == expected.shape
            assert found.dtype in (np.float32, np.float64)
            if np.isnan(values[-model.context_length() :]).all():
                assert np.isnan(found).all()
                return
            assert np.isfinite(found).all()
            assert (np.diff(found, axis=2) >= 0).all()
            scale = np.abs(expected).max() + 1e-30
            np.testing.assert_allclose(found / scale, expected / scale, atol=1e-4)

        def plausible(found: np.ndarray, values: np.ndarray = values) -> None:
            read = values[-model.context_length() :]
            seen = read[np.isfinite(read)]
            if len(seen):  # random weights, but in the units of the series
                spread = seen.std() or 1e-5
                reach = 1e6 if name == "chronos2" else 1e3  # arcsinh: its inverse grows fast
                assert (
                    np.abs(found - seen.mean()) <= reach * spread + 1e-3 * abs(seen).max()
                ).all()

        forms: dict[str, Callable[[Any], Any]] = {
            "forecast_quantiles, alone": lambda s: model.forecast_quantiles(s, steps),
            "forecast_quantiles, in a list": lambda s: model.forecast_quantiles([s], steps),
            "forecast_quantiles, in a ragged list": lambda s: model.forecast_quantiles(
                [FORM, s, [1.0], GAPS], steps
            )[1:2],
        }
        for form, call in forms.items():
            run = lambda c=call, s=series: c(s)
            yield Case("series", f"{entry}.{form}", what, run, judge, error=False)
        run = lambda s=series: model.forecast(s, steps)
        yield Case("series", f"{entry}.forecast", what, run, plausible, error=False)
        array = np.stack([values, values])
        run = lambda a=array: model.forecast_quantiles(a, steps)[1:]
        yield Case("series", f"{entry}.forecast_quantiles, 2-D", what, run, judge, error=False)

        def long(found: np.ndarray, values: np.ndarray = values) -> None:
            dead = np.isnan(values[-model.context_length() :]).all()
            assert found.shape == (1, 130)
            assert (np.isnan(found) if dead else np.isfinite(found)).all()

        # A spread of 1e30 may leave float32 on the way: then it is an error that says so.
        run = lambda s=series: model.forecast(s, 130)
        yield Case("series", f"{entry}.forecast, rolled out", what, run, long, error=True)
    for what, series in WRONG.items():
        run = lambda s=series: model.forecast(s, 4)
        yield Case("series", f"{entry}.forecast", what, run, None, error=True)
        if what in ("no values", "texts", "numbers in texts", "a list with None", "ragged nesting"):
            run = lambda s=series[0]: model.forecast_quantiles([FORM, s], 4)
        elif what in ("a number", "True"):
            continue
        else:
            run = lambda s=series: model.forecast_quantiles([FORM, s], 4)
        says = r"(context\[1\]|series 1)"
        yield Case("series", f"{entry}.forecast_quantiles, a list", what, run, None, True, says)
    for what, value in {"an empty list": [], "no rows": np.empty((0, 5))}.items():
        run = lambda v=value: model.forecast(v, 4)
        yield Case(
            "series", f"{entry}.forecast", what, run, lambda f: _is(f.shape == (0, 4)), error=False
        )


def _is(truth: Any) -> None:
    assert truth


def _arguments(model: Any, name: str) -> Iterator[Case]:
    entry = f"TesseraTimeSeries ({name})"
    for what, horizon in HORIZONS.items():
        steps = horizon or model.prediction_length()
        judge = lambda f, s=steps: _is(f.shape == (2, s) and np.isfinite(f).all())
        run = lambda h=horizon: model.forecast([FORM, GAPS], h)
        yield Case("series", f"{entry}.forecast", f"horizon: {what}", run, judge, error=False)
    for what, horizon in WRONG_HORIZONS.items():
        run = lambda h=horizon: model.forecast(FORM, h)
        yield Case("series", f"{entry}.forecast", f"horizon: {what}", run, None, True, "horizon")
    trained = model.forecast_quantiles(FORM, 8)
    for what, levels in LEVELS.items():

        def judge(found: np.ndarray, levels: Any = levels) -> None:
            known = np.array([0, *model.quantiles(), 1])
            edges = np.concatenate([trained[..., :1], trained, trained[..., -1:]], axis=2)
            for column, level in enumerate(levels):
                expected = [np.interp(level, known, step) for step in edges[0]]
                np.testing.assert_allclose(found[0, :, column], expected, rtol=1e-4, atol=1e-5)

        run = lambda v=levels: model.forecast_quantiles(FORM, 8, v)
        entry_point = f"{entry}.forecast_quantiles"
        yield Case("series", entry_point, f"levels: {what}", run, judge, error=False)
    for what, levels in WRONG_LEVELS.items():
        run = lambda v=levels: model.forecast_quantiles(FORM, 8, v)
        entry_point = f"{entry}.forecast_quantiles"
        yield Case("series", entry_point, f"levels: {what}", run, None, True, "levels")

    for what, value in {"a str": MARKER, "True": True, "a number": 1, "a list": ["tails"]}.items():
        run = lambda v=value: model.forecast_quantiles(FORM, 8, [0.01], extrapolate=v)
        yield Case("series", entry_point, f"extrapolate: {what}", run, None, True, "extrapolate")
    run = lambda: model.forecast_quantiles(FORM, 8, [1e-9, 0.5, 1 - 1e-9], extrapolate="tails")
    wide = lambda f: _is(np.isfinite(f).all() and (np.diff(f, axis=2) > 0).all())
    yield Case("series", entry_point, "extrapolate: tails", run, wide, error=False)


def _groups(model: Any) -> Iterator[Case]:
    three = [FORM, GAPS, FORM[:50]]
    alone = model.forecast_quantiles(three, 8)
    for what, groups in {
        "all apart": ["a", "b", "c"], "of mixed types": [1, "1", None], "an array": np.arange(3),
    }.items():  # fmt: skip
        run = lambda g=groups: model.forecast_quantiles(three, 8, groups=g)
        judge = lambda f: np.testing.assert_allclose(f, alone, rtol=1e-3, atol=1e-4)
        entry = "TesseraTimeSeries (chronos2).forecast_quantiles"
        yield Case("series", entry, f"groups: {what}", run, judge, error=False)
    for what, groups in {
        "too few": [0], "too many": [0] * 4, "a str": "abc", "a number": 3, "a set": {1, 2, 3},
        "a list in it": [[1], 2, 3], "NaN in it": [1.0, np.nan, 2.0], "a dict": {1: 1, 2: 2, 3: 3},
        "a generator": (i for i in range(3)), "no labels": [],
    }.items():  # fmt: skip
        run = lambda g=groups: model.forecast_quantiles(three, 8, groups=g)
        entry = "TesseraTimeSeries (chronos2).forecast_quantiles"
        yield Case("series", entry, f"groups: {what}", run, None, True, "groups")
    many = [[1.0, 2.0]] * 20_000
    run = lambda: model.forecast(many, 8, groups=[0] * len(many))
    entry = "TesseraTimeSeries (chronos2).forecast"
    yield Case("series", entry, "groups: 20,000 series in one", run, None, True, "group")


def _frames(model: Any) -> Iterator[Case]:
    stamps = pd.date_range("2024-01-01", periods=40, freq="D")
    good = pd.DataFrame({"timestamp": stamps, "target": np.arange(40.0), "id": "a"})
    entry = "TesseraTimeSeries.forecast_frame"
    judge = lambda f: _is(len(f) == 3 and np.isfinite(f["forecast"].to_numpy()).all())
    for what, frame in {
        "pandas": good, "polars": pl.from_pandas(good),
        "gaps": good.assign(target=[1.0, None] * 20),
        "a shuffled index": good.set_index(np.arange(40)[::-1]),
        "times that fall": good[::-1], "shuffled rows": good.sample(frac=1, random_state=1),
        "dates as texts": good.assign(timestamp=stamps.strftime("%d.%m.%Y")),
        "days as whole numbers": good.assign(timestamp=stamps.strftime("%Y%m%d").astype(int)),
    }.items():  # fmt: skip
        run = lambda f=frame: model.forecast_frame(f, horizon=3)
        yield Case("series", entry, what, run, judge, error=False)
    for what, frame in {
        "None": None, "a dict": {"a": 1}, "a list": [1.0], "an array": np.ones((3, 2)),
        "a series": good["target"], "no rows": good[:0], "no columns": good[[]],
        "texts as target": good.assign(target=MARKER),
        "texts as timestamp": good.assign(timestamp=MARKER),
        "a text among dates": good.assign(timestamp=[MARKER, *stamps[1:].strftime("%Y-%m-%d")]),
        "days or months first": good[:3].assign(timestamp=["01/02/24", "01/03/24", "01/04/24"]),
        "infinity": good.assign(target=np.inf), "a time twice": pd.concat([good, good[-1:]]),
        "several series": good.assign(id=["a", "b"] * 20),
        "an irregular step": good.drop(index=[5, 6, 9]),
        "one row": good[:1], "two rows": good[:2], "times missing": good.assign(timestamp=pd.NaT),
        "a lazy frame": pl.from_pandas(good).lazy(), "booleans": good.assign(target=True),
        "objects": good.assign(target=[object()] * 40),
    }.items():  # fmt: skip
        run = lambda f=frame: model.forecast_frame(f, horizon=3)
        yield Case("series", entry, what, run, None, error=True)
    for option in ("id", "timestamp", "target"):
        for what, value in {"absent": "nothing", "a number": 3, "a list": ["target"]}.items():
            run = lambda o=option, v=value: model.forecast_frame(good, **{o: v})
            yield Case("series", entry, f"{option}: {what}", run, None, error=True)
    for what, value in {"NA in it": [None, *["a"] * 39], "lists": [["a"]] * 40}.items():
        run = lambda v=value: model.forecast_frame(good.assign(id=v), id="id")
        yield Case("series", entry, f"id: {what}", run, None, error=True)


def _command(folder: Path) -> Iterator[Case]:
    rows = folder / "rows"
    rows.mkdir()
    model = ["-m", ARTIFACTS / "bolt", "--horizon", "2", "--json"]
    right = {
        "numbers": b"v\n1\n2\n3\n", "dates": b"d,v\n2024-01,1\n2024-02,2\n2024-03,4\n",
        "a byte order mark": b"\xef\xbb\xbfv\n1\n2\n", "Windows line ends": b"v\r\n1\r\n2\r\n",
        "semicolons": b"a;v\nx;1\nx;2\n", "gaps": b"v\n1\n\nNA\n3\n", "one value": b"v\n1\n",
        "quotes": b'"v"\n"1"\n"2"\n', "no last line end": b"v\n1\n2",
        "a column of text": f"v,t\n1,{MARKER}\n2,{MARKER}\n".encode(), "1e30": b"v\n1e30\n-1e30\n",
        "a long column name": b"v" * 5000 + b"\n1\n2\n",
        "newest first": b"d,v\n2024-03,4\n2024-02,2\n2024-01,1\n",
        "German numbers and dates": b"d;v\n01.01.2024;1,5\n01.02.2024;2,5\n01.03.2024;3,5\n",
        "months in digits": b"m,v\n202411,1\n202412,2\n202501,4\n",
        "gzip": gzip.compress(b"v\n1\n2\n"), "an index": b",v\n0,1\n1,2\n",
        "N/A and -": b"v\n1\nN/A\n-\n",
    }  # fmt: skip
    wrong = {
        "no bytes": b"", "a header alone": b"v\n", "text alone": f"v\n{MARKER}\n".encode(),
        "infinity": b"v\n1\ninf\n", "beyond float32": b"v\n1\n1e39\n",
        "invalid UTF-8": b"v\n\xff\n",
        "UTF-16": "v\n1\n2\n".encode("utf-16"), "ragged rows": b"a,b\n1,2\n3\n",
        "a NUL": b"v\n1\0\n",
        "a column twice": b"v,v\n1,2\n", "an open quote": b'v\n"1\n', "all missing": b"v\n\nNA\n",
        "binary": bytes(range(256)) * 4, "one huge cell": b"v\n" + b"9" * 200_000 + b"\n",
        "a hex number": b"v\n0x10\n", "no digits": b"v\n-\n", "no names": b"1\n2\n3\n",
        "a time twice": f"d,v,t\n2024-01,1,{MARKER}\n2024-01,2,b\n".encode(),
        "joined series": f"t,v\n{MARKER},1\n{MARKER},2\nb,3\nb,4\n".encode(),
        "a text among dates": f"d,v\n2024-01-01,1\n2024-01-02,2\n{MARKER},3\n".encode(),
        "times as names": b"a,2024-01,2024-02,2024-03\nx,1,2,3\ny,1,2,3\n",
        "thousands or decimals": b"t;v\nx;1.234\ny;2.345\n",
        "a cut gzip": gzip.compress(b"v\n1")[:-4],
    }  # fmt: skip
    judge = lambda found: _is(all(len(s["forecast"]) == 2 for s in json.loads(found)["series"]))
    for number, (what, content) in enumerate((right | wrong).items()):
        path = rows / f"{number}.csv"
        path.write_bytes(content)
        good = judge if what in right else None
        for name, source, stdin in (("a file", path, None), ("stdin", "-", content)):
            run = lambda s=source, i=stdin: command("forecast", s, *model, stdin=i)
            yield Case("series", f"tessera forecast, {name}", what, run, good, error=good is None)
    source = rows / "0.csv"
    for what, path in {
        "missing": "nowhere.csv", "a folder": rows, "a NUL": "a\0.csv", "a long name": "x" * 5000,
        "empty": "", "a file's child": f"{source}/x.csv",
    }.items():  # fmt: skip
        run = lambda p=path: command("forecast", p, *model)
        yield Case("series", "tessera forecast, its input", what, run, None, error=True)
        for option, suffix in (("--output", ".csv"), ("--plot", ".png")):
            if what != "missing":
                out = f"{str(path).removesuffix('.csv')}{suffix}" if path else path
                out = "." if what == "a folder" else out
                run = lambda o=out, n=option: command("forecast", source, *model, n, o)
                yield Case("series", f"tessera forecast, {option}", what, run, None, error=True)
