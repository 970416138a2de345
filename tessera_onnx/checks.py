"""Check arguments: limits, top_k, texts, and lists where several items are expected.

Several items may be any iterable that gives them in the caller's order.
"""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, TypeGuard

import numpy as np

from tessera_onnx.errors import ConfigError


def check_limit(limit: int, name: str) -> None:
    """Raises TypeError or ConfigError unless `limit` is a positive int."""
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"{name} must be int, got {type(limit).__name__}")
    if limit < 1:
        raise ConfigError(f"{name} must be at least 1, got {limit}")


TEXTS = "str"  # the `expected` of `check_items` for texts
ONE_EACH = "give one text in each place"


def check_items(items: Any, name: str, expected: str) -> None:
    """Raises TypeError unless iterating over `items` gives the items themselves, in order.

    A frame gives its column names, a dict its keys, a set any order, and a file keeps the line
    ends. The message says what to pass instead. `expected` names the items in it.
    """
    fix = _fix(items, lines="str" in expected or "texts" in expected)
    if expected == TEXTS and is_text(items):
        fix = "put one text into a list, [text]; `encode` takes it alone"
    if fix is None:
        fix = _fix_of_axes(items, expected)
    elif "vectors" in expected and _is_frame(items):
        fix = f"{fix}, or frame.to_numpy() for rows of numbers"
    if fix is not None:
        several = "a list or another iterable of" if expected == TEXTS else "a list of"
        found = f"{type(items).__name__}{': ' if fix else ''}{fix}"
        raise TypeError(f"{name} must be {several} {expected}, got {found}")


def plain(item: Any) -> Any:
    """The Python value of an Arrow scalar, None for a null; any other value unchanged."""
    if isinstance(item, str) or not hasattr(item, "as_py"):
        return item
    return item.as_py()


def is_text(value: Any) -> TypeGuard[str]:
    """Whether it is one text: a str, or an Arrow scalar that holds one."""
    return isinstance(plain(value), str)


def holds_text(value: Any) -> bool:
    """Whether it is a text, or an array or nested list of texts, where numbers are expected."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind == "O" and getattr(value, "ndim", 0):
        value = next(iter(getattr(value, "flat", value)), None)
    return is_text(value) or isinstance(value, bytes) or kind in {*"UST"}


def are_texts(items: list[Any]) -> bool:
    """Whether a list holds texts or vectors; its first item that is not missing decides.

    An item that is neither counts as a text, so the check of texts reports it.
    """
    item = next((item for item in items if not _is_missing(item)), None)
    if isinstance(item, Mapping):  # {id: weight}, not a record
        return not item or isinstance(next(iter(item)), str)
    vectors = isinstance(item, list | tuple) or hasattr(item, "__array__")
    vectors |= any(hasattr(item, name) for name in ("bits", "codes"))  # BinaryTokens, Int8Vectors
    record = hasattr(item, "_fields") and not hasattr(item, "indices")  # a row of a table
    return not vectors or record or _is_frame(item) or holds_text(item)


def hint_for_item(item: Any, several: str = ONE_EACH) -> str:
    """Advice about an item that is no text, as the end of a message; "" without advice.

    `several` is the advice about a list of texts.
    """
    if _is_missing(item):
        return ": fill or drop missing values"
    if isinstance(item, bytes | bytearray | memoryview):
        return ": decode it to str"
    if isinstance(item, Mapping):
        return ': give the text in it, such as item["text"]'
    if _is_frame(item):
        return ': give one column of each frame, such as frame["text"]'
    return "" if is_single(item) or isinstance(item, type) else f": {several}"


def _fix(items: Any, *, lines: bool) -> str | None:
    """What to pass instead of a wrong container; None for a right one, "" without advice.

    `lines` says whether the lines of a file can be the items; otherwise a file is a single item.
    """
    one = isinstance(plain(items), str) or isinstance(items, bytes | bytearray | memoryview)
    file = callable(getattr(items, "readline", None))
    one |= file and not lines
    fields = isinstance(items, tuple) and hasattr(items, "_fields")
    fixes = {
        "put a single item into a list, [item]": one or getattr(items, "ndim", 1) == 0,
        "": isinstance(items, type),
        "fill or drop missing values": hasattr(items, "as_py") and plain(items) is None,
        'its iteration gives no rows: give one column, such as frame["text"]': _is_frame(items),
        "its iteration gives its keys: give list(d.values()), or list(d) for the keys": (
            _is_mapping(items)
        ),
        "a set has no order, which the results could follow: give a list": (
            isinstance(items, AbstractSet) and not isinstance(items, KeysView | ItemsView)
        ),
        'its lines keep their ends: give [line.rstrip("\\n") for line in file]': file,
        "its fields are not several items: put it into a list, [item]": fields,
    }
    known = (fix for fix, applies in fixes.items() if applies)
    return next(known, "" if is_single(items) else None)


def _fix_of_axes(items: Any, expected: str) -> str | None:
    """What to pass instead of an array of records, or of an array whose rows are lists of texts."""
    if getattr(getattr(items, "dtype", None), "names", None):
        return 'its items are records: give one field, such as array["text"]'
    axes = getattr(items, "ndim", 1)
    if expected == TEXTS and axes != 1 and holds_text(items):
        return f"it has {axes} axes: give one column, such as array[:, 0]"
    return None


def _is_frame(value: Any) -> bool:
    """Whether it is a table of columns: pandas, polars, Arrow, narwhals, Hugging Face datasets."""
    return any(hasattr(type(value), name) for name in ("columns", "column_names"))


def _is_mapping(value: Any) -> bool:
    """Whether iterating gives keys. A pandas Series has keys() too, but `values` is no method."""
    methods = (getattr(type(value), name, None) for name in ("keys", "values"))
    return isinstance(value, Mapping) or all(callable(method) for method in methods)


def _is_missing(item: Any) -> bool:
    """Whether it is None, NaN, pandas' NA or NaT, NumPy's masked, or a null of Arrow."""
    item = plain(item)
    if item is None or type(item).__name__ in {"NAType", "NaTType", "MaskedConstant"}:
        return True
    return isinstance(item, float) and item != item  # noqa: PLR0124 (NaN alone differs from itself)


def check_top_k(top_k: int | None, n: int) -> int:
    """`top_k` cut to n; None means all. Raises TypeError or ConfigError."""
    if top_k is None:
        return n
    if isinstance(top_k, bool) or not isinstance(top_k, int | np.integer):
        raise TypeError(f"top_k must be int or None, got {type(top_k).__name__}")
    if top_k < 1:
        raise ConfigError(f"top_k must be at least 1, got {top_k}")
    return min(int(top_k), n)


def is_single(items: object) -> bool:
    """Whether it cannot be a list of items: it is not iterable, or an array without axes."""
    return not hasattr(items, "__iter__") or getattr(items, "ndim", 1) == 0
