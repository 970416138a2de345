"""Errors about texts of a file name its lines, which blank lines and long rows move."""

import json

import pytest
from artifact_tools import copy, relist
from command import run

from tessera_onnx import ConfigError, EncodingError, FileError, InputTooLong, TesseraError
from tessera_onnx.cli import csv_series
from tessera_onnx.cli.texts import Texts, about_lines


def fail(texts, error):
    """What a command raises for an error of the library about the texts of a file."""
    list(texts)
    with pytest.raises(type(error)) as caught, about_lines(texts):
        raise error
    return caught.value


def test_one_text_is_one_line(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("a\n\n\nb\nc\n")
    texts = Texts(str(source), "text")
    given = InputTooLong("text 1 has 9 tokens, the model reads 8", index=1)
    error = fail(texts, given)
    assert str(error) == f"{source}, line 4: {given}"
    assert (error.index, error.path, error.line) == (1, str(source), 4)


@pytest.mark.parametrize(
    ("content", "indices", "said"),
    [
        ("a\n" * 99, range(64), "lines 1 to 64"),
        ("\n" + "a\n" * 99, range(64), "lines 2 to 65"),
        ("a\n\n" + "a\n" * 99, range(64), "64 of the lines 1 to 65"),
        ("a\n" * 99, (90, 3, 7), "lines 4, 8, 91"),
        ("a\n" * 99, range(0, 64, 2), "32 of the lines 1 to 63"),
        ("a\n" * 99, (5,), "line 6"),
    ],
)
def test_several_texts_are_their_lines(content, indices, said, tmp_path):
    source = tmp_path / "a.txt"
    source.write_text(content)
    texts = Texts(str(source), "text")
    error = fail(texts, EncodingError("texts 0 to 63: it failed", indices=indices))
    assert str(error) == f"{source}, {said}: texts 0 to 63: it failed"
    assert (error.indices, error.line) == (tuple(indices), texts.line(min(indices)))


def test_rows_of_a_table_are_the_lines_where_they_begin(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text('text\n"one\ntwo"\nthree\n\n"four\n\nfive"\nsix\n')
    texts = Texts(str(source), "text")
    error = fail(texts, EncodingError("it failed", indices=(1, 2, 3)))
    assert str(error) == f"{source}, lines 4, 6, 9: it failed"


def test_an_error_about_no_text_stays_as_it_is(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("a\n")
    for given in (
        EncodingError("the model is closed"),
        ConfigError("text 0 is no message to read"),
    ):
        assert fail(Texts(str(source), "text"), given) is given


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.txt", b"a\nb\xff\n", 2),
        ("a.jsonl", b'"a"\n\n{"text": 3}\n', 3),
        ("a.csv", b'text,n\n"a\nb",1\nc\n', 4),
        ("a.csv", b"other\na\n", 1),
        ("none.txt", None, None),
        ("a.txt.gz", b"no gzip", None),
    ],
)
def test_errors_about_a_file_carry_its_path_and_line(name, content, line, tmp_path):
    source = tmp_path / name
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(FileError) as caught:
        list(Texts(str(source), "text"))
    assert (caught.value.path, caught.value.line) == (str(source), line)
    if line is not None:
        assert str(caught.value).startswith(f"{source}, line {line}: ")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", None),
        (b"day,sold\n2024-01-01,1\n2024-01-02,1,2\n", 3),
        (b"day,sold\n2024-01-01,1\n\xff,2\n", 3),
        (b"day,sold\n2024-01-01,1\n2024-01-01,2\n2024-01-02,1\n", 3),
        (b"day,day\n1,2\n", 1),
    ],
)
def test_errors_about_a_file_of_series_carry_its_path_and_line(content, line, tmp_path):
    source = tmp_path / "a.csv"
    source.write_bytes(content)
    with pytest.raises(TesseraError) as caught:
        csv_series.read_csv(str(source))
    assert (caught.value.path, caught.value.line) == (str(source), line)
    assert line is None or str(line) in str(caught.value)


def test_a_failure_of_a_whole_batch_names_all_its_lines(tmp_path):
    """A tokenizer that panics does not tell at which text."""
    model = copy("prompts", tmp_path / "m")
    rules = json.loads((model / "tokenizer.json").read_text())
    rules["pre_tokenizer"] = {"type": "FixedLength", "length": 0}
    relist(model, "tokenizer.json", json.dumps(rules).encode())
    source = tmp_path / "a.txt"
    source.write_text("a b\n\n" + "c d\n" * 63)
    error = run("encode", source, "-o", tmp_path / "o.npy", "-m", model, code=1).stderr
    assert f"Error: {source}, 64 of the lines 1 to 65: texts 0 to 63: the tokenizer panics" in error
