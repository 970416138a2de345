"""Find the graph and the files of a foreign folder, and read what the graph tells of itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from tessera_onnx.errors import LoadError
from tessera_onnx.models.foreign import graph_io, graphs, tokenizer_file
from tessera_onnx.models.foreign.files import is_file, read_table
from tessera_onnx.models.foreign.graph_io import GraphIO, Port
from tessera_onnx.models.foreign.graphs import Processor
from tessera_onnx.models.output_names import ENCODERS, POOLED
from tessera_onnx.models.spec import PRECISIONS, UNPINNED, File, Graph, Precision

FLOATS = {"float", "float16", "bfloat16", "double", ""}


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a folder: its place, the sizes of all files by name, and the chosen graphs.

    The graph in use is the best one, or another one where that is not downloaded.

    `io` is of the graph in use; None while that is not downloaded. `places` are the folders in
    which configuration is looked for, that of the encoder first; `config` is its config.json.
    """

    folder: Path
    sizes: Mapping[str, int]
    graph: Graph
    name: str  # of the graph in use
    io: GraphIO | None
    data: tuple[str, ...]  # files with the weights of the graphs
    places: tuple[Path, ...]
    config: dict[str, Any]
    config_name: str  # "" without one

    def files(self, *further: str) -> tuple[File, ...]:
        """The files that the model uses, `further` among them."""
        graphs = [getattr(self.graph, name) for name in self.graph.precisions()]
        names = dict.fromkeys([*graphs, *self.data, *further])
        return tuple(File(name, UNPINNED, self.sizes.get(name, -1)) for name in names)

    def name_of(self, path: Path) -> str:
        """The name of a file inside the folder."""
        return path.relative_to(self.folder).as_posix()

    def states(self) -> list[Port]:
        """Outputs with a row a token, as far as the graph is here and tells its shapes."""
        return [port for port in self.outputs() if len(port.dims) == 3]

    def pooled(self) -> Port | None:
        """The output that holds the vector of a text, by its name."""
        ports = {port.name: port for port in self.outputs() if len(port.dims) == 2}
        return next((ports[name] for name in POOLED if name in ports), None)

    def output(self, names: Sequence[str]) -> Port | None:
        """The first output of one of the names."""
        ports = {port.name: port for port in self.outputs()}
        return next((ports[name] for name in names if name in ports), None)

    def fixed_length(self) -> int:
        """The number of tokens that every text must have; 0 where the graph takes any number.

        Raises LoadError for a graph that takes a fixed number of texts.
        """
        inputs = () if self.io is None else self.io.inputs
        dims = next((port.dims for port in inputs if port.name == "input_ids"), ())
        if len(dims) != 2:
            return 0
        if isinstance(dims[0], int):
            raise LoadError(
                f"{self.folder / self.name} takes exactly {dims[0]} texts at once (input_ids has "
                f"the shape {list(dims)}), and batches here have any number: export it again with "
                "dynamic axes",
                path=str(self.folder / self.name),
            )
        return dims[1] if isinstance(dims[1], int) else 0

    def outputs(self) -> list[Port]:
        """Outputs of numbers with a fraction; [] while the graph is not here."""
        return [] if self.io is None else [p for p in self.io.outputs if p.type in FLOATS]


def find(
    folder: Path,
    sizes: Mapping[str, int],
    encoder: Path,
    file: str | None,
    processor: Processor | None = None,
) -> Files:
    """The graphs and the configuration of a folder whose encoder's module is in `encoder`.

    `file` and `processor` as in `graphs.choose`.
    Raises LoadError without a graph, for several that might be meant, and for weights that are
    missing; ConfigError for a `file` that is not there.
    """
    inner = encoder.relative_to(folder).as_posix().removeprefix(".")
    folders = ["", "onnx"] + ([inner, f"{inner}/onnx"] if inner else [])
    choice = graphs.choose(
        sizes, file=file, processor=processor, folders=folders, where=str(folder)
    )
    choice, told, data = _told(folder, sizes, choice)
    best = choice.best()
    told_by = getattr(choice, best)
    name = told_by if told_by in told else next(iter(told), told_by)
    beside = folder / PurePosixPath(name).parent
    places = tuple(dict.fromkeys((encoder, folder, beside)))
    path = tokenizer_file.find("config.json", places)
    graph = Graph(
        choice.fp32,
        choice.fp16,
        choice.int8,
        *(best, best, best),
        static=False,
        int4=choice.int4 or None,
    )
    return Files(
        folder,
        sizes,
        graph,
        name,
        told.get(name),
        data,
        places,
        {} if path is None else read_table(path),
        "" if path is None else path.relative_to(folder).as_posix(),
    )


