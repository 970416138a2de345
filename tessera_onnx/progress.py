"""Show a progress bar on stderr, and go on without it when stderr cannot be written."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def progress_bar(items: Iterable[Any], unit: str) -> Any:
    """A tqdm bar on stderr; its total is the number of items, if that is known."""
    from tqdm import tqdm

    total = len(items) if isinstance(items, Sequence) else None
    return tqdm(total=total, unit=unit, file=Stderr())


class Stderr:
    """stderr for a progress bar: a failure to write is ignored, so it stops no work.

    If an exception left tqdm, tqdm would also hold its lock for ever.
    """

    def write(self, text: str) -> None:
        """Write the text, if stderr exists, is open and still has a reader."""
        with contextlib.suppress(AttributeError, OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Flush stderr, if that works."""
        with contextlib.suppress(AttributeError, OSError, ValueError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)  # tqdm asks for isatty and encoding
