"""CSV files as people write them become series; what is wrong names the line, not the cell."""

import gzip

import numpy as np
import pandas as pd
import pytest

from tessera_onnx import ConfigError, FileError
from tessera_onnx.cli import csv_series

NAN = pytest.approx(np.nan, nan_ok=True)


@pytest.fixture
def read(tmp_path):
    def write_and_read(content, **options):
        path = tmp_path / "sales.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return csv_series.read_csv(str(path), **options)

    return write_and_read


def plain(table):
    return [(s.id, s.target, s.values.tolist()) for s in table.series]  # noqa: PD011 (no pandas)


def test_every_column_of_numbers(read):
    table = read("day,a,note,b\n2024-01-01,1,x,-1e3\n2024-01-02,,y, 2.5 \n2024-01-03,NA,z,nan\n")
    assert plain(table) == [(None, "a", [1, NAN, NAN]), (None, "b", [-1000, 2.5, NAN])]
    assert table.timestamp == "day"
    assert table.clock.following(2) == [["2024-01-04", "2024-01-05"]]
    (warning,) = table.warnings
    assert "a column is left out" in warning
    assert "line 2: column 'note' holds no number" in warning


def test_ids_take_turns(read):
    table = read("t,v,who\n1,1,b\n1,10,a\n2,2,b\n3,3,b\n", timestamp="t", id="who", target="v")
    assert plain(table) == [("b", "v", [1, 2, 3]), ("a", "v", [10])]
    assert [series.group for series in table.series] == [0, 1]
    assert table.clock.following(2) == [[4, 5], [2, 3]]


@pytest.mark.parametrize(
    ("texts", "following"),
    [
        (["1949-11", "1949-12", "1950-01"], ["1950-02", "1950-03"]),
        (["2023-11-30", "2023-12-31", "2024-01-31"], ["2024-02-29", "2024-03-31"]),
        (["2024-01-04", "2024-01-05", "2024-01-08"], ["2024-01-09", "2024-01-10"]),
        (["2024-01-01 22:00", "2024-01-01 23:00", "2024-01-02 00:00"], ["2024-01-02 01:00"]),
        (["2024-01-01T00:00:00Z", "2024-01-01T06:00:00Z", "2024-01-01T12:00:00Z"],
         ["2024-01-01T18:00:00Z", "2024-01-02T00:00:00Z"]),
        (["2024-01-01T00:00:00+05:30", "2024-01-01T00:00:30+05:30", "2024-01-01T00:01:00+05:30"],
         ["2024-01-01T00:01:30+05:30"]),
        # As str(datetime) writes them; the last one has no microseconds.
        (["2024-01-01 00:00:00.500000", "2024-01-01 00:00:01", "2024-01-01 00:00:01.500000",
          "2024-01-01 00:00:02"], ["2024-01-01 00:00:02.500000", "2024-01-01 00:00:03.000000"]),
        (["2024-01-01T12:00", "2024-01-02", "2024-01-02T12:00", "2024-01-03"],
         ["2024-01-03T12:00", "2024-01-04T00:00"]),
        (["2024-01-01 00:00:00.25", "2024-01-01 00:00:00.5", "2024-01-01 00:00:00.75"],
         ["2024-01-01 00:00:01.000"]),
    ],
)  # fmt: skip
def test_timestamps_go_on_in_their_own_form(read, texts, following):
    table = read("when,v\n" + "".join(f"{text},1\n" for text in texts))
    assert table.clock.following(len(following)) == [following]


def test_years_are_timestamps(read):
    content = "year,v\n2001,1\n2002,2\n2003,3\n"
    for table in (read(content), read(content, timestamp="year")):
        assert table.clock.following(2) == [[2004, 2005]]
        assert plain(table) == [(None, "v", [1, 2, 3])]


@pytest.mark.parametrize(
    "content",
    [
        "a;b\n1;2\n3;4\n",
        "a\tb\n1\t2\n3\t4\n",
        "\ufeffa, b\r\n1,2\r\n3,4\r\n\r\n",
        'a,b\n"1",2\n3,4',
        '"a","b"\n1,2\n3,4',
    ],
)
def test_dialects(read, content):
    assert plain(read(content)) == [(None, "a", [1, 3]), (None, "b", [2, 4])]


