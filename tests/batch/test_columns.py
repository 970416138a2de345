"""Results as columns, and what is told of a row, by hand."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from tessera_onnx.batch import manifest, places
from tessera_onnx.batch.columns import Column
from tessera_onnx.batch.encoder import Encoder
from tessera_onnx.batch.job import Job
from tessera_onnx.batch.outcomes import Outcome


def test_bits_of_a_width_that_is_no_multiple_of_eight():
    column = Column("vector", 10, "binary")
    row = np.array([1, -1, 1, 1, -1, -1, -1, -1, -1, 2], np.float32)
    (found,) = column.arrays([row, None, -row])
    assert found.type == column.fields()[0].type == pa.list_(pa.uint8(), 2)
    assert found.to_pylist() == [[0b10110000, 0b01000000], None, [0b01001111, 0b10000000]]


@pytest.mark.parametrize(
    ("dtype", "number", "sound"),
    [
        ("float32", 1e5, True),
        ("float16", 1e5, False),  # infinity there
        ("float16", 6e4, True),
        ("float32", np.nan, False),
        ("int8", np.inf, False),
    ],
)
def test_numbers_that_are_finite_in_the_type_that_is_stored(dtype, number, sound):
    good, row = np.zeros(2, np.float32), np.array([1, number], np.float32)
    for result in ("vector", "vectors"):
        found = Column(result, 2, dtype).unsound([good, None, row])
        assert found == ([] if sound else [2])


def test_a_row_that_fails_late_has_nothing_but_its_first_error():
    outcome = Outcome(result=[1.0], tokens=3, truncated=False)
    outcome.fail("first")
    outcome.fail("second")
    assert outcome == Outcome(error="first")


def test_a_series_of_the_context_length_is_not_cut():
    encoder = Encoder("tessera-bolt-mini", "s", horizon=2)
    most = encoder.opened()[0].context_length()
    made = encoder(pa.table({"s": [[1.0, 2.0] * (most // 2), [1.0] * (most + 1)]}))
    assert made.column("truncated").to_pylist() == [False, True]
    assert made.column("tokens").to_pylist() == [most, most]
    encoder.close()


def test_a_row_is_told_with_its_row_group(tmp_path):
    texts = ["a", "b", "c", None, "d", "e", None]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=2)
    job = Job([str(tmp_path / "a.parquet")], str(tmp_path / "out"),
              Encoder("tessera-static-mini", "text"))  # fmt: skip
    told = [(row["row"], row["row_group"]) for row in job.run().failed_rows]
    assert told == [(3, 1), (6, 3)]


def test_the_end_of_a_large_input_tells_it_from_another(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * (3 * manifest.ENDS))
    (fragment,), _ = places.found([str(path)], str(tmp_path / "out"))
    before = manifest.identity(fragment)
    assert isinstance(fragment.system, fs.LocalFileSystem)
    with path.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"y")
    assert manifest.identity(fragment) != before
