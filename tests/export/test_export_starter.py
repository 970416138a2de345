"""The starter's parts: the learning text, the rotation, and both models through the runtime."""

import json

import numpy as np
import pytest

from tessera_export import artifact, starter
from tessera_export.errors import ExportError
from tessera_export.texts import corpus, encoder, folder, rotation
from tessera_onnx import TesseraDense, TesseraMultiVector, TesseraSparse
from tessera_onnx.vectors import scoring

pytestmark = pytest.mark.export


def words(text):
    return len(text.split())


@pytest.fixture(scope="module")
def passages():
    return corpus.passages(words, 200)


@pytest.fixture(scope="module")
def fp32(minilm, passages, tmp_path_factory):
    """The starter's all-MiniLM-L6-v2 in fp32, its rotation learned from some of the text."""
    facts = starter.minilm(minilm)
    output = tmp_path_factory.mktemp("starter") / "minilm"
    with pytest.MonkeyPatch().context() as context:
        context.setattr(corpus, "passages", lambda *_: [p[:300] for p in passages[:500]])
        matrix = rotation.learn(facts)
    encoder.export(facts, output, artifact.Origin("m"), ("fp32",), rotation=matrix)
    return output, matrix


def golden(texts_folder):
    texts = json.loads((texts_folder / "texts.json").read_text())
    with np.load(texts_folder / "golden.npz", allow_pickle=False) as stored:
        return texts, dict(stored)


@pytest.fixture(scope="module")
def reference(pytestconfig):
    """sentence-transformers' values for both models (tests/make_artifacts.py)."""
    return golden(pytestconfig.rootpath / "tests" / "artifacts" / "starter")


def test_the_learning_text_is_prose_in_passages_and_always_the_same(passages):
    assert len(passages) > 600
    assert max(map(words, passages)) < 600  # one paragraph may be longer than the size asked for
    assert np.median([words(p) for p in passages]) > 150
    assert corpus.passages(words, 200) == passages
    joined = " ".join(passages)
    assert not any(mark in joined for mark in (">>>", "---", "==="))


def test_the_rotation_is_orthogonal_and_sign_fixed(fp32):
    matrix = fp32[1].astype(np.float64)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(384), atol=1e-5)
    assert (matrix[np.abs(matrix).argmax(axis=0), np.arange(384)] > 0).all()


def test_too_little_text_is_refused(minilm, monkeypatch):
    monkeypatch.setattr(corpus, "passages", lambda *_: ["a few words"])
    with pytest.raises(ExportError, match="1 passages are too few"):
        rotation.learn(starter.minilm(minilm))


def test_fp32_vectors_equal_sentence_transformers(fp32, reference):
    texts, stored = reference
    with TesseraDense(path=fp32[0]) as model:
        np.testing.assert_allclose(model.encode_batch(texts), stored["dense"], atol=1e-5)
        for text, expected in zip(texts, stored["dense"], strict=True):
            np.testing.assert_allclose(model.encode(text), expected, atol=1e-5)


def test_the_rotation_changes_no_full_size_score(fp32, reference):
    texts, stored = reference
    with TesseraMultiVector(path=fp32[0]) as model:
        tokens = model.encode_batch(texts)
    np.testing.assert_allclose(scoring.maxsim_matrix(tokens, tokens), stored["maxsim"], rtol=1e-4)


@pytest.mark.slow
def test_int8_sparse_keeps_one_table_and_the_weights(splade, reference, tmp_path):
    facts = folder.read(splade, ["sparse"], folder.Overrides(max_length=256))
    encoder.export(facts, tmp_path / "s", artifact.Origin("s"), ("int8",))
    # 30,522 x 128 int8 is 3.9 MB; two tables would make it more than 8.
    assert (tmp_path / "s" / "model.int8.onnx").stat().st_size < 5_500_000
    texts, stored = reference
    with TesseraSparse(path=tmp_path / "s") as model:
        for row, vector in enumerate(model.encode_batch(texts)):
            mine = stored["sparse_rows"] == row
            expected = np.zeros(model.vocab_size())
            expected[stored["sparse_indices"][mine]] = stored["sparse_values"][mine]
            found = np.zeros(model.vocab_size())
            found[vector.indices] = vector.values
            cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
            assert cosine > 0.98
