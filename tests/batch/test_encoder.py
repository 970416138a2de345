"""Encoder against the classes of the kinds: the same vectors as columns, and an error for a row."""

import io
import pickle

import artifact_tools
import numpy as np
import pyarrow as pa
import pytest
from faults import graphs
from PIL import Image

import tessera_onnx as t
from tessera_onnx.batch.encoder import Encoder
from tessera_onnx.errors import ConfigError, EncodingError
from tessera_onnx.runtime import cpu
from tessera_onnx.vectors import quantization

MINILM = "all-minilm-l6-v2"
BOLT = "tessera-bolt-mini"


def rows(table, name):
    return table.column(name).to_pylist()


def matrix(table, name="embedding"):
    return np.array(rows(table, name))


@pytest.fixture(scope="module")
def quiet():
    with t.TesseraDense(MINILM, on_long="truncate") as model:
        yield model


@pytest.fixture(scope="module")
def texts(sentences):
    return [*sentences(60), "", "bread " * 400]


def test_dense_vectors_tokens_and_cuts_are_those_of_the_class(quiet, texts):
    found = Encoder(MINILM, "text")(pa.table({"id": range(len(texts)), "text": texts}))
    assert found.schema.names == ["id", "text", "embedding", "tokens", "truncated", "error"]
    np.testing.assert_allclose(matrix(found), quiet.encode_document(texts), atol=1e-6)
    counts = quiet.token_count(texts, role="document")
    assert rows(found, "tokens") == np.minimum(counts, 256).tolist()
    assert rows(found, "truncated") == (counts > 256).tolist() == [False] * 61 + [True]
    assert rows(found, "error") == [None] * len(texts)
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 384)


def test_dtypes_are_those_of_quantization(quiet, texts):
    exact = quiet.encode_document(texts)
    table = pa.table({"text": texts})
    half = matrix(Encoder(MINILM, "text", output_dtype="float16")(table))
    np.testing.assert_allclose(half, exact.astype(np.float16), atol=1e-3)
    codes = Encoder(MINILM, "text", output_dtype="int8")(table)
    made = quantization.int8(exact)
    assert np.abs(matrix(codes) - made.codes.astype(int)).max() <= 1
    scale = matrix(codes, "embedding_scale")
    np.testing.assert_allclose(scale, made.scale[:, 0], rtol=1e-4)
    np.testing.assert_allclose(matrix(codes) * scale[:, None], exact, atol=scale.max())
    bits = Encoder(MINILM, "text", output_dtype="binary")(table)
    assert bits.schema.field("embedding").type == pa.list_(pa.uint8(), 48)
    assert bits.schema.field("embedding").metadata == {b"dimension": b"384", b"dtype": b"binary"}
    assert np.mean(np.unpackbits(matrix(bits).astype(np.uint8), axis=1) != (exact > 0)) < 1e-3


def test_all_kinds_come_from_one_run():
    texts = artifact_tools.TEXTS[:6]
    folder = artifact_tools.ARTIFACTS / "m3"
    kinds = ("dense", "sparse", "multi-vector")
    found = Encoder(None, "text", path=folder, kinds=kinds, output_dtype="int8")(
        pa.table({"text": [*texts, None]})
    )
    with t.TesseraDense(path=folder, on_long="truncate") as model:
        all_kinds = model.encode_all(texts, role="document")
    scales = matrix(found, "embedding_scale")[:-1, None].astype(float)
    codes = np.array(rows(found, "embedding")[:-1])
    np.testing.assert_allclose(codes * scales, all_kinds.dense, atol=0.01)
    for i, vector in enumerate(all_kinds.sparse):
        assert rows(found, "sparse_indices")[i] == vector.indices.tolist()
        np.testing.assert_allclose(rows(found, "sparse_values")[i], vector.values, atol=1e-5)
    for i, tokens in enumerate(all_kinds.multi_vector):
        scale = np.array(rows(found, "multi_vector_scale")[i])[:, None]
        np.testing.assert_allclose(
            np.array(rows(found, "multi_vector")[i]) * scale, tokens, atol=0.01
        )
    assert [found.column(name)[6].as_py() for name in found.schema.names] == [
        None, None, None, None, None, None, None, None, None, "the cell is null",
    ]  # fmt: skip


