"""Choose the ONNX files of a folder that somebody else made, by their names.

The names and what they mean are data. They are those of sentence-transformers and optimum
(optimum/onnxruntime/configuration.py), transformers.js (src/utils/dtypes.js), Qdrant's repositories
and next-plaid. A graph in fp32 is taken unless the caller asks for another precision. 4-bit weights
are taken only if the caller asks for "int4", and a graph that computes something else than the
original, such as an approximate GELU, only if the caller names the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath
from typing import Literal

from tessera_onnx.errors import ConfigError, LoadError, shown
from tessera_onnx.models.spec import PRECISIONS, Precision

# How a processor multiplies bytes: x86 with VNNI, x86 without it, 64-bit ARM, another.
Processor = Literal["vnni", "x86", "arm64", "other"]
LISTED = 20  # file names in a message
# Precisions that are used though nobody asked for one; int4 is too far from the original.
UNASKED: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True, slots=True)
class GraphName:
    """What the end of a file name says of a graph, such as "_fp16" of model_fp16.onnx."""

    end: str
    precision: Precision  # under which callers ask for it
    exact_on: str  # processors on which its integer products are exact; "" = it has none
    what: str
    by_name_only: bool = False  # taken only if the caller gives file=


EVERYWHERE, NO_SATURATION, BY_WEIGHTS = "all", "x86 with VNNI, ARM", "depends on its weights"

# In the order of preference within a precision; INT8_ORDER has that of int8.
NAMES = (
    GraphName("", "fp32", "", "as exported"),
    GraphName("_optimized", "fp32", "", "with fused operators"),
    GraphName("_O2", "fp32", "", "with fused operators"),
    GraphName("_O1", "fp32", "", "with constants folded"),
    GraphName("_O3", "fp32", "", "fused, with an approximate GELU", by_name_only=True),
    GraphName("_fp16", "fp16", "", "in float16"),
    GraphName("_O4", "fp16", "", "fused, in float16 for a GPU, with an approximate GELU"),
    GraphName("_q4f16", "int4", "", "4-bit weights, the rest in float16", by_name_only=True),
    GraphName("_q2f16", "fp16", "", "2-bit weights, the rest in float16", by_name_only=True),
    GraphName("_q1f16", "fp16", "", "1-bit weights, the rest in float16", by_name_only=True),
    GraphName("_qint8_avx512_vnni", "int8", NO_SATURATION, "signed weights, per channel"),
    GraphName("_qint8_avx512", "int8", NO_SATURATION, "signed weights, per channel"),
    GraphName("_qint8_arm64", "int8", NO_SATURATION, "signed weights, per channel"),
    GraphName("_quint8_avx2", "int8", EVERYWHERE, "unsigned weights"),
    GraphName("_quantized", "int8", BY_WEIGHTS, "dynamic int8"),
    GraphName("_int8", "int8", BY_WEIGHTS, "dynamic int8, signed weights"),
    GraphName("_qint8_quantized", "int8", BY_WEIGHTS, "dynamic int8, signed weights"),
    GraphName("_uint8", "int8", EVERYWHERE, "dynamic int8, unsigned weights"),
    GraphName("_q4", "int4", "", "4-bit weights in blocks of 32"),
    GraphName("_bnb4", "int4", "", "4-bit weights of bitsandbytes", by_name_only=True),
    GraphName("_q2", "int8", "", "2-bit weights", by_name_only=True),
    GraphName("_q1", "int8", "", "1-bit weights", by_name_only=True),
)
BY_END = {name.end: name for name in NAMES}
_SIGNED = ("_quantized", "_int8", "_qint8_quantized")
_UNSIGNED = ("_quint8_avx2", "_uint8")
# Where signed weights may saturate, unsigned ones come first: they are exact on all processors.
INT8_ORDER: dict[Processor, tuple[str, ...]] = {
    "vnni": ("_qint8_avx512_vnni", "_qint8_avx512", *_SIGNED, "_qint8_arm64", *_UNSIGNED),
    "arm64": ("_qint8_arm64", *_SIGNED, "_qint8_avx512_vnni", "_qint8_avx512", *_UNSIGNED),
    "x86": (*_UNSIGNED, *_SIGNED, "_qint8_avx512_vnni", "_qint8_avx512", "_qint8_arm64"),
    "other": (*_UNSIGNED, *_SIGNED, "_qint8_avx512_vnni", "_qint8_avx512", "_qint8_arm64"),
}
# Beginnings of the names. A text_model lies beside a model.onnx that needs images too.
BEGINNINGS = ("text_model", "model")
# Graphs that are parts of models and encode no texts.
PARTS = (
    *("vision_model", "vision_encoder", "audio_model", "audio_encoder", "embed_tokens"),
    *("decoder_model", "decoder_with_past_model"),  # decoder_model_merged too
)
FOLDERS = ("", "onnx")  # in this order, as sentence-transformers looks for them
WEIGHTS = (".safetensors", ".bin", ".pt", ".ckpt")


@dataclass(frozen=True, slots=True)
class Choice:
    """The graph of each precision ("" = none), and the ONNX files that are not taken."""

    fp32: str = ""
    fp16: str = ""
    int8: str = ""
    int4: str = ""
    also: tuple[str, ...] = ()

    def best(self) -> Precision:
        """The precision that is used unless another one is asked for: the highest that is here."""
        return next(precision for precision in PRECISIONS if getattr(self, precision))

    def files(self) -> list[str]:
        """The chosen files, in the order of PRECISIONS."""
        return [name for precision in PRECISIONS if (name := getattr(self, precision))]


def choose(
    names: Collection[str],
    *,
    file: str | None = None,
    processor: Processor | None = None,
    folders: Sequence[str] = FOLDERS,
    where: str = "the folder",
) -> Choice:
    """The graphs to use among the files `names` (with "/") of a folder or repository.

    `file` names one graph, which alone is then used; its folder may be left out if it is one of
    `folders`. `processor` decides between int8 graphs; without it, those come first that are exact
    on every processor. All precisions come from one folder, because graphs of different makers may
    differ in their outputs. `where` names the folder in messages.

    Raises ConfigError for a `file` that is not there, with near names; LoadError if there is no
    graph, or only graphs that have to be named: of unknown names, several, of parts, or inexact.
    """
    found = sorted(name for name in names if _is_graph(name))
    if file is not None:
        return _named(found, file, folders, where)
    known = {name: parts for name in found if (parts := _parts(name)) and parts[0] in folders}
    for precision in UNASKED:  # a folder with an fp32 graph comes before one without
        for beginning in BEGINNINGS:
            for folder in folders:
                ends = {e: n for n, (f, b, e) in known.items() if (f, b) == (folder, beginning)}
                group = _by_precision(ends, processor or "other")
                if precision in group:
                    also = [name for name in found if name not in group.values()]
                    return _choice(group, also)
    return _only_one(found, known, set(names), where)


def place(choice: Choice, told: Mapping[str, Precision]) -> Choice:
    """`choice` with each file under the precision that its content tells (graph_io.read).

    A name can say nothing or mislead: Qdrant's model_optimized.onnx is often in float16. If two
    files turn out to be of one precision, the one with the higher precision by name stays.
    """
    group: dict[Precision, str] = {}
    also = list(choice.also)
    for precision in PRECISIONS:
        name = getattr(choice, precision)
        if name and group.setdefault(told.get(name, precision), name) != name:
            also.append(name)
    return _choice(group, sorted(also))


def precision_of(name: str) -> Precision | None:
    """The precision that the name of a graph tells; None for an unknown name."""
    parts = _parts(name)
    return BY_END[parts[2]].precision if parts else None


def _choice(group: Mapping[Precision, str], also: Sequence[str]) -> Choice:
    fp32, fp16, int8, int4 = (group.get(precision, "") for precision in PRECISIONS)
    return Choice(fp32, fp16, int8, int4, tuple(also))


def _is_graph(name: str) -> bool:
    """Whether it is an ONNX file. macOS and download tools keep files of theirs behind a dot."""
    return name.endswith(".onnx") and not any(p.startswith(".") for p in name.split("/"))


def _parts(name: str) -> tuple[str, str, str] | None:
    """Folder, beginning and end of the name of a graph; None for an unknown name."""
    path = PurePosixPath(name)
    for beginning in BEGINNINGS:
        end = path.stem.removeprefix(beginning)
        if path.stem.startswith(beginning) and end in BY_END and path.suffix == ".onnx":
            return path.parent.as_posix().removeprefix("."), beginning, end
    return None


def _by_precision(ends: Mapping[str, str], processor: Processor) -> dict[Precision, str]:
    """The preferred graph of each precision. `ends` maps the ends of the names to the names."""
    group: dict[Precision, str] = {}
    for precision in PRECISIONS:
        order = [name.end for name in NAMES if name.precision == precision]
        if precision == "int8":
            order = list(INT8_ORDER[processor])
        taken = [end for end in order if end in ends and not BY_END[end].by_name_only]
        if taken:
            group[precision] = ends[taken[0]]
    return group


def _named(found: Sequence[str], file: str, folders: Sequence[str], where: str) -> Choice:
    """The one graph that the caller names."""
    wanted = PurePath(file).as_posix()
    for folder in ("", *folders):
        name = (PurePosixPath(folder) / wanted).as_posix()
        if name in found:
            also = tuple(other for other in found if other != name)
            return _choice({precision_of(name) or "fp32": name}, also)
    if not found:
        raise ConfigError(f"file={shown(file)}: {where} has no ONNX file (*.onnx)")
    near = difflib.get_close_matches(wanted[:200], found, n=LISTED, cutoff=0.6) or found
    raise ConfigError(f"file={shown(file)} is no ONNX file of {where}; it has {_listed(near)}")


def _only_one(
    found: Sequence[str], known: Collection[str], names: Collection[str], where: str
) -> Choice:
    """The only graph of an unknown name, if there is no other that might be meant."""
    if not found:
        raise LoadError(_without_graph(names, where))
    parts = [name for name in found if PurePosixPath(name).stem.startswith(PARTS)]
    rest = [name for name in found if name not in parts]
    if not rest:
        raise LoadError(f"{where} has only parts of a model that encode no text: {_listed(parts)}")
    if len(rest) == 1 and rest[0] not in known:
        return _choice({"fp32": rest[0]}, parts)
    if not set(rest) - set(known):
        inexact = [f"{name} ({BY_END[told[2]].what})" for name in rest if (told := _parts(name))]
        raise LoadError(
            f"{where} has only graphs that differ from the original model: name one with file=: "
            f"{_listed(inexact)}"
        )
    raise LoadError(
        f"{where} has several ONNX files, and their names do not tell which one is the model: name "
        f"one with file=: {_listed(rest)}"
    )


def _without_graph(names: Collection[str], where: str) -> str:
    weights = sorted(name for name in names if name.endswith(WEIGHTS))
    other = sorted(name for name in names if PurePosixPath(name).name.startswith("openvino_model"))
    has = f" ({_listed(weights[:3])} hold weights for torch)" if weights else ""
    has = f" (OpenVINO's {other[0]} is not read)" if other and not weights else has
    return (
        f"{where} has no ONNX file{has}: make one with "
        "`tessera-export MODEL --kind KIND --output DIR`, and open it with path=DIR"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(f"{name:.100}" for name in names[:LISTED]) + more