@pytest.mark.parametrize("name", ["Sales, net, EUR", 'a ""b"", c,,', "two,\nlines,\tof,it"])
def test_separators_in_quotes_separate_nothing(read, name):
    content = f'"{name}";"b"\n1;2\n3;4\n'
    assert plain(read(content)) == [(None, name.replace('""', '"'), [1, 3]), (None, "b", [2, 4])]


def test_a_quote_within_a_cell_is_a_character(read):
    assert plain(read('5" pipe;6" pipe\n1;2\n')) == [(None, '5" pipe', [1]), (None, '6" pipe', [2])]


def test_messages_about_many_columns_are_short(read):
    header = ",".join(f"c{i}" for i in range(5000))
    with pytest.raises(ConfigError, match="'c9', and 4990 more$"):
        read(f"{header}\n{header}\n", target="x")
    with pytest.raises(FileError, match="'c9' holds no number; and 4990 more$"):
        read(f"{header}\n{header}\n")
    warnings = read(f"{header},v\n{header},1\n").warnings
    assert (len(warnings), warnings[-1]) == (11, "4990 more columns are left out")


def test_an_empty_line_is_a_gap_where_there_is_one_column(read):
    assert plain(read("a\n1\n\n3\n\n\n")) == [(None, "a", [1, NAN, 3])]


def test_dates_without_a_step_are_left_where_nobody_named_them(read):
    content = "day,v\n2024-01-01,1\n2024-01-02,2\n2024-01-04,3\n"
    table = read(content)
    assert table.clock is None
    assert table.timestamp is None
    assert plain(table) == [(None, "v", [1, 2, 3])]
    assert "steps are numbered: " in table.warnings[0]
    with pytest.raises(ConfigError, match="column 'day': .*irregular, see its rows 1 and 2"):
        read(content, timestamp="day")


@pytest.mark.parametrize(
    ("content", "options", "error", "message"),
    [
        ("", {}, FileError, "is empty"),
        ("a,b\n", {}, FileError, "no rows"),
        ("a,a\n1,2\n", {}, FileError, "line 1: a column name comes twice"),
        ("a,b\n1,2\n3\n", {}, FileError, "line 3: 1 cells, the first line has 2"),
        ("a,b\n1,2\n\n3,4\n", {}, FileError, "line 3: 0 cells"),
        ('a,b\n1,"x\ny"\n3\n', {}, FileError, "line 4: 1 cells"),
        ('a\n"secret\n', {}, FileError, "line 2: unexpected end"),
        (b"a\n1\n\xff\n", {}, FileError, "line 3: not UTF-8"),
        ("a\nsecret\n", {}, FileError, "no column of numbers: .*line 2"),
        ("a\n1\nsecret\n", {"target": "a"}, FileError, "line 3: column 'a' holds no number"),
        ("a\n1_000\n", {"target": "a"}, FileError, "line 2: column 'a' holds no number"),
        ("a\n1\n-inf\n", {"target": "a"}, FileError, "line 3: column 'a' holds infinity"),
        ("a\n1\n1e39\n", {"target": "a"}, FileError, "line 3: .*beyond float32"),
        ("a\n1\n", {"target": "b"}, ConfigError, "--target 'b' is no column .* it has 'a'"),
        ("a\n1\n", {"id": "b"}, ConfigError, "--id 'b' is no column"),
        ("a,b\n1,\n", {"id": "b"}, FileError, "line 2: column 'b' holds no id"),
        ("a\n1\n", {"timestamp": "b"}, ConfigError, "--timestamp 'b' is no column"),
        ("a\n1\n", {"timestamp": "a", "target": "a"}, ConfigError, "columns of their own"),
        ("t,a\nsecret,1\n", {"timestamp": "t"}, FileError, "line 2: column 't' holds no timestamp"),
        ("t,a\n2024-02-30,1\n", {"timestamp": "t"}, FileError, "line 2: .*does not exist"),
        (
            "t,a\n2024-01-01T00:00+01:00,1\n2024-01-01T01:00+02:00,1\n",
            {"timestamp": "t"},
            FileError,
            "line 3: .*another UTC offset",
        ),
        ("t,a\n2024-01-01,1\n2024-01-02,1\n", {"timestamp": "t"}, ConfigError, "longest has 2"),
    ],
)
def test_bad_files(read, tmp_path, content, options, error, message):
    with pytest.raises(error, match=message) as caught:
        read(content, **options)
    assert "sales.csv" in str(caught.value) or "columns of their own" in message
    assert "secret" not in str(caught.value).replace(str(tmp_path), "")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileError, match="cannot be read: No such file"):
        csv_series.read_csv(str(tmp_path / "x.csv"))
    with pytest.raises(FileError, match="cannot be read: .*directory"):
        csv_series.read_csv(str(tmp_path))


