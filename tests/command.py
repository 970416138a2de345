"""Run the command `tessera` in this process, for tests."""

import json

from click.testing import CliRunner

from tessera_onnx.cli.main import main


def run(*args, code=0, stdin=None):
    """The command in this process; its exit code is checked, an exception is a failure."""
    result = CliRunner().invoke(main, [str(arg) for arg in args], stdin, catch_exceptions=False)
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
    return result


def run_json(*args, **options):
    return json.loads(run(*args, "--json", **options).stdout)
