"""Small static models with random tables, saved by model2vec and by sentence-transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from model2vec import StaticModel
from model2vec.model import quantize_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
WIDTH = 16
WORDS = json.loads((ARTIFACTS / "texts.json").read_text("utf-8"))
# Texts on which the two recipes differ: unknown tokens, long texts, no tokens at all.
TEXTS = [
    *WORDS, "☃ cat ☃", "☃", " \n\t ", "cat " * 40, "x" * 300, "cat☃dog, 世界", "Ⅷ ﬁ naïve café",
]  # fmt: skip
PROMPTS = {"query": "cat: ", "document": "of the "}


def tokenizer(name: str) -> Tokenizer:
    """A tokenizer of each model that the library `tokenizers` has."""
    if name == "wordpiece":
        return Tokenizer.from_file(str(ARTIFACTS / "states" / "tokenizer.json"))
    if name == "words":
        words = sorted({word for text in WORDS for word in text.lower().split()})
        ids = {word: number for number, word in enumerate(["[UNK]", "[PAD]", *words])}
        made = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
        made.normalizer = normalizers.Lowercase()
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        return made
    if name == "unigram":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=90, special_tokens=["<pad>", "<unk>"], unk_token="<unk>", show_progress=False
        )
        made.train_from_iterator(WORDS, trainer)
        return made
    made = Tokenizer(models.BPE())  # of bytes: nothing is unknown
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(WORDS, trainer)
    return made


def rows(n: int, seed: int = 0) -> np.ndarray:
    """A table (n, WIDTH) float32."""
    return np.random.default_rng(seed).standard_normal((n, WIDTH), dtype=np.float32)


def model2vec(
    place: Path,
    vocabulary: str = "wordpiece",
    *,
    dtype: str = "float32",
    clusters: int = 0,
    weighted: bool = False,
    normalize: bool = True,
    max_length: int | None = 24,
) -> None:
    """Save a model by model2vec; `clusters` quantises its vocabulary to that many rows."""
    found = tokenizer(vocabulary)
    n = found.get_vocab_size(with_added_tokens=True)
    table, rng = rows(n), np.random.default_rng(1)
    weights = rng.random(n, dtype=np.float32) if weighted or clusters else None
    mapping = rng.integers(0, clusters, n) if clusters else None
    model = StaticModel(
        table[: clusters or n],
        found,
        normalize=normalize,
        weights=weights,
        token_mapping=mapping,
        max_length=max_length,
    )
    quantize_model(model, quantize_to=dtype).save_pretrained(place)


def torch(
    place: Path,
    vocabulary: str = "wordpiece",
    *,
    dtype: str = "float32",
    normalize: bool = True,
    cut: int | None = None,
    prompts: bool = False,
    size: int | None = None,
    nested: bool = False,
) -> None:
    """Save a model by sentence-transformers; `cut` is the truncation of its tokenizer.json."""
    found = tokenizer(vocabulary)
    if cut is not None:
        found.enable_truncation(cut)
    table = rows(found.get_vocab_size(with_added_tokens=True)).astype(dtype)
    modules = [
        StaticEmbedding(found, embedding_weights=table),
        *([Normalize()] if normalize else []),
    ]
    model = SentenceTransformer(modules=modules, device="cpu", truncate_dim=size)
    if prompts:
        model.prompts = dict(PROMPTS)
    model.save_pretrained(str(place))
    if size is not None:
        _set(place / "config_sentence_transformers.json", truncate_dim=size)
    if nested:  # as older releases save it
        (place / "0_StaticEmbedding").mkdir()
        for name in ("model.safetensors", "tokenizer.json"):
            shutil.move(place / name, place / "0_StaticEmbedding")
        listed = json.loads((place / "modules.json").read_text())
        listed[0] |= {"path": "0_StaticEmbedding",
                      "type": "sentence_transformers.models.StaticEmbedding"}  # fmt: skip
        (place / "modules.json").write_text(json.dumps(listed))


def _set(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def folded(place: Path) -> None:
    """A folder of model2vec without its config.json, which only sentence-transformers opens."""
    model2vec(place, clusters=40)
    (place / "config.json").unlink()


Make = Callable[[Path], None]


def _m(**options: object) -> Make:
    return lambda place: model2vec(place, **options)  # type: ignore[arg-type]


def _t(**options: object) -> Make:
    return lambda place: torch(place, **options)  # type: ignore[arg-type]


MODEL2VEC: dict[str, Make] = {
    "float32": _m(),
    "float32, no L2": _m(normalize=False),
    "float16": _m(dtype="float16"),
    "float64": _m(dtype="float64"),
    "int8": _m(dtype="int8"),
    "int8, no L2": _m(dtype="int8", normalize=False),
    "weights": _m(weighted=True, normalize=False),
    "vocabulary of 40 rows": _m(clusters=40, normalize=False),
    "vocabulary of 40 rows, int8": _m(clusters=40, dtype="int8"),
    "no cut": _m(max_length=None),
    "cut of the library": _m(max_length=512),
    "cut of one token": _m(max_length=1),
    "whole words": _m(vocabulary="words"),
    "unigram": _m(vocabulary="unigram", clusters=33),
    "bytes": _m(vocabulary="bytes"),
}  # fmt: skip
TORCH: dict[str, Make] = {
    "float32": _t(),
    "float32, no L2": _t(normalize=False),
    "float16": _t(dtype="float16"),
    "a cut": _t(cut=9),
    "prompts": _t(prompts=True),
    "truncate_dim": _t(size=5),
    "a folder of its own": _t(nested=True),
    "unigram": _t(vocabulary="unigram"),
    "bytes": _t(vocabulary="bytes", normalize=False),
    "model2vec's tensors": folded,
}  # fmt: skip