def _told(
    folder: Path, sizes: Mapping[str, int], choice: graphs.Choice
) -> tuple[graphs.Choice, dict[str, GraphIO], tuple[str, ...]]:
    """The choice with each graph under the precision of its weights, and what each one tells.

    Only the best graph must be whole: another one that is damaged is left out.
    """
    told: dict[str, GraphIO] = {}
    data: dict[str, list[str]] = {}
    for name in choice.files():
        try:
            if is_file(folder / name):
                told[name] = graph_io.read(folder / name)
            data[name] = _data(folder, sizes, name, told.get(name))
        except LoadError:
            if name == getattr(choice, choice.best()):
                raise
            gone = dict.fromkeys(_under(choice, name), "")
            choice = replace(choice, **gone, also=(*choice.also, name))
    choice = graphs.place(choice, {name: io.precision for name, io in told.items()})
    used = choice.files()
    return (
        choice,
        {name: told[name] for name in used if name in told},
        tuple(dict.fromkeys(part for name in used for part in data.get(name, ()))),
    )


def _under(choice: graphs.Choice, name: str) -> list[Precision]:
    return [precision for precision in PRECISIONS if getattr(choice, precision) == name]


def _data(folder: Path, sizes: Mapping[str, int], name: str, io: GraphIO | None) -> list[str]:
    """The files that hold the weights of a graph. Raises LoadError for one that is missing.

    While the graph is not here, the usual names tell them: model.onnx_data, model.onnx.data.
    """
    if io is None:
        usual = re.compile(re.escape(name) + r"[._]data(_\d+)?")
        return sorted(other for other in sizes if usual.fullmatch(other))
    parent = PurePosixPath(name).parent
    wanted = [(parent / location).as_posix() for location in io.locations]
    missing = [other for other in wanted if other not in sizes]
    if missing:
        raise LoadError(
            f"{folder / name} has weights in {missing[0]}, which is missing"
            f"{f' with {len(missing) - 1} more' if len(missing) > 1 else ''}: download the whole "
            "folder",
            path=str(folder / missing[0]),
        )
    return wanted


def check_sizes(files: Files, hidden: int | None, dimension: int, what: str) -> None:
    """Raises LoadError where the graph gives states of another size than the configuration says.

    `hidden` is the size that the encoder has, `dimension` that of the vectors; `what` says where
    the first comes from.
    """
    for port in files.states():
        size = port.dims[-1]
        known = {hidden} if port.name in ENCODERS else {hidden, dimension}
        relevant = port.name in ENCODERS or port.name == "token_embeddings"
        if relevant and isinstance(size, int) and hidden is not None and size not in known:
            raise LoadError(
                f"{files.folder / files.name} gives {size} numbers a token ({port.name}), but "
                f"{what} says {hidden}: these are files of two models",
                path=str(files.folder / files.name),
            )
    vector = files.pooled()
    size = None if vector is None else vector.dims[-1]
    wrong = isinstance(size, int) and dimension != 0 and size not in (dimension, hidden)
    if vector is not None and wrong:
        raise LoadError(
            f"{files.folder / files.name} gives vectors of {size} numbers ({vector.name}), but the "
            f"configuration makes {dimension}: these are files of two models",
            path=str(files.folder / files.name),
        )
