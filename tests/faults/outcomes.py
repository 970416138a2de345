"""The battery's judge: what one bad or odd input to one entry point may lead to.

Two outcomes are right: a result that its judge accepts, or one error of the package (a TypeError
raised by the package's own check, else a TesseraError; for the command one "Error:" line). All
else has a name too: "crash" is somebody else's exception, "silent" a result that is wrong or that
should have been an error, "slow" a case over its time, "told" an error that repeats the user's
text or lacks the item's index.
"""

from __future__ import annotations

import faulthandler
import logging
import pickle
import re
import signal
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from artifact_tools import HANG
from click.testing import CliRunner

import tessera_onnx
from tessera_onnx import ForecastWarning, TesseraError, TruncationWarning
from tessera_onnx.cli.main import main

resource = pytest.importorskip("resource", reason="signals and limits of POSIX")
PACKAGE = str(Path(tessera_onnx.__file__).parent)
MARKER = "zqxjkv"  # in every text of the battery; in no message
MEMORY = 6 << 30  # bytes that a case may add: what wants more fails in place of the machine
SECONDS = 20.0  # of processor time for a case; most take milliseconds
RESULT, ERROR, BAD = "result", "error", ("crash", "silent", "slow", "told")


class Refused(Exception):
    """The command ended with an exit code; the message is what it wrote to stderr."""


@dataclass(frozen=True)
class Case:
    group: str  # of the page: "text", "series" …
    entry: str  # what is called
    what: str  # the class of the input
    call: Callable[[], Any]
    judge: Callable[[Any], None] | None  # raises AssertionError; None: only an error is right
    error: bool  # whether an error is right
    says: str = ""  # a pattern that the error's message must match: the item's index

    def __str__(self) -> str:
        return f"{self.group}: {self.entry} of {self.what}"


@dataclass(frozen=True)
class Outcome:
    case: Case
    kind: str
    detail: str = ""


class _Slow(BaseException):
    """Not an Exception: nothing may take it for a failure of its own."""


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Slow

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    faulthandler.dump_traceback_later(HANG, exit=True)  # in C++ or Rust, or in a lock
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGPROF, previous)


def run(case: Case) -> Outcome:
    """What became of a case."""
    records = _Records()
    logger = logging.getLogger("tessera_onnx")
    logger.addHandler(records)
    try:
        with _limited(SECONDS), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("error")
            warnings.simplefilter("always", TruncationWarning)
            warnings.simplefilter("always", ForecastWarning)
            outcome = _run(case)
    except _Slow:
        outcome = Outcome(case, "slow")
    finally:
        logger.removeHandler(records)
    lines = [*records.lines, *(str(warning.message) for warning in said)]
    if outcome.kind not in BAD and any(MARKER in line for line in lines):
        return Outcome(case, "told", "a warning or a log line holds the user's text")
    return outcome


def _run(case: Case) -> Outcome:
    try:
        result = case.call()
    except (TesseraError, TypeError, Refused) as error:
        return _of_error(case, error)
    except Exception as error:
        return Outcome(case, "crash", "".join(traceback.format_exception(error)[-3:]))
    if case.judge is None:
        return Outcome(case, "silent", f"no error but {result!r:.300}")
    try:
        case.judge(result)
    except Exception as error:
        return Outcome(case, "silent", f"{type(error).__name__}: {error}"[:1500])
    return Outcome(case, RESULT)


def _of_error(case: Case, error: Exception) -> Outcome:
    where = traceback.extract_tb(error.__traceback__)[-1].filename
    if isinstance(error, TypeError) and not where.startswith(PACKAGE):
        return Outcome(case, "crash", "".join(traceback.format_exception(error)[-4:]))
    message = str(error)
    if not case.error:
        return Outcome(case, "silent", f"{type(error).__name__} where a result is due: {message}")
    if MARKER in message:
        return Outcome(case, "told", f"the message holds the user's text: {message[:300]}")
    if not re.search(case.says, message):
        return Outcome(case, "told", f"the message lacks {case.says!r}: {message[:300]}")
    if len(message) > 6000 or not message:
        return Outcome(case, "told", f"a message of {len(message)} characters")
    if str(pickle.loads(pickle.dumps(error))) != message:
        return Outcome(case, "told", "the error does not pickle")
    return Outcome(case, ERROR)


def command(*args: Any, stdin: str | bytes | None = None) -> str:
    """What the command wrote to stdout; Refused with its one line of stderr."""
    done = CliRunner().invoke(main, [str(arg) for arg in args], stdin, catch_exceptions=False)
    if done.exit_code:
        assert done.stderr.count("Error: ") == 1, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        raise Refused(done.stderr)
    assert MARKER not in done.stderr, done.stderr
    return done.stdout


def tally(outcomes: Iterable[Outcome]) -> dict[str, dict[str, int]]:
    """How often each outcome came, by group."""
    counted: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        row = counted.setdefault(
            outcome.case.group, {"inputs": 0, RESULT: 0, ERROR: 0, **dict.fromkeys(BAD, 0)}
        )
        row["inputs"] += 1
        row[outcome.kind] += 1
    return counted
