"""Folders and files of any file system that pyarrow or fsspec opens, by path or URL."""

from __future__ import annotations

import errno
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
from filelock import FileLock, Timeout
from pyarrow import fs

from tessera_onnx.errors import ConfigError, FileError, install_hint
from tessera_onnx.files import reason, replacing

FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson.gz": "jsonl",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}


LANCE = ".lance"  # of the folder of a dataset


@dataclass(frozen=True)
class Fragment:
    """One input file, or a fragment of a dataset of Lance."""

    system: fs.FileSystem
    path: str  # in the file system
    shown: str  # as messages name it
    below: str  # its path below the folder that was given: that of its output is made of it
    size: int
    changed: int  # nanoseconds since 1970; 0 where the system does not tell
    version: int | None = None  # of the dataset of Lance
    number: int = 0  # of the fragment in that
    state: str = ""  # what that version holds of the fragment: files that never change

    @property
    def format(self) -> str:
        """Name of the format, by the ending of the file."""
        return "lance" if self.version is not None else format_of(self.path) or ""

    @property
    def output(self) -> str:
        """Path of its output below OUT."""
        is_same = self.below.endswith(".parquet")
        return self.below if is_same else f"{self.below}.parquet"


def format_of(path: str) -> str | None:
    """The format of a file by its ending."""
    name = path.lower()
    return next((kind for ending, kind in FORMATS.items() if name.endswith(ending)), None)


