"""A progress bar on a stderr that may be gone."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def progress_bar(items: Iterable[Any], unit: str) -> Any:
    """A bar on stderr of as many items as there are, where that is known."""
    from tqdm import tqdm

    total = len(items) if isinstance(items, Sequence) else None
    return tqdm(total=total, unit=unit, file=Stderr())


class Stderr:
    """For bars: stderr, whose failure ends no work. tqdm would also keep its lock, for ever."""

    def write(self, text: str) -> None:
        """Write what can be written: its reader may be gone, it may be closed or not there."""
        with contextlib.suppress(AttributeError, OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Flush it, if that works."""
        with contextlib.suppress(AttributeError, OSError, ValueError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)  # whether it is a terminal, and what it can show
