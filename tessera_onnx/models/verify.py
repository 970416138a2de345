"""Compare a catalogue with the hub: revisions, files, hashes, and facts in configuration files.

One request lists a repository. Small files are fetched, because the hub has no sha256 of them and
because they hold facts of the model (foreign/reader.py); graphs are not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from tessera_onnx.errors import LoadError, ModelNotFound, TesseraError
from tessera_onnx.models import hub, pins, toml_edit
from tessera_onnx.models.foreign import repository
from tessera_onnx.models.hub import Listing
from tessera_onnx.models.spec import KIND_TABLES, UNPINNED, Hub, Kind, ModelSpec

# "differs": the hub says something else. "unpinned": the catalogue leaves it open. "failed": the
# hub could not be asked. "unread": the facts of the configuration files could not be read.
Status = Literal["differs", "unpinned", "failed", "unread"]
TEXT_KINDS: tuple[Kind, ...] = ("dense", "multi-vector", "sparse")


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact of an entry that is not what the hub says."""

    model: str
    status: Status
    key: tuple[str, ...]  # ("hub", "revision"), ("files", NAME, "sha256"), ("dense", "pooling")
    listed: str  # what the catalogue says, "" for nothing
    found: str  # what the hub says, and in which file a configuration says it
    value: Any = None  # what the catalogue should say; None where a person has to decide