def opened(place: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URL, and the path in it.

    Raises ConfigError for a URL that neither pyarrow nor fsspec opens, FileError where its host or
    the library that it needs is missing.
    """
    if not place:
        raise ConfigError('a path is empty: write "." for the folder that you are in')
    if "://" not in place:
        return fs.LocalFileSystem(), Path(place).absolute().as_posix()
    try:
        system, path = fs.FileSystem.from_uri(place)
    # ArrowInvalid: a scheme that pyarrow does not know; ArrowNotImplementedError: one that it knows
    # and this build of it lacks, such as gs or abfs in some wheels. fsspec may know both.
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        try:
            import fsspec  # huggingface_hub brings it

            found, path = fsspec.core.url_to_fs(place)
        except (ImportError, ValueError):
            scheme = place.partition("://")[0]
            raise ConfigError(
                f"URLs of {scheme!r} cannot be opened here ({error}): install the fsspec package "
                "of that scheme"
            ) from None
        system = fs.PyFileSystem(fs.FSSpecHandler(found))
    except OSError as error:
        raise FileError(f"{place} cannot be opened: {_line(error)}", path=place) from None
    if not path:
        raise ConfigError(f"{place} names no bucket or folder")
    return system, path


def _line(error: OSError) -> str:
    """The reason without the list of all places where a library was looked for."""
    return str(reason(error)).partition("\n")[0]


def found(inputs: Sequence[str], output: str) -> tuple[list[Fragment], int]:
    """The files of paths, folders and globs in the order of their names, and how many were ignored.

    Of a folder, files and folders whose names begin with . or _ are left out, and those of no
    known format are ignored. Raises FileError where nothing is found, ConfigError for two files
    that would have one output, or where the output lies in an input folder.
    """
    if output.rstrip("/").endswith(LANCE):
        raise ConfigError("the output is a folder of Parquet files: choose a name without .lance")
    fragments: list[Fragment] = []
    ignored = 0
    for place in inputs:
        is_lance = place.partition("?")[0].rstrip("/").endswith(LANCE)
        made, others = (_lance(place), 0) if is_lance else _found(place, output)
        fragments += made
        ignored += others
    by_output: dict[str, Fragment] = {}
    for each in fragments:
        other = by_output.setdefault(each.output, each)
        if other is not each:
            raise ConfigError(
                f"{other.shown} and {each.shown} would both become {each.output}: give the folder "
                "above them, or run a job for each"
            )
    return fragments, ignored


def _found(place: str, output: str) -> tuple[list[Fragment], int]:
    try:
        base, system, info, pattern = _looked_up(place)
        path = info.path.rstrip("/")
        if info.type == fs.FileType.File:
            if format_of(path) is None:
                known = ", ".join(FORMATS)
                raise ConfigError(f"{place} has an ending that is not known: {known}")
            return [_fragment(system, info, place, PurePosixPath(path).name)], 0
        is_there = info.type == fs.FileType.Directory
        infos = [] if not is_there else system.get_file_info(fs.FileSelector(path, recursive=True))
        names = [(each, each.path) for each in infos if each.type == fs.FileType.File]
    except OSError as error:
        raise FileError(f"{place} cannot be read: {_line(error)}", path=place) from None
    except UnicodeDecodeError:
        raise FileError(
            f"{base} holds a file whose name is not UTF-8: rename it", path=place
        ) from None
    if not is_there:
        is_gone = info.type == fs.FileType.NotFound
        what = "is not there" if is_gone else "is neither a file nor a folder"
        raise FileError(f"{place} {what}", path=place)
    target_system, target = opened(output)
    if type(target_system) is type(system) and f"{target}/".startswith(f"{path}/"):
        if pattern is None:
            raise ConfigError("the output lies in a folder of the input: choose another folder")
        names = [(each, name) for each, name in names if not name.startswith(f"{target}/")]
    shown = base.partition("?")[0].rstrip("/")
    files = [(each, name[len(path) + 1 :]) for each, name in names]
    wanted = [
        (info, below)
        for info, below in sorted(files, key=lambda each: each[1])
        if not any(part.startswith((".", "_")) for part in below.split("/"))
        and (pattern is None or pattern.fullmatch(below))
    ]
    fragments = [
        _fragment(system, info, f"{shown}/{below}", below)
        for info, below in wanted
        if format_of(below) is not None
    ]
    if not fragments:
        raise FileError(f"{place} has no file of a known format: {', '.join(FORMATS)}", path=place)
    return fragments, len(wanted) - len(fragments)


def _lance(place: str) -> list[Fragment]:
    """The fragments of a dataset of Lance, which opens paths and URLs itself."""
    try:
        import lance
    except ImportError:
        raise ConfigError(f"{place} needs pylance: {install_hint('lance')}") from None
    place = place.rstrip("/")
    path = place if "://" in place else Path(place).absolute().as_posix()
    try:
        dataset = lance.dataset(path)
        found = [(each.fragment_id, each.metadata.to_json()) for each in dataset.get_fragments()]
    except (ValueError, OSError) as error:
        told = re.sub(r",? \S+\.rs:\d+:\d+", "", str(error))  # where in Lance
        raise FileError(f"{place} cannot be read: {told}", path=place) from None
    name = PurePosixPath(place).name
    return [
        Fragment(
            fs.LocalFileSystem(), path, f"{place}/{number}", f"{name}/{number:06}",
            sum(file["file_size_bytes"] or 0 for file in facts["files"]), 0,
            dataset.version, number, json.dumps(facts, sort_keys=True),
        )
        for number, facts in found
    ]  # fmt: skip


def _looked_up(
    place: str,
) -> tuple[str, fs.FileSystem, fs.FileInfo, re.Pattern[str] | None]:
    """What lies at a place; of a glob the folder above, and the pattern of what lies below it."""
    system, path = opened(place)
    info = system.get_file_info(path)
    is_glob = re.search(r"[*?\[]", place.partition("://")[2].partition("?")[0] or place)
    if info.type != fs.FileType.NotFound or not is_glob:
        return place, system, info, None
    base, pattern = _split(place)
    system, path = opened(base)
    return base, system, system.get_file_info(path), pattern


def _fragment(system: fs.FileSystem, info: fs.FileInfo, shown: str, below: str) -> Fragment:
    return Fragment(system, info.path, shown, below, info.size or 0, info.mtime_ns or 0)


def _split(place: str) -> tuple[str, re.Pattern[str]]:
    """The folder of a glob, and the pattern of what lies below it: *, **, ? and [...]."""
    scheme, mark, rest = place.rpartition("://")
    rest, _, query = rest.partition("?") if mark else (rest, "", "")
    parts = rest.split("/")
    first = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts) - 1)
    base = "/".join(parts[:first]) or ("" if mark else "/" if rest.startswith("/") else ".")
    pattern = ""
    for token in re.findall(r"\*\*/?|\*|\?|\[[^\]]+\]|.", "/".join(parts[first:])):
        known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        is_set = token[0] == "[" and len(token) > 1
        pattern += known.get(token) or (token.replace("[!", "[^") if is_set else re.escape(token))
    return f"{scheme}{mark}{base}{'?' if query else ''}{query}", re.compile(pattern)


class Folder:
    """A folder to write to, whose files are whole or absent."""

    def __init__(self, place: str) -> None:
        """`place` is a path or URL; nothing is made yet."""
        self.shown = place.partition("?")[0].rstrip("/") if "://" in place else place
        self._system, self._path = opened(place)
        self._is_local = isinstance(self._system, fs.LocalFileSystem)

    def at(self, name: str) -> str:
        """The path of a file of the folder in the file system."""
        return f"{self._path.rstrip('/')}/{name}"

    def sizes(self, below: str = "") -> dict[str, int]:
        """The files in a folder of this one, with their sizes: those of names without folders."""
        selector = fs.FileSelector(self.at(below), allow_not_found=True)
        infos = self._guarded(lambda: self._system.get_file_info(selector))
        return {info.base_name: info.size for info in infos if info.type == fs.FileType.File}

    def below(self, name: str) -> list[str]:
        """Paths of all files in a folder of this one and in its folders, from that folder on."""
        selector = fs.FileSelector(self.at(name), allow_not_found=True, recursive=True)
        infos = self._guarded(lambda: self._system.get_file_info(selector))
        start = len(self.at(name).lstrip("/")) + 1
        return [i.path.lstrip("/")[start:] for i in infos if i.type == fs.FileType.File]

    def names(self) -> list[str]:
        """What lies in the folder, files and folders."""
        selector = fs.FileSelector(self._path, allow_not_found=True)
        found: list[str] = self._guarded(
            lambda: [info.base_name for info in self._system.get_file_info(selector)]
        )
        return found

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where it is absent."""
        info = self._guarded(lambda: self._system.get_file_info(self.at(name)))
        return info.size if info.type == fs.FileType.File else None

    def read(self, name: str) -> bytes | None:
        """Content of a file; None where it is absent."""
        if self.size(name) is None:
            return None
        with self.open(name) as stream:
            content: bytes = stream.read()
            return content

    def open(self, name: str) -> pa.NativeFile:
        """A file, opened to be read; a local one is mapped into memory."""
        if self._is_local:
            return self._guarded(lambda: pa.memory_map(self.at(name)))
        return self._guarded(lambda: self._system.open_input_file(self.at(name)))

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold a lock file of a local folder, which the system frees when the process ends.

        An object store has no locks, nor have some that are mounted as folders: there this does
        nothing. Raises ConfigError where another process holds it.
        """
        if not self._is_local:
            yield
            return
        path = Path(self.at(name))
        lock = FileLock(path, timeout=0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise ConfigError(
                f"another job writes to {self.shown}: wait until it has ended, or choose another "
                "--output"
            ) from None
        except NotImplementedError:
            pass
        except OSError as error:
            if error.errno not in {errno.ENOSYS, errno.ENOTSUP}:
                raise FileError(f"{path} cannot be locked: {reason(error)}") from None
        try:
            yield
        finally:
            lock.release()  # nothing where it is not held

    def sweep(self) -> None:
        """Remove the temporary files that a killed process has left in a local folder."""
        if self._is_local:
            for path in Path(self._path).rglob(".tessera-*.tmp"):
                with suppress(OSError):
                    path.unlink()

    def delete(self, name: str) -> None:
        """Remove a file or a folder with all that it holds; nothing where it is absent."""
        with suppress(OSError):
            if self.size(name) is None:
                self._system.delete_dir(self.at(name))
            else:
                self._system.delete_file(self.at(name))

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A stream whose content becomes the file when the block ends without an exception.

        Raises FileError where it cannot be written.
        """
        if self._is_local:
            path = Path(self.at(name))
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FileError(f"{path.parent} cannot be made: {reason(error)}") from None
            with replacing(path) as stream:
                yield stream
            return
        # An object appears when its stream is closed, also after an error: so it is written here
        # first, and then copied in one go.
        with tempfile.TemporaryFile() as stream:
            yield stream
            size = stream.tell()
            stream.seek(0)
            try:
                with self._system.open_output_stream(self.at(name)) as target:
                    shutil.copyfileobj(stream, target, 1 << 20)
            except BaseException as error:
                self.delete(name)
                if isinstance(error, OSError):
                    raise FileError(f"{self.shown}/{name}: {reason(error)}") from None
                raise
        if self.size(name) != size:
            raise FileError(f"{self.shown}/{name} was not written whole")

    def write(self, name: str, content: bytes) -> None:
        """Write a file. Raises FileError."""
        with self.writing(name) as stream:
            stream.write(content)

    def _guarded(self, call: Any) -> Any:
        try:
            return call()
        except OSError as error:
            raise FileError(f"{self.shown}: {_line(error)}", path=self.shown) from None
        except UnicodeDecodeError:
            raise FileError(f"{self.shown} holds a file whose name is not UTF-8") from None
