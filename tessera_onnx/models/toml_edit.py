"""Change single values of a catalogue's text and leave all else as it stands, comments included."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

# A string on one line, an array, a number or a word.
VALUE = r"""(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\[[^\]]*\]|[^\s,}#"'\[]+)"""
# How tomli-w writes the rows of `files`.
ROW = "[[model.files]]\n"


def set_value(text: str, model: str, key: Sequence[str], value: Any) -> str | None:
    """The text in which one value of a model's entry is another; None where that cannot be done.

    `key` leads to the value: ("dense", "query", "prompt"), or ("files", NAME, "size"). Two keys add
    a file: ("files", NAME), with a table as value.
    """
    for start, end in _blocks(text):
        block = text[start:end]
        if re.search(rf"^id\s*=\s*{re.escape(json.dumps(model))}\s*(#.*)?$", block, re.MULTILINE):
            changed = _changed(block, key, value)
            found = None if changed is None else text[:start] + changed + text[end:]
            return found if found is not None and _reads(found, model, key, value) else None
    return None


def diff(old: str, new: str, name: str) -> str:
    """The change of a file as a patch (`patch -p1`); "" where there is none."""
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    return "".join(difflib.unified_diff(before, after, f"a/{name}", f"b/{name}"))


def in_toml(value: Any) -> str:
    """A value as TOML writes it, on one line."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {in_toml(each)}' for name, each in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(in_toml, value))}]"
    if isinstance(value, str):  # a JSON string is one of TOML, but for the delete character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each [[model]] table."""
    starts = [found.start() for found in re.finditer(r"^\[\[model\]\]", text, re.MULTILINE)]
    yield from zip(starts, [*starts[1:], len(text)], strict=True)


def _changed(block: str, key: Sequence[str], value: Any) -> str | None:
    if key[0] == "files":
        return _changed_files(block, key[1:], value)
    *tables, name = key
    for depth in range(len(tables), -1, -1):  # the innermost table that has a header of its own
        header = f"[model.{'.'.join(tables[:depth])}]" if depth else "[[model]]"
        found = re.search(rf"^{re.escape(header)}[^\n]*\n", block, re.MULTILINE)
        if found is None:
            continue
        end = re.compile(r"^\[", re.MULTILINE).search(block, found.end())
        stop = end.start() if end else len(block)
        part = _changed_line(block[found.end() : stop], [*tables[depth:], name], value)
        if part is not None:
            return block[: found.end()] + part + block[stop:]
    return None


def _changed_line(part: str, key: Sequence[str], value: Any) -> str | None:
    """Lines of one table, in which `key` is a value or leads to it through inline tables."""
    inner = "".join(rf"\{{[^\n]*?\b{re.escape(name)}\s*=\s*" for name in key[1:])
    line = re.compile(rf"^({re.escape(key[0])}\s*=\s*{inner}){VALUE}", re.MULTILINE)
    new, count = line.subn(lambda found: found[1] + in_toml(value), part, count=1)
    return new if count else None


def _changed_files(block: str, key: Sequence[str], value: Any) -> str | None:
    """A row more for one key, another value in a row for two: of inline tables, or of ROW."""
    if len(key) == 1:
        if ROW in block:
            lines = [f"{name} = {in_toml(each)}\n" for name, each in value.items()]
            return block.replace(ROW, "".join([ROW, *lines, "\n", ROW]), 1)
        table = re.compile(r"(^files\s*=\s*\[\n(?:[^\n]*\n)*?)(\s*\])", re.MULTILINE)
        row = f"  {in_toml(value)},\n"
        new, count = table.subn(lambda found: found[1] + row + found[2], block, count=1)
        return new if count else None
    name, field = key
    quoted = re.escape(json.dumps(name))
    inline = rf"\{{[^{{}}\n]*\bname\s*=\s*{quoted}[^{{}}\n]*\b{field}\s*=\s*"
    table_of = rf"{re.escape(ROW)}name\s*=\s*{quoted}\n(?:\w+\s*=[^\n]*\n)*?{field}\s*=\s*"
    row_of = re.compile(rf"({inline}|{table_of}){VALUE}")
    new, count = row_of.subn(lambda found: found[1] + in_toml(value), block, count=1)
    return new if count else None


def _reads(text: str, model: str, key: Sequence[str], value: Any) -> bool:
    """Whether TOML reads the value from the changed text."""
    try:
        entries = tomllib.loads(text)["model"]
        place: Any = next(entry for entry in entries if entry.get("id") == model)
        for name in key:
            if isinstance(place, list):
                place = next(row for row in place if row["name"] == name)
            else:
                place = place[name]
    except (ValueError, KeyError, TypeError, StopIteration):
        return False
    return bool(place == (list(value) if isinstance(value, tuple) else value))
