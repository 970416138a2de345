"""CSV files as people write them become series; what is wrong names the line, not the cell."""

import numpy as np
import pytest

from tessera_onnx import ConfigError, FileError, csv_series

NAN = pytest.approx(np.nan, nan_ok=True)


@pytest.fixture
def read(tmp_path):
    def write_and_read(content, **options):
        path = tmp_path / "sales.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return csv_series.read(str(path), **options)

    return write_and_read


def plain(table):
    return [(s.id, s.target, s.values.tolist()) for s in table.series]


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
        csv_series.read(str(tmp_path / "x.csv"))
    with pytest.raises(FileError, match="cannot be read: .*directory"):
        csv_series.read(str(tmp_path))
