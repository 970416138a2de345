"""Packed documents against the plain scores, in ONNX Runtime and NumPy, in memory and in files."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera_onnx import (
    BinaryTokens,
    ConfigError,
    DimensionMismatch,
    FileError,
    IntegrityError,
    LoadError,
    PackedTokens,
)
from tessera_onnx.cli import vector_files
from tessera_onnx.search import blocks, index_file, kernels
from tessera_onnx.vectors import quantization, scoring
from tessera_onnx.vectors.pooling import l2_normalize

FORMS = ("float32", "int8", "binary")


def tokens(rng, n, dim=16):
    return l2_normalize(rng.normal(size=(n, dim)))


def collection(rng, n=40, dim=16):
    return [tokens(rng, int(length), dim) for length in rng.integers(1, 30, n)]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks and segments so small that a few documents fill several."""
    monkeypatch.setattr(blocks, "BLOCK_TOKENS", 64)
    monkeypatch.setattr(blocks, "LEAST_TOKENS", 16)
    monkeypatch.setattr(blocks, "SEGMENT_TOKENS", 200)


def in_numpy(monkeypatch):
    monkeypatch.setattr(kernels, "_session", lambda *_: None)


def binary_scores(query, documents):
    left = quantization.binary(query)
    return [scoring.maxsim_binary(left, quantization.binary(rows)) for rows in documents]


@pytest.mark.parametrize("numpy", [False, True], ids=["onnxruntime", "numpy"])
def test_exact_scores_are_maxsims(rng, monkeypatch, small_blocks, numpy):
    if numpy:
        in_numpy(monkeypatch)
    documents, query = collection(rng), tokens(rng, 7)
    index = PackedTokens(documents)
    np.testing.assert_allclose(
        index.score(query), scoring.maxsim_scores(query, documents), rtol=1e-6, atol=1e-6
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), st.integers(1, 150), st.booleans())
def test_both_ways_agree(lengths, n_query, whole_numbers):
    """With blocks of the shipped size: lengths of 1 to 400, queries longer than one part."""
    rng = np.random.default_rng(len(lengths) * n_query)
    documents, query = [tokens(rng, n, 8) for n in lengths], tokens(rng, n_query, 8)
    rounding = {"rtol": 1e-6, "atol": 1e-7 * n_query + 1e-6}  # sums of n_query terms may cancel
    for output in ("float32", "int8") if whole_numbers else ("float32",):
        index = PackedTokens(documents, output_dtype=output)
        with pytest.MonkeyPatch.context() as context:
            in_numpy(context)
            expected = index.score(query)
        np.testing.assert_allclose(index.score(query), expected, **rounding)
    exact = scoring.maxsim_scores(query, documents)
    np.testing.assert_allclose(PackedTokens(documents).score(query), exact, **rounding)


def test_negative_similarities_stay_negative():
    """A padding of zeros would score 0."""
    documents = [np.array([[-1.0, 0.0]]), np.array([[-0.5, 0.0], [-0.25, 0.0], [-1.0, 0.0]])]
    for output, tolerance in (("float32", 0), ("int8", 0.01)):
        found = PackedTokens(documents, output_dtype=output).score([[1.0, 0.0]])
        np.testing.assert_allclose(found, [-1, -0.25], atol=tolerance)
    assert PackedTokens(documents, output_dtype="binary").score([[1.0, -1.0]]).tolist() == [0, 0]


def test_int8_by_hand():
    # Peaks 1 and 2: scales 1/127 and 2/127; the query's is 3/63. Codes 127, -64 and 127, 64.
    index = PackedTokens([[[1.0, -0.5]], [[2.0, 1.0]]], output_dtype="int8")
    query = np.array([[3.0, 1.0]])  # codes 63, 21
    expected = [(127 * 63 - 64 * 21) * 3 / 63 / 127, (127 * 63 + 64 * 21) * 3 / 63 * 2 / 127]
    np.testing.assert_allclose(index.score(query), expected, rtol=1e-6)


