"""Read the cells of a CSV file as numbers, with decimal points or decimal commas.

The cells themselves show which: 12,5 has a decimal comma and 1,234.5 a decimal point. 1,234 may be
either; it is read like the other cells of its column, else of the file, and is an error where
no other cell decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError
from tessera_onnx.series import exact

Mark = Literal[".", ","]
MISSING = {
    "", "na", "n/a", "nan", "null", "none", "nil", "missing", "<na>", "#n/a", "#na", "-", "--",
    "\N{EN DASH}", "\N{EM DASH}", ".", "..", "?",
}  # fmt: skip
SIGN = r"[+-]?"
# Numbers that must have a decimal comma, that must have a decimal point, and that may have either.
COMMA = re.compile(
    rf"{SIGN}(?:\d*,\d+(?:[eE]{SIGN}\d+)?|\d{{1,3}}(?:\.\d{{3}})+,\d+|\d{{1,3}}(?:\.\d{{3}}){{2,}})"
)
POINT = re.compile(
    rf"{SIGN}(?:\d*\.\d+(?:[eE]{SIGN}\d+)?|\d{{1,3}}(?:,\d{{3}})+\.\d+|\d{{1,3}}(?:,\d{{3}}){{2,}})"
)
UNCLEAR = re.compile(rf"{SIGN}[1-9]\d{{0,2}}([.,])\d{{3}}")

WITH_COMMA = re.compile(rf"{SIGN}(?:\d+|\d{{1,3}}(?:\.\d{{3}})+|)(?:,\d*)?(?:[eE]{SIGN}\d+)?")
WITH_GROUPS = re.compile(rf"{SIGN}\d{{1,3}}(?:,\d{{3}})+(?:\.\d*)?")


class NoNumberError(Exception):
    """A cell is no number; `row` is None where the whole column is at fault."""

    def __init__(self, row: int | None, what: str) -> None:
        super().__init__(what)
        self.row, self.what = row, what


def mark(cells: Iterable[str]) -> Mark | None:
    """The decimal mark that cells have; None where no cell decides.

    Raises NoNumberError where cells have different marks.
    """
    found: set[Mark] = set()
    for cell in cells:
        if "," not in cell and cell.count(".") < ("." in found) + 1:
            continue  # a whole number, or another decimal point
        if UNCLEAR.fullmatch(cell):
            continue
        if COMMA.fullmatch(cell):
            found.add(",")
        elif POINT.fullmatch(cell):
            found.add(".")
    if len(found) > 1:
        raise NoNumberError(None, "numbers with decimal points and with decimal commas")
    return found.pop() if found else None


def file_mark(columns: Iterable[Sequence[str]]) -> Mark | None:
    """The decimal mark that all columns agree on; None where they do not, or where none decides."""
    found = set()
    for cells in columns:
        try:
            found.add(mark(cells))
        except NoNumberError:
            continue
    found.discard(None)
    return found.pop() if len(found) == 1 else None


def is_number(cell: str) -> bool:
    """Whether a cell is a number with one of the marks."""
    return bool(re.fullmatch(rf"{SIGN}\d+", cell) or COMMA.fullmatch(cell) or POINT.fullmatch(cell))


def read_numbers(
    cells: Sequence[str],
    found: Mark | None,
    parts: Sequence[NDArray[np.intp]],
    delimiter: str,
) -> NDArray[np.float64]:
    """Read the numbers of a column, NaN where missing; `parts` are the rows of each series.

    `found` is the decimal mark; None where no cell decides. Raises NoNumberError, whose message
    never holds the content of a cell.
    """
    unclear = set()
    if found is None:
        unclear = {match[1] for match in map(UNCLEAR.fullmatch, cells) if match}
    if "," in unclear or (unclear and delimiter == ";"):
        sign = "comma" if "," in unclear else "point"
        raise NoNumberError(
            None,
            f"numbers with a {sign} before three digits, which may be thousands or decimals: say "
            "which with --decimal . or --decimal ,",
        )
    plain = [_plain(cell, found or ".") for cell in cells]
    values = np.full(len(cells), np.nan)
    for row, cell in enumerate(plain):
        try:
            values[row] = float(cell if "_" not in cell else "")  # Python reads 1_000 as 1000
        except ValueError:
            if cell.lower() not in MISSING:
                raise NoNumberError(row, "no number") from None
    beyond = np.abs(values) > exact.LARGEST
    if beyond.any():
        raise NoNumberError(int(beyond.argmax()), "infinity, or a value beyond float32")
    if np.max(np.abs(values), where=~np.isnan(values), initial=0) > exact.WHOLE64:
        _check_held(plain, values, parts)
    return values


def _plain(cell: str, found: Mark) -> str:
    """Rewrite a number in Python's form; a cell that is no number with that mark is not changed."""
    if "," not in cell and (found == "." or "." not in cell):
        return cell
    if found == ",":
        is_number = WITH_COMMA.fullmatch(cell)
        return cell.replace(".", "").replace(",", ".") if is_number else "no number"
    return cell.replace(",", "") if WITH_GROUPS.fullmatch(cell) else cell


def _check_held(
    plain: Sequence[str], values: NDArray[np.float64], parts: Sequence[NDArray[np.intp]]
) -> None:
    for part in parts:
        known = [Decimal(plain[row]) for row in part if not np.isnan(values[row])]
        whole = [int(v) if v == int(v) else v for v in known]
        try:
            exact.check_held(whole, "it")
        except ConfigError:
            raise NoNumberError(
                None, "numbers so large that float64 rounds their changes away: subtract an offset"
            ) from None
