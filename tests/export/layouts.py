"""Model folders of every layout with random weights, made and saved by the upstream libraries.

A folder holds the torch weights, which upstream reads, and an ONNX file of the Transformer alone,
as `backend="onnx"` of sentence-transformers lays it: onnx/model.onnx with last_hidden_state or
logits. What follows the Transformer stays outside of the graph.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from architectures import small
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    CNN,
    LSTM,
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    Transformer,
    WeightedLayerPooling,
    WordWeights,
)
from vocabularies import write_tokenizer

SIZE = 64  # of the states of a small model
GRAPH = "onnx/model.onnx"
SETTINGS = "config_sentence_transformers.json"
PROMPTS = {"query": "ask: ", "document": "read: ", "clustering": "group: "}


class States(torch.nn.Module):
    """A transformers model by the names of its inputs, with the outputs asked for."""

    def __init__(self, model: torch.nn.Module, inputs: Sequence[str], output: str) -> None:
        super().__init__()
        self.model, self.inputs, self.output = model, inputs, output
        self.eval()

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.inputs, values, strict=True)))[self.output]


def trace(
    model: torch.nn.Module,
    path: Path,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
    outputs: Sequence[str] = ("last_hidden_state",),
    dtype: torch.dtype = torch.int64,
) -> None:
    """Write an ONNX file with optimum's names of axes; `model` gives a tensor an output."""
    ids = torch.arange(18).reshape(2, 9) % 7 + 5
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    positions = torch.arange(9).expand(2, 9).clone()
    given = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(ids),
        "position_ids": positions,
    }
    axes = {name: {0: "batch_size", 1: "sequence_length"} for name in (*inputs, *outputs)}
    axes |= {name: {0: "batch_size"} for name in outputs if name in POOLED}
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        torch.onnx.export(
            model.eval(), tuple(given[name].to(dtype) for name in inputs), str(path),
            dynamo=False, opset_version=17, input_names=list(inputs), output_names=list(outputs),
            dynamic_axes=axes,
        )  # fmt: skip


POOLED = {"sentence_embedding", "dense_vecs", "pooler_output"}


@dataclass(frozen=True)
class Layout:
    """How a folder is made, and what opening it needs or says."""

    name: str
    kind: str
    make: Callable[[Workshop, Path], None]
    options: Mapping[str, Any] = field(default_factory=dict)  # of the Tessera class
    refused: str = ""  # pattern of the error that names what cannot be computed

    def __str__(self) -> str:
        return self.name