def test_int8_is_near_and_ranks_alike(rng):
    documents, query = collection(rng, 500, 64), tokens(rng, 32, 64)
    exact = scoring.maxsim_scores(query, documents)
    found = PackedTokens(documents, output_dtype="int8").score(query)
    np.testing.assert_allclose(found, exact, atol=0.05)
    assert len({*np.argsort(-found)[:10]} & {*np.argsort(-exact)[:10]}) >= 8


def test_extreme_codes_do_not_overflow():
    """All codes at their ends, which a sum of byte pairs in 16 bits would not hold."""
    rows = np.where(np.arange(256) % 3, 1.0, -1.0)[None]
    for query in (rows, -rows, np.ones((1, 256))):
        found = PackedTokens([rows], output_dtype="int8").score(query)
        np.testing.assert_allclose(found, (rows * query).sum(), rtol=1e-6)


@pytest.mark.parametrize("dim", [8, 13, 64, 100, 128, 300])
def test_binary_scores_are_those_of_the_plain_form(rng, small_blocks, dim):
    documents, query = collection(rng, dim=dim), tokens(rng, 7, dim)
    expected = binary_scores(query, documents)
    index = PackedTokens(documents, output_dtype="binary")
    np.testing.assert_allclose(index.score(query), expected, atol=1e-5)
    of_bits = PackedTokens(map(quantization.binary, documents), output_dtype="binary")
    np.testing.assert_allclose(of_bits.score(quantization.binary(query)), expected, atol=1e-5)