def test_sparse_and_lexical_and_static(texts):
    table = pa.table({"text": texts})
    found = Encoder("splade-tiny", "text")(table)
    with t.TesseraSparse("splade-tiny", on_long="truncate") as model:
        exact = model.encode_document(texts)
    for i, vector in enumerate(exact):
        assert rows(found, "sparse_indices")[i] == vector.indices.tolist()
        np.testing.assert_allclose(rows(found, "sparse_values")[i], vector.values, atol=1e-5)
    words = Encoder("bm25", "text")(table)
    with t.TesseraSparse("bm25") as model:
        assert rows(words, "sparse_indices") == [
            each.indices.tolist() for each in model.encode_document(texts)
        ]
    static = Encoder("tessera-static-mini", "text")(table)
    with t.TesseraDense("tessera-static-mini", on_long="truncate") as model:
        np.testing.assert_allclose(matrix(static), model.encode_document(texts), atol=1e-6)


def test_images_from_paths_bytes_and_structs(tmp_path):
    image = Image.fromarray(np.arange(64 * 48 * 3, dtype=np.uint8).reshape(48, 64, 3))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    content, path = buffer.getvalue(), str(tmp_path / "a.png")
    columns = {
        "path": [path, str(tmp_path / "b.png"), None],
        "bytes": [content, b"no picture", None],
        "both": [{"bytes": content, "path": None}, {"bytes": None, "path": "b.png"}, None],
    }
    table = pa.table(columns)
    folder = artifact_tools.ARTIFACTS / "colpali"
    with t.TesseraVision(path=folder) as model:
        exact = model.encode_document(image)
    for name in columns:
        found = Encoder(None, name, path=folder)(table)
        np.testing.assert_allclose(rows(found, "multi_vector")[0], exact, atol=1e-6)
        assert rows(found, "tokens") == [len(exact), None, None]
        assert rows(found, "error")[0] is None
        assert all(rows(found, "error")[1:])
    with pytest.raises(ConfigError, match="column 'n' of the table has the type int64"):
        Encoder(None, "n", path=folder)(pa.table({"n": [1]}))


def test_a_model_of_one_vector_an_image_fills_a_column_of_vectors():
    content = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(content, "PNG")
    folder = artifact_tools.ARTIFACTS / "clip"
    found = Encoder(None, "image", path=folder)(pa.table({"image": [content.getvalue()]}))
    with t.TesseraVision(path=folder) as model:
        exact = model.encode_document(content.getvalue())
        query = model.encode_query("a red square")
    np.testing.assert_allclose(matrix(found), exact, atol=1e-6)
    asked = Encoder(None, "q", path=folder, role="query")(pa.table({"q": ["a red square"]}))
    np.testing.assert_allclose(matrix(asked), query, atol=1e-6)


def test_forecasts(rng):
    series = [rng.normal(size=n).cumsum() for n in (30, 200, 2000)]
    table = pa.table({"v": [*series, None, [], [1.0, None, 3.0], [None, None]]})
    found = Encoder("tessera-bolt-mini", "v", horizon=12, levels=[0.1, 0.5])(table)
    with t.TesseraTimeSeries("tessera-bolt-mini") as model:
        exact = model.forecast_quantiles([*series, np.array([1, np.nan, 3])], 12, [0.1, 0.5])
    made = rows(found, "forecast")
    np.testing.assert_allclose([made[0], made[1], made[2], made[5]], exact, rtol=1e-4)
    assert rows(found, "tokens") == [30, 200, 1024, None, None, 3, None]
    assert rows(found, "truncated")[:3] == [False, False, True]
    errors = rows(found, "error")
    assert errors[3] == "the cell is null"
    assert "empty" in errors[4]
    assert "finite" in errors[6]
    assert found.schema.field("forecast").type == pa.list_(pa.list_(pa.float32(), 2), 12)


def invalid(*cells):
    """A column of strings that hold any bytes."""
    return pa.array(cells, pa.binary()).view(pa.string())


def test_rows_that_cannot_be_texts_are_errors_and_the_others_are_not(dense):
    column = invalid(
        b"bread", b"\xff\xfe", None, "\ud800".encode("utf-8", "surrogatepass"), b"rain"
    )
    found = Encoder(MINILM, "text")(pa.table({"text": column}))
    errors = rows(found, "error")
    assert [bool(error) for error in errors] == [False, True, True, True, False]
    assert errors[1] == "the text is not UTF-8: invalid start byte at byte 0"
    vectors = rows(found, "embedding")
    assert vectors[1:4] == [None] * 3
    np.testing.assert_allclose(
        [vectors[0], vectors[4]], dense.encode_document(["bread", "rain"]), atol=1e-6
    )


