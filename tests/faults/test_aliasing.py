"""A result is the caller's own: to write into it changes no input, no model and no later result.

And the other way round: an input that changes after a call changes nothing that was made of it.
Nor does anything but the caller keep a result in memory.
"""

import copy
import gc

import numpy as np
import pytest
from artifact_tools import TEXTS
from cases_images import COLOURS
from test_concurrency import KINDS, opened, work

from tessera_onnx import (
    BinaryTokens,
    PackedSparse,
    PackedTokens,
    SparseVector,
    TesseraTimeSeries,
    TesseraVision,
    maxsim,
)
from tessera_onnx.vectors import pooling, quantization

pytestmark = pytest.mark.filterwarnings("ignore::tessera_onnx.TruncationWarning")
RNG = np.random.default_rng(5)


def arrays(found):
    """Every array inside a result."""
    if isinstance(found, np.ndarray):
        return [found]
    if hasattr(found, "__dataclass_fields__"):
        found = [getattr(found, name) for name in found.__dataclass_fields__]
    if isinstance(found, dict):
        found = list(found.values())
    return (
        [each for part in found for each in arrays(part)] if isinstance(found, list | tuple) else []
    )


def calls(kind, model):
    """Name to (call, inputs that are arrays)."""
    rows = RNG.standard_normal((6, 32), np.float32)
    if isinstance(model, TesseraTimeSeries):
        series = [np.arange(40.0), np.sin(np.arange(90.0)).astype(np.float32)]
        levels = np.array([0.1, 0.5])
        return {
            "forecast": (lambda: model.forecast(series, 8), series),
            "one": (lambda: model.forecast_quantiles(series[1], 8, levels), [*series, levels]),
            "longer": (lambda: model.forecast(series, 100), series),
        }
    if isinstance(model, TesseraVision):
        image = COLOURS.copy()
        return {
            "encode_document": (lambda: model.encode_document(image), [image]),
            "encode_documents": (lambda: model.encode_documents([image, image]), [image]),
            "int8": (lambda: model.encode_document(image, output_dtype="int8"), [image]),
            "binary": (lambda: model.encode_document(image, output_dtype="binary"), [image]),
            "pooled": (lambda: model.encode_document(image, pool_factor=2), [image]),
            "encode_query": (lambda: model.encode_query(TEXTS[:2]), []),
            "score": (lambda: model.score("cat", [image]), [image]),
            "map": (lambda: model.similarity_map("cat", image), [image]),
        }
    found = {
        "encode": (lambda: model.encode("the cat"), []),
        "encode_batch": (lambda: list(model.encode_batch([*TEXTS, *TEXTS])), []),
        "encode_iter": (lambda: list(model.encode_iter(TEXTS)), []),
        "encode_query": (lambda: model.encode_query("the cat"), []),
        "encode_all": (lambda: model.encode_all(TEXTS), []),
        "token_count": (lambda: model.token_count(TEXTS), []),
    }
    if kind == "dense":
        for output in ("int8", "binary"):
            found[output] = (lambda o=output: model.encode_batch(TEXTS, output_dtype=o), [])
    if kind == "multi-vector":
        found["quantize"] = (lambda: model.quantize(rows), [rows])
        found["score"] = (lambda: model.score(rows, [rows, rows[:2]]), [rows])
        found["pooled"] = (lambda: model.encode_batch(TEXTS, pool_factor=2), [])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_models_results_are_the_callers(kind):
    with opened(kind, threads=2) as model:
        for name, (call, inputs) in calls(kind, model).items():
            before = [array.copy() for array in inputs]
            first = arrays(call())
            truth = [array.copy() for array in first]
            assert first, name
            for i, array in enumerate(first):
                assert array.flags.writeable, name
                assert not any(np.shares_memory(array, other) for other in inputs), name
                others = first[:i] + first[i + 1 :]
                assert not any(np.shares_memory(array, other) for other in others), name
                array[...] = 77
            for array, old in zip(inputs, before, strict=True):
                np.testing.assert_array_equal(array, old, name)
            for array, old in zip(arrays(call()), truth, strict=True):
                np.testing.assert_allclose(array, old, rtol=1e-4, atol=1e-5, err_msg=name)


