"""`tessera forecast`: what it prints, writes and draws, from the library's own forecasts."""

import csv
import gzip
import json
import os
import subprocess
import sys
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from artifact_tools import ARTIFACTS
from click.testing import CliRunner
from PIL import Image

from tessera_onnx import TesseraTimeSeries
from tessera_onnx.cli import output
from tessera_onnx.cli.main import main

BOLT = ("-m", str(ARTIFACTS / "bolt"))
SALES = np.round(np.sin(np.arange(40) / 3) * 5 + np.arange(40), 3)
VISITS = np.round(np.cos(np.arange(40) / 2) * 9, 3)


def run(*args, code=0, stdin=None):
    result = CliRunner().invoke(main, ["forecast", *map(str, args)], stdin, catch_exceptions=False)
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
    return result


@pytest.fixture
def sales(tmp_path):
    path = tmp_path / "in" / "sales.csv"
    path.parent.mkdir()
    months = np.datetime_as_string(np.datetime64("2021-01") + np.arange(40))
    rows = zip(months, SALES, VISITS, strict=True)
    path.write_text("month,sold,visits\n" + "".join(f"{m},{s},{v}\n" for m, s, v in rows))
    return path


@pytest.fixture(scope="module")
def truth():
    with TesseraTimeSeries(path=ARTIFACTS / "bolt") as model:
        return model.forecast_quantiles([SALES, VISITS], 3, [0.1, 0.5, 0.9])


def test_summary(sales, truth):
    lines = run(sales, "--horizon", "3", *BOLT).stdout.splitlines()
    assert lines[0] == "sold: 40 values"
    assert len(lines[1]) == 40 + 1 + 3
    assert lines[1][40] == "│"
    assert lines[2].split() == ["month", "0.1", "0.5", "0.9"]
    assert [line.split()[0] for line in lines[3:6]] == ["2024-05", "2024-06", "2024-07"]
    found = np.array([line.split()[1:] for line in lines[3:6]], float)
    np.testing.assert_allclose(found, truth[0], rtol=1e-5)
    assert lines[7] == "visits: 40 values"


def test_json_and_target(sales, truth):
    found = json.loads(run(sales, "--horizon", 3, "--target", "visits", *BOLT, "--json").stdout)
    (series,) = found.pop("series")
    assert found == {
        "model": "test-bolt", "horizon": 3, "levels": [0.1, 0.5, 0.9], "output": None, "plot": None
    }  # fmt: skip
    assert (series["id"], series["target"]) == (None, "visits")
    assert series["times"] == ["2024-05", "2024-06", "2024-07"]
    assert series["forecast"] == series["quantiles"]["0.5"]
    quantiles = np.array(list(series["quantiles"].values()), np.float32)
    np.testing.assert_array_equal(quantiles, truth[1].T)


def test_csv_output(sales, truth, tmp_path):
    out = tmp_path / "out.csv"
    done = run(sales, "--horizon", 3, "-o", out, *BOLT)
    assert done.stdout == f"2 series, 3 steps each, in {out}\n"
    with out.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["target", "month", "forecast", "0.1", "0.5", "0.9"]
    assert [row[:2] for row in rows[2:4]] == [["sold", "2024-07"], ["visits", "2024-05"]]
    values = np.array([row[2:] for row in rows], np.float32)
    np.testing.assert_array_equal(values[:, 1:], truth.reshape(6, 3))
    np.testing.assert_array_equal(values[:, 0], values[:, 2])
    # It is a file that the command reads again.
    again = run(out, "--horizon", 1, *BOLT, code=1).stderr  # two series in one file
    assert "lines 2 and 5: column 'month' has a time twice" in again
    assert "--id COLUMN, such as 'target'" in again
    assert run(out, "--id", "target", "--horizon", 1, *BOLT).stderr == ""


def test_jsonl_output_of_ids_from_stdin(truth, tmp_path):
    rows = [f"{s};north\n{v};south\n" for s, v in zip(SALES, VISITS, strict=True)]
    out = tmp_path / "out.jsonl"
    text = "sold;shop\n" + "".join(rows)
    run("-", "--id", "shop", "--horizon", 3, "-o", out, *BOLT, stdin=text)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [series["id"] for series in found] == ["north", "south"]
    assert found[0]["times"] == [1, 2, 3]
    np.testing.assert_array_equal(np.array(found[1]["forecast"], np.float32), truth[1, :, 1])