@pytest.mark.parametrize("output", FORMS)
def test_many_queries_are_single_ones(rng, small_blocks, output):
    index = PackedTokens(collection(rng), output_dtype=output)
    queries = [tokens(rng, n) for n in (1, 70, 3, 64, 40, 200)]
    found = index.score_batch(queries)
    assert found.shape == (6, 40) and found.dtype == np.float32
    np.testing.assert_allclose(found, [index.score(q) for q in queries], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("output", FORMS)
def test_adding_is_packing_at_once(rng, small_blocks, output):
    documents, query = collection(rng, 60), tokens(rng, 5)
    whole = PackedTokens(documents, output_dtype=output)
    index = PackedTokens(output_dtype=output)
    for document in documents[:30]:
        index.add([document])
    index.add(iter(documents[30:]))
    assert len(index) == len(whole) == 60
    np.testing.assert_allclose(index.score(query), whole.score(query), rtol=1e-6, atol=1e-6)
    assert index.nbytes < 1.5 * whole.nbytes  # merged, so that like lengths lie together


def test_single_additions_do_not_pile_up(rng):
    index = PackedTokens()
    for document in collection(rng, 300):
        index.add([document])
    dim, segments, _ = index._state
    assert dim == 16 and len(segments) < 12
    assert sorted(i for s in segments for b in s for i in b.numbers.tolist()) == list(range(300))


def test_padding_is_little(rng):
    lengths = rng.integers(50, 301, 3000)
    documents = [np.ones((int(n), 1), np.float32) for n in lengths]
    assert PackedTokens(documents).nbytes < 1.03 * 4 * lengths.sum()
    assert PackedTokens(documents[:100]).nbytes < 1.06 * 4 * lengths[:100].sum()


def test_rank_breaks_ties_by_number(rng):
    same = tokens(rng, 4)
    found = PackedTokens([same, same[:1], same]).rank(same, top_k=2)
    assert [row.index for row in found] == [0, 2]
    with pytest.raises(ConfigError):
        PackedTokens([same]).rank(same, top_k=0)


@pytest.mark.parametrize("output", FORMS)
def test_empty_pack(output):
    index = PackedTokens(output_dtype=output)
    assert index.score(np.ones((2, 4))).shape == (0,)
    assert index.score_batch([]).shape == (0, 0)
    assert index.rank(np.ones((2, 4))) == []
    assert len(index) == 0 and index.dimension() is None
    with pytest.raises(ConfigError, match="nothing to save"):
        index.save("never")


@pytest.mark.parametrize("numpy", [False, True], ids=["onnxruntime", "numpy"])
@pytest.mark.parametrize("output", FORMS)
def test_a_blank_page_scores_least(rng, monkeypatch, small_blocks, tmp_path, output, numpy):
    """Alone, between others, many at once, added later and from a file; the others' scores stay."""
    if numpy:
        in_numpy(monkeypatch)
    blank, documents = np.zeros((0, 16), np.float32), collection(rng)
    if output == "binary":
        blank, documents = quantization.binary(blank), [quantization.binary(d) for d in documents]
    queries = [tokens(rng, 5), tokens(rng, 40)]
    plain = PackedTokens(documents, output_dtype=output).score_batch(queries)
    index = PackedTokens([blank], output_dtype=output)
    assert index.dimension() == 16
    np.testing.assert_array_equal(index.score_batch(queries), [[-5], [-40]])
    index.add([*documents[:7], *[blank] * 300, *documents[7:]])
    index.add([blank])
    index.save(tmp_path / "index")
    for each in (index, PackedTokens.load(tmp_path / "index", verify=True)):
        scores = each.score_batch(queries)
        real = [*range(1, 8), *range(308, 341)]
        np.testing.assert_allclose(scores[:, real], plain, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(np.delete(scores, real, axis=1), [[-5] * 302, [-40] * 302])
        assert each.rank(queries[0])[-1] == (341, -5)


def test_wrong_documents_are_named_and_nothing_is_added(rng):
    index = PackedTokens([tokens(rng, 3)])
    with pytest.raises(DimensionMismatch, match=r"documents\[1\] has 8 dims, those before it 16"):
        index.add([tokens(rng, 2), tokens(rng, 2, 8)])
    with pytest.raises(ConfigError, match=r"documents\[1\] has no tokens or no dimensions"):
        index.add([tokens(rng, 2), np.zeros((3, 0))])
    with pytest.raises(ConfigError, match=r"documents\[0\] holds NaN"):
        index.add([np.full((2, 16), np.nan)])
    with pytest.raises(TypeError, match=r"documents\[0\] must be a numeric array"):
        index.add(["a text"])
    with pytest.raises(TypeError, match="documents must be a list of token vectors, got str"):
        index.add("a text")
    with pytest.raises(ConfigError, match="the index is float32"):
        index.add([quantization.binary(tokens(rng, 2))])
    with pytest.raises(ConfigError, match=r"documents\[0\]: .* do not hold 0 bits"):
        PackedTokens([BinaryTokens(np.zeros((2, 0), np.uint8), 0)], output_dtype="binary")
    with pytest.raises(ConfigError, match=r"documents\[0\]: .* do not hold 32 bits"):
        PackedTokens([BinaryTokens(np.zeros((2, 2), np.uint8), 32)], output_dtype="binary")
    assert len(index) == 1


@pytest.mark.parametrize("output", FORMS)
def test_a_stream_may_fill_one_buffer_again_and_again(rng, output):
    documents, query = [tokens(rng, 9) for _ in range(20)], tokens(rng, 5)

    def stream(kind):
        buffer = np.empty((9, 16), kind)
        for document in documents:
            buffer[:] = document
            yield buffer

    expected = PackedTokens(documents, output_dtype=output).score(query)
    for kind in (np.float32, np.float64):
        found = PackedTokens(stream(kind), output_dtype=output).score(query)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_no_document_is_lost_when_two_calls_add(rng):
    index = PackedTokens([tokens(rng, 3)])

    def adds_itself():
        yield tokens(rng, 2)
        index.add([tokens(rng, 4)])

    with pytest.raises(ConfigError, match="at the same time by another call: make one call after"):
        index.add(adds_itself())
    assert len(index) == 2
    index.add([tokens(rng, 2)])
    assert len(index) == 3


@pytest.mark.parametrize("numpy", [False, True], ids=["onnxruntime", "numpy"])
@pytest.mark.parametrize("output", ["float32", "int8"])
def test_scores_beyond_float32_are_refused(monkeypatch, output, numpy):
    if numpy:
        in_numpy(monkeypatch)
    large = np.full((2, 4), 1e30)
    index = PackedTokens([np.ones((1, 4)), large], output_dtype=output)
    for query in (large, -large):
        with pytest.raises(ConfigError, match="the scores exceed float32"):
            index.rank(np.concatenate([query] * 2) * 1e8)
    np.testing.assert_allclose(index.score(np.ones((1, 4))), [4, 4e30], rtol=0.02)


def test_no_warning_of_numpy_where_vectors_are_tiny():
    """As np.seterr(all="raise") has it, in which a program looks for errors of its own."""
    tiny = np.full((2, 4), 1e-30)
    with np.errstate(all="raise"):
        for output in FORMS:
            for rows in (tiny, tiny * 1e-12):
                assert PackedTokens([rows], output_dtype=output).score(rows).shape == (1,)


@pytest.mark.parametrize("call", ["atexit.register(ask)", "threading.stack_size(2**40); ask()"])
def test_binary_scores_where_no_thread_can_be_started(call):
    """At the interpreter's end a pool takes no work any more; no thread has a stack so large."""
    code = (
        "import atexit, threading, numpy as np, tessera_onnx.search.kernels\n"
        "from tessera_onnx import PackedTokens\n"
        "index = PackedTokens([np.ones((9000, 8))] * 4, output_dtype='binary', threads=2)\n"
        f"ask = lambda: print(index.score(np.ones((1, 8))))\n{call}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[1. 1. 1. 1.]\n", done.stderr


def test_bits_of_any_whole_number_of_dimensions_and_none_after_them():
    bits = np.full((2, 12), 0xFF, np.uint8)
    for dim in (96, np.int64(96), np.uint8(96)):
        assert PackedTokens([BinaryTokens(bits, dim)], output_dtype="binary").dimension() == 96
    with pytest.raises(ConfigError, match=r"documents\[0\] has bits after its 92 dimensions"):
        PackedTokens([BinaryTokens(bits, 92)], output_dtype="binary")
    with pytest.raises(TypeError, match="a whole number of dimensions"):
        PackedTokens([BinaryTokens(bits, 96.0)], output_dtype="binary")


@pytest.mark.parametrize("bad", [3, np.array(3.0), "a text"])
def test_what_is_no_list(rng, bad):
    index = PackedTokens([tokens(rng, 3)])
    with pytest.raises(TypeError, match="documents must be a list of token vectors, got"):
        PackedTokens(bad)
    with pytest.raises(TypeError, match="queries must be a list of token vectors, got"):
        index.score_batch(bad)
    with pytest.raises(TypeError, match="documents must be a list of token vectors, got"):
        scoring.maxsim_scores(tokens(rng, 3), bad)


def test_wrong_queries_and_options(rng):
    index = PackedTokens([tokens(rng, 3)])
    with pytest.raises(DimensionMismatch, match="query has 8 dims, the documents 16"):
        index.score(tokens(rng, 2, 8))
    with pytest.raises(DimensionMismatch, match=r"queries\[1\] has 8"):
        index.score_batch([tokens(rng, 2), tokens(rng, 2, 8)])
    with pytest.raises(ConfigError, match="query holds sign bits"):
        index.score(quantization.binary(tokens(rng, 2)))
    with pytest.raises(ConfigError, match="output_dtype must be"):
        PackedTokens(output_dtype="float16")
    with pytest.raises(ConfigError, match="scored on the CPU"):
        PackedTokens(output_dtype="int8", device="cuda")


def test_a_device_that_is_not_there(rng):
    with pytest.raises(LoadError, match="cuda"):
        PackedTokens([tokens(rng, 3)], device="cuda").score(tokens(rng, 2))


def test_the_model_ranks_packed_documents(multi):
    texts = ["a cat sat on a mat", "the parliament passed a law", "kittens purr"]
    documents = multi.encode_batch(texts)
    index = PackedTokens(multi.encode_iter(texts))
    np.testing.assert_allclose(
        multi.score("felines", index), multi.score("felines", documents), rtol=1e-5
    )
    plain = [row.index for row in multi.rank("felines", documents)]
    assert [row.index for row in multi.rank("felines", index)] == plain
    assert len(multi.rank("felines", index, top_k=1)) == 1


def test_threads_score_while_one_adds(rng):
    documents, query = collection(rng, 200), tokens(rng, 5)
    expected = scoring.maxsim_scores(query, documents)
    index = PackedTokens(documents[:10])
    failures = []

    def score():
        for _ in range(50):
            found = index.score(query)
            if not np.allclose(found, expected[: len(found)], rtol=1e-5):
                failures.append(found)

    readers = [threading.Thread(target=score) for _ in range(3)]
    for reader in readers:
        reader.start()
    for document in documents[10:]:
        index.add([document])
    for reader in readers:
        reader.join()
    assert not failures and len(index) == 200


def test_without_onnxruntime_numpy_scores():
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] == 'onnxruntime': raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from tessera_onnx import PackedTokens\n"
        "for output in ('float32', 'int8', 'binary'):\n"
        "    index = PackedTokens([[[1, 0]], [[0, 1]]], output_dtype=output)\n"
        "    print(index.score([[1, -1]]).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["[1.0, -1.0]"] * 3
    assert "MaxSim runs in NumPy" in done.stderr


@pytest.mark.parametrize("output", FORMS)
def test_a_file_gives_the_same_scores(rng, small_blocks, tmp_path, output):
    documents, query = collection(rng), tokens(rng, 5)
    index = PackedTokens(documents[:20], output_dtype=output)
    index.add(documents[20:])
    path = tmp_path / "some.index"
    index.save(path)
    loaded = PackedTokens.load(path, verify=True)
    assert (len(loaded), loaded.dimension(), loaded.output_dtype) == (40, 16, output)
    assert loaded.nbytes == index.nbytes
    mapped = loaded._state.segments[0][0].tokens
    assert isinstance(mapped.base.base, np.memmap) or isinstance(mapped.base, np.memmap)
    assert mapped.flags.aligned
    assert (loaded.score(query) == index.score(query)).all()
    more = tokens(rng, 4)
    loaded.add([more])
    index.add([more])
    np.testing.assert_allclose(loaded.score(query), index.score(query), rtol=1e-6)
    loaded.save(path)  # over the file that it is mapped from
    assert len(PackedTokens.load(path)) == 41
    assert [found.name for found in tmp_path.iterdir()] == ["some.index"]


def test_numpy_reads_the_file(rng, tmp_path):
    """It is what it says: .npy arrays after each other, no pickle."""
    document = tokens(rng, 3)
    PackedTokens([document]).save(tmp_path / "p")
    with (tmp_path / "p").open("rb") as stream:
        header, shapes, lengths, numbers, scales, flat = (np.load(stream) for _ in range(6))
    assert json.loads(header.tobytes())["dim"] == 16
    assert (shapes.tolist(), lengths.tolist()) == ([[1, 3]], [3])
    assert (numbers.tolist(), scales.tolist()) == ([0], [1])
    assert (flat.reshape(3, 16) == document).all()


@pytest.mark.posix
def test_a_file_that_cannot_be_read_or_written(tmp_path):
    index = PackedTokens([[[1.0, 2.0]]])
    with pytest.raises(FileError):
        index.save(tmp_path / "no folder" / "p")
    with pytest.raises(FileError):
        index.save(tmp_path)
    with pytest.raises(FileError):
        PackedTokens.load(tmp_path / "missing")
    with pytest.raises(FileError):
        PackedTokens.load(tmp_path)
    with pytest.raises(FileError, match="null byte"):
        PackedTokens.load("a\0b")
    os.mkfifo(tmp_path / "pipe")  # to open one is to wait for a writer
    for endless in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(FileError, match="not a regular file"):
            PackedTokens.load(endless)


@pytest.fixture
def saved(rng, small_blocks, tmp_path):
    path = tmp_path / "p"
    PackedTokens(collection(rng, 12), output_dtype="int8").save(path)
    return path


def test_every_cut_is_found(saved):
    content = saved.read_bytes()
    for size in [*range(0, len(content), 97), len(content) - 1]:
        saved.write_bytes(content[:size])
        with pytest.raises(LoadError):
            PackedTokens.load(saved)
    saved.write_bytes(content + b"x")
    with pytest.raises(IntegrityError, match="should have"):
        PackedTokens.load(saved)


def test_every_changed_bit_is_found(saved, rng):
    content = saved.read_bytes()
    for place in rng.integers(0, len(content), 300):
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(changed)
        try:
            index = PackedTokens.load(saved, verify=True)
        except LoadError:
            continue
        # The header's spaces and the paddings of .npy headers say nothing.
        assert chr(content[place]).isspace(), (place, len(index))


def rewrite(path, facts=None, index=None):
    """The file with other facts or index, checksums made right again."""
    with path.open("rb") as stream:
        header, *arrays = (np.load(stream) for _ in range(6))
    facts = json.loads(header.tobytes()) | (facts or {})
    for number, array in (index or {}).items():
        arrays[number] = np.asarray(array, dtype=arrays[number].dtype)
    facts["index_crc32"] = index_file.crc(arrays[:4])
    header = np.frombuffer(json.dumps(facts).ljust(512).encode(), np.uint8)
    with path.open("wb") as stream:
        for array in (header, *arrays):
            np.lib.format.write_array(stream, array, version=(1, 0))


@pytest.mark.parametrize(
    ("facts", "error"),
    [
        ({"format": "another"}, LoadError),
        ({"version": 2}, IntegrityError),
        ({"version": 3}, LoadError),
        ({"version": True}, LoadError),
        ({"version": "1"}, LoadError),
        ({"output": "float16"}, IntegrityError),
        ({"output": "float32"}, IntegrityError),
        ({"dim": -1}, IntegrityError),
        ({"dim": True}, IntegrityError),
        ({"dim": "16"}, IntegrityError),
        ({"dim": 17}, IntegrityError),
        ({"dim": 1 << 70}, IntegrityError),
        ({"documents": 1 << 60}, IntegrityError),
        ({"blocks": 1 << 60}, IntegrityError),
        ({"elements": 1 << 60}, IntegrityError),
    ],
)
def test_hostile_facts(saved, facts, error):
    rewrite(saved, facts)
    with pytest.raises(error):
        PackedTokens.load(saved)


def test_hostile_index(saved):
    with saved.open("rb") as stream:
        _, shapes, lengths, numbers, scales, _ = (np.load(stream) for _ in range(6))
    content = saved.read_bytes()
    huge, negative = shapes.copy(), shapes.copy()
    huge[0] = 1 << 40, 1 << 40
    negative[0, 0] -= 13
    cases = [{0: huge}, {0: negative}, {0: shapes[:, ::-1]}, {1: lengths * 0 - 1}, {1: lengths + 1}]
    cases += [{2: numbers * 0}, {2: numbers + 1}, {3: scales * np.nan}, {3: -scales}]
    for index in cases:
        saved.write_bytes(content)
        rewrite(saved, index=index)
        with pytest.raises(IntegrityError, match="its index do not fit each other"):
            PackedTokens.load(saved)


def test_a_header_that_promises_more_than_the_file_has(saved):
    """Sizes are looked at before memory is taken."""
    with saved.open("rb") as stream:
        header = np.load(stream)
    facts = json.loads(header.tobytes()) | {"documents": 1 << 50, "blocks": 1 << 50}
    with saved.open("wb") as stream:
        filled = json.dumps(facts).ljust(512).encode()
        np.lib.format.write_array(stream, np.frombuffer(filled, np.uint8), version=(1, 0))
        shape = {"descr": "<i8", "fortran_order": False, "shape": (1 << 50, 2)}
        np.lib.format.write_array_header_1_0(stream, shape)
    with pytest.raises(IntegrityError, match="ends within its blocks"):
        PackedTokens.load(saved)


def test_a_pickle_is_no_pack(tmp_path):
    np.save(tmp_path / "p.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(LoadError, match="not an index of token vectors"):
        PackedTokens.load(tmp_path / "p.npy")


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch, rng):
    content = saved.read_bytes()
    monkeypatch.setattr(vector_files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(FileError):
        PackedTokens(collection(rng, 3)).save(saved)
    assert saved.read_bytes() == content
    assert [found.name for found in saved.parent.iterdir()] == ["p"]
