"""What reads bytes that strangers made: each target takes bytes and may raise its errors alone."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import hostile
import numpy as np
from artifact_tools import ARTIFACTS
from faults import graphs
from PIL import Image

from tessera_onnx import (
    ConfigError,
    EncodingError,
    FileError,
    IntegrityError,
    LoadError,
    PackedSparse,
    PackedTokens,
    TokenizationError,
)
from tessera_onnx.cli import csv_series, texts
from tessera_onnx.images import decode, preprocess
from tessera_onnx.images.pdf import read_pages
from tessera_onnx.models import catalogue
from tessera_onnx.models.foreign import graph_io as foreign_graph_io
from tessera_onnx.runtime import external_data, session
from tessera_onnx.runtime import graph as runtime_graph
from tessera_onnx.text import tokenizer as text_tokenizer

SPLADE = ARTIFACTS / "splade"
SPEC = catalogue.read_catalogue(SPLADE / "model.toml")[0]
PLACE = Path(tempfile.mkdtemp(prefix="tessera-fuzz-"))


def _file(data: bytes, suffix: str) -> Path:
    path = PLACE / f"{os.getpid()}{suffix}"
    path.write_bytes(data)
    return path


def description(data: bytes) -> None:
    """model.toml and catalogues."""
    with contextlib.suppress(LoadError):
        catalogue.read_catalogue(_file(data, ".toml"))


def graph_names(data: bytes) -> None:
    """Names of other files in a graph."""
    with contextlib.suppress(IntegrityError):
        for name in external_data.locations(data, "graph"):
            assert "/" not in name
            assert name not in ("", ".", "..")
    with contextlib.suppress(ValueError):
        external_data.without_weights(data, "graph")


def graph_io(data: bytes) -> None:
    """The inputs, outputs and files of a graph, without ONNX Runtime."""
    with contextlib.suppress(LoadError):
        found = foreign_graph_io.read(_file(data, ".onnx"))
        assert found.outputs
        assert all("/" not in name for name in found.locations)


def graph(data: bytes) -> None:
    """A graph, opened and run on the probe as a model's is."""
    facts = SPEC.text
    assert facts is not None
    probe = text_tokenizer.probe(facts)
    # The graphs here are small, and go the way of large ones all the same.
    large = (
        mock.patch.object(runtime_graph, "LARGE_GRAPH", 0),
        mock.patch.object(external_data, "LARGE", 64),
    )
    with large[0], large[1], contextlib.suppress(LoadError):
        session.open_session(
            {"cpu": ("graph", lambda: data)},
            device="cpu",
            static=False,
            int8_on_cuda=False,
            threads=1,
            wanted=lambda _: (
                {"logits": (1, 2, 128)},
                {"input_ids": probe.ids, "attention_mask": probe.attention},
            ),
        ).close()


def tokenizer(data: bytes) -> None:
    """tokenizer.json, and a few texts through it."""
    facts = SPEC.text
    assert facts is not None
    with contextlib.suppress(LoadError, TokenizationError):
        text_tokenizer.Tokenizer(data, facts).ids(
            ["", "The cat, 12!", "\u0641\u200d\U0001f469", "x" * 300]
        )


def jsonl(data: bytes) -> None:
    """The command's lines of JSON."""
    with contextlib.suppress(FileError):
        for found in texts.Texts(str(_file(data, ".jsonl")), "text"):
            found.encode()  # valid Unicode


def lines(data: bytes) -> None:
    """The command's lines of text."""
    with contextlib.suppress(FileError):
        for found in texts.Texts(str(_file(data, ".txt")), "text"):
            found.encode()


def table(data: bytes) -> None:
    """The command's CSV files."""
    with contextlib.suppress(FileError, ConfigError):
        found = csv_series.read_csv(str(_file(data, ".csv")))
        if found.clock is not None:
            found.clock.following(3)


def image(data: bytes) -> None:
    """An image, decoded whole and made ready for a model of tiles."""
    recipe = catalogue.read_catalogue(ARTIFACTS / "colsmol" / "model.toml")[0].vision
    assert recipe is not None
    warnings.simplefilter("ignore")  # Pillow's, of what it reads over
    with contextlib.suppress(EncodingError, ConfigError):
        for page in read_pages(data, max_pages=5, max_pixels=1 << 22):
            assert page.image is None or page.image.mode == "RGB"
        found = decode.open_image(data, where="images[0]", alpha="white", max_pixels=1 << 22)
        assert found.mode == "RGB"
        assert np.isfinite(preprocess.pixels(found, recipe.image).tiles).all()


def pdf(data: bytes) -> None:
    """The pages of a PDF, small."""
    with contextlib.suppress(EncodingError, ConfigError):
        for found in read_pages(data, dpi=20, max_pages=5, max_pixels=1 << 20, words=True):
            assert found.image is None or found.image.mode == "RGB"


def pack(data: bytes) -> None:
    """A file of PackedTokens, scored as far as it opens."""
    warnings.simplefilter("error")
    with contextlib.suppress(LoadError, IntegrityError, FileError, ConfigError):
        found = PackedTokens.load(_file(data, ".pack"), verify=True)
        scores = found.score(np.ones((2, 8), np.float32) / 8**0.5)
        assert np.isfinite(scores[found.numbers]).all()


