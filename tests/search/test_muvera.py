"""Fixed dimensional encodings: fastembed's own, by hand, and as an estimate of MaxSim."""

import numpy as np
import pytest
from artifact_tools import ARTIFACTS

from tessera_onnx import ConfigError, DimensionMismatch, Muvera
from tessera_onnx.results import BinaryTokens, Int8Vectors
from tessera_onnx.vectors import quantization, scoring
from tessera_onnx.vectors.pooling import l2_normalize

GOLDEN = np.load(ARTIFACTS / "muvera.npz")
NAMES = [name.removeprefix("tokens-") for name in GOLDEN if name.startswith("tokens-")]


@pytest.mark.parametrize("name", NAMES)
def test_encodings_are_fastembeds(name):
    dim, k_sim, dim_proj, r_reps, seed = GOLDEN["settings"][int(name.split("-")[0])].tolist()
    muvera = Muvera(dim, k_sim=k_sim, dim_proj=dim_proj, r_reps=r_reps, seed=seed)
    tokens = GOLDEN[f"tokens-{name}"]
    for role, encode in (("query", muvera.encode_query), ("document", muvera.encode_document)):
        found = encode(tokens)
        assert found.dtype == np.float32 and found.shape == (muvera.dimension(),)
        np.testing.assert_allclose(found, GOLDEN[f"{role}-{name}"], rtol=1e-5, atol=1e-5)


def test_published_values():
    """Those of fastembed's own tests (tests/test_postprocess.py), with its defaults."""
    tokens = np.random.default_rng(42).random((10, 128))
    muvera = Muvera(128)
    assert muvera.dimension() == 10240
    np.testing.assert_allclose(
        muvera.encode_document(tokens)[:3], [-2.6181e-4, 1.8900575, -2.32070747], atol=2e-6
    )
    query = muvera.encode_query(tokens)
    np.testing.assert_allclose(
        query[query != 0][:3], [-0.85783903, 1.1077204, -0.09522747], atol=2e-6
    )


def test_by_hand(monkeypatch):
    """One repetition, nothing projected, planes x and y: buckets by the signs of the two."""
    muvera = Muvera(2, k_sim=2, dim_proj=2, r_reps=1)
    monkeypatch.setattr(muvera, "_planes", np.eye(2))
    tokens = np.array([[1.0, 2.0], [3.0, 4.0], [-1.0, 5.0]])  # buckets 3, 3, 2
    assert muvera.encode_query(tokens).reshape(4, 2).tolist() == [[0, 0], [0, 0], [-1, 5], [4, 6]]
    # Bucket 0 is 1 bit from bucket 2 and 2 from bucket 3; bucket 1 is 1 bit from bucket 3.
    filled = [[-1, 5], [1, 2], [-1, 5], [2, 3]]
    assert muvera.encode_document(tokens).reshape(4, 2).tolist() == filled


def test_a_vector_in_a_plane_lies_on_its_lower_side(monkeypatch):
    muvera = Muvera(2, k_sim=2, dim_proj=2, r_reps=1)
    monkeypatch.setattr(muvera, "_planes", np.eye(2))
    tokens = np.array([[0.0, 0.0], [1.0, 2.0]])  # buckets 0 and 3
    filled = [[0, 0], [0, 0], [0, 0], [1, 2]]
    assert muvera.encode_document(tokens).reshape(4, 2).tolist() == filled


def test_of_several_nearest_buckets_the_lowest_fills(monkeypatch):
    muvera = Muvera(2, k_sim=2, dim_proj=2, r_reps=1)
    monkeypatch.setattr(muvera, "_planes", np.eye(2))
    tokens = np.array([[-1.0, 5.0], [6.0, -1.0]])  # buckets 2 and 1, both 1 bit from 0 and 3
    filled = [[6, -1], [6, -1], [-1, 5], [6, -1]]
    assert muvera.encode_document(tokens).reshape(4, 2).tolist() == filled


def test_products_estimate_maxsim(rng):
    """The nearest of 200 documents by MaxSim is among the first tenth by products."""
    query = l2_normalize(rng.normal(size=(16, 32)))
    documents = [l2_normalize(rng.normal(size=(30, 32))) for _ in range(199)]
    documents.append(l2_normalize(np.concatenate([query + 0.1, documents[0]])))
    muvera = Muvera(32, r_reps=40)
    found = [muvera.encode_query(query) @ muvera.encode_document(each) for each in documents]
    exact = scoring.maxsim_scores(query, documents)
    assert exact.argmax() == 199
    assert 199 in np.argsort(found)[-20:]


def test_other_forms_and_blank_pages(rng):
    muvera, tokens = Muvera(16, k_sim=2, dim_proj=4, r_reps=2), rng.normal(size=(5, 16))
    exact = muvera.encode_document(tokens)
    codes = quantization.int8(tokens)
    assert isinstance(codes, Int8Vectors)
    np.testing.assert_allclose(muvera.encode_document(codes), exact, atol=0.1)
    bits = quantization.binary(tokens)
    assert isinstance(bits, BinaryTokens)
    np.testing.assert_allclose(
        muvera.encode_document(bits), muvera.encode_document(bits.unpack() / 4), rtol=1e-6
    )
    assert not muvera.encode_document(np.empty((0, 16))).any()
    with pytest.raises(ConfigError, match="no tokens"):
        muvera.encode_query(np.empty((0, 16)))


def test_wrong_arguments(rng):
    for wrong in ({"k_sim": 0}, {"k_sim": 13}, {"dim_proj": 17}, {"r_reps": 0}, {"seed": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Muvera(16, **wrong)
    assert Muvera(16, k_sim=12, dim_proj=16, r_reps=1).dimension() == 4096 * 16
    for wrong in ({"k_sim": 2.0}, {"dim_proj": True}, {"seed": "7"}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            Muvera(16, **wrong)
    muvera = Muvera(16)
    for encode in (muvera.encode_query, muvera.encode_document):
        with pytest.raises(DimensionMismatch, match="8 dims, this encoder 16"):
            encode(rng.normal(size=(3, 8)))
        with pytest.raises(ConfigError, match="NaN"):
            encode(np.full((3, 16), np.nan))
        with pytest.raises(TypeError, match="a text"):
            encode("a text")
