"""What files become: documents with sources and fields, or an error that names the file."""

import gzip
import json
import os

import pdf_files
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tessera_onnx import ConfigError, FileError
from tessera_onnx.batch import formats
from tessera_onnx.collection.documents import (
    Document,
    Reading,
    absolute,
    find_files,
    is_inside,
    read_documents,
)
from tessera_onnx.images.pdf import read_texts

FONT = "/Resources << /Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"


def pdf(*lines, password=None):
    """A page a line; "" is a page without text."""
    shown = [
        f"BT /F 12 Tf 20 50 Td ({line}) Tj ET" if line else pdf_files.QUARTERS for line in lines
    ]
    pages = [pdf_files.page(entries=FONT, content=each.replace("{", "{{").replace("}", "}}"))
             if "Tj" in each else pdf_files.page() for each in shown]  # fmt: skip
    return pdf_files.build(pages, password=password)


def read(path, **options):
    return list(read_documents(path, Reading(**options)))


def test_a_text_is_one_document_with_its_ends_of_lines(tmp_path):
    path = tmp_path / "a.md"
    path.write_bytes("\ufeffé\r\nb\n".encode())
    assert read(path) == [Document(str(path), "é\r\nb\n", str(path))]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"caf\xe9 au lait", "is not UTF-8: .* at byte 3; convert it first"),
     (b"\x7fELF\0\0\1", "is no text: it holds a zero byte")],
)  # fmt: skip
def test_what_is_no_text_is_an_error_that_names_the_file(tmp_path, content, message):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(FileError, match=message) as caught:
        read(path)
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)


ROWS = [
    {
        "key": "k0",
        "title": "Bread",
        "text": "Fresh bread.",
        "year": 2020,
        "free": True,
        "score": 0.5,
    },
    {"key": "k1", "title": "Rain", "text": "It rains.", "year": 2021, "free": False, "score": None},
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.arrow"])
def test_rows_become_documents(tmp_path, name):
    path = tmp_path / name
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif name.endswith("arrow"):
        table = pa.Table.from_pylist(ROWS)
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    else:
        path.write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    first, second = read(path)
    fields = {"key": "k0", "title": "Bread", "year": 2020, "free": True, "score": 0.5}
    assert first == Document(f"{path}#0", "Fresh bread.", str(path), fields)
    assert second.fields == {"key": "k1", "title": "Rain", "year": 2021, "free": False}
    assert type(first.fields["free"]) is bool
    first, second = read(path, text_fields=("title", "text"), id_field="key")
    assert (first.source, first.text) == (f"{path}#k0", "Bread\nFresh bread.")
    assert "title" not in first.fields
    with pytest.raises(FileError, match="has no column 'body': it has key, title, text"):
        read(path, text_fields=("body",))


def test_dates_are_fields_and_vectors_are_not(tmp_path):
    path = tmp_path / "a.parquet"
    day = pa.array([18262], pa.date32())
    others = {"vector": [[1.0]], "raw": [b"x"], "nan": [float("nan")]}
    pq.write_table(pa.table({"text": ["a"], "day": day, **others}), path)
    assert read(path)[0].fields == {"day": "2020-01-01"}


def test_a_date_that_python_does_not_have_is_no_field(tmp_path):
    path = tmp_path / "a.parquet"
    columns = {
        "far": pa.array([2**62], pa.timestamp("us")),
        "later": pa.array([2**30], pa.date32()),
        "elsewhere": pa.array([1], pa.timestamp("us", tz="Nowhere/City")),
        "day": pa.array([18262], pa.date32()),
    }
    pq.write_table(pa.table({"text": ["a"], **columns}), path)
    assert read(path) == [Document(f"{path}#0", "a", str(path), {"day": "2020-01-01"})]


def test_columns_of_one_name_are_no_fields_and_no_text(tmp_path):
    path = tmp_path / "a.parquet"
    columns = [pa.array([each]) for each in "abcd"]
    pq.write_table(pa.Table.from_arrays(columns, ["text", "k", "k", "m"]), path)
    assert read(path)[0].fields == {"m": "d"}
    for options in ({"text_fields": ("k",)}, {"id_field": "k"}):
        with pytest.raises(FileError, match="has several columns 'k': rename them"):
            read(path, **options)


def test_the_longest_value_is_a_field_and_a_longer_one_is_none(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a", "most": "x" * 1024, "more": "x" * 1025}) + "\n")
    assert read(path)[0].fields == {"most": "x" * 1024}


def test_an_id_is_a_string_or_a_whole_number(tmp_path):
    path = tmp_path / "a.parquet"
    for ids in ([True], [1.5], [None], [[1]]):
        pq.write_table(pa.table({"text": ["a"], "id": ids}), path)
        (error,) = read(path, id_field="id")
        assert "row 0: the cell in 'id' is no string or whole number" in str(error)


def test_rows_are_counted_over_all_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "READ_ROWS", 2)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": None if i == 4 else "a"}) + "\n" for i in range(6)))
    found = read(path)
    assert [each.source for each in found if isinstance(each, Document)] == [
        f"{path}#{i}" for i in (0, 1, 2, 3, 5)
    ]
    assert found[4].index == 4
    assert "row 4: " in str(found[4])


@pytest.mark.posix
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "a.pdf"])
def test_what_might_never_end_is_not_read(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(FileError, match="it is a pipe or a device, not a regular file") as caught:
        read(tmp_path / name)
    assert caught.value.path == str(tmp_path / name)
    (tmp_path / "b.md").symlink_to(tmp_path / "b.md")
    with pytest.raises(FileError, match="b.md cannot be read: "):
        read(tmp_path / "b.md")


def test_a_row_without_a_text_is_an_error_among_documents(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": null}\n{"text": 3}\n{"other": 1}\n{"text": "b"}\n')
    found = read(path)
    assert [each.text for each in found if isinstance(each, Document)] == ["a", "b"]
    errors = [str(each) for each in found if not isinstance(each, Document)]
    assert errors == [
        f"{path}, row 1: the cell in 'text' is null",
        f"{path}, row 2: the cell is a number and no text",
        f"{path}, row 3: the cell in 'text' is null",
    ]


def test_a_row_that_is_not_utf8_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "caf\xe9"}\n{"text": "b"}\n')
    error, document = read(path)
    assert str(error) == f"{path}, row 0: it is not UTF-8"
    assert document.text == "b"


def test_a_damaged_table_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(FileError) as caught:
        read(path)
    assert caught.value.path == str(path)
    (tmp_path / "empty.jsonl").write_bytes(b"")
    assert read(tmp_path / "empty.jsonl") == []


def test_pages_of_a_pdf_are_documents(tmp_path):
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf("Fresh bread", "", "Annual rainfall"))
    found = read(path)
    assert [each.text.strip() for each in found] == ["Fresh bread", "", "Annual rainfall"]
    assert [each.source for each in found] == [f"{path}#page={n}" for n in (1, 2, 3)]
    assert found[2].fields == {"page": 3}
    path.write_bytes(pdf("Secret", password="key"))
    with pytest.raises(FileError, match="it is encrypted, pass its `password=`"):
        read(path)
    assert read(path, password="key")[0].text.strip() == "Secret"
    path.write_bytes(b"no PDF")
    with pytest.raises(FileError, match="is no PDF"):
        list(read_texts(path))