class Workshop:
    """Encoders that layouts share, made once: weights, tokenizer and ONNX file."""

    def __init__(self, folder: Path, minilm: Path) -> None:
        self.folder, self.minilm = folder, minilm

    def encoder(self, name: str, head: str = "Model", vocabulary: str = "minilm") -> Path:
        """A transformers folder with onnx/model.onnx."""
        place = self.folder / f"{name}-{head}-{vocabulary}"
        if not place.exists():
            size, pad = write_tokenizer(place, vocabulary, self.minilm)
            padding = {} if name in {"distilbert", "bert"} else {"pad_token_id": pad}
            model = small(name, head, vocab_size=size, **padding).eval()
            model.save_pretrained(place)
            output = "logits" if head == "ForMaskedLM" else "last_hidden_state"
            inputs = ["input_ids", "attention_mask"]
            if name == "bert":
                inputs.append("token_type_ids")
            edit(place / "tokenizer_config.json", model_input_names=inputs)
            trace(States(model, inputs, output), place / GRAPH, inputs, [output])
        return place

    def copy(self, name: str, place: Path, **options: Any) -> Path:
        """The encoder alone, as a folder of its own."""
        shutil.copytree(self.encoder(name, **options), place)
        return place


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON object; None removes one."""
    content = json.loads(path.read_text("utf-8")) if path.exists() else {}
    content = {key: value for key, value in (content | changes).items() if value is not None}
    path.write_text(json.dumps(content), "utf-8")


def dense(
    architecture: str = "bert",
    modules: Callable[[], Sequence[torch.nn.Module]] = lambda: [Pooling(SIZE, "mean"), Normalize()],
    vocabulary: str = "minilm",
    lower: bool = False,
    **settings: Any,
) -> Callable[[Workshop, Path], None]:
    """A folder that SentenceTransformer saved."""

    def make(workshop: Workshop, place: Path) -> None:
        encoder = workshop.encoder(architecture, vocabulary=vocabulary)
        torch.manual_seed(5)
        first = Transformer(str(encoder), max_seq_length=100, do_lower_case=lower)
        own = dict(settings)
        similarity = own.pop("similarity_fn_name", None)
        model = SentenceTransformer(
            modules=[first, *modules()], device="cpu", similarity_fn_name=similarity, **own
        )
        model.save(str(place), create_model_card=False)
        (place / "onnx").mkdir()
        shutil.copy(encoder / GRAPH, place / GRAPH)

    return make


def linear(**options: Any) -> Dense:
    return Dense(**{"in_features": SIZE, "out_features": 48} | options)


def norm() -> LayerNorm:
    layer = LayerNorm(SIZE)
    torch.nn.init.normal_(layer.norm.weight)
    torch.nn.init.normal_(layer.norm.bias)
    return layer


MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
IDENTITY = {"activation_function": torch.nn.Identity()}


def pooled(*modes: str, after: Callable[[], list[torch.nn.Module]] = list) -> Callable[[], Any]:
    size = SIZE * len(modes)
    chosen: Any = modes[0] if len(modes) == 1 else modes
    return lambda: [Pooling(SIZE, chosen), *(after() or [])] if size else []


def pooled_and(*after: Callable[[], torch.nn.Module]) -> Callable[[], list[torch.nn.Module]]:
    return lambda: [Pooling(SIZE, "mean"), *(each() for each in after)]


def before(module: Callable[[], torch.nn.Module]) -> Callable[[], list[torch.nn.Module]]:
    return lambda: [module(), Pooling(SIZE, "mean")]


def left_padded(make: Callable[[Workshop, Path], None]) -> Callable[[Workshop, Path], None]:
    def build(workshop: Workshop, place: Path) -> None:
        make(workshop, place)
        edit(place / "tokenizer_config.json", padding_side="left")

    return build


def rewritten(
    make: Callable[[Workshop, Path], None], name: str, change: Callable[[Any], Any]
) -> Callable[[Workshop, Path], None]:
    """A layout with one JSON file changed, for what upstream's save does not write any more."""

    def build(workshop: Workshop, place: Path) -> None:
        make(workshop, place)
        content = json.loads((place / name).read_text("utf-8"))
        (place / name).write_text(json.dumps(change(content)), "utf-8")

    return build


def old_pooling(config: dict[str, Any]) -> dict[str, Any]:
    """The six booleans of sentence-transformers before 5.4."""
    mode = config["pooling_mode"]
    names = {"cls": "cls_token", "lasttoken": "lasttoken"}
    modes = {
        f"pooling_mode_{names.get(m, m + '_tokens')}": m == mode for m in ("cls", "mean", "max")
    }
    return {"word_embedding_dimension": SIZE, **modes, "pooling_mode_mean_sqrt_len_tokens": False}


