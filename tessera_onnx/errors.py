"""The exceptions of the package, and how messages name values and files.

TesseraError(Exception)
├ LoadError(TesseraError, RuntimeError)      a model cannot be opened
│ ├ ModelNotFound                            no model of that name here
│ ├ DeviceError                              the device asked for does not work
│ └ IntegrityError                           a file is not the one that the model lists
├ EncodingError(TesseraError, RuntimeError)  an open model cannot encode an input
│ └ TokenizationError                        a text cannot be turned into tokens
├ ConfigError(TesseraError, ValueError)      an argument has a value that cannot work
│ ├ UnsupportedDimension
│ ├ DimensionMismatch
│ ├ QuantizationError
│ └ InputTooLong
├ FileError(TesseraError, OSError)           a file cannot be read or written
├ Cancelled(TesseraError)                    the event that was passed as `cancel` is set
└ TimedOut(TesseraError, TimeoutError)       the `timeout` of a call is over

Messages are for people; programs read the attributes `index`, `indices`, `path` and `line`, which
survive pickling. No message holds the user's text: it names an item by its index and its length. A
wrong *type* is a plain TypeError, which has an `index` too where it is about one of several items.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

LONGEST_NAME = 100  # characters of a name that a message repeats
LONGEST_PLACE = 1000  # of one that is a place of the file system


class TesseraError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
        index: number, from 0, of the item that the error is about, in the list or stream that the
            caller passed; None for an error about no item, and for a single text or image.
        indices: numbers of all items of a batch that failed, when it is unknown which one is at
            fault; `index` is then the first of them. Otherwise empty.
        path: the file that the error is about, as the caller named it; None without a file.
        line: the line in that file, from 1; None without a line.
    """

    def __init__(
        self,
        message: str = "",
        *,
        index: int | None = None,
        indices: Sequence[int] = (),
        path: str | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message)
        self.indices = tuple(indices)
        self.index = min(self.indices) if index is None and self.indices else index
        self.path = path
        self.line = line


@contextmanager
def about_item(index: int | None) -> Iterator[None]:
    """Give an error of this block the item's index, unless it has one; a TypeError gets it too."""
    try:
        yield
    except (TesseraError, TypeError) as error:
        if getattr(error, "index", None) is None:
            error.index = index  # type: ignore[union-attr]
        raise


class LoadError(TesseraError, RuntimeError):
    """A model cannot be opened."""


class ModelNotFound(LoadError):
    """No model of that name is installed; the message names near matches."""


class DeviceError(LoadError):
    """The chosen device cannot run the model; the message holds the reason and the fix."""


class IntegrityError(LoadError):
    """A model file is missing, truncated or not the one that model.toml lists."""


class EncodingError(TesseraError, RuntimeError):
    """An open model failed on an input."""


class TokenizationError(EncodingError):
    """A text cannot be turned into tokens."""


class ConfigError(TesseraError, ValueError):
    """An argument has a value that cannot work."""


class UnsupportedDimension(ConfigError):
    """The model was not trained to be cut to that dimension."""


class DimensionMismatch(ConfigError):
    """Two arrays that must agree in a dimension do not."""


class QuantizationError(ConfigError):
    """Vectors cannot be quantized, or quantized vectors cannot be compared."""


class InputTooLong(ConfigError):
    """A text has more tokens than the model reads and `on_long="error"` was asked for."""


class FileError(TesseraError, OSError):
    """A file cannot be read or written."""


class StoreError(TesseraError, RuntimeError):
    """A vector store cannot be reached, or did not do what it was asked."""


class Cancelled(TesseraError):
    """A call ended because the event passed as `cancel` is set."""


class TimedOut(TesseraError, TimeoutError):
    """A call ended because it took longer than its `timeout` in seconds."""


class TruncationWarning(UserWarning):
    """Input was left unread: the end of long texts, or further pages or frames of images.

    The message says how many, and names the longest or the first of them.
    """


class ForecastWarning(UserWarning):
    """A forecast differs from the request, or its input was reordered; the message says why."""


# Where the warnings of a block go that answers somebody else, such as the client of a server.
_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


@contextmanager
def collected_warnings(messages: list[str]) -> Iterator[None]:
    """Add the messages of the warnings of this block to a list, of this thread alone.

    `warnings.catch_warnings` changes all threads of the process.
    """
    before = _collected.set(messages)
    try:
        yield
    finally:
        _collected.reset(before)


def tell(message: str, category: type[Warning]) -> None:
    """Raise a warning at the line that called this package, or add it to those collected."""
    collected = _collected.get()
    if collected is None:
        warnings.warn(message, category, stacklevel=callers_level())
    else:
        collected.append(message)


def callers_level() -> int:
    """The `stacklevel` for a warning of the caller: the first frame outside this package."""
    folder = str(Path(__file__).parent)
    frame = sys._getframe(1)  # noqa: SLF001 - warnings' own skip_file_prefixes needs Python 3.12
    level = 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(folder):
        frame = frame.f_back
        level += 1
    return level


def named(name: object) -> str:
    """The name of a file as messages show it; a long one is shown only if such a place exists.

    Callers may pass a text, base64 or a data: URI in place of a name. Those are long or have
    several lines, so the message then shows the length alone.
    """
    try:
        text = os.fsdecode(name) if isinstance(name, bytes | os.PathLike) else str(name)
    except Exception:  # raised by a class of the caller's
        return f"<{type(name).__name__}>"
    if (len(text) <= LONGEST_NAME and "\n" not in text) or _is_place(text):
        return text
    return f"<{len(text):,} characters>"


def _is_place(text: str) -> bool:
    """Whether a file of that name exists, or the folder in which it would lie."""
    if len(text) > LONGEST_PLACE or "\n" in text:
        return False
    folder = Path(text).parent
    try:
        return os.path.lexists(text) or (len(folder.parts) > 1 and folder.is_dir())
    except (OSError, ValueError):  # too long for the system; a NUL, a lone surrogate
        return False


def install_hint(extra: str) -> str:
    """How to install this package with an extra: from a path, since no package index has it."""
    return (
        f'`pip install "PATH[{extra}]"`, where PATH is the folder of a checkout of tessera-onnx, '
        "or its wheel file"
    )


def part_hint(part: str) -> str:
    """How to install another distribution of a checkout: "starter" or "export"."""
    return (
        f"`pip install PATH/{part}`, where PATH is the folder of a checkout of tessera-onnx, or "
        f"the path of a tessera_onnx_{part} wheel file"
    )


def shown(value: object) -> str:
    """The wrong value of an option as messages show it: a short word itself, others by type.

    The value may be a text that was meant for another argument, so texts are not shown.
    """
    if isinstance(value, str):
        word = len(value) <= 40 and value.isprintable() and not re.search(r"\s", value)
        return repr(value) if word else f"a text of {len(value)} characters"
    return "None" if value is None else f"a value of the type {type(value).__name__}"
