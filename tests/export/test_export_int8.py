"""int8 graphs: against the fp32 graph, by hand, text by text, and on every processor."""

import dataclasses
import gzip

import numpy as np
import onnx
import onnxruntime
import pytest
from architectures import small
from onnx import TensorProto, helper, numpy_helper

from tessera_export import artifact, parity
from tessera_export.errors import ExportError
from tessera_export.graph import int8, int8_columns
from tessera_export.texts import calibration, corpus, encoder, folder, torch_modules, tracing
from tessera_onnx.models.spec import MultiVector, TokenRole

pytestmark = pytest.mark.export
WIDTH, COLUMNS = 64, 96


def run(model, feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, feeds)[0]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def product(rng):
    """x (b, n, 64) @ matrix + bias, as a tracer writes a linear layer."""
    values = {
        "matrix": rng.normal(size=(WIDTH, COLUMNS)).astype(np.float32),
        "bias": rng.normal(size=COLUMNS).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "matrix"], ["xm"], "/linear/MatMul"),
        helper.make_node("Add", ["bias", "xm"], ["y"], "/linear/Add"),
    ]
    shapes = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "n", WIDTH]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "n", COLUMNS]),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    made = helper.make_graph(nodes, "g", shapes[:1], shapes[1:], tensors)
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ), values


def test_a_wide_channel_leaves_the_digits_of_the_others(product, rng):
    """One channel ten times as wide: one scale for all of a row gives the others 25 steps."""
    model, values = product
    x = rng.normal(size=(50, 7, WIDTH)).astype(np.float32)
    x[..., 5] *= 10
    expected = x @ values["matrix"] + values["bias"]
    feeds = [{"x": row[None]} for row in x]
    plain, fixed, careful = (
        np.abs(run(made, {"x": x}) - expected).std() / expected.std()
        for made in (
            int8.quantize(model),
            int8.quantize(model, feeds),
            int8.quantize(model, feeds, careful=True),
        )
    )
    assert fixed < 0.02
    assert fixed < 0.9 * plain
    assert careful < 0.8 * fixed  # the wide channel is among those that stay fp32


@pytest.mark.parametrize("way", ["fixed", "careful", "nothing measured"])
def test_a_row_does_not_depend_on_its_neighbours(product, rng, way):
    model, _ = product
    x = rng.normal(size=(4, 3, WIDTH)).astype(np.float32)
    feeds = [] if way == "nothing measured" else [{"x": x}]
    made = int8.quantize(model, feeds, careful=way == "careful")
    alone = run(made, {"x": x[:1]})
    neighbour = np.concatenate([x[:1], 30 * x[1:]])  # beyond what was measured: cut, for itself
    np.testing.assert_array_equal(run(made, {"x": neighbour})[:1], alone)


def by_hand(x, matrix, bias, exact):
    """The product of rows (n, k) with a scale a row, in float64 but for the rounding."""
    rest, few = matrix.copy(), np.zeros_like(matrix)
    rest[exact], few[exact] = 0, matrix[exact]
    kept = x.copy()
    kept[:, exact] = 0
    steps = np.abs(kept).max(axis=1, keepdims=True) / np.float32(127)
    codes = np.rint(kept / steps)
    pair = np.abs(rest[::2]) + np.abs(rest[1::2])
    columns = (pair.max(axis=0) / np.float32(127)).astype(np.float32)
    weights = np.rint(rest / columns)
    return (codes @ weights) * columns * steps + x.astype(float) @ few + bias


@pytest.mark.parametrize("measured_one", [False, True])
def test_scales_by_row_by_hand(product, rng, measured_one):
    """Two of 64 channels by their weights stay fp32, and two more by what was measured."""
    model, values = product
    matrix = values["matrix"].copy()
    matrix[7, 3], matrix[40, 50] = 30, -40  # far beyond the rest of their columns
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(matrix, "matrix"))
    x = rng.normal(size=(9, WIDTH)).astype(np.float32)
    x[:, [11, 60]] *= 20
    feeds = [{"x": x[None]}] if measured_one else []
    made = int8.quantize(model, feeds, careful=True)
    exact = [7, 11, 40, 60] if measured_one else [7, 40]
    found = run(made, {"x": x[None]})[0]
    expected = by_hand(x, matrix, values["bias"], exact)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    truth = x @ matrix + values["bias"]
    error = np.abs(found - truth).std() / truth.std()
    assert error < (0.005 if measured_one else 0.02)