class Hubs:
    """The lists of files, each asked for once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Listing | TesseraError] = {}

    def listing(self, source: Hub) -> Listing:
        """The files of a repository at a revision. Raises what `hub.list_files` raises."""
        place = (source.repository, source.revision)
        if place not in self._known:
            try:
                self._known[place] = hub.list_files(source)
            except TesseraError as error:
                self._known[place] = error
        found = self._known[place]
        if isinstance(found, TesseraError):
            raise found
        return found


def verify(specs: Iterable[ModelSpec], hubs: Hubs | None = None) -> Iterator[Finding]:
    """Compare each entry with the hub; what agrees yields nothing."""
    hubs = hubs or Hubs()
    for spec in specs:
        yield from _verify(spec, hubs)


def patched(text: str, findings: Iterable[Finding]) -> str:
    """The text of a catalogue with the values that the findings give."""
    for finding in findings:
        if finding.value is not None:
            changed = toml_edit.set_value(text, finding.model, finding.key, finding.value)
            text = text if changed is None else changed
    return text


def _verify(spec: ModelSpec, hubs: Hubs) -> Iterator[Finding]:
    files: Listing | None = None
    if spec.hub is not None:
        try:
            files = hubs.listing(spec.hub)
            yield from _compare_hub(spec, spec.hub, files)
            yield from _compare_files(spec, files)
        except TesseraError as error:
            yield _failed(spec, ("hub", "repository"), spec.hub.repository, error)
            if isinstance(error, ModelNotFound):
                files = None
    source = _source(spec, files)
    try:
        weights = files if source is None else hubs.listing(source)
    except TesseraError as error:
        yield _failed(spec, ("source",), f"{spec.source} {spec.revision}", error)
        return
    if weights is None:
        return
    if spec.revision == UNPINNED:
        yield Finding(spec.id, "unpinned", ("revision",), UNPINNED, weights.commit, weights.commit)
    yield from _compare_facts(spec, weights, files)


def _source(spec: ModelSpec, files: Listing | None) -> Hub | None:
    """The repository of the weights to ask for; None where it is the one of the ONNX files."""
    same = spec.hub is not None and spec.hub.repository == spec.source
    if same and files is not None and spec.revision in {UNPINNED, files.commit}:
        return None
    return Hub(spec.source, spec.revision)


def _failed(spec: ModelSpec, key: tuple[str, ...], listed: str, error: TesseraError) -> Finding:
    # The hub's answer that there is no such repository or revision is a difference.
    status: Status = "differs" if isinstance(error, ModelNotFound) else "failed"
    return Finding(spec.id, status, key, listed, str(error))


def _compare_hub(spec: ModelSpec, source: Hub, files: Listing) -> Iterator[Finding]:
    if files.repository != source.repository:
        key, name = ("hub", "repository"), files.repository
        yield Finding(spec.id, "differs", key, source.repository, name, name)
    if source.revision == UNPINNED:
        key, commit = ("hub", "revision"), files.commit
        yield Finding(spec.id, "unpinned", key, UNPINNED, commit, commit)


def _compare_files(spec: ModelSpec, files: Listing) -> Iterator[Finding]:
    place = Hub(files.repository, files.commit)
    for file in spec.files:
        remote = files.files.get(file.name)
        if remote is None:
            yield Finding(spec.id, "differs", ("files", file.name), "listed", "no such file")
            continue
        sha256 = remote.sha256
        if sha256 == UNPINNED:
            _, sha256 = pins.fetch(place, file.name, remote.etag)
        for field, listed, found, absent in (
            ("sha256", file.sha256, sha256, UNPINNED),
            ("size", file.size, remote.size, -1),
        ):
            if listed != found:
                status: Status = "unpinned" if listed == absent else "differs"
                key = ("files", file.name, field)
                yield Finding(spec.id, status, key, str(listed), str(found), found)
    for name in _beside(spec, files):
        remote = files.files[name]
        row = {"name": name, "sha256": remote.sha256, "size": remote.size}
        yield Finding(spec.id, "differs", ("files", name), "not listed", "weights of a graph", row)


def _beside(spec: ModelSpec, files: Listing) -> list[str]:
    """Files of the hub that by their names are the weights of a listed graph, and not listed."""
    listed = {file.name for file in spec.files}
    graphs = tuple(name for name in listed if name.endswith(".onnx"))
    ends = tuple(graph + end for graph in graphs for end in ("_data", ".data"))
    return [name for name in files.files if name not in listed and name.startswith(ends)]


def _compare_facts(spec: ModelSpec, weights: Listing, files: Listing | None) -> Iterator[Finding]:
    """Facts that the configuration files of the weights' repository tell, against the entry's."""
    kinds = [kind for kind in spec.kinds if kind in (*TEXT_KINDS, "reranker")]
    if not kinds or spec.lexical is not None:
        return
    from tessera_onnx.models.foreign import reader

    place = Hub(weights.repository, weights.commit)
    sizes = {name: remote.size for name, remote in weights.files.items()}
    graph = next((getattr(spec.graph, precision) for precision in spec.precisions()), None)
    if graph is not None:
        # The reader is told of the graph that the entry runs, wherever that lies.
        sizes[graph] = files.files[graph].size if files and graph in files.files else -1
    try:
        names = repository.small(weights)
        with ThreadPoolExecutor(8) as pool:  # the time goes into waiting for the hub
            list(pool.map(lambda n: pins.fetch(place, n, weights.files[n].etag), names))
    except TesseraError as error:
        yield Finding(spec.id, "unread", (KIND_TABLES[kinds[0]],), "", str(error))
        return
    for kind in kinds:
        try:
            read = reader.read(hub.snapshot(place), kind, file=graph, listing=sizes)
        except LoadError as error:
            yield Finding(spec.id, "unread", (KIND_TABLES[kind],), "", str(error))
            continue
        yield from _compare_sources(spec, kind, read.spec, read.sources)


def _compare_sources(
    spec: ModelSpec, kind: Kind, read: ModelSpec, sources: dict[str, str]
) -> Iterator[Finding]:
    for name, source in sources.items():
        key = tuple(name.split("."))
        if key[0] not in {"text", "licence", KIND_TABLES[kind]}:
            continue
        listed, found = (_value(each, key) for each in (spec, read))
        if listed is None or found is None or listed == found or _is_graphs(key, listed, found):
            continue
        value = pins.as_table(found)
        shown = f"{toml_edit.in_toml(value)}  ({source})"
        yield Finding(
            spec.id, "differs", key, toml_edit.in_toml(pins.as_table(listed)), shown, value
        )


def _is_graphs(key: Sequence[str], listed: Any, found: Any) -> bool:
    """Whether the graph decides that fact, of which configuration files do not speak."""
    return key[-1] == "output" or (key[-1] == "pooling" and "graph" in {listed, found})


def _value(spec: ModelSpec, key: Sequence[str]) -> Any:
    """The value of a dotted fact; None for a fact that the model does not have."""
    value: Any = spec
    for name in key:
        if not dataclasses.is_dataclass(value) or not hasattr(value, name):
            return None
        value = getattr(value, name)
    return value
