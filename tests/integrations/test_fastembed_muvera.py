"""Muvera against fastembed's, on the starter's token vectors and at several sizes."""

import numpy as np
import pytest

from tessera_onnx import Muvera, TesseraMultiVector

pytestmark = pytest.mark.integrations
TEXTS = ["bread", "Let the dough rise for an hour, then bake it.", "rates " * 200, ""]


@pytest.mark.parametrize(
    "sizes",
    [{}, {"k_sim": 3, "dim_proj": 8, "r_reps": 5}, {"k_sim": 6, "dim_proj": 128, "r_reps": 2}],
)
def test_encodings_are_equal(sizes):
    from fastembed.postprocess import Muvera as Reference

    with TesseraMultiVector("all-minilm-l6-v2", dimension=128) as model:
        ours, theirs = Muvera(128, **sizes), Reference(128, **sizes)
        zeros = np.zeros((2, 128), np.float32)
        given = model.encode_batch(TEXTS)
        for tokens in [*given, np.concatenate([zeros, given[1]]), zeros]:
            for found, expected in (
                (ours.encode_document(tokens), theirs.process_document(tokens)),
                (ours.encode_query(tokens), theirs.process_query(tokens)),
            ):
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
