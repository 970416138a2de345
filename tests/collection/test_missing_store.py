"""Without the packages of the extra `index`, a collection says how to install them."""

import subprocess
import sys

import pytest

CODE = """
import sys
sys.modules[{missing!r}] = None
from tessera_onnx import Collection
from tessera_onnx.cli.main import main
try:
    Collection("c").{call}
except ImportError as error:
    print(error)
main(["index", ".", "--to", "c"])
"""


@pytest.mark.parametrize("missing", ["lancedb", "filelock"])
@pytest.mark.parametrize("call", ['search("x")', 'sync(["."])', "add([])", 'remove(["."])'])
def test_the_extra_is_named(tmp_path, missing, call):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(missing=missing, call=call)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f'{missing} is not installed: `pip install "PATH[index]"`' in done.stdout
    assert f'Error: {missing} is not installed: `pip install "PATH[index]"`' in done.stderr
    assert done.returncode == 1
    assert not list(tmp_path.iterdir())