def sparse_pack(data: bytes) -> None:
    """A file of PackedSparse, scored as far as it opens, with and without a look at all of it."""
    warnings.simplefilter("error")
    for verify in (True, False):
        with contextlib.suppress(LoadError, IntegrityError, FileError, ConfigError):
            found = PackedSparse.load(_file(data, ".sparse"), verify=verify)
            scores = found.score((np.arange(20), np.ones(20)))
            assert np.isfinite(scores[found.numbers]).all()


def server(data: bytes) -> None:
    """A request to the server, and from time to time a good one."""
    count = next(COUNT)
    target = hostile_target()
    target(data)
    if count % 100 == 0:
        target.good()


COUNT = itertools.count()
hostile_target = functools.cache(hostile.Target)


def _images() -> list[bytes]:
    """One of each form, of a few pixels."""
    grey = np.arange(24 * 17, dtype=np.uint8).reshape(17, 24)
    picture = Image.fromarray(grey)
    forms = {"PNG": "P", "JPEG": "CMYK", "WEBP": "RGBA", "TIFF": "L", "BMP": "RGB", "GIF": "P"}
    forms |= {"AVIF": "RGB", "JPEG2000": "L"}
    made = []
    deep = Image.fromarray(grey.astype(np.uint16) * 16)  # greys of 12 bits, two pages
    stream = io.BytesIO()
    deep.save(stream, "TIFF", save_all=True, append_images=[deep])
    made.append(stream.getvalue())
    for name, mode in forms.items():
        stream = io.BytesIO()
        picture.convert(mode).save(stream, name)
        made.append(stream.getvalue())
    return made


def _pdf() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (60, 80), 200).save(stream, "PDF")
    return stream.getvalue()


def _pack(ids: list[str] | None = None) -> bytes:
    rng = np.random.default_rng(0)
    path = PLACE / "made.pack"
    made = PackedTokens([rng.standard_normal((n, 8), np.float32) for n in (3, 5, 1)], ids=ids)
    if ids:
        made.remove([1])
    made.save(path)
    return path.read_bytes()


def _ports() -> bytes:
    """A small graph with a weight in a file beside it."""
    pair = graphs.field(13, graphs.field(1, "location") + graphs.field(2, "w.bin"))
    weight = graphs.field(5, graphs.tensor("w", graphs.FLOAT, [64, 64], b"", pair))
    return graphs.model(graphs.summing(half=True) + weight)


def _sparse_pack() -> bytes:
    path = PLACE / "made.sparse"
    made = PackedSparse(
        [([1, 4], [1, 2]), ([2], [3]), ([], []), ([4, 9], [1, 1])], ids=list("abcd")
    )
    made.remove(["b"])
    made.save(path)
    return path.read_bytes()


def _tokenizers() -> list[bytes]:
    """The artifact's, and its rules around each other kind of model."""
    content = (SPLADE / "tokenizer.json").read_bytes()
    rules = json.loads(content)
    vocab = {token: number for number, token in enumerate(["?", *"abcdeht ", "ab", "the"])}
    merges = [["a", "b"]]
    models = [
        {"type": "BPE", "vocab": vocab, "merges": merges, "unk_token": "?", "byte_fallback": True},
        {"type": "Unigram", "unk_id": 0, "vocab": [[token, -1.0] for token in vocab]},
        {"type": "WordLevel", "vocab": vocab, "unk_token": "?"},
    ]
    return [content, *(json.dumps({**rules, "model": model}).encode() for model in models)]


CSV = b"day;shop;sold\n2024-01-01;north;3\n2024-01-02;north;NA\n2024-01-03;north;1e3\n"
STAMPS = (
    b"t,v\n2024-03-30 23:00:00+01:00,1\n2024-03-31 00:00:00+01:00,2\n2024-03-31 01:00:00+01:00,\n"
)
JSONL = b'"a text"\n{"text": "another \\u00e9", "id": 3}\n"\\ud83d\\ude00"\n'
TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "description": (
        description,
        [(ARTIFACTS / name / "model.toml").read_bytes() for name in ("splade", "bolt", "siglip")],
    ),
    "graph_names": (graph_names, [(SPLADE / "model.fp32.onnx").read_bytes()[:3000]]),
    "graph_io": (graph_io, [(SPLADE / "model.fp32.onnx").read_bytes(), _ports()]),
    "graph": (graph, [(SPLADE / "model.fp32.onnx").read_bytes()]),
    "tokenizer": (tokenizer, _tokenizers()),
    "jsonl": (jsonl, [JSONL]),
    "lines": (lines, [b"\xef\xbb\xbfone\r\ntwo\n\nf\xc3\xbcnf\n"]),
    "table": (table, [CSV, STAMPS]),
    "image": (image, _images()),
    "pdf": (pdf, [_pdf()]),
    "pack": (pack, [_pack(), _pack(["a", "b", "c"])]),
    "sparse_pack": (sparse_pack, [_sparse_pack()]),
    "server": (server, hostile.every()),
}
