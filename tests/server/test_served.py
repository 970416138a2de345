"""The jobs that a served model makes of requests: what they cost, and whose fault an error is."""

import pytest
from server_process import ARTIFACTS

from tessera_onnx import TesseraMultiVector, TesseraReranker, TokenizationError
from tessera_onnx.server.served import Served


def test_an_error_about_a_pair_counts_from_the_first_pair():
    with TesseraReranker(path=ARTIFACTS / "reranker", threads=1) as model:
        served = Served(model, "reranker", ["test"])
        with pytest.raises(TokenizationError) as caught:
            served.scores([("a", "b"), ("c", "d"), ("c", "\ud800")])
        assert caught.value.index == 2


def test_the_numbers_of_an_answer_are_those_of_all_tokens():
    with TesseraMultiVector(path=ARTIFACTS / "colbert", threads=1) as model:
        served = Served(model, "multi-vector", ["test"])
        job = served.texts(["two cats", "a dog"])
        assert job.numbers == sum(job.tokens) * model.dimension() > 0