def renamed(modules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The type names of sentence-transformers before 5."""
    return [
        m | {"type": f"sentence_transformers.models.{m['type'].rpartition('.')[2]}"}
        for m in modules
    ]


def legacy(workshop: Workshop, place: Path) -> None:
    """As 2.0 saved: no prompts, no model_type, booleans, old type names."""
    dense()(workshop, place)
    for name, change in (("1_Pooling/config.json", old_pooling), ("modules.json", renamed)):
        content = json.loads((place / name).read_text("utf-8"))
        (place / name).write_text(json.dumps(change(content)), "utf-8")
    versions = {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"}
    (place / SETTINGS).write_text(json.dumps({"__version__": versions}), "utf-8")
    length = {"max_seq_length": 100, "do_lower_case": False}
    (place / "sentence_bert_config.json").write_text(json.dumps(length), "utf-8")


def old_prompts(workshop: Workshop, place: Path) -> None:
    """Prompts as older versions wrote them, without an empty one of each role."""
    dense()(workshop, place)
    edit(place / SETTINGS, prompts={"query": "query: ", "passage": "passage: "})


def custom(workshop: Workshop, place: Path) -> None:
    def change(modules: list[dict[str, Any]]) -> list[dict[str, Any]]:
        modules[-1]["type"] = "st_quantize.FlexibleQuantizer"
        return modules

    rewritten(dense(), "modules.json", change)(workshop, place)


def weightless(workshop: Workshop, place: Path) -> None:
    dense()(workshop, place)
    shutil.rmtree(place / "onnx")


def prompt_outside(workshop: Workshop, place: Path) -> None:
    dense(prompts=PROMPTS)(workshop, place)
    edit(place / "1_Pooling/config.json", include_prompt=False)


DENSE = [
    *(Layout(f"pooling {mode}", "dense", dense(modules=pooled(mode))) for mode in MODES),
    Layout("pooling cls + mean", "dense", dense(modules=pooled("cls", "mean"))),
    Layout("pooling max + lasttoken", "dense", dense(modules=pooled("max", "lasttoken"))),
    Layout("mean, no Normalize", "dense", dense(modules=pooled("mean"), similarity_fn_name="dot")),
    Layout("similarity euclidean", "dense",
           dense(modules=pooled("mean"), similarity_fn_name="euclidean")),
    Layout("similarity manhattan", "dense",
           dense(modules=pooled("mean"), similarity_fn_name="manhattan")),
    Layout("Dense with Tanh", "dense", dense(modules=pooled_and(linear))),
    Layout("Dense, Normalize", "dense",
           dense(modules=pooled_and(lambda: linear(bias=False, **IDENTITY), Normalize))),
    Layout("Dense with GELU and residual", "dense", dense(modules=pooled_and(
        lambda: linear(activation_function=torch.nn.GELU(), use_residual=True)))),
    Layout("two Dense modules", "dense", dense(modules=pooled_and(
        lambda: linear(activation_function=torch.nn.ReLU()),
        lambda: linear(in_features=48, out_features=80, **IDENTITY), Normalize))),
    Layout("LayerNorm, Normalize", "dense", dense(modules=pooled_and(norm, Normalize))),
    Layout("LayerNorm last", "dense", dense(modules=pooled_and(norm))),
    Layout("truncate_dim", "dense", dense(truncate_dim=24)),
    Layout("prompts", "dense", dense(prompts=PROMPTS)),
    Layout("prompts, default query", "dense", dense(prompts=PROMPTS, default_prompt_name="query")),
    Layout("prompts, default clustering", "dense",
           dense(prompts=PROMPTS, default_prompt_name="clustering")),
    Layout("prompts query and passage", "dense", old_prompts),
    Layout("prompts query and passage, saved again", "dense",
           dense(prompts={"query": "query: ", "passage": "passage: "})),
    Layout("do_lower_case, uncased", "dense", dense(lower=True)),
    Layout("do_lower_case, cased", "dense", dense(lower=True, vocabulary="cased")),
    Layout("saved by 2.0", "dense", legacy),
    Layout("mpnet", "dense", dense("mpnet")),
    Layout("distilbert", "dense", dense("distilbert")),
    Layout("roberta", "dense", dense("roberta", vocabulary="bytes")),
    Layout("xlm-roberta", "dense", dense("xlm-roberta", vocabulary="unigram")),
    Layout("modernbert", "dense",
           dense("modernbert", modules=pooled("cls"), vocabulary="bytes-bert")),
    Layout("qwen3, last token, left padded", "dense",
           left_padded(dense("qwen3", modules=pooled("lasttoken"), vocabulary="bytes-end"))),
    # What no recipe computes.
    Layout("LSTM", "dense", dense(modules=lambda: [LSTM(SIZE, 32), Pooling(SIZE, "mean")]),
           refused="LSTM"),
    Layout("CNN", "dense", dense(modules=lambda: [
        CNN(SIZE, 32, (1, 3)), Pooling(SIZE, "mean")]), refused="CNN"),
    Layout("WordWeights", "dense", dense(modules=lambda: [
        WordWeights(["the", "cat"], {"the": 0.1, "cat": 2.0}), Pooling(SIZE, "mean")]),
        refused="WordWeights"),
    Layout("WeightedLayerPooling", "dense", dense(modules=lambda: [
        WeightedLayerPooling(SIZE, 2, 1), Pooling(SIZE, "mean")]), refused="WeightedLayerPooling"),
    Layout("a module of the repository's own", "dense", custom, refused="FlexibleQuantizer"),
    Layout("include_prompt false", "dense", prompt_outside, refused="include_prompt"),
    Layout("torch weights only", "dense", weightless, refused="tessera-export"),
]  # fmt: skip
