"""The pages whose snippets need torch: docs/own-models.md, and blocks of other pages."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import layouts
import pytest
import test_bolt
from click.testing import CliRunner
from test_docs import EXPORTED, blocks, run_console, run_python

from tessera_export import cli

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def models(tmp_path, minilm, monkeypatch):
    """The folders that the pages name, with random weights, in the working directory."""
    monkeypatch.chdir(tmp_path)
    workshop = layouts.Workshop(tmp_path / "encoders", minilm)
    layouts.dense()(workshop, tmp_path / "my-onnx-model")
    shutil.copytree("my-onnx-model", "my-model")
    shutil.rmtree("my-model/onnx")
    return tmp_path


def test_own_models(models):
    """Each block uses what those before it wrote; indented commands are shown without output."""
    page = EXPORTED.read_text()
    blocks = re.findall(
        r"^```(\w+)\n(.*?)^```|^    (tessera-export [^\n]*)$", page, re.MULTILINE | re.DOTALL
    )
    assert {language for language, *_ in blocks} == {"console", "python", ""}
    for language, text, command in blocks:
        if language == "python":
            run_python(text)
        elif language:
            run_console(text, models)
        else:
            done = subprocess.run(
                [Path(sys.executable).parent / "tessera-export", *shlex.split(command)[1:]],
                check=False,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", blocks("python", "torch"))
def test_blocks_of_other_pages(text, models):
    if "my-bolt" in text:
        test_bolt.save(models / "my-bolt")
        # As in the published folders.
        layouts.edit(models / "my-bolt/config.json", chronos_pipeline_class="ChronosBoltPipeline")
        options = ("--kind", "time-series", "--output", "my-forecaster")
        done = CliRunner().invoke(cli.main, ["my-bolt", *options])
        assert done.exit_code == 0, done.output
    run_python(text)
