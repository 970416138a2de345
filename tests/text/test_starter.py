"""The shipped int8 models against torch on the original weights (tests/make_artifacts.py).

int8 is an approximation: these limits are what the quality figures in the README rest on. The
fp32 graphs of the same exports are held to 1e-5 by tests/export.
"""

import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import tessera_onnx_starter
from artifact_tools import ARTIFACTS, golden

from tessera_onnx import ForecastWarning, TesseraDense, TesseraTimeSeries
from tessera_onnx.models.artifact import open_folder
from tessera_onnx.vectors import scoring
from tessera_onnx.vectors.pooling import l2_normalize

TEXTS = json.loads((ARTIFACTS / "starter" / "texts.json").read_text())


def cosines(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def test_dense_is_close_to_torch(dense):
    expected = golden("starter")["dense"]
    for found in (dense.encode_batch(TEXTS), [dense.encode(text) for text in TEXTS]):
        similar = cosines(found, expected)
        assert similar.min() > 0.97
        assert similar.mean() > 0.993


def test_int8_vectors_do_not_depend_on_neighbours(dense, multi):
    alone = [dense.encode(text) for text in TEXTS]
    np.testing.assert_allclose(dense.encode_batch(TEXTS), alone, atol=1e-6)
    for rows, text in zip(multi.encode_batch(TEXTS), TEXTS, strict=True):
        np.testing.assert_allclose(rows, multi.encode(text), atol=1e-6)


def test_dense_first_components_of_hello_world(dense):
    # fastembed's published test values for this model, fp32
    published = [-0.034478, 0.03102, 0.00673, 0.02611, -0.039362]
    np.testing.assert_allclose(dense.encode("hello world")[:5], published, atol=0.02)


def test_multi_vector_scores_are_close_to_unrotated_torch(multi):
    """The rotation changes no full-size score."""
    tokens = multi.encode_batch(TEXTS)
    found = np.stack([multi.score(query, tokens) for query in tokens])
    expected = golden("starter")["maxsim"]
    lengths = np.array([len(rows) for rows in tokens])[:, None]
    assert np.abs((found - expected) / lengths).max() < 0.03
    assert ((found - expected) / lengths).std() < 0.008


def _spread(tokens):
    """Mean MaxSim of every text with every other, centred for each query."""
    scores = np.array([scoring.maxsim_scores(rows, tokens) / len(rows) for rows in tokens])
    scores = scores[~np.eye(len(tokens), dtype=bool)].reshape(len(tokens), -1)
    return scores - scores.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("dimension", [192, 128, 96, 64])
def test_leading_dimensions_tell_texts_apart_as_all_do(multi, dimension):
    """And far better than the trailing ones: the columns are in order of importance."""
    tokens = multi.encode_batch(TEXTS)
    full = _spread(tokens).ravel()
    leading = _spread([l2_normalize(rows[:, :dimension]) for rows in tokens]).ravel()
    trailing = _spread([l2_normalize(rows[:, -dimension:]) for rows in tokens]).ravel()
    found = np.corrcoef(full, leading)[0, 1]
    assert found > 0.9
    assert found > np.corrcoef(full, trailing)[0, 1] + 0.02


def test_sparse_is_close_to_torch(sparse):
    stored = golden("starter")
    for row, vector in enumerate(sparse.encode_batch(TEXTS)):
        mine = stored["sparse_rows"] == row
        expected = np.zeros(sparse.vocab_size())
        expected[stored["sparse_indices"][mine]] = stored["sparse_values"][mine]
        found = vector.to_scipy(sparse.vocab_size()).toarray()[0]
        assert cosines(found, expected) > 0.995


def test_a_sparse_text_does_not_depend_on_the_texts_beside_it(sparse):
    """Its int8 products are the decoder's alone, with a scale of the text's own."""
    for text, vector in zip(TEXTS, sparse.encode_batch(TEXTS), strict=True):
        alone = sparse.encode(text)
        assert (alone.indices == vector.indices).all()
        np.testing.assert_allclose(alone.values, vector.values, atol=1e-4)


def test_the_static_model_equals_model2vec():
    """Its own files, read by model2vec (tests/make_static_artifacts.py)."""
    stored = golden("starter-static")
    with TesseraDense("tessera-static-mini", on_long="truncate") as model:
        found = model.encode_batch(stored["texts"].tolist())
    np.testing.assert_allclose(found, stored["vectors"], atol=1e-6)


def test_expansion_reaches_beyond_the_text(sparse):
    tokens = dict(sparse.explain(sparse.encode("How do vaccines train the immune system?"), 30))
    assert "vaccine" in tokens or "vaccination" in tokens
    assert set(tokens) - {"how", "do", "vaccines", "train", "the", "immune", "system", "?"}


def test_forecasts_equal_torch():
    """fp32: every quantile, past the horizon of one pass too, where upstream's do not cross."""
    stored = golden("forecaster")
    contexts = [stored[f"context_{i}"] for i in range(len(stored["trained"]))]
    truth = stored["trained"].swapaxes(1, 2)
    with TesseraTimeSeries("tessera-bolt-mini") as model:
        with pytest.warns(ForecastWarning, match="series 10: all values that are read are missing"):
            found = model.forecast_quantiles(contexts, 130)
    assert np.isnan(contexts[10]).all()
    assert np.isnan(found[10]).all()  # upstream invents numbers near 0
    found, truth = found[:10], truth[:10]
    scale = np.abs(truth).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(found / scale, np.sort(truth) / scale, rtol=0, atol=1e-4)


def test_a_forecast_sees_the_week_and_the_trend():
    days = np.arange(161)
    visits = 100 + days + 40 * (days % 7 < 5)
    with TesseraTimeSeries() as model:
        low, middle, high = model.forecast_quantiles(visits[:140], 21, [0.1, 0.5, 0.9])[0].T
    assert np.abs(middle - visits[140:]).mean() < 8  # repeating the last value misses by 27
    assert ((low - 10 < visits[140:]) & (visits[140:] < high + 10)).all()


def test_right_document_first(dense, multi, sparse):
    documents = TEXTS[3:]
    for model in (dense, multi, sparse):
        assert model.rank(TEXTS[2], documents)[0].index == 0


def test_every_listed_file_is_there_and_nothing_else_and_small():
    root = Path(tessera_onnx_starter.__file__).parent
    assert metadata.version("tessera-onnx-starter")
    total = 0
    for folder in (
        root / "minilm",
        root / "splade",
        root / "tessera_bolt",
        root / "tessera_static",
    ):
        artifact = open_folder(folder)
        listed = {file.name for file in artifact.spec.files} | {"model.toml"}
        assert {path.name for path in folder.iterdir()} == listed
        assert artifact.spec.export.parity
        for file in artifact.spec.files:
            total += len(artifact.read(file.name))
    assert total < 50_000_000