def test_a_narrowing_product_has_scales_by_row(rng):
    """The second product of a feed-forward block; the first keeps its fixed scale."""
    up = rng.normal(size=(WIDTH, 4 * WIDTH)).astype(np.float32)
    down = rng.normal(size=(4 * WIDTH, WIDTH)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["wide"], "up"),
        helper.make_node("Relu", ["wide"], ["active"]),
        helper.make_node("MatMul", ["active", "down"], ["y"], "down"),
    ]
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", "n", WIDTH]) for name in "xy"
    ]
    tensors = [numpy_helper.from_array(up, "up"), numpy_helper.from_array(down, "down")]
    made = helper.make_graph(nodes, "g", shapes[:1], shapes[1:], tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    x = rng.normal(size=(5, 7, WIDTH)).astype(np.float32)
    x[2] *= 8  # in fixed steps the other rows would keep an eighth of their digits
    found = int8.quantize(model, [{"x": x}])
    kinds = {node.name: node.op_type for node in found.graph.node if node.name in ("up", "down")}
    assert kinds == {"up": "MatMulIntegerToFloat", "down": "MatMulInteger"}
    truth = np.maximum(x @ up, 0) @ down
    error = np.abs(run(found, {"x": x}) - truth)[[0, 1, 3, 4]]
    assert error.std() < 0.06 * truth[[0, 1, 3, 4]].std()


def test_a_row_of_zeros_gives_the_bias(product):
    model, values = product
    x = np.zeros((1, 2, WIDTH), np.float32)
    np.testing.assert_array_equal(run(int8.quantize(model), {"x": x})[0], [values["bias"]] * 2)


def test_the_numbers_by_hand(product):
    """x = 1 in channel 0 alone, measured as 0..2: step 2/255, so 1 becomes 127 or 128 steps."""
    model, values = product
    x = np.zeros((1, 1, WIDTH), np.float32)
    x[0, 0, 0] = 1
    made = int8.quantize(model, [{"x": 2 * np.ones((1, 1, WIDTH), np.float32)}])
    matrix = values["matrix"]
    sizes = np.abs(matrix)
    steps = (sizes[::2] + sizes[1::2]).max(axis=0) / 127
    scale = float(f"{2 / 255:.3g}")
    expected = round(1 / scale) * scale * np.round(matrix[0] / steps) * steps + values["bias"]
    np.testing.assert_allclose(run(made, {"x": x})[0, 0], expected, rtol=1e-5, atol=1e-6)


def saturating(codes, weights):
    """The product as AVX2 without VNNI computes it: sums of two saturate at 16 bits."""
    parts = codes[:, :, None].astype(np.int64) * weights[None].astype(np.int64)
    return np.clip(parts[:, ::2] + parts[:, 1::2], -32768, 32767).sum(axis=1)


def test_no_pair_of_weights_overflows_16_bits(rng):
    """Columns of like signs, which overflow most: 255 x 128 fits, no more."""
    matrix = np.abs(rng.normal(size=(WIDTH + 1, COLUMNS))).astype(np.float32)
    columns, scales = int8_columns.columns(matrix)
    together = np.abs(columns[:-1:2].astype(int)) + np.abs(columns[1::2].astype(int))
    assert 120 <= together.max() <= 128
    np.testing.assert_allclose(columns * scales, matrix, atol=0.51 * scales.max())
    codes = np.full((1, WIDTH), 255)
    np.testing.assert_array_equal(saturating(codes, columns[:WIDTH]), codes @ columns[:WIDTH])
    plain = np.rint(matrix / matrix.max(axis=0) * 127).astype(np.int8)[:WIDTH]
    assert (saturating(codes, plain) != codes @ plain.astype(int)).any()


def test_excluded_nodes_stay_fp32(product, rng):
    model, values = product
    x = rng.normal(size=(1, 3, WIDTH)).astype(np.float32)
    kept = int8.quantize(model, [], ["/linear/*"])
    np.testing.assert_allclose(
        run(kept, {"x": x}), x @ values["matrix"] + values["bias"], rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ExportError, match="no node of the graph is named 'nothing'"):
        int8.quantize(model, [], ["nothing"])


def test_an_excluded_lookup_stays_fp32(rng):
    table = rng.normal(size=(200, WIDTH)).astype(np.float32)
    ids = rng.integers(0, 200, (2, 3))
    made = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"], "/embeddings/Gather")],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "n", WIDTH])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    kept = run(int8.quantize(model, [{"ids": ids}], ["/embeddings/*"]), {"ids": ids})
    np.testing.assert_array_equal(kept, table[ids])
    rounded = run(int8.quantize(model, [{"ids": ids}]), {"ids": ids})  # and no product
    steps = np.abs(table).max(axis=1)[ids][..., None] / 127
    error = np.abs(rounded - table[ids])
    assert error.max() > 0
    assert (error <= 0.51 * steps).all()


def test_one_number_for_all_columns_is_added_apart(product, rng):
    model, values = product
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.float32([0.5]), "bias"))
    x = rng.normal(size=(2, 3, WIDTH)).astype(np.float32)
    found = run(int8.quantize(model, [{"x": x}]), {"x": x})
    np.testing.assert_allclose(found, x @ values["matrix"] + 0.5, atol=0.6)


def test_a_graph_with_operators_of_onnx_runtime(product):
    """Their domain is imported once."""
    model, _ = product
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    made = int8.quantize(model, [{"x": np.ones((1, 1, WIDTH), np.float32)}])
    assert [each.domain for each in made.opset_import].count("com.microsoft") == 1


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_layer_after_the_pooling(rng, transposed):
    """Gemm, as a tracer writes a linear layer of vectors; one with a factor stays as it is."""
    matrix = rng.normal(size=(WIDTH, COLUMNS)).astype(np.float32)
    bias = rng.normal(size=COLUMNS).astype(np.float32)
    x = rng.normal(size=(9, WIDTH)).astype(np.float32)
    found = {}
    for alpha in (1.0, 2.0):
        made = helper.make_graph(
            [helper.make_node("Gemm", ["x", "m", "b"], ["y"], transB=transposed, alpha=alpha)],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", WIDTH])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", COLUMNS])],
            [
                numpy_helper.from_array(matrix.T.copy() if transposed else matrix, "m"),
                numpy_helper.from_array(bias, "b"),
            ],
        )
        opset = [helper.make_opsetid("", 18)]
        made = int8.quantize(
            helper.make_model(made, opset_imports=opset, ir_version=10), [{"x": x}]
        )
        found[alpha] = run(made, {"x": x}) - (alpha * (x @ matrix) + bias)
    assert 0 < np.abs(found[1.0]).max() < 0.5
    assert found[1.0].std() < 0.02 * (x @ matrix).std()
    assert np.abs(found[2.0]).max() < 1e-4


def test_activations_that_are_no_numbers_are_refused(product):
    model, _ = product
    x = np.ones((1, 2, WIDTH), np.float32)
    x[0, 1, 3] = np.nan
    with pytest.raises(ExportError, match="infinite or not a number"):
        int8.quantize(model, [{"x": x}])


def traced(facts):
    return tracing.trace(torch_modules.Wrapper(torch_modules.load_model(facts, "eager"), facts))


def vectors(model, facts, texts, size):
    """Of batches of `size` texts, padded."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    around, rows = facts.tokenizer.text, []
    for text in texts:
        body = facts.tokenizer.ids(text)[:90]
        rows.append([*around.prefix_ids, *body, *around.suffix_ids])
    found = []
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        ids = np.full((len(batch), max(map(len, batch))), around.pad_id, np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(batch):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        found += list(session.run(None, {"input_ids": ids, "attention_mask": mask})[0])
    return np.array(found, np.float64)


def cosines(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.fixture(scope="module")
def unseen(minilm):
    """Sentences of the corpus that do not stand in any text that is measured."""
    measured_texts = "\n".join(calibration.built_in(folder.read(minilm, ["dense"])))
    paragraphs = corpus.passages(lambda text: len(text.split()), 1)
    sentences = [part for text in paragraphs for part in text.split(". ")[1:2]][::25]
    return [s for s in sentences if 3 < len(s.split()) < 60 and s not in measured_texts]


def compare(facts, texts):
    """Cosines to fp32 of int8 with nothing measured, fixed scales and careful ones, in batches of
    8, and how far batches of 8 move a vector from what it is alone.
    """
    fp32 = traced(facts)
    truth = vectors(fp32, facts, texts, 1)
    feeds = calibration.feeds(facts, calibration.built_in(facts))
    models = (
        int8.quantize(fp32),
        int8.quantize(fp32, feeds),
        int8.quantize(fp32, feeds, careful=True),
    )
    alone = [vectors(model, facts, texts, 1) for model in models]
    mixed = [vectors(model, facts, texts, 8) for model in models]
    moved = [np.abs(a - b).max() for a, b in zip(alone, mixed, strict=True)]
    return [cosines(found, truth) for found in mixed], moved


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode"),
    [("distilbert", "mean"), ("modernbert", "mean"), ("nomic", "mean"), ("mpnet", "cls")],
)
def test_architectures(make, dense_files, unseen, name, mode):
    facts = folder.read(make(name, small(name), dense_files(mode)), ["dense"])
    every, moved = compare(facts, unseen[:48])
    assert min(found.min() for found in every) > 0.999
    assert max(moved) <= 1e-6


@pytest.mark.slow
def test_the_real_minilm(minilm, unseen):
    (plain, fixed, careful), moved = compare(folder.read(minilm, ["dense"]), unseen)
    assert len(unseen) > 100
    assert [plain.mean() > 0.995, fixed.mean() > 0.997, careful.mean() > 0.9985] == [True] * 3
    assert [plain.min() > 0.98, fixed.min() > 0.99, careful.min() > 0.995] == [True] * 3
    assert max(moved) <= 1e-6


@pytest.mark.slow
def test_a_sparse_head_keeps_its_scales_and_its_tied_table(splade, unseen):
    facts = folder.read(splade, ["sparse"], folder.Overrides(max_length=128))
    every, moved = compare(facts, unseen[:48])
    assert min(found.min() for found in every) > 0.995
    assert max(moved) <= 1e-5  # of weights up to 3
    fp32 = traced(facts)
    feeds = calibration.feeds(facts, unseen[:9])
    made = int8.quantize(fp32, feeds)
    assert made.ByteSize() < 1.02 * int8.quantize(fp32).ByteSize()
    decoder = "/model/cls/predictions/decoder/MatMul"
    kept = int8.quantize(fp32, feeds, [decoder])
    assert kept.ByteSize() > 3 * made.ByteSize()
    truth = vectors(fp32, facts, unseen[:8], 1)
    assert cosines(vectors(kept, facts, unseen[:8], 1), truth).min() > 0.995


def test_prompts_markers_and_expanded_queries_are_measured(make, dense_files, bert):
    prompts = {"query": "find: ", "passage": "read: "}
    facts = folder.read(make("model", bert, dense_files("mean", prompts=prompts)), ["dense"])
    tokenizer = facts.tokenizer

    def ids(text):
        return [101, *tokenizer.ids(text), 102]

    feeds = calibration.feeds(facts, ["one", "two", "three", "word " * 300])
    assert [feed["input_ids"].tolist()[0] for feed in feeds[:3]] == [
        ids("find: one"),
        ids("read: two"),
        ids("find: three"),
    ]
    assert feeds[3]["input_ids"].shape == (1, 100)
    query = TokenRole("", 8, marker_ids=(1,), expansion="unattended", skip_ids=())
    document = TokenRole("", 20, marker_ids=(2,), expansion="none", skip_ids=())
    recipe = MultiVector("tokens", False, 64, (), "sum", query, document)
    facts = dataclasses.replace(facts, dense=None, multi_vector=recipe)
    expanded, plain = calibration.feeds(facts, ["one", "two"])
    assert expanded["input_ids"].tolist() == [[101, 1, *tokenizer.ids("one"), 102, *[103] * 4]]
    assert expanded["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]
    assert plain["input_ids"].tolist() == [[101, 2, *tokenizer.ids("two"), 102]]


def test_texts_of_a_file(tmp_path):
    lines, objects = tmp_path / "a.txt", tmp_path / "b.jsonl"
    lines.write_text("one\n\n two \n", "utf-8")
    objects.write_text('"one"\n{"text": "two"}\n', "utf-8")
    assert calibration.read(str(lines)) == ["one", " two "]
    assert calibration.read(str(objects)) == ["one", "two"]
    table = tmp_path / "c.csv.gz"
    rows = '\ufeffid;text\r\n1;"a; ""b""\nc"\r\n\r\n2; \r\n3;two\r\n'
    table.write_bytes(gzip.compress(rows.encode()))
    assert calibration.read(str(table)) == ['a; "b"\nc', "two"]
    lines.write_text("".join(f"{number}\n" for number in range(5000)), "utf-8")
    found = calibration.read(str(lines))
    assert (len(found), found[0], found[-1]) == (calibration.MOST, "0", "4999")
    for name, content, message in (
        ("empty.txt", b"\n \n", "holds no text"),
        ("broken.jsonl", b'"one"\n{"title": "two"}\n', "broken.jsonl, line 2: neither"),
        ("bytes.txt", b"\xff\xfe", "bytes.txt, line 1: not UTF-8"),
        ("table.csv", b"one\n", r"table.csv, line 1: no column is named 'text'$"),
        ("short.csv", b"id,text\n1,a\n2\n", "short.csv, line 3: 1 cells, the first line has 2"),
        ("open.csv", b'text\n"a\n', "open.csv, line 2: unexpected end of data"),
        ("bytes.jsonl", b'"one"\n"\xff"\n', "bytes.jsonl, line 2: not UTF-8"),
        ("cut.txt.gz", b"one", "cut.txt.gz cannot be read: it is not a whole gzip file"),
        ("table.pdf", b"one", r"must be a .txt"),
        ("absent.txt", None, "absent.txt cannot be read"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ExportError, match=message):
            calibration.read(str(tmp_path / name))


@pytest.mark.slow
def test_a_spoiled_calibration_ends_in_the_careful_graph(minilm, tmp_path):
    """Measured on one word, fixed scales cut every other text: the gate takes scales by row."""
    facts = folder.read(minilm, ["dense"])
    spec = encoder.export(
        facts, tmp_path / "out", artifact.Origin("test"), ("int8",), calibrate=["a"]
    )
    figures = {row.metric: row.value for row in spec.export.parity}
    assert figures["min_cosine"] > 0.9
    kinds = {node.op_type for node in onnx.load(tmp_path / "out" / "model.int8.onnx").graph.node}
    assert "MatMulIntegerToFloat" not in kinds
    with pytest.raises(ExportError, match="no text"):
        encoder.export(facts, tmp_path / "b", artifact.Origin("test"), ("int8",), calibrate=[])
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_int8_is_the_default_only_where_every_text_is_near(minilm, tmp_path, monkeypatch):
    """One text below the line puts fp32 first; below the gate's limit nothing is written."""
    facts = folder.read(minilm, ["dense"])

    def made(name):
        return encoder.export(
            facts, tmp_path / name, artifact.Origin("test"), ("fp32", "int8"), calibrate=["a", "b"]
        )

    spec = made("near")
    least = min(row.value for row in spec.export.parity if row.metric == "min_cosine")
    assert spec.graph.best_cpu == ("int8" if least >= artifact.NEAR else "fp32")
    monkeypatch.setattr(artifact, "NEAR", 0.99999)
    assert made("far").graph.best_cpu == "fp32"
    monkeypatch.setitem(parity.LIMITS, ("int8", "pooled"), {"min_cosine": 0.99999})
    with pytest.raises(ExportError, match="in int8 has min_cosine.*--precision fp32,fp16"):
        made("wrong")
    assert not (tmp_path / "wrong").exists()


def test_a_whole_encoder(make, dense_files, bert):
    """Close to fp32, a quarter of the size, the same bytes every time."""
    facts = folder.read(make("model", bert, dense_files("mean")), ["dense"])
    fp32 = traced(facts)
    feeds = calibration.feeds(facts, calibration.built_in(facts))
    assert len(feeds) > 200
    made = int8.quantize(fp32, feeds)
    again = int8.quantize(fp32, feeds)
    assert made.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    onnx.checker.check_model(made)
    assert made.ByteSize() < 0.3 * fp32.ByteSize()
    kinds = {node.op_type for node in made.graph.node}
    assert "MatMulIntegerToFloat" in kinds
    assert "DynamicQuantizeLinear" not in kinds

    def first(model):
        session = onnxruntime.InferenceSession(model.SerializeToString())
        names = [item.name for item in session.get_inputs()]
        return [session.run(None, {n: feed[n] for n in names})[0][0] for feed in feeds[:20]]

    truths = first(fp32)

    def worst(model):
        return min(float(a @ b) for a, b in zip(first(model), truths, strict=True))

    assert worst(made) > 0.998
    assert worst(int8.quantize(fp32, feeds, careful=True)) > 0.9985
