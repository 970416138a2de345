"""`tessera completion` in the real shells: what each of them would offer."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# What each shell runs when the user presses the tab key behind LINE.
BASH = """source <(tessera completion bash)
COMP_WORDS=({line}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_tessera_completion tessera
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
FISH = "tessera completion fish | source; complete -C'{line}' | cut -f 1"
ZSH = """autoload -U compinit; compinit -u -d {dump}
source <(tessera completion zsh)
compadd() {{ print -l -- ${{(P)@[-1]}} }}
_describe() {{
  local each
  for each in "${{(@P)@[-2]}}" "${{(@P)@[-1]}}"; do print -- "${{each%%:*}}"; done
}}
words=({line}); CURRENT=${{#words}}
_tessera_completion
"""
SHELLS = {"bash": BASH, "fish": FISH, "zsh": ZSH}


def offered(shell, line, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}, which .ci/run installs")
    script = SHELLS[shell].format(line=line, dump=tmp_path / "dump")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [shell, "-c", script],
        env={**os.environ, "PATH": path, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.posix
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("tessera simi", {"similarity"}),
        ("tessera encode --output-d", {"--output-dtype"}),
        ("tessera encode --model all-minilm-l6", {"all-minilm-l6-v2"}),
        ("tessera encode --output-dtype bin", {"binary"}),
        ("tessera index notes --sparse spl", {"splade-tiny"}),
        ("tessera index notes --multi-vector all-minilm-l6", {"all-minilm-l6-v2"}),
        ("tessera search notes.index query --rerank ms-marco-tiny", {"ms-marco-tinybert-l-2-v2"}),
        ("tessera rank query --hybrid-with splade-t", {"splade-tiny"}),
        ("tessera info splade-t", {"splade-tiny"}),
        ("tessera pull splade-t", {"splade-tiny"}),
    ],
)
def test_a_shell_completes(shell, line, wanted, tmp_path):
    assert wanted <= set(offered(shell, line, tmp_path))
