"""Spark on this machine with two workers: encode against Encoder.

Java is that of JAVA_HOME, else the one on the path; Spark says where there is none.
"""

import os
import sys

import artifact_tools
import numpy as np
import pyarrow as pa
import pytest
import test_docs
from pyspark.errors import PythonException
from pyspark.sql import SparkSession

from tessera_onnx.batch.encoder import Encoder
from tessera_onnx.errors import ConfigError, ModelNotFound
from tessera_onnx.integrations import spark as engine
from tessera_onnx.integrations.spark import encode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore:lance is not fork-safe"),  # where its tests run before
]

MINILM = "all-minilm-l6-v2"
FOLDERS = artifact_tools.ARTIFACTS
REPORT = ["tokens", "truncated", "error"]


@pytest.fixture(scope="module", autouse=True)
def _python_of_workers():
    before = os.environ.get("PYSPARK_PYTHON")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    yield
    os.environ.pop("PYSPARK_PYTHON")
    if before is not None:
        os.environ["PYSPARK_PYTHON"] = before


@pytest.fixture(scope="module")
def spark(_python_of_workers):
    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", 3)
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture(scope="module")
def table():
    words = ["fresh bread", "rain", "a storm over the mill ", "the letter of a river "]
    texts = [None if i % 40 == 7 else words[i % 4] * (1 + i % 23) for i in range(300)]
    texts[11] = "rain " * 400
    return pa.table({"n": range(300), "text": texts})


@pytest.fixture
def frame(spark, table):
    return spark.createDataFrame(table).repartition(5)


def rows(made):
    """The rows of a data frame, in their order before the partitions."""
    return made.toArrow().sort_by("n")


def check(made, exact, name):
    """Batches of other texts move a float32 by some units in its last place."""
    pairs = zip(made[name].to_pylist(), exact[name].to_pylist(), strict=True)
    for a, b in pairs:
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(np.array(a), np.array(b), atol=1e-6)


def test_rows_vectors_and_errors_are_those_of_encoder(frame, table):
    found = encode(frame, MINILM, "text")
    assert found.columns == ["n", "text", "embedding", *REPORT]
    assert found.schema["embedding"].dataType.simpleString() == "array<float>"
    assert found.schema["embedding"].metadata == {"dimension": "384", "dtype": "float32"}
    made, exact = rows(found), Encoder(MINILM, "text")(table)
    check(made, exact, "embedding")
    for name in ("n", "text", *REPORT):
        assert made[name].to_pylist() == exact[name].to_pylist()
    assert made["error"].to_pylist().count("the cell is null") == 8
    assert made["truncated"].to_pylist().index(True) == 11


@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_every_kind_and_type_of_one_run(frame, table, dtype):
    options = {
        "path": FOLDERS / "m3",
        "kinds": ["dense", "sparse", "multi-vector"],
        "output_dtype": dtype,
    }
    found = encode(frame, None, "text", **options)
    made, exact = rows(found), Encoder(None, "text", **options)(table)
    assert made.column_names == exact.column_names
    check(made, exact, "sparse_values")
    for name in ("sparse_indices", *REPORT):
        assert made[name].to_pylist() == exact[name].to_pylist()
    if dtype == "float32":
        check(made, exact, "embedding")
        check(made, exact, "multi_vector")
    elif dtype == "int8":
        for name in ("embedding", "multi_vector"):
            pairs = zip(made[name].to_pylist(), exact[name].to_pylist(), strict=True)
            assert all(a is b is None or np.abs(np.array(a) - b).max() <= 1 for a, b in pairs)
            check(made, exact, f"{name}_scale")
    else:
        assert found.schema["embedding"].metadata["dimension"] == "32"
        wanted = [None if cell is None else bytes(cell) for cell in exact["embedding"].to_pylist()]
        assert made["embedding"].to_pylist() == wanted
        wanted = [
            cell and [bytes(each) for each in cell] for cell in exact["multi_vector"].to_pylist()
        ]
        assert made["multi_vector"].to_pylist() == wanted