def test_levels_outside_the_trained_are_marked(sales, truth, tmp_path):
    options = (sales, "--horizon", 3, "--levels", "0.025,0.5,0.975", *BOLT)
    said = "Warning: levels 0.025, 0.975 lie outside the trained ones, 0.1 to 0.9: "
    done = run(*options, "--json")
    assert done.stderr.count(said) == done.stderr.count("\n") == 1
    found = json.loads(done.stdout)
    assert found["outside_trained"] == [0.025, 0.975]
    for series, values in zip(found["series"], truth, strict=True):
        assert series["outside_trained"] == [0.025, 0.975]
        quantiles = np.array(list(series["quantiles"].values()), np.float32)
        np.testing.assert_array_equal(quantiles, values.T)
    shown = run(*options)
    assert said in shown.stderr
    assert "0.025 (outside the trained)  0.5  " in shown.stdout
    out = tmp_path / "out.csv"
    for target in (out, "-"):
        done = run(*options, "-o", target)
        assert said in done.stderr
        rows = list(csv.reader((out.read_text() if target == out else done.stdout).splitlines()))
        assert rows[0][-4:] == ["0.025", "0.5", "0.975", "outside_trained"]
        assert {row[-1] for row in rows[1:]} == {"0.025,0.975"}
    run(*options, "-o", tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert all(json.loads(line)["outside_trained"] == [0.025, 0.975] for line in lines)
    run(*options, "--plot", tmp_path / "a.svg")
    assert "outside_trained" in CliRunner().invoke(main, ["forecast", "--help"]).output


def test_tails_of_the_command(sales):
    options = (sales, "--horizon", 3, "--levels", "0.025,0.975", *BOLT)
    assert '--extrapolate="tails" continues them' in run(*options).stderr
    done = run(*options, "--extrapolate", "tails", "--json")
    with TesseraTimeSeries(path=ARTIFACTS / "bolt") as model:
        truth = model.forecast_quantiles([SALES, VISITS], 3, [0.025, 0.975], extrapolate="tails")
    assert done.stderr == ""
    for series, values in zip(json.loads(done.stdout)["series"], truth, strict=True):
        quantiles = np.array(list(series["quantiles"].values()), np.float32)
        np.testing.assert_array_equal(quantiles, values.T)
        assert series["outside_trained"] == [0.025, 0.975]


def test_newest_first_is_sorted_and_said(sales, truth, tmp_path):
    header, *rows = sales.read_text().splitlines()
    turned = tmp_path / "turned.csv"
    turned.write_text("\n".join([header, *rows[::-1]]))
    done = run(turned, "--horizon", 3, *BOLT, "--json")
    assert done.stderr.startswith(f"Warning: {turned}: the rows of series 0 were not in order")
    found = json.loads(done.stdout)["series"]
    assert found[0]["times"] == ["2024-05", "2024-06", "2024-07"]
    for series, values in zip(found, truth, strict=True):
        quantiles = np.array(list(series["quantiles"].values()), np.float32)
        np.testing.assert_array_equal(quantiles, values.T)


def test_several_series_in_one_file(tmp_path):
    text = "shop,sold\n" + "".join(f"{shop},{i}\n" for shop in ("a", "b") for i in range(9))
    refused = run("-", "--horizon", 2, *BOLT, stdin=text, code=1).stderr
    assert "column 'shop' repeats its values" in refused
    assert "--id COLUMN" in refused
    found = json.loads(run("-", "--id", "shop", "--json", *BOLT, stdin=text).stdout)["series"]
    assert [series["id"] for series in found] == ["a", "b"]
    found = json.loads(run("-", "--one-series", "--json", *BOLT, stdin=text).stdout)["series"]
    assert len(found) == 1


def test_a_dead_sensor_is_null_and_empty(tmp_path):
    rows = [f"{i},{'' if s == 'b' else i},{s}" for s in "ab" for i in range(9)]
    text = "t,v,id\n" + "\n".join(rows)
    options = ("-", "--id", "id", "--horizon", 2, *BOLT)
    done = run(*options, "--json", stdin=text)
    assert "Warning: series 1: all values that are read are missing" in done.stderr
    assert "NaN" not in done.stdout
    alive, dead = json.loads(done.stdout)["series"]
    assert None not in alive["forecast"]
    assert dead["forecast"] == dead["quantiles"]["0.1"] == [None, None]
    rows = list(csv.reader(run(*options, "-o", "-", stdin=text).stdout.splitlines()))
    assert rows[3:] == [["b", "9", "", "", "", ""], ["b", "10", "", "", "", ""]]
    shown = run(*options, "--plot", tmp_path / "a.png", stdin=text)
    assert "nan" in shown.stdout
    text = "t,v\n" + "".join(f"{i},\n" for i in range(9))
    done = run("-", "--target", "v", "--horizon", 2, "--json", *BOLT, stdin=text)
    assert json.loads(done.stdout)["series"][0]["forecast"] == [None, None]


def test_a_high_level_keeps_its_waves(tmp_path):
    waves = [10 if i % 7 < 5 else 0 for i in range(70)]
    with TesseraTimeSeries(path=ARTIFACTS / "bolt") as model:
        truth = model.forecast(waves, 7)[0]
    for level in (10**8, 3 * 10**9):
        text = "v\n" + "".join(f"{level + wave}\n" for wave in waves)
        options = ("-", "--horizon", 7, *BOLT)
        found = json.loads(run(*options, "--json", stdin=text).stdout)["series"][0]
        np.testing.assert_allclose(np.array(found["forecast"]) - level, truth, atol=1e-3)
        rows = list(csv.reader(run(*options, "-o", "-", stdin=text).stdout.splitlines()))[1:]
        np.testing.assert_allclose([float(row[1]) - level for row in rows], truth, atol=1e-3)
        shown = run(*options, stdin=text).stdout.splitlines()[3:10]
        np.testing.assert_allclose([float(r.split()[2]) - level for r in shown], truth, atol=1e-3)


def test_csv_to_stdout_and_compressed_input(sales, tmp_path):
    packed = tmp_path / "sales.csv.gz"
    packed.write_bytes(gzip.compress(sales.read_bytes()))
    out = tmp_path / "out.csv"
    run(sales, "--horizon", 3, "-o", out, *BOLT)
    for source, stdin in ((packed, None), (sales, None), ("-", packed.read_bytes())):
        done = run(source, "--horizon", 3, "-o", "-", *BOLT, stdin=stdin)
        assert (done.stdout, done.stderr) == (
            out.read_text(),
            "2 series, 3 steps each, in stdout\n",
        )
    done = run(sales, "--horizon", 3, "-o", "-", "--json", *BOLT)
    assert (done.stdout, json.loads(done.stderr)["series"]) == (out.read_text(), 2)


def test_german_numbers_and_dates(tmp_path):
    text = "Datum;Umsatz\n" + "".join(f"01.{m:02}.2024;1.{m}00,5\n" for m in range(1, 10))
    found = json.loads(run("-", "--horizon", 2, "--json", *BOLT, stdin=text).stdout)["series"][0]
    with TesseraTimeSeries(path=ARTIFACTS / "bolt") as model:
        truth = model.forecast([1000.5 + 100 * m for m in range(1, 10)], 2)[0]
    assert found["times"] == ["01.10.2024", "01.11.2024"]
    np.testing.assert_allclose(found["forecast"], truth, rtol=1e-6)
    text = "v;w\n1.234;x\n1.235;y\n"
    assert "--decimal" in run("-", *BOLT, stdin=text, code=1).stderr
    run("-", "--decimal", ",", *BOLT, stdin=text)


def test_the_default_horizon_is_the_models(sales):
    found = json.loads(run(sales, *BOLT, "--json", "--levels", "0.9,0.2").stdout)
    assert found["horizon"] == 64
    assert list(found["series"][0]["quantiles"]) == ["0.9", "0.2"]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_plot(sales, tmp_path, suffix):
    chart = tmp_path / f"chart.{suffix}"
    run(sales, "--horizon", 24, "--plot", chart, *BOLT)
    if suffix == "png":
        with Image.open(chart) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        blue = (pixels[..., 2] - pixels[..., 0]) > 60  # the median and the bands
        half = len(pixels) // 2
        assert blue[:half].sum() > 200  # one chart a series
        assert blue[half:].sum() > 200
    else:
        assert chart.read_bytes()[:5] in (b"<?xml", b"%PDF-")


@pytest.mark.slow
def test_the_first_twelve_series_are_drawn(tmp_path):
    text = "v,id\n" + "".join(f"{i % 5},s{i % 14}\n" for i in range(70))
    done = run("-", "--id", "id", "--horizon", 2, "--plot", tmp_path / "a.png", *BOLT, stdin=text)
    assert "the first 12 of 14 series are drawn" in done.stderr


@pytest.mark.parametrize("name", ["日本 \x07", "x" * 100_000])
def test_a_chart_of_any_id_says_nothing_about_it(tmp_path, name):
    text = "v,id\n" + "".join(f"{i},{name}\n" for i in range(9))
    chart = tmp_path / "a.svg"
    done = run("-", "--id", "id", "--horizon", 2, "--plot", chart, *BOLT, stdin=text)
    assert done.stderr == ""
    assert ET.parse(chart).getroot().get("width") == "648pt"
    assert chart.stat().st_size < 200_000


def test_a_setting_that_matplotlib_refuses(sales):
    words = ["forecast", str(sales), "--plot", "a.png"]
    code = f"from tessera_onnx.cli.main import main; main({words!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MPLBACKEND": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: matplotlib cannot be used, its import fails with Value")
    assert (done.stderr.count("\n"), "nonsense" in done.stderr) == (1, False)


@pytest.mark.parametrize("name", ["forecast", "step", "0.5", "target"])
def test_a_column_name_comes_once_in_a_csv_file(tmp_path, name):
    text = f"v,w,{name}\n1,2,x\n2,3,x\n"
    done = run("-", "--id", name, "-o", tmp_path / "o.csv", "-m", "none", stdin=text, code=1)
    assert f"the output would have two columns {name!r}: " in done.stderr
    run("-", "--id", name, "-o", tmp_path / "o.jsonl", *BOLT, stdin=text)


def test_without_matplotlib(sales):
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from tessera_onnx.cli.main import main\n"
        f"main(['forecast', {str(sales)!r}, '--plot', 'a.png', '-m', {BOLT[1]!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith('Error: a chart needs matplotlib: `pip install "PATH[plot]"`')


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--levels", "0.1,x"), 2, "expected numbers between commas"),
        (("--levels", "0.1,0.1"), 2, "a level comes twice"),
        (("--levels", "0.1,0.10000001"), 2, "a level comes twice"),  # under one name
        (("--levels", "0.1,2"), 1, "levels[1] must lie between 0 and 1"),
        (("--horizon", "0"), 2, "0 is not in the range"),
        (("--horizon", "999999999"), 1, "horizon must be at most 65536"),
        (("--output", "out.txt"), 1, "must end in .csv or .jsonl, or be -"),
        (("--plot", "out.gif"), 1, "must end in .png, .svg, .pdf"),
        (("--target", "profit"), 1, "--target 'profit' is no column"),
        (("-m", "all-minilm-l6-v2"), 1, "not time-series"),
    ],
)
def test_bad_options(sales, options, code, message):
    done = run(sales, *BOLT, *options, code=code)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_horizon_of_numbered_steps_has_a_bound():
    done = run("-", "--horizon", 10**24, *BOLT, stdin="v\n1\n2\n", code=1)
    assert "horizon must be at most 65536" in done.stderr


def test_input_and_output_differ_and_a_failure_leaves_no_file(sales, tmp_path):
    before = sales.read_bytes()
    assert "FILE.csv itself" in run(sales, "-o", sales, *BOLT, code=2).stderr
    assert sales.read_bytes() == before
    folder = tmp_path / "none"
    assert "cannot be written" in run(sales, "-o", folder / "a.csv", *BOLT, code=1).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_sparkline_by_hand():
    assert output.sparkline(np.array([0, 7, np.nan, 3, 10.5])) == "▁▆ ▃█"
    assert output.sparkline(np.array([2.0, 2.0])) == "▁▁"
    assert output.sparkline(np.array([np.nan])) == " "