DAYS = pd.date_range("2024-01-01", periods=20)
MONTHS = pd.date_range("1949-01-01", periods=20, freq="MS")


def lines(header, rows):
    return "\n".join([header, *rows]) + "\n"


@pytest.mark.parametrize(
    ("form", "following"),
    [("%Y-%m-%d", "2024-01-21"), ("%d.%m.%Y", "21.01.2024"), ("%m/%d/%Y", "01/21/2024"),
     ("%d/%m/%Y", "21/01/2024"), ("%Y%m%d", 20240121), ("%d %b %Y", "21 Jan 2024")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["date", "timestamp", "when"])
def test_rows_are_sorted_by_time(read, form, following, name):
    rows = [f"{day:{form}},{i}" for i, day in enumerate(DAYS)]
    in_order = read(lines(f"{name},v", rows))
    assert in_order.warnings == []
    for given in (rows[::-1], rows[7:] + rows[:7]):
        for options in ({}, {"timestamp": name}, {"target": "v"}):
            table = read(lines(f"{name},v", given), **options)
            assert plain(table) == plain(in_order) == [(None, "v", list(range(20)))]
            assert table.clock.following(1) == [[following]]
            (warning,) = table.warnings
            assert "the rows of series 0 were not in order of time and have been sorted" in warning


def test_rows_are_sorted_id_by_id_also_without_a_step(read):
    table = read("d,v,who\n2024-01-03,3,b\n2024-01-01,10,a\n2024-01-01,1,b\n2024-01-07,7,b\n",
                 id="who")  # fmt: skip
    assert plain(table) == [("b", "v", [1, 3, 7]), ("a", "v", [10])]
    assert table.clock is None
    assert "the rows of series 0 were not in order" in table.warnings[0]
    assert "steps are numbered: " in table.warnings[1]


@pytest.mark.parametrize("options", [{}, {"target": "v"}, {"timestamp": "d"}])
def test_joined_series_are_an_error(read, options):
    twice = lines("d,v,shop", [f"{d:%Y-%m-%d},{i},{s}" for s in "ab" for i, d in enumerate(DAYS)])
    with pytest.raises(ConfigError, match="lines 2 and 22: .* twice .*--id COLUMN, such as 'shop'"):
        read(twice, **options)
    alone = twice.replace(",a\n", "\n").replace(",b\n", "\n").replace(",shop", "")
    with pytest.raises(ConfigError, match="lines 2 and 22: .*twice in one series: .*--id COLUMN, "):
        read(alone, **options)
    joined = lines("d,v,shop", [f"{d:%Y-%m-%d},{i},{'ab'[i // 10]}" for i, d in enumerate(DAYS)])
    with pytest.raises(ConfigError, match="'shop' repeats its values.*--id COLUMN"):
        read(joined, **options)
    assert len(read(joined, one_series=True, **options).series[0].values) == 20
    assert [s.id for s in read(twice, id="shop", **options).series] == ["a", "b"]
    with pytest.raises(ConfigError, match="--id 'who' does not tell series apart"):
        read(twice.replace("shop", "who").replace(",b\n", ",a\n"), id="who", **options)


def test_joined_series_without_times_are_an_error(read):
    for name, kinds in (("shop", "ab"), ("store_id", "12"), ("sku", "12")):
        content = lines(f"{name},v", [f"{kind},{i}" for kind in kinds for i in range(9)])
        with pytest.raises(ConfigError, match=f"column '{name}' repeats its values.*--id COLUMN"):
            read(content)
        assert [s[2][8] for s in read(content, id=name).series] == [8, 8]
    content = lines("shop,sku,v", [f"{kind},A{kind},{i}" for kind in "12" for i in range(9)])
    assert [series.target for series in read(content, id="shop").series] == ["v", "v"]


@pytest.mark.parametrize(
    ("header", "values"),
    [("date,v", "{:%Y-%m-%d}"), ("date,v", "{:%Y-%m}"), ("month,v", "{:%Y%m}"),
     ("d,v", "{:%Y%m%d}"), ("year,v", "{:%Y}"), ("date,v", "{:%m.%Y}"), ("month,v", "{:%Y.%m}"),
     ("date,v", "{:%b %Y}"), (",v", "{:%d/%m/%Y}"), ("t,v", "{:%s}000"), ("x,v", "{:%s}")],
)  # fmt: skip
def test_times_that_nobody_named_are_no_series(read, header, values):
    freq = "YS" if values == "{:%Y}" else "MS"
    times = pd.date_range("1990-01-01", periods=26, freq=freq)
    written = [values.format(time) for time in times]
    table = read(lines(header, [f"{text},{i}" for i, text in enumerate(written[:20])][::-1]))
    assert plain(table) == [(None, "v", list(range(20)))]
    assert [str(time) for time in table.clock.following(6)[0]] == written[20:]


def test_values_are_no_times(read):
    """Numbers that look like times stay series where neither name nor place nor step says so."""
    for content, names in (
        ("rate,x\n1.1801,1\n1.1802,2\n1.1803,3\n", ["rate", "x"]),
        ("sales,profit\n2000,1\n2003,2\n2001,3\n", ["sales", "profit"]),
        ("a,b\n1,2\n3,4\n5,6\n", ["a", "b"]),
        ("v\n2001\n2002\n2003\n", ["v"]),
        ("day\n1\n2\n4\n", ["day"]),
        ("v,note\n1,x 2024\n2,y\n3,z\n", ["v"]),
    ):
        table = read(content)
        assert [series.target for series in table.series] == names
        assert table.timestamp is None


def test_a_day_that_does_not_exist_does_not_go_on(read):
    for days, line in (("20240130 20240131 20240132", 4), ("20240227 20240230 20240228", 3)):
        content = lines("day,v", [f"{day},1" for day in days.split()])
        for options in ({}, {"timestamp": "day"}):
            with pytest.raises(
                FileError, match=f"line {line}: column 'day' holds a date that does"
            ):
                read(content, **options)
    with pytest.raises(FileError, match="column 'month' holds whole numbers that may be"):
        read("month,v\n202411,1\n202412,1\n202413,1\n")


@pytest.mark.parametrize("bad", ["", "N/A", "secret", "32.01.2024", "2024-01-05"])
def test_a_time_that_cannot_be_read_is_an_error(read, bad):
    """The order of the rows is not known then: no forecast in that of the file."""
    rows = [f"{bad if i == 4 else format(day, '%d.%m.%Y')},{i}" for i, day in enumerate(DAYS)]
    with pytest.raises(FileError, match="line 6: column 'd' holds (no timestamp|a date)") as caught:
        read(lines("d,v", rows))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("form", ["%m/%d/%y", "%m/%d/%Y %I:%M %p", "%H:%M", "%a %d %b %Y"])
def test_forms_that_are_not_read_are_an_error(read, form):
    rows = [f"{day:{form}},{i}" for i, day in enumerate(DAYS)]
    with pytest.raises(FileError, match="line 2: column 'date' holds no timestamp"):
        read(lines("date,v", rows))
    with pytest.raises(FileError, match="column 'date' holds days and months that cannot be told"):
        read(lines("date,v", [f"{day:%d/%m/%Y},1" for day in MONTHS[:9]]))


def test_parts_of_a_date_are_no_series(read):
    rows = [f"{d:%Y-%m-%d},{d.year},{d.month},{d.day},{i}" for i, d in enumerate(DAYS)]
    table = read(lines("date,year,month,day,v", rows))
    assert plain(table) == [(None, "v", list(range(20)))]
    assert sum("holds a part of the time" in warning for warning in table.warnings) == 3
    rows = [row.partition(",")[2] for row in rows]
    with pytest.raises(FileError, match="'year' and 'month' hold parts of the time: write it in"):
        read(lines("year,month,day,v", rows))


@pytest.mark.parametrize(
    "content",
    [
        "".join(f"2024-01-{day:02},{day}\n" for day in range(1, 31)),
        "".join(f"{day:02}.01.2024;{day},5\n" for day in range(1, 31)),
        "".join(f"{day},{day}.5\n" for day in range(1, 31)),
        "5\n6\n7\n",
        "2024-01-01,\n2024-01-02,4\n",
        "".join(f"north,{day}\n" for day in range(1, 9)),
        "".join(f"north,2024-01-{day:02},{day}\n" for day in range(1, 9)),
        "".join(f"n{day},2024-01-{day:02},{day}\n" for day in range(1, 9)),
        "n1,5,1.5\nn2,6,1.0\nn3,4,2.5\n",
    ],
)
def test_a_file_without_names(read, content):
    with pytest.raises(FileError, match="line 1: it holds values, not the names of columns"):
        read(content)


@pytest.mark.parametrize(
    "header", ["date,101,102", "date,1,2", "shop,101,102", "date,forecast,0.1", "v,0.1,0.9"]
)
def test_numbers_may_be_names(read, header):
    first = "2024-01-0{}" if header.startswith("date") else "{}" if header[0] == "v" else "shop {}"
    rows = [f"{first.format(i)},{i},{3 - i / 2}" for i in range(1, 5)]
    names = [series.target for series in read(lines(header, rows)).series]
    assert names[-2:] == header.split(",")[1:]


def test_times_as_column_names(read):
    for names in ("2024-01,2024-02,2024-03", "2019,2020,2021", "202401,202402,202403"):
        with pytest.raises(FileError, match="times stand in place of column names"):
            read(f"shop,{names}\na,1,2,3\nb,2,3,4\n")


def test_the_index_of_pandas_is_no_series(read):
    frame = pd.DataFrame({"date": DAYS, "v": np.arange(20.0)})
    want = [(None, "v", list(range(20)))]
    shuffled = frame.sample(frac=1, random_state=1)
    again = pd.DataFrame({"Unnamed: 0": range(20), "date": DAYS, "v": np.arange(20.0)})
    named = frame.rename_axis("index").reset_index()
    for given in (frame, shuffled, again, named.set_index("index")):
        table = read(given.to_csv())
        assert plain(table) == want
        assert any("left out" in warning for warning in table.warnings)
        assert table.clock.following(1) == [["2024-01-21"]]
    table = read(frame.set_index("date").rename_axis(None).to_csv())
    assert (plain(table), table.timestamp, table.warnings) == (want, "", [])
    assert plain(read(pd.DataFrame(np.eye(4)).to_csv())) == [
        (None, str(i), np.eye(4)[i].tolist()) for i in range(4)
    ]
    stores = pd.DataFrame({101: np.arange(20.0), 102: np.arange(20.0) * 2}, index=DAYS)
    table = read(stores.to_csv())
    assert [series.target for series in table.series] == ["101", "102"]
    assert table.clock.following(1) == [["2024-01-21"]]
    assert plain(read(frame.to_csv(), target="")) == [(None, "", list(range(20)))]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1,5", "2,25", "-3"], [1.5, 2.25, -3]),
        (["1.234,5", "2", "1.000.000"], [1234.5, 2, 1e6]),
        (["1,5", "1.234", "2,125"], [1.5, 1234, 2.125]),
        (["0,125", "1,250", ",5"], [0.125, 1.25, 0.5]),
        (["1,234.5", "1,234", "1,234,567"], [1234.5, 1234, 1234567]),
        (["1.5", "2.250", "1e3"], [1.5, 2.25, 1000]),
        (["1,5e3", "N/A", "-"], [1500, NAN, NAN]),
    ],
)
def test_decimal_marks(read, cells, values):
    assert plain(read(lines("d;v", [f"x{i};{c}" for i, c in enumerate(cells)]))) == [
        (None, "v", values)
    ]
    assert plain(read(lines("d,v", [f'x{i},"{c}"' for i, c in enumerate(cells)]))) == [
        (None, "v", values)
    ]


