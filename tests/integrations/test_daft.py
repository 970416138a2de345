"""Daft's own runner: encode and embed_text against Encoder and the classes."""

import pickle

import artifact_tools
import daft
import numpy as np
import pyarrow as pa
import pytest
import test_docs
from daft.functions import embed_image, embed_text
from faults import graphs

import tessera_onnx as t
from tessera_onnx.batch.encoder import Encoder
from tessera_onnx.errors import ConfigError, ModelNotFound
from tessera_onnx.integrations.daft import encode
from tessera_onnx.integrations.daft_provider import TesseraProvider

pytestmark = pytest.mark.integrations

MINILM = "all-minilm-l6-v2"
FOLDERS = artifact_tools.ARTIFACTS
REPORT = ["tokens", "truncated", "error"]


@pytest.fixture(scope="module")
def table():
    words = ["fresh bread", "rain", "a storm over the mill ", "the letter of a river "]
    texts = [None if i % 40 == 7 else words[i % 4] * (1 + i % 23) for i in range(300)]
    texts[11] = "rain " * 400
    return pa.table({"n": range(300), "text": texts})


def check(made, exact, names):
    """The same results; batches of other texts move a float32 by some units in its last place."""
    for name in names:
        if name in {"embedding", "multi_vector", "sparse_values"}:
            for a, b in zip(made[name].to_pylist(), exact[name].to_pylist(), strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    np.testing.assert_allclose(np.array(a), np.array(b), atol=1e-6)
        else:
            assert made[name].to_pylist() == exact[name].to_pylist(), name


# Daft leaves the pipes to its processes to the garbage collector.
PIPES = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 64},
        pytest.param({"batch_size": 100, "use_process": True, "cpus": 1}, marks=PIPES),
    ],
)
def test_rows_vectors_and_errors_are_those_of_encoder(table, options):
    found = encode(daft.from_arrow(table), MINILM, "text", **options)
    assert found.column_names == ["n", "text", "embedding", *REPORT]
    assert str(found.schema()["embedding"].dtype) == "List[Float32; 384]"
    made, exact = found.to_arrow(), Encoder(MINILM, "text")(table)
    check(made, exact, exact.column_names)
    assert made["error"].to_pylist().count("the cell is null") == 8
    assert made["truncated"].to_pylist().index(True) == 11


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary"])
def test_every_kind_and_type_of_one_run(table, dtype):
    options = {
        "path": FOLDERS / "m3",
        "kinds": ["dense", "sparse", "multi-vector"],
        "output_dtype": dtype,
    }
    made = encode(daft.from_arrow(table), None, "text", **options).to_arrow()
    exact = Encoder(None, "text", **options)(table)
    assert made.column_names == exact.column_names
    if dtype == "float32":
        check(made, exact, exact.column_names)
        return
    for name in ("embedding", "multi_vector"):
        pairs = zip(made[name].to_pylist(), exact[name].to_pylist(), strict=True)
        far = [np.abs(np.array(a, float) - b).max() for a, b in pairs if a is not None]
        assert max(far) <= (1e-3 if dtype == "float16" else 1 if dtype == "int8" else 0)
    check(made, exact, ["sparse_indices", "sparse_values", *REPORT])


def test_sparse_and_images_and_series(table, tmp_path):
    made = encode(daft.from_arrow(table), "splade-tiny", "text").to_arrow()
    exact = Encoder("splade-tiny", "text")(table)
    check(made, exact, ["sparse_indices", "sparse_values", *REPORT])
    from PIL import Image

    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.png")
    cells = [(tmp_path / "a.png").read_bytes(), b"no picture", None]
    images = encode(daft.from_pydict({"i": cells}), None, "i", path=FOLDERS / "colpali").to_arrow()
    with t.TesseraVision(path=FOLDERS / "colpali") as model:
        page = model.encode_document(cells[0])
    np.testing.assert_allclose(images["multi_vector"][0].as_py(), page, atol=1e-6)
    assert [bool(each) for each in images["error"].to_pylist()] == [False, True, True]
    series = pa.table({"v": [[1.0, 2.0, 3.0], None]})
    found = encode(daft.from_arrow(series), "tessera-bolt-mini", "v", horizon=4).to_arrow()
    made = Encoder("tessera-bolt-mini", "v", horizon=4)(series)
    np.testing.assert_allclose(found["forecast"][0].as_py(), made["forecast"][0].as_py(), rtol=1e-4)
    assert found["error"].to_pylist() == [None, "the cell is null"]


def test_an_empty_frame_and_a_frame_of_nulls():
    empty = daft.from_pydict({"text": ["a"]}).where(daft.col("text") == "b")
    found = encode(empty, MINILM, "text").to_arrow()
    assert (len(found), found.column_names) == (0, ["text", "embedding", *REPORT])
    nulls = encode(daft.from_pydict({"text": [None, None]}), MINILM, "text").to_arrow()
    assert nulls["error"].to_pylist() == ["the cell is null"] * 2


def test_a_row_that_fails_in_the_graph_is_an_error_and_others_are_not(tmp_path, caplog):
    begun = graphs.summing(half=False).replace(b"sentence_embedding", b"sentence_beginning")
    cast = graphs.node("Cast", ["sentence_beginning"], "sentence_embedding", to=graphs.FLOAT16)
    half = graphs.model(begun + cast, dtype=graphs.FLOAT16)
    name = "model.fp32.onnx"
    edit = artifact_tools.replace(
        (f'fp32 = "{name}"\nfp16 = ""', f'fp32 = "{name}"\nfp16 = "{name}"')
    )
    artifact_tools.relist(artifact_tools.copy("prompts", tmp_path / "m", edit), name, half)
    options = {"path": tmp_path / "m", "precision": "fp16"}
    df = daft.from_pydict({"text": ["cat", "search " * 60, "dog"]})
    errors = encode(df, None, "text", **options).to_pydict()["error"]
    assert [bool(each) for each in errors] == [False, True, False]
    vectors = df.with_column(
        "v", embed_text(daft.col("text"), provider=TesseraProvider(**options))
    ).to_pydict()["v"]
    assert [each is None for each in vectors] == [False, True, False]
    (record,) = [each for each in caplog.records if each.name == "tessera_onnx.daft"]
    assert record.getMessage().startswith("1 of 3 texts have no vector; the first: ")
    assert "search" not in record.getMessage()