def left_over(call):
    """What a call leaves to the garbage collector, by name: with it, all that it holds stays."""
    call()  # what a first call keeps for later ones
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        call()
        gc.collect()
        return [getattr(each, "__qualname__", type(each).__name__) for each in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_models_results_end_with_the_callers(kind, threads):
    """A gigabyte of vectors is free when its list is, not when the collector comes by."""
    with opened(kind, threads=threads) as model:
        for name, (call, _) in calls(kind, model).items():
            assert left_over(call) == [], name


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_ends_with_its_last_name(kind):
    """Its graphs may be gigabytes, and not all programs close them."""
    left = left_over(lambda: work(opened(kind, threads=2)))
    assert not {"Session", "InferenceSession", "Tokenizer"} & set(left)  # but importlib.metadata's


ROWS = RNG.standard_normal((6, 32), np.float32)
UNIT = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
CODES = quantization.int8(ROWS)
SPARSE = SparseVector(np.array([1, 4], np.int32), np.array([0.5, 2], np.float32))


def changed(pack):
    """One document less, from one pack to another and ranked in between: no call keeps a cycle."""
    pack.rank(ROWS if isinstance(pack, PackedTokens) else SPARSE, subset=["b", 0])
    pack.remove(["a"])
    return copy.copy(pack)


@pytest.mark.parametrize(
    ("call", "inputs"),
    [
        (lambda: quantization.int8(ROWS), [ROWS]),
        (lambda: quantization.int8(ROWS).dequantize(), [ROWS]),
        (lambda: quantization.binary(ROWS), [ROWS]),
        (lambda: quantization.binary(ROWS).unpack(), [ROWS]),
        (lambda: quantization.matryoshka(UNIT, 32), [UNIT]),
        (lambda: quantization.matryoshka(UNIT, 8), [UNIT]),
        (lambda: pooling.l2_normalize(UNIT), [UNIT]),
        (lambda: pooling.pool_tokens(ROWS, 2), [ROWS]),
        (lambda: PackedTokens([ROWS]).score(ROWS), [ROWS]),
        (lambda: PackedTokens([ROWS, UNIT], ids=["a", "b"]).numbers, [ROWS, UNIT]),
        (lambda: changed(PackedTokens([ROWS, UNIT], ids=["a", "b"])).score(ROWS), [ROWS, UNIT]),
        (lambda: changed(PackedSparse([SPARSE] * 2, ids=["a", "b"])).score(SPARSE), [*SPARSE]),
        (
            lambda: PackedTokens([CODES], output_dtype="int8").score(CODES),
            [CODES.codes, CODES.scale],
        ),
        (lambda: quantization.floats(CODES, "codes"), [CODES.codes, CODES.scale]),
        (lambda: np.array([maxsim(ROWS, ROWS)]), [ROWS]),
        (lambda: PackedSparse([SPARSE]).score(SPARSE), [*SPARSE]),
        (lambda: SPARSE.to_scipy(9).data, [*SPARSE]),
        (lambda: SPARSE.to_scipy(9).indices, [*SPARSE]),
    ],
)
def test_what_is_made_of_arrays_is_the_callers(call, inputs):
    assert left_over(call) == []
    before = [array.copy() for array in inputs]
    for array in arrays(call()):
        array[...] = 77
    for array, old in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize("output", ["float32", "int8", "binary"])
def test_a_pack_keeps_nothing_of_its_callers(output):
    documents = [RNG.standard_normal((n, 32), np.float32) for n in (3, 9, 1)]
    made = documents if output != "binary" else [quantization.binary(rows) for rows in documents]
    pack = PackedTokens(made, output_dtype=output)
    pack.add(made)
    expected = pack.score(ROWS)
    for each in made:
        (each.bits if isinstance(each, BinaryTokens) else each)[...] = 1
    np.testing.assert_array_equal(pack.score(ROWS), expected)
    pack.score(ROWS)[...] = 0
    np.testing.assert_array_equal(pack.score(ROWS), expected)


def test_packed_sparse_vectors_keep_nothing_of_their_callers():
    vector = SparseVector(SPARSE.indices.copy(), SPARSE.values.copy())
    pack = PackedSparse([vector, vector])
    vector.indices[...] = 0
    vector.values[...] = 9
    np.testing.assert_allclose(pack.score(SPARSE), [4.25, 4.25])


@pytest.mark.parametrize("kind", ["tokens", "sparse"])
def test_ids_and_numbers_are_the_packs_own(kind, tmp_path):
    ids = ["a", "b", "c"]
    pack = (
        PackedTokens([ROWS, UNIT, ROWS], ids=ids)
        if kind == "tokens"
        else PackedSparse([SPARSE] * 3, ids=ids)
    )
    ids[0] = "x"
    pack.ids[0] = "y"
    pack.numbers[...] = 7
    assert pack.ids == ["a", "b", "c"] and pack.numbers.tolist() == [0, 1, 2]
    named = ["a"]
    pack.remove(named)
    named[0] = "b"
    path = tmp_path / "p"

    def around():
        pack.save(path)
        return type(pack).load(path, verify=True).ids

    assert left_over(around) == [] and around() == ["b", "c"]