def test_decimal_marks_that_nothing_tells(read):
    for cell, options in (("1.234", [";"]), ("1,234", [";", "\t"])):
        for delimiter in options:
            content = lines(f"d{delimiter}v", [f"x{i}{delimiter}{cell}" for i in range(3)])
            with pytest.raises(FileError, match="'v' holds .* may be thousands or decimals: say"):
                read(content, target="v")
            point, comma = (1.234, 1234.0) if "." in cell else (1234.0, 1.234)
            assert plain(read(content, decimal=".")) == [(None, "v", [point] * 3)]
            assert plain(read(content, decimal=",")) == [(None, "v", [comma] * 3)]
    # Another column tells it.
    assert plain(read("a;b\n1.234;1,5\n2.345;2,5\n"))[0] == (None, "a", [1234, 2345])
    assert plain(read("a;b\n1.234;1.5\n2.345;2.5\n"))[0] == (None, "a", [1.234, 2.345])
    assert plain(read("a,b\n1.234,x1\n2.345,x2\n"))[0] == (None, "a", [1.234, 2.345])
    with pytest.raises(FileError, match="'b' holds numbers with decimal points and with decimal c"):
        read("a;b\n1;1.5\n2;2,5\n", target="b")
    with pytest.raises(FileError, match="line 2: column 'b' holds no number"):
        read("a;b\n1;1.5\n2;2.5\n", target="b", decimal=",")


