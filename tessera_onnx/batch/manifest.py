"""What a job has done, as files beside its output, so that a job that was killed goes on.

| below OUT/_tessera | what |
| --- | --- |
| `manifest.json` | model, sha256 of its files, column and options |
| `fragments/NAME.json` | size and hash of an input that was begun, and counts when it is done |
| `parts/NAME/ROW.arrow` | a block of results of a file that is not done |
| `lock` | held by the process that writes, in a local folder; the system frees it |

Each is whole or absent. Readers of folders of Parquet leave out names that begin with _.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from tessera_onnx import __version__
from tessera_onnx.batch.places import Folder, Fragment
from tessera_onnx.errors import ConfigError, FileError

HOME = "_tessera"
STATE = f"{HOME}/manifest.json"
ENDS = 1 << 16  # bytes of the beginning and the end of an input that are hashed
NEW = "choose another --output, or remove this one"


@dataclass(slots=True)
class Counts:
    """Rows of a fragment, or of a job."""

    rows: int = 0
    errors: int = 0
    tokens: int = 0
    truncated: int = 0

    def add(self, other: Counts) -> None:
        """Add the counts of another part."""
        self.rows += other.rows
        self.errors += other.errors
        self.tokens += other.tokens
        self.truncated += other.truncated


@contextmanager
def alone(output: Folder) -> Iterator[None]:
    """Hold the lock of a folder, where only one job at a time may write.

    Raises ConfigError where another job holds it, and for a folder with files that no job wrote.
    """
    others = [name for name in output.names() if name != HOME and name[:1] != "."]
    if others and output.size(STATE) is None:
        raise ConfigError(f"{output.shown} holds files that no job wrote: {NEW}")
    with output.locked(f"{HOME}/lock"):
        yield


class Manifest:
    """The state of the job that writes to a folder."""

    def __init__(self, output: Folder, job: Mapping[str, Any]) -> None:
        """Begin a job in an empty folder, or go on with the same job.

        The caller holds the lock of the folder. Raises ConfigError where it holds another job.
        """
        self._output = output
        wanted = json.loads(json.dumps(dict(job)))
        content = output.read(STATE)
        if content is None:
            text = json.dumps({"format": 1, "version": __version__, "job": wanted}, indent=1)
            output.write(STATE, text.encode())
            return
        output.sweep()
        known = self._parsed(content, STATE)
        if known.get("format") != 1:
            raise FileError(f"{output.shown}/{STATE} is of another version: {NEW}")
        before = known.get("job")
        if not isinstance(before, dict):
            raise self._damaged(STATE)
        changed = sorted(k for k in {*before, *wanted} if before.get(k) != wanted.get(k))
        if changed:
            name = changed[0]
            pair = f"{_short(before.get(name))}, now {_short(wanted.get(name))}"
            raise ConfigError(
                f"{output.shown} is the output of a job with another {name} ({pair}): {NEW}"
            )

    def record(self, fragment: Fragment) -> dict[str, Any]:
        """What is known of a fragment; {} where it was not begun.

        A file that could not be read to its end may be another one now: it is begun anew. Raises
        ConfigError where any other file is not the one that was begun.
        """
        name = _record(fragment)
        content = self._output.read(name)
        if content is None:
            return {}
        found = self._parsed(content, name)
        if found.get("identity") != identity(fragment):
            if found.get("failed"):
                self._output.delete(self.parts(fragment))
                return {}
            raise ConfigError(
                f"{fragment.shown} has changed since this job read it: put the old file back, or "
                f"{NEW}"
            )
        return found

    def counts(self, fragment: Fragment, record: Mapping[str, Any]) -> Counts:
        """The counts of a fragment that is done. Raises FileError where the record has none."""
        found = record["done"]
        names = set(asdict(Counts()))
        if (
            not isinstance(found, dict)
            or set(found) != names
            or not all(type(number) is int for number in found.values())
        ):
            raise self._damaged(_record(fragment))
        return Counts(**found)

    def begin(self, fragment: Fragment) -> None:
        """Note that a fragment is begun."""
        self._write(fragment, {"identity": identity(fragment)})

    def fail(self, fragment: Fragment) -> None:
        """Note that a fragment which was begun cannot be read to its end."""
        if self._output.size(_record(fragment)) is not None:
            self._write(fragment, {"identity": identity(fragment), "failed": True})

    def check_inputs(self, fragments: Sequence[Fragment]) -> None:
        """Raises ConfigError where a file that was begun is no longer among the inputs."""
        here = {f"{fragment.output}.json" for fragment in fragments}
        gone = sorted(set(self._output.below(f"{HOME}/fragments")) - here)
        if gone:
            raise ConfigError(
                f"the input of {gone[0].removesuffix('.parquet.json')}, of which this job has read "
                f"some, is no longer there: put it back, or {NEW}"
            )

    def finish(self, fragment: Fragment, counts: Counts, size: int) -> None:
        """Note that the output of a fragment is whole, and remove its parts."""
        done = {"identity": identity(fragment), "done": asdict(counts), "bytes": size}
        self._write(fragment, done)
        self._output.delete(self.parts(fragment))

    def parts(self, fragment: Fragment) -> str:
        """The folder of the parts of a fragment."""
        return f"{HOME}/parts/{fragment.output}"

    def part(self, fragment: Fragment, row: int) -> str:
        """The file of the part that begins with a row."""
        return f"{self.parts(fragment)}/{row:012d}.arrow"

    def _write(self, fragment: Fragment, record: dict[str, Any]) -> None:
        self._output.write(_record(fragment), json.dumps(record).encode())

    def _parsed(self, content: bytes, name: str) -> dict[str, Any]:
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self._damaged(name)
        return found

    def _damaged(self, name: str) -> FileError:
        return FileError(f"{self._output.shown}/{name} is damaged: {NEW}")


def _record(fragment: Fragment) -> str:
    return f"{HOME}/fragments/{fragment.output}.json"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def identity(fragment: Fragment) -> dict[str, Any]:
    """Size, time of the last change, and a hash of the first and last bytes, with a footer.

    Of a fragment of Lance, a hash of what the dataset says of it. Raises FileError.
    """
    if fragment.state:
        state = hashlib.sha256(fragment.state.encode()).hexdigest()
        return {"size": fragment.size, "sha256_of_state": state}
    digest = hashlib.sha256()
    try:
        with fragment.system.open_input_file(fragment.path) as stream:
            size = stream.size()
            digest.update(stream.read(ENDS))
            if size > ENDS:
                stream.seek(max(ENDS, size - ENDS))
                digest.update(stream.read(ENDS))
    except OSError as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"{fragment.shown} cannot be read: {reason}", path=fragment.shown) from None
    return {"size": size, "changed": fragment.changed, "sha256_of_ends": digest.hexdigest()}