def test_a_text_that_fails_in_the_graph_is_an_error_of_its_row(tmp_path):
    """Its float16 overflows: the graph fails on the batch, and then on that text alone."""
    begun = graphs.summing(half=False).replace(b"sentence_embedding", b"sentence_beginning")
    half = graphs.model(
        begun
        + graphs.node("Cast", ["sentence_beginning"], "sentence_embedding", to=graphs.FLOAT16),
        dtype=graphs.FLOAT16,
    )
    name = "model.fp32.onnx"
    edit = artifact_tools.replace(
        (f'fp32 = "{name}"\nfp16 = ""', f'fp32 = "{name}"\nfp16 = "{name}"')
    )
    artifact_tools.relist(artifact_tools.copy("prompts", tmp_path / "m", edit), name, half)
    encoder = Encoder(None, "text", path=tmp_path / "m", precision="fp16", threads=1)
    texts = ["cat", "search " * 60, "dog", "search " * 61]
    found = encoder(pa.table({"text": texts}))
    assert [bool(error) for error in rows(found, "error")] == [False, True, False, True]
    assert "holds NaN or infinity" in rows(found, "error")[1]
    assert "search" not in rows(found, "error")[1]
    only_bad = encoder(pa.table({"text": texts[1::2]}))  # the model itself still works
    assert only_bad.column("error").null_count == 0
    limited = Encoder(None, "text", path=tmp_path / "m", precision="fp16", max_errors=1)
    with pytest.raises(EncodingError, match="2 rows failed, more than max_errors=1"):
        limited(pa.table({"text": texts}))


def test_a_text_of_many_megabytes_is_an_error():
    found = Encoder("tessera-static-mini", "text")(pa.table({"text": ["a", "b " * (3 << 20)]}))
    assert rows(found, "error")[0] is None
    assert "6,291,456 characters" in rows(found, "error")[1]