@pytest.mark.parametrize(
    "mark", ["N/A", "-", "null", "NULL", "None", "#N/A", ".", "?", "--", "\N{EN DASH}"]
)
def test_marks_of_missing_values(read, mark):
    assert plain(read(f"a,b\n1,2\n{mark},3\n5,4\n")) == [
        (None, "a", [1, NAN, 5]),
        (None, "b", [2, 3, 4]),
    ]


def test_german_files(read):
    rows = [f"{month:%d.%m.%Y};1.{i + 100},50;{i},5" for i, month in enumerate(MONTHS)]
    table = read(lines("Datum;Umsatz;Temperatur", rows[::-1]))
    assert plain(table) == [
        (None, "Umsatz", [1100.5 + i for i in range(20)]),
        (None, "Temperatur", [i + 0.5 for i in range(20)]),
    ]
    assert table.clock.following(2) == [["01.09.1950", "01.10.1950"]]


def test_compressed_files(read):
    content = gzip.compress(b"d,v\n2024-01-01,1\n2024-01-02,2\n2024-01-03,3\n")
    assert read(content).clock.following(1) == [["2024-01-04"]]
    with pytest.raises(FileError, match="no whole gzip file"):
        read(content[:-9])


def test_numbers_that_float64_does_not_hold(read):
    rows = [f"{day:%Y-%m-%d},{2**62 + i},{3 * 10**9 + i}" for i, day in enumerate(DAYS)]
    table = read(lines("d,a,b", rows))
    assert plain(table) == [(None, "b", [3e9 + i for i in range(20)])]
    assert "'a' holds numbers so large that float64" in table.warnings[0]


def test_columns_and_series_without_a_number(read):
    table = read("d,a,b\n2024-01-01,1,\n2024-01-02,2,NA\n2024-01-03,3,-\n")
    assert plain(table) == [(None, "a", [1, 2, 3])]
    assert table.warnings == ["a column is left out: column 'b' holds no number"]
    dead = read("d,a,b\n2024-01-01,1,\n2024-01-02,2,NA\n2024-01-03,3,-\n", target="b")
    assert plain(dead) == [(None, "b", [NAN] * 3)]
