"""Folders of rerankers as their authors leave them, with other columns or without their weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import graphs
import numpy as np
from artifact_tools import ARTIFACTS, TEXTS, golden
from cases_pairs import FOLDER, Reference
from outcomes import Case
from static_tables import safetensors

from tessera_onnx import TesseraReranker

PAIR = (TEXTS[3], TEXTS[8])
CONFIG: dict[str, Any] = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": 32,
    "max_position_embeddings": 64,
    "vocab_size": 128,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "id2label": {"0": "LABEL_0"},
}
TOKENIZER = {"model_max_length": 64, "pad_token": "[PAD]", "tokenizer_class": "BertTokenizer"}
RELEVANT = {"0": "not relevant", "1": "relevant"}
HEAD = "2_Dense/model.safetensors"


def cases(folder: Path) -> Iterator[Case]:
    yield from _classifiers(folder, Reference())
    yield from _heads(folder)


def _case(what: str, place: Path, judge: Callable[[Any], None] | None) -> Case:
    def run() -> float:
        with TesseraReranker(path=place, threads=1) as model:
            return float(model.score_pairs([PAIR], activation="raw")[0])

    return Case("rerankers", "TesseraReranker", what, run, judge, error=judge is None)


def _near(expected: float) -> Callable[[Any], None]:
    return lambda found: np.testing.assert_allclose(found, expected, atol=1e-5)


def _divided(by: float) -> bytes:
    """A graph whose score is the first word's id, less itself or not, divided by 0."""
    body = (
        graphs.constant("where", np.array([1]))
        + graphs.constant("zero", np.array(0, np.float32))
        + graphs.constant("times", np.array(by, np.float32))
        + graphs.node("Mul", ["input_ids", "attention_mask"], "real")
        + graphs.node("Gather", ["real", "where"], "picked", axis=1)
        + graphs.node("Cast", ["picked"], "number", to=graphs.FLOAT)
        + graphs.node("Mul", ["number", "times"], "product")
        + graphs.node("Div", ["product", "zero"], "sentence_embedding")
    )
    return graphs.model(body, ["batch", 1])


def _classifiers(folder: Path, reference: Reference) -> Iterator[Case]:
    logits = (FOLDER / "model.fp32.onnx").read_bytes()
    states = (ARTIFACTS / "states" / "model.onnx").read_bytes()
    known = reference.score(*PAIR)
    logit = _near(float(np.log(known / (1 - known))))
    first = _near(float(reference.tokenizer.token_to_id("cat")))
    two, three = graphs.picking([0, 1]), graphs.picking([0, 1, 2])
    whole = graphs.model(
        graphs.node("Mul", ["input_ids", "attention_mask"], "sentence_embedding"),
        ["batch", "n"],
        dtype=graphs.INT64,
    )
    labels = lambda *names: {"id2label": {str(i): name for i, name in enumerate(names)}}
    for what, config, graph, judge in (
        ("nothing wrong", {}, logits, logit),
        ("two columns, the second is named", {"id2label": RELEVANT}, two, first),
        ("two columns without names", labels("LABEL_0", "LABEL_1"), two, None),
        ("two columns, the first is named", labels("relevant", "not relevant"), two, None),
        ("two columns for one label", {}, two, None),
        ("one column for two labels", {"id2label": RELEVANT}, graphs.picking([1]), None),
        ("three columns", labels("no", "maybe", "yes"), three, None),
        ("a column a token", {}, whole, None),
        ("no classifier in the graph", {}, states, None),
        ("no classifier in the configuration", {"architectures": ["BertModel"]}, logits, None),
        ("infinite scores", {}, _divided(1), None),
        ("scores that are no numbers", {}, _divided(0), None),
        ("an empty graph", {}, b"", None),
        ("a cut graph", {}, logits[:-99], None),
        ("labels in a list", {"id2label": ["LABEL_0"]}, logits, None),
        ("labels that are numbers", {"id2label": {"0": 3, "1": 4}}, two, None),
        ("labels without the first", {"id2label": {"1": "relevant"}}, two, None),
        ("no architecture", {"architectures": []}, logits, None),
        ("architectures that are no list", {"architectures": 3}, logits, None),
        ("room for nothing but special tokens", {"max_position_embeddings": 3}, logits, None),
        ("positions below zero", {"max_position_embeddings": -2}, logits, None),
        ("another vocabulary", {"vocab_size": 9}, logits, None),
    ):
        place = folder / "rerankers" / what
        place.mkdir(parents=True)
        (place / "model.onnx").write_bytes(graph)
        shutil.copy(FOLDER / "tokenizer.json", place)
        (place / "config.json").write_text(json.dumps(CONFIG | config))
        (place / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
        yield _case(what, place, judge)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        for what, content in {
            "is absent": None, "is empty": b"", "is a list": b"[]", "is cut": b'{"a": {',
            "is no UTF-8": b"\xff\xfe{}", "is deep": b"[" * 100_000,
        }.items():  # fmt: skip
            place = folder / "rerankers" / f"{name} {what}"
            shutil.copytree(folder / "rerankers" / "nothing wrong", place)
            (place / name).unlink()
            if content is not None:
                (place / name).write_bytes(content)
            optional = name == "tokenizer_config.json" and content is None
            yield _case(f"{name} {what}", place, logit if optional else None)


def _heads(folder: Path) -> Iterator[Case]:
    """An encoder, with pooling and dense modules after it."""
    whole = folder / "heads" / "whole"
    shutil.copytree(ARTIFACTS / "reranker_head", whole)
    shutil.copy(ARTIFACTS / "states" / "model.onnx", whole)
    weights = (whole / HEAD).read_bytes()
    other = (whole / "4_Dense" / "model.safetensors").read_bytes()
    rows = {"linear.weight": np.full((32, 32), np.nan, np.float32)}
    changed: dict[str, dict[str, bytes | None]] = {
        "no weights of the classifier": {HEAD: None, "4_Dense/model.safetensors": None},
        "no weights of a module": {HEAD: None},
        "empty weights of a module": {HEAD: b""},
        "cut weights of a module": {HEAD: weights[:-7]},
        "a header of a terabyte": {HEAD: (1 << 40).to_bytes(8, "little") + weights[8:]},
        "weights of another module": {HEAD: other},
        "weights that are no numbers": {HEAD: safetensors(rows)},
        "no settings of a module": {"2_Dense/config.json": None},
        "settings of a module that are a list": {"2_Dense/config.json": b"[]"},
        "a module of a billion rows": {
            "2_Dense/config.json": json.dumps(
                {"in_features": 32, "out_features": 10**9, "bias": True}
            ).encode()
        },
        "no list of modules": {"modules.json": None},
        "an empty list of modules": {"modules.json": b"[]"},
        "modules that are a number": {"modules.json": b"3"},
        "a module outside of the folder": {
            "modules.json": (whole / "modules.json")
            .read_bytes()
            .replace(b'"2_Dense"', b'"../../2_Dense"')
        },
        "no graph": {"model.onnx": None},
    }
    expected = golden("reranker_head")["raw"][TEXTS.index(PAIR[0]), TEXTS.index(PAIR[1])]
    yield _case("modules, nothing wrong", whole, _near(float(expected)))
    for what, files in changed.items():
        place = folder / "heads" / what
        shutil.copytree(whole, place)
        for name, content in files.items():
            (place / name).unlink()
            if content is not None:
                (place / name).write_bytes(content)
        yield _case(f"modules, {what}", place, None)
