"""Read how sentence-transformers makes one vector of token states: Pooling and what follows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tessera_onnx.errors import LoadError
from tessera_onnx.models.foreign import layers
from tessera_onnx.models.foreign.files import (
    MODULES,
    class_of,
    is_file,
    module_folder,
    read_table,
)
from tessera_onnx.models.foreign.layers import Layer
from tessera_onnx.models.spec import Pooling

POOLING = "Pooling"
# Older folders write one boolean a mode, newer ones `pooling_mode`; upstream concatenates them in
# this order (sentence_transformers/sentence_transformer/modules/pooling.py).
OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLINGS: dict[str, Pooling] = {
    "cls": "cls", "mean": "mean", "lasttoken": "last", "max": "max",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "weightedmean": "weightedmean",
}  # fmt: skip
SENTENCE = "sentence_embedding"
# What a module does, by its class.
STEPS: dict[str, Literal["dense", "layer-norm", "normalize", "dropout"]] = {
    "Dense": "dense", "LayerNorm": "layer-norm", "Normalize": "normalize", "Dropout": "dropout",
}  # fmt: skip
# Why other modules of sentence-transformers are not computed.
OTHERS = {
    "WordEmbeddings": "it looks words up and has no graph",
    "WordWeights": "it weighs words by a table, which changes the mean",
    "BoW": "it counts words and has no graph",
    "LSTM": "it is a recurrent layer between the encoder and the pooling",
    "CNN": "it is a convolution between the encoder and the pooling",
    "WeightedLayerPooling": "it needs the states of all layers",
    "CLIPModel": "it reads images too",
    "SparseAutoEncoder": "it makes a sparse vector of a dense one",
    "StaticEmbedding": "it is a table of token vectors and has no graph",
    "HierarchicalTokenPooling": "it merges tokens",
    "Router": "it has several encoders",
    "Asym": "it has several encoders",
}


@dataclass(frozen=True, slots=True)
class Step:
    """A module after the pooling: `dimension` is that of its result, `layer` of "dense" alone."""

    type: Literal["dense", "layer-norm", "normalize", "dropout"]
    module: Mapping[str, Any]
    layer: Layer | None
    dimension: int


def is_dense(modules: list[dict[str, Any]]) -> bool:
    """Whether modules.json lists a Transformer and Pooling at its beginning."""
    return [class_of(module) for module in modules[:2]] == ["Transformer", POOLING]


def read_modes(
    folder: Path,
    modules: list[dict[str, Any]],
    sources: dict[str, str] | None = None,
    said: Pooling | None = None,
) -> tuple[Pooling, ...]:
    """The poolings of the Pooling module, whose vectors are concatenated in this order.

    `said` is the caller's, for a file that names none. Raises LoadError for a file that is missing
    or names no mode or an unknown one, and for a pooling that leaves the tokens of a prompt out.
    """
    path = module_folder(folder, modules[1]) / "config.json"
    if not is_file(path):
        raise LoadError(
            f"pooling is missing: modules.json lists a Pooling module, and {path} is not there: "
            "download the whole folder",
            path=str(path),
        )
    config = read_table(path)
    mode, key = config.get("pooling_mode"), "pooling_mode"
    modes = [mode] if isinstance(mode, str) else mode
    if modes is None:
        odd = [name for name in OLD_MODES if not isinstance(config.get(name) or False, bool)]
        if odd:
            raise LoadError(
                f"{path} has the {odd[0]} {config[odd[0]]!r:.40}, expected true or false",
                path=str(path),
            )
        key = ", ".join(name for name in OLD_MODES if config.get(name) is True)
        modes = [OLD_MODES[name] for name in key.split(", ")] if key else []
        # Upstream takes the mean where all are false, but a file that holds none is half a file.
        if not modes and any(name in config for name in OLD_MODES):
            modes, key = ["mean"], "pooling_mode_*, of which none is true"
    if not modes and said is not None:
        modes, key = [name for name, mode in POOLINGS.items() if mode == said], "pooling="
    if not modes:
        raise LoadError(
            f"pooling is missing: {path} names no mode; give pooling=",
            path=str(path),
        )
    if not isinstance(modes, list) or any(name not in POOLINGS for name in modes):
        raise LoadError(
            f"{path} asks for the pooling {modes!s:.100}; known are {', '.join(POOLINGS)}",
            path=str(path),
        )
    check_prompt(path, config, modes)
    if sources is not None:
        sources["dense.pooling"] = f"{path.relative_to(folder).as_posix()}: {key}"
    return tuple(POOLINGS[name] for name in modes)


def check_prompt(path: Path, config: Mapping[str, Any], modes: list[str]) -> None:
    """Raises LoadError for a pooling that leaves the tokens of the prompt out.

    A prompt may stand before the texts of any model, since callers may give one; it never holds the
    last token.
    """
    if config.get("include_prompt", True) is False and set(modes) != {"lasttoken"}:
        raise LoadError(
            f"{path} leaves the prompt out of the pooling (include_prompt is false), which is not "
            "computed here",
            path=str(path),
        )


def pooled_size(folder: Path, modules: list[dict[str, Any]]) -> int | None:
    """The size of the states that the Pooling module reads; None where its file does not say."""
    path = module_folder(folder, modules[1]) / "config.json"
    config = read_table(path)
    keys = ("embedding_dimension", "word_embedding_dimension")
    if not set(keys) & set(config):
        return None
    return layers.size_of(path, config, *keys)


def read_steps(
    folder: Path, modules: list[dict[str, Any]], size: int, *, last: str = SENTENCE
) -> tuple[Step, ...]:
    """The modules after Pooling, which gives vectors of `size` numbers; `last` names the result.

    Raises LoadError for a module that is not computed here, for features other than the sentence's
    vector, and for sizes that do not fit.
    """
    steps = []
    for module in modules[2:]:
        name = class_of(module)
        path = module_folder(folder, module) / "config.json"
        if name not in STEPS:
            why = OTHERS.get(name, "it is unknown here")
            raise LoadError(
                f"{folder / MODULES} lists {', '.join(map(class_of, modules))!s:.300}; after a "
                f"Transformer and Pooling only {', '.join(STEPS)} are computed, and not {name}: "
                f"{why}",
                path=str(folder / MODULES),
            )
        config = read_table(path)
        ends = (None, SENTENCE) if module is not modules[-1] or last == SENTENCE else (last,)
        for key, names in (("module_input_name", (None, SENTENCE)), ("module_output_name", ends)):
            if config.get(key) not in names:
                raise LoadError(
                    f"{path} has the {key} {config.get(key)!r:.80}, known is only {names[-1]}",
                    path=str(path),
                )
        layer = None
        if name == "Dense":
            layer = layers.dense_settings(folder, module)
            size = layers.width((layer,), size)
        if name == "LayerNorm":
            wanted = layers.size_of(path, config, "dimension")
            if wanted != size:
                raise LoadError(
                    f"{path} normalises {wanted} numbers, it gets {size}", path=str(path)
                )
        steps.append(Step(STEPS[name], module, layer, size))
    return tuple(steps)