def test_wrong_columns_are_one_sentence_before_any_work(table):
    df = daft.from_arrow(table)
    for column, match in (
        ("body", "^the data frame has no column 'body'; its columns are: n, text$"),
        ("n", "^column 'n' of the data frame has the type int64, and the model reads strings$"),
    ):
        with pytest.raises(ConfigError, match=match):
            encode(df, MINILM, column)
    with pytest.raises(ConfigError, match="has a column 'error' already"):
        encode(df.with_column("error", daft.col("n")), MINILM, "text")
    with pytest.raises(ModelNotFound, match="no model is named 'nothing'"):
        encode(df, "nothing", "text")


def test_embed_text_by_a_provider_and_by_its_name_in_the_session(table):
    df = daft.from_arrow(table)
    texts = table["text"].to_pylist()
    known = [i for i, text in enumerate(texts) if text is not None]
    made = df.select(
        embed_text(df["text"], provider=TesseraProvider(), model=MINILM).alias("document"),
        embed_text(
            df["text"], provider=TesseraProvider(path=FOLDERS / "prompts"), role="query"
        ).alias("query"),
    )
    assert str(made.schema()["document"].dtype) == "Embedding[Float32; 384]"
    found = made.to_pydict()
    assert [i for i, each in enumerate(found["document"]) if each is not None] == known
    with t.TesseraDense(MINILM, on_long="truncate") as model:
        exact = model.encode_document([texts[i] for i in known])
    np.testing.assert_allclose([found["document"][i] for i in known], exact, atol=1e-6)
    with t.TesseraDense(path=FOLDERS / "prompts", on_long="truncate") as model:
        exact = model.encode_query([texts[i] for i in known])
        assert np.abs(exact - model.encode_document([texts[i] for i in known])).max() > 0.01
    np.testing.assert_allclose([found["query"][i] for i in known], exact, atol=1e-6)
    daft.attach_provider(TesseraProvider(), alias="tessera")
    try:
        made = df.select(embed_text(df["text"], provider="tessera", model=MINILM)).to_pydict()
    finally:
        daft.detach_provider("tessera")
    (column,) = made.values()
    np.testing.assert_array_equal(column[0], found["document"][0])


def test_embed_text_cuts_vectors_and_embed_image_reads_daft_images():
    df = daft.from_pydict({"text": ["fresh bread"]})
    provider = TesseraProvider(path=FOLDERS / "prompts")
    made = df.select(embed_text(df["text"], provider=provider, dimensions=8).alias("v"))
    assert str(made.schema()["v"].dtype) == "Embedding[Float32; 8]"
    with t.TesseraDense(path=FOLDERS / "prompts", dimension=8) as model:
        np.testing.assert_allclose(
            made.to_pydict()["v"][0], model.encode_document("fresh bread"), atol=1e-6
        )
    pixels = (np.arange(64 * 48 * 3) % 251).astype(np.uint8).reshape(48, 64, 3)
    images = daft.from_pydict({"i": [pixels, None]})
    images = images.with_column("i", daft.col("i").cast(daft.DataType.image("RGB")))
    clip = TesseraProvider(path=FOLDERS / "clip")
    found = images.select(embed_image(images["i"], provider=clip).alias("v")).to_pydict()["v"]
    asked = df.select(embed_text(df["text"], provider=clip, role="query").alias("v")).to_pydict()
    with t.TesseraVision(path=FOLDERS / "clip") as model:
        np.testing.assert_allclose(found[0], model.encode_document(pixels)[0], atol=1e-6)
        np.testing.assert_allclose(asked["v"][0], model.encode_query("fresh bread")[0], atol=1e-6)
    assert found[1] is None


def test_what_embed_functions_refuse():
    column, provider = daft.col("text"), TesseraProvider()
    for options, match in (
        ({"model": "splade-tiny"}, "one float32 vector a row"),
        ({"model": MINILM, "kinds": ["multi-vector"]}, "one float32 vector a row"),
        ({"model": MINILM, "output_dtype": "int8"}, "one float32 vector a row"),
        ({"path": FOLDERS / "clip"}, "holds texts and the model reads images: .* role='query'"),
    ):
        with pytest.raises(ConfigError, match=match):
            embed_text(column, provider=provider, **options)
    with pytest.raises(ConfigError, match="holds images and the model reads texts"):
        embed_image(column, provider=provider, model=MINILM)


def test_a_descriptor_pickles_without_its_model():
    descriptor = TesseraProvider().get_text_embedder(MINILM, batch_size=7)
    assert descriptor.get_dimensions().size == 384
    assert descriptor.get_udf_options().batch_size == 7
    content = pickle.dumps(descriptor)
    assert len(content) < 2000
    embedder = pickle.loads(content).instantiate()
    with t.TesseraDense(MINILM) as model:
        exact = model.encode_document(["bread"])
    np.testing.assert_allclose(embedder.embed_text(["bread"]), exact, atol=1e-6)


@pytest.mark.parametrize("text", test_docs.blocks("python", "daft"))
def test_the_page(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test_docs.run_python(text)
