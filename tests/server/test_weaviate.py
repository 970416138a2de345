"""The routes of Weaviate's text2vec-transformers container."""

import numpy as np
from server_process import ARTIFACTS

from tessera_onnx import TesseraDense


def test_vectors_with_roles(field):
    body = {"text": "two cats", "model": "test-prompts"}
    with TesseraDense(path=ARTIFACTS / "prompts", threads=1) as model:
        for role, expected in (
            ("query", model.encode_query("two cats")),
            ("passage", model.encode_document("two cats")),
            ("", model.encode("two cats")),
        ):
            config = {"pooling_strategy": "masked_mean", "task_type": role}
            found = field.post("/vectors", json=body | {"config": config}).json()
            np.testing.assert_allclose(found["vector"], expected, atol=1e-5)
            assert (found["text"], found["dim"]) == ("two cats", 32)
        found = field.post("/vectors", json=body | {"config": {"dimensions": 8}}).json()
        cut = model.encode("two cats")[:8]
    np.testing.assert_allclose(found["vector"], cut / np.linalg.norm(cut), atol=1e-5)
    assert len(field.post("/vectors", json={}).json()["vector"]) == 384


def test_errors_and_health(field):
    answer = field.post("/vectors", json={"text": 3})
    assert (answer.status_code, set(answer.json())) == (400, {"error"})
    assert field.get("/.well-known/live").status_code == 204
    assert field.get("/.well-known/ready").status_code == 204
    assert field.get("/meta").json()["models"][0]["id"]
