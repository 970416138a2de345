"""The snippets of docs/frameworks.md, run section by section where its framework is installed."""

import re
from pathlib import Path

from test_docs import run_python

PAGE = Path(__file__).parents[2] / "docs" / "frameworks.md"


def run_section(title):
    """Run the python blocks under a heading, each by itself, and compare what they print."""
    section = re.search(
        rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )[1]
    blocks = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert blocks
    for text in blocks:
        run_python(text)
