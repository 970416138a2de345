"""docs/air-gapped.md: models that are pulled from a hub and carried to a machine without one."""

import importlib.util
import shutil
from pathlib import Path

import hub_server
import numpy as np
import pytest
from test_docs import blocks, run_console

from tessera_onnx import IntegrityError, TesseraDense

pytestmark = pytest.mark.slow
STARTER = Path(importlib.util.find_spec("tessera_onnx_starter").origin).with_name("minilm")
PULL, USE = (block.values[0] for block in blocks("console", "hub"))


@pytest.fixture
def hub(monkeypatch):
    """A hub whose repository OWNER/NAME holds the starter's text model."""
    served = hub_server.Hub(
        {
            "OWNER/NAME": {
                "onnx/model.onnx": (STARTER / "model.int8.onnx").read_bytes(),
                "tokenizer.json": (STARTER / "tokenizer.json").read_bytes(),
                "config.json": b'{"hidden_size": 384, "max_position_embeddings": 512}',
                "tokenizer_config.json": b'{"pad_token": "[PAD]", "model_max_length": 256}',
            }
        }
    )
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name)
    yield served
    served.close()


@pytest.mark.parametrize("with_links", [True, False])
def test_what_was_pulled_works_in_another_place_without_the_hub(hub, tmp_path, with_links):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    run_console(PULL, here)
    hub.close()
    asked = len(hub.requests)
    shutil.copytree(here / "carry", there / "carry", symlinks=with_links)
    shutil.rmtree(here)
    links = [path for path in there.rglob("*") if path.is_symlink()]
    assert bool(links) == with_links
    run_console(USE, there)
    assert len(hub.requests) == asked


def test_a_carried_file_that_changed_is_refused(hub, tmp_path, monkeypatch):
    run_console(PULL, tmp_path)
    hub.close()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (graph,) = (tmp_path / "carry").rglob("model.onnx")
    cache = tmp_path / "carry" / "models"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "carry" / "hub" / "hub"))
    with TesseraDense("OWNER/NAME", cache_dir=cache) as carried, TesseraDense() as same:
        assert np.abs(carried.encode("bread") - same.encode("bread")).max() < 1e-6
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.resolve().write_bytes(content)
    with pytest.raises(IntegrityError, match="sha256"):
        TesseraDense("OWNER/NAME", cache_dir=cache)
