"""Every command and snippet of docs/stores.md, each in a folder of its own."""

import re

import pytest
import store_cases as cases
import test_docs

pytestmark = pytest.mark.integrations


def test_the_page_of_stores(tmp_path, monkeypatch):
    page = test_docs.STORES.read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert {language for language, _ in blocks} == {"console", "python"}
    with cases.postgres() as url:
        for number, (language, text) in enumerate(blocks):
            folder = tmp_path / str(number)
            folder.mkdir()
            monkeypatch.chdir(folder)
            if language == "console":
                test_docs.run_console(text, folder)
            else:
                test_docs.run_python(text.replace("postgresql://localhost/articles", url))