def test_long_texts_may_be_refused():
    found = Encoder(MINILM, "text", on_long="error")(pa.table({"text": ["bread " * 300, "rain"]}))
    assert rows(found, "error") == [
        "the text has 302 tokens, the model reads 256: shorten it", None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_types_of_strings(kind, dense):
    encoder = Encoder(MINILM, "text")
    found = encoder(pa.table({"text": pa.array(["bread", None, "rain"]).cast(kind)}))
    vectors = rows(found, "embedding")
    np.testing.assert_allclose(vectors[::2], dense.encode_document(["bread", "rain"]), atol=1e-6)
    assert found.schema.field("text").type == kind
    assert rows(encoder(pa.table({"text": pa.nulls(2)})), "error") == ["the cell is null"] * 2


def test_columns_that_are_refused_before_any_row_is_read():
    encoder = Encoder(MINILM, "text")
    for column in ([1, 2], [["a"]], [{"a": "b"}], [b"a"]):
        with pytest.raises(
            ConfigError, match=r"column 'text' of the table has the type .* strings"
        ):
            encoder(pa.table({"text": column}))
    with pytest.raises(ConfigError, match="has no column 'text'; its columns are: body"):
        encoder(pa.table({"body": ["a"]}))
    with pytest.raises(ConfigError, match="several columns 'text'"):
        encoder(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"]))
    with pytest.raises(ConfigError, match="has a column 'error' already"):
        encoder(pa.table({"text": ["a"], "error": [""]}))
    with pytest.raises(TypeError, match="rows must be a pyarrow Table or RecordBatch, got list"):
        encoder([{"text": "a"}])


def test_empty_tables_chunks_and_batches(dense):
    encoder = Encoder(MINILM, "text")
    empty = encoder(pa.table({"text": pa.array([], pa.string())}))
    assert (len(empty), empty.schema) == (0, encoder.schema(pa.schema([("text", pa.string())])))
    chunks = pa.table({"text": pa.chunked_array([["bread"], [], ["rain", None]])})
    found = encoder(chunks)
    np.testing.assert_allclose(
        rows(found, "embedding")[:2], dense.encode_document(["bread", "rain"]), atol=1e-6
    )
    (batch,) = encoder.map([pa.RecordBatch.from_pydict({"text": ["bread"]})])
    assert isinstance(batch, pa.RecordBatch)
    assert batch.schema == found.schema
    none = encoder(pa.RecordBatch.from_pydict({"text": pa.array([], pa.string())}))
    assert (len(none), none.schema) == (0, found.schema)


def test_map_gives_the_rows_of_a_batch_in_pieces_of_a_block(monkeypatch, texts):
    encoder = Encoder("tessera-static-mini", "text")
    table = pa.table({"n": range(len(texts)), "text": texts})
    whole = encoder(table)
    for rows, n_bytes, least in ((10, 1 << 20, 7), (4096, table["text"].nbytes // 5, 5)):
        monkeypatch.setattr(encoder, "block", lambda rows=rows, size=n_bytes: (rows, size))
        made = list(encoder.map([table.slice(0, 0), table]))
        assert len(made) >= 1 + least
        assert max(len(each) for each in made) <= rows
        assert pa.concat_tables(made)["n"].to_pylist() == table["n"].to_pylist()
        np.testing.assert_allclose(matrix(pa.concat_tables(made)), matrix(whole), atol=1e-6)
    with pytest.raises(ConfigError, match="the table has no column 'text'"):
        list(encoder.map([table.select(["n"])]))


def test_arguments_that_are_refused():
    for options, match in (
        ({"output_dtype": "int4"}, "output_dtype must be one of"),
        ({"kinds": ["colour"]}, "kinds must be of"),
        ({"max_errors": -1}, "max_errors must be at least 1"),
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"on_long": "cut"}, "on_long must be"),
    ):
        with pytest.raises(ConfigError, match=match):
            Encoder(MINILM, "text", **options)
    with pytest.raises(TypeError, match="column must be str"):
        Encoder(MINILM, 3)
    for model, options, match in (
        (MINILM, {"kinds": ["sparse"]}, "kind"),
        (MINILM, {"horizon": 3}, "not for dense models"),
        (MINILM, {"task": "clustering"}, "task must be left out"),
        (MINILM, {"language": "german"}, "language is not for dense models"),
        ("splade-tiny", {"output_dtype": "int8"}, "output_dtype is not for sparse"),
        (BOLT, {"horizon": 1 << 64}, "horizon must be at most"),
        (BOLT, {"levels": [2.0]}, r"levels\[0\] must lie between"),
        (
            str(artifact_tools.ARTIFACTS / "ttm"),
            {"levels": [0.5]},
            "one value a step: leave levels out",
        ),
        (BOLT, {"role": "query"}, "role is not for time-series models"),
        (BOLT, {"task": "x"}, "task is not for time-series models"),
        ("tessera-page-mini", {"prompt": "x"}, "prompt is not for vision models"),
        ("tessera-page-mini", {"on_long": "error"}, "on_long is not for vision models"),
    ):
        with pytest.raises((ConfigError, t.LoadError), match=match):
            Encoder(model, "text", **options)(pa.table({"text": ["a"]}))


def test_a_pickle_holds_no_model_and_opens_it_where_it_is_used(dense):
    encoder = Encoder(MINILM, "text")
    encoder(pa.table({"text": ["a"]}))
    content = pickle.dumps(encoder)
    assert len(content) < 2000
    again = pickle.loads(content)
    assert again._model is None
    assert np.allclose(
        matrix(again(pa.table({"text": ["bread"]}))), dense.encode_document(["bread"])
    )
    encoder.close()
    assert len(encoder(pa.table({"text": ["a"]}))) == 1


def test_threads_are_those_that_an_engine_grants(monkeypatch):
    """Ray and Spark set OMP_NUM_THREADS, which ONNX Runtime's own threads do not follow."""
    free = cpu.cpu_threads()
    for granted, threads, expected in (
        ("1", None, 1),
        ("999", None, free),
        ("", None, free),
        ("many", None, free),
        ("1", 2, 2),
    ):
        monkeypatch.setenv("OMP_NUM_THREADS", granted)
        encoder = Encoder("tessera-static-mini", "text", threads=threads)
        assert encoder.opened()[0]._options["threads"] == expected
        encoder.close()
