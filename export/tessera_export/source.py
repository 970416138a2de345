"""Find a model: a folder, a repository that is downloaded, or an id of the catalogue."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tessera_export import refused
from tessera_export.errors import ExportError
from tessera_export.files import read_text
from tessera_export.texts import folder as folders
from tessera_export.texts.folder import Facts, Overrides
from tessera_onnx.models import catalogue
from tessera_onnx.models.foreign import card
from tessera_onnx.models.spec import UNPINNED, ModelSpec, Sparse

# What the export reads; other frameworks' weights and ready graphs stay on the hub. The two heads
# of bge-m3 are pickles, of which tensors alone are read; so are weights without safetensors.
HUB_FILES = [
    "*.json", "*.safetensors", "artifact.metadata", "README.md", "sparse_linear.pt",
    "colbert_linear.pt",
]  # fmt: skip
MOST = 200  # characters of a name that a message repeats
PICKLES = ["pytorch_model*.bin"]


@dataclass(frozen=True, slots=True)
class Source:
    """A model folder that is here, where it is from, and what the catalogue knows of it."""

    folder: Path
    repository: str
    revision: str
    entry: ModelSpec | None

    def knows(self, field: str) -> bool:
        """Whether the catalogue vouches for a fact such as "dense.pooling"."""
        if self.entry is None:
            return False
        doubts = self.entry.unverified
        return not any(field == doubt or field.startswith(f"{doubt}.") for doubt in doubts)


def known(model: str) -> ModelSpec | None:
    """The entry that the catalogue has for an id, an alias or a repository; None for a folder."""
    if is_folder(model):
        return None
    names = ((spec, {spec.id, spec.source, *spec.aliases}) for spec in catalogue.catalogue())
    return next((spec for spec, found in names if model in found), None)


def is_folder(model: str) -> bool:
    """Whether `model` names a folder that is there."""
    try:
        return bool(model.strip()) and Path(model).is_dir()
    except (OSError, ValueError):  # too long for a name, or with a zero in it
        return False


def check(model: str, kinds: Collection[str] = ()) -> None:
    """Everything that can be wrong with `model` before a download: a folder of something else, a
    folder that is not there, a repository that is no embedder by its name. Raises ExportError.
    """
    if is_folder(model):
        refused.check(Path(model), kinds)
    elif (entry := known(model)) is not None:
        if entry.reranker is not None:
            refused.check_name(model, kinds or entry.kinds)
    else:
        repository = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", model) and len(model) <= MOST
        if not repository or Path(model).exists():
            raise ExportError(_absent(model))
        refused.check_name(model, kinds)


def _absent(model: str) -> str:
    """What to say of a path without a folder; a text given by mistake is not repeated whole."""
    if not model.strip():
        return "no model is named: give a folder, a repository id or an id of the catalogue"
    if len(model) > MOST:
        return f"a name of {len(model)} characters is neither a folder nor a repository id"
    try:
        if Path(model).is_file():
            return f"{model!r} is a file: give the folder that holds it"
    except (OSError, ValueError):
        return "the model's name is neither a folder nor a repository id"
    return f"there is no folder {model!r}, and no repository has such a name{_near(model)}"


def _near(model: str) -> str:
    """A question after the folder, or the id of the catalogue, that has nearly that name."""
    place = Path(model).parent
    found: list[str] = []
    with contextlib.suppress(OSError):
        here = [other for other in place.iterdir() if other.is_dir()]
        names = difflib.get_close_matches(Path(model).name, [other.name for other in here], 1)
        found = [str(place / name) for name in names]
    ids = [spec.id for spec in catalogue.catalogue()]
    found = found or difflib.get_close_matches(model, ids, 1)
    return f"; is it {found[0]!r}?" if found else ""


def locate(
    model: str,
    repository: str | None,
    revision: str | None,
    *,
    code: bool,
    kinds: Collection[str] = (),
) -> Source:
    """The folder `model`, or the files of a repository or of a catalogue entry, downloaded.

    A catalogue entry is taken at its revision unless another is given. `code` fetches Python
    files too. The configurations come first: the weights of what the kinds do not serve are not
    fetched. Raises ExportError when there is neither folder nor download.
    """
    check(model, kinds)
    if is_folder(model):
        return Source(Path(model).resolve(), repository or "", revision or UNPINNED, None)
    entry = known(model)
    wanted = model if entry is None else entry.source
    if entry is not None and revision is None and entry.revision != UNPINNED:
        revision = entry.revision
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [*HUB_FILES, "*.py"] if code else HUB_FILES
    try:
        folder = Path(snapshot_download(wanted, revision=revision, allow_patterns=["*.json"]))
        refused.check(folder, kinds, known=entry is not None and entry.reranker is None)
        folder = Path(snapshot_download(wanted, revision=revision, allow_patterns=patterns))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(wanted, revision=revision, allow_patterns=PICKLES)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(
            f"{model!r} is no folder and cannot be downloaded: {first}{_near(model)}"
        ) from error
    # The snapshot's folder is named after the commit that a moving reference stood for.
    return Source(folder, repository or wanted, revision or folder.name, entry)


def read(source: Source, kinds: tuple[str, ...], overrides: Overrides) -> Facts:
    """The folder's facts, the catalogue's where it vouches for them, the caller's above both.

    Without `kinds` those of the catalogue. Raises ExportError as folder.read does.
    """
    entry = source.entry
    if entry is None:
        return folders.read(source.folder, kinds, overrides)
    vouched = {**_vouched(source, entry), "known": entry.reranker is None}
    for field in fields(Overrides):
        value = getattr(overrides, field.name)
        if value != field.default:
            vouched[field.name] = value
    facts = folders.read(source.folder, kinds or entry.kinds, Overrides(**vouched))
    if facts.dense is not None and entry.dense is not None:
        norm, tasks = entry.dense.matryoshka_layer_norm, entry.dense.tasks
        facts = replace(facts, dense=replace(facts.dense, matryoshka_layer_norm=norm, tasks=tasks))
    if facts.multi_vector is not None and source.knows("multi_vector.matryoshka"):
        sizes = entry.multi_vector.matryoshka if entry.multi_vector else ()
        facts = replace(facts, multi_vector=replace(facts.multi_vector, matryoshka=sizes))
    if facts.decodes and entry.sparse is not None:
        facts = _sparse(facts, source, entry.sparse)
    return facts


def _vouched(source: Source, entry: ModelSpec) -> dict[str, Any]:
    """Overrides that the catalogue vouches for."""
    known: dict[str, Any] = {}
    for name in ("dense", "sparse", "multi_vector"):
        recipe = getattr(entry, name)
        for role in ("query", "document") if recipe is not None else ():
            facts = getattr(recipe, role)
            if source.knows(f"{name}.{role}.max_length"):
                length = facts.max_length
                if name == "multi_vector":
                    known[f"{role}_length"] = length
                else:  # one length for both roles: the longer
                    known["max_length"] = max(length, known.get("max_length", 0))
            if name != "multi_vector" and source.knows(f"{name}.{role}.prompt"):
                known[f"{role}_prompt"] = facts.prompt
    if entry.dense is not None:
        if source.knows("dense.matryoshka"):
            known["matryoshka"] = entry.dense.matryoshka
        if entry.dense.pooling != "graph" and source.knows("dense.pooling"):
            known["pooling"] = entry.dense.pooling
    return known


def _sparse(facts: Facts, source: Source, known: Sparse) -> Facts:
    """Facts with the catalogue's queries, activation and zeroed ids."""
    if known.query_weights == "idf" and not facts.idf:
        facts = folders.with_table(facts, read_text(source.folder / known.idf))
    sparse = facts.sparse
    if sparse is None:
        return facts
    if known.query_weights == "ones":
        sparse = replace(sparse, query_weights="ones")
    if source.knows("sparse.activation"):
        sparse = replace(sparse, activation=known.activation)
    if source.knows("sparse.zero_ids"):
        sparse = replace(sparse, zero_ids=known.zero_ids)
    return replace(facts, sparse=sparse)


def declared_licence(folder: Path) -> str:
    """The `license:` line of README.md's front matter, or ""."""
    return card.licence(folder)