def test_other_types_of_columns_images_and_forecasts(spark, tmp_path):
    from PIL import Image

    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    df = spark.createDataFrame(
        [(0, content, [1.0, 2.0, 3.0]), (1, bytearray(b"no picture"), None), (2, None, [])],
        "n int, image binary, v array<double>",
    )
    pages = rows(encode(df, None, "image", path=FOLDERS / "colpali"))
    exact = Encoder(None, "image", path=FOLDERS / "colpali")(pages.select(["n", "image"]))
    check(pages, exact, "multi_vector")
    assert pages["error"].to_pylist() == exact["error"].to_pylist()
    assert [bool(each) for each in pages["error"].to_pylist()] == [False, True, True]
    made = rows(encode(df, "tessera-bolt-mini", "v", horizon=4))
    exact = Encoder("tessera-bolt-mini", "v", horizon=4)(made.select(["n", "v"]))
    np.testing.assert_allclose(made["forecast"][0].as_py(), exact["forecast"][0].as_py(), rtol=1e-4)
    assert made["error"].to_pylist() == exact["error"].to_pylist()
    assert made["error"].null_count == 1


def test_empty_frames_partitions_and_nulls(spark):
    empty = spark.createDataFrame([], "n int, text string")
    found = encode(empty, MINILM, "text")
    assert found.toArrow().num_rows == 0
    few = spark.createDataFrame([(0, "rain"), (1, None)], "n int, text string").repartition(8)
    made = rows(encode(few, MINILM, "text"))
    assert made["error"].to_pylist() == [None, "the cell is null"]


def test_wrong_arguments_are_one_sentence_before_any_action(spark, frame):
    for column, match in (
        ("body", "^the data frame has no column 'body'; its columns are: n, text$"),
        ("n", "^column 'n' of the data frame has the type int64, and the model reads strings$"),
    ):
        with pytest.raises(ConfigError, match=match):
            encode(frame, MINILM, column)
    with pytest.raises(ConfigError, match="has a column 'error' already"):
        encode(frame.withColumnRenamed("n", "error"), MINILM, "text")
    with pytest.raises(ConfigError, match=r"^Spark has no float16: take float32, int8 or binary"):
        encode(frame, MINILM, "text", output_dtype="float16")
    with pytest.raises(ModelNotFound, match="no model is named 'nothing'"):
        encode(frame, "nothing", "text")


def test_the_last_line_of_an_error_of_a_worker_is_ours(frame):
    with pytest.raises(PythonException) as caught:
        encode(frame.coalesce(1), MINILM, "text", max_errors=2).collect()
    last = str(caught.value).strip().splitlines()[-1]
    assert last == (
        "tessera_onnx.errors.EncodingError: 8 rows failed, more than max_errors=2; one of the "
        "last: the cell is null"
    )


def test_a_worker_opens_a_model_once_for_all_tasks_and_jobs(spark, frame):
    """The encoder of a worker has counted the errors of all of its tasks."""
    folder = str(FOLDERS / "prompts")

    def held(batches):
        """Process, errors and threads of the model that this worker holds."""
        list(batches)
        found = [each for each in engine._OPEN.values() if each._options == {"path": folder}]
        told = [{"pid": os.getpid(), "errors": e.n_errors, "threads": e._threads} for e in found]
        yield pa.RecordBatch.from_pylist(told, pa.schema(dict.fromkeys(names, pa.int32())))

    names = ("pid", "errors", "threads")
    for _ in range(3):
        made = encode(frame, None, "text", path=folder).toArrow()
        assert made["error"].to_pylist().count("the cell is null") == 8
    schema = ", ".join(f"{name} int" for name in names)
    workers = spark.range(8).repartition(8).mapInArrow(held, schema).distinct().collect()
    assert sum(each.errors for each in workers) == 3 * 8
    assert len({each.pid for each in workers}) == len(workers)
    assert {each.threads for each in workers} == {1}  # spark.task.cpus


def test_a_worker_keeps_two_models(monkeypatch):
    monkeypatch.setattr(engine, "_OPEN", {})
    encoders = [
        Encoder("tessera-static-mini", "text", role=role) for role in ("document", "query", "plain")
    ]
    for each in encoders:
        assert engine._held(each) is each
        each.opened()
    assert list(engine._OPEN.values()) == encoders[1:]
    assert encoders[0]._model is None
    again = Encoder("tessera-static-mini", "text", role="query")
    assert engine._held(again) is encoders[1]


@pytest.mark.parametrize("text", test_docs.blocks("python", "spark"))
def test_the_page(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test_docs.run_python(text)