def test_words_of_a_page_are_those_of_the_drawing_reader(tmp_path):
    """The other reader of text layers in this package goes letter by letter."""
    from tessera_onnx.images.pdf import read_pages

    path = tmp_path / "a.pdf"
    path.write_bytes(pdf("Fresh bread and 3.5 percent rye", "x"))
    pages = list(read_pages(path, words=True))
    for page, text in zip(pages, read_texts(path), strict=True):
        assert [word.text for word in page.words] == text.split()


def test_a_folder_is_walked_in_order_without_hidden_files(tmp_path):
    for name in (
        "b.txt",
        "a.md",
        "sub/c.pdf",
        ".git/d.txt",
        "x/.e.txt",
        "photo.jpg",
        "store/f.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    found, ignored, unreadable = find_files([tmp_path, tmp_path / "b.txt"], tmp_path / "store")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "a.md",
        "b.txt",
        "sub/c.pdf",
    ]
    assert ignored == 1
    assert unreadable == {}
    with pytest.raises(FileError, match="gone.txt is not there"):
        find_files([tmp_path / "gone.txt"], tmp_path)
    with pytest.raises(ConfigError, match="photo.jpg has an ending that is not known: give .txt"):
        find_files([tmp_path / "photo.jpg"], tmp_path)
    for wrong in (str(tmp_path), tmp_path, b"a", None, 3):
        with pytest.raises(TypeError, match="paths must be a list of paths"):
            absolute(wrong)


def test_inside_is_by_folders_and_not_by_letters(tmp_path):
    assert is_inside(str(tmp_path / "a" / "b.txt"), [tmp_path / "a"])
    assert not is_inside(str(tmp_path / "ab.txt"), [tmp_path / "a"])
    assert is_inside(str(tmp_path / "b.txt"), [tmp_path / "b.txt"])
    assert not is_inside("", [tmp_path])


def test_the_hash_is_of_text_file_and_fields():
    one = Document("s", "text", "f", {"a": 1, "b": 2})
    assert one.sha256() == Document("other", "text", "f", {"b": 2, "a": 1}).sha256()
    others = [Document("s", "text!", "f", one.fields), Document("s", "text", "f", {"a": 1}),
              Document("s", "text", "g", one.fields)]  # fmt: skip
    assert len({each.sha256() for each in [one, *others]}) == 4
