"""Sparse and multi-vector folders, and folders that say nothing of what follows the encoder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from architectures import small
from layouts import GRAPH, SETTINGS, SIZE, Layout, States, Workshop, dense, edit, trace
from safetensors.torch import load_file, save_file
from sentence_transformers import SparseEncoder
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Router,
    Transformer,
)
from sentence_transformers.sparse_encoder.modules import (
    SparseAutoEncoder,
    SparseStaticEmbedding,
    SpladePooling,
)
from tokenizers import AddedToken

Make = Callable[[Workshop, Path], None]
TOKENS = {"module_input_name": "token_embeddings"}
PROJECTION = 32


def masked(workshop: Workshop, **settings: Any) -> Transformer:
    """The Transformer module of a masked language model, with logits of both signs."""
    place = workshop.encoder("bert", "ForMaskedLM", "bytes-bert")
    return Transformer(str(place), transformer_task="fill-mask", max_seq_length=100, **settings)


def with_graph(workshop: Workshop, place: Path, folder: str = "") -> None:
    source = workshop.encoder("bert", "ForMaskedLM", "bytes-bert") / GRAPH
    (place / folder / "onnx").mkdir(parents=True, exist_ok=True)
    shutil.copy(source, place / folder / GRAPH)


def splade(pooling: Callable[[], SpladePooling], **settings: Any) -> Make:
    def make(workshop: Workshop, place: Path) -> None:
        model = SparseEncoder(modules=[masked(workshop), pooling()], device="cpu", **settings)
        model.save(str(place), create_model_card=False)
        with_graph(workshop, place)

    return make


def routed(workshop: Workshop, place: Path, special: float = 0.0) -> None:
    """OpenSearch's layout: queries are looked up, documents run through the encoder."""
    document = masked(workshop)
    torch.manual_seed(6)
    weights = torch.rand(len(document.tokenizer.get_vocab())) * 5
    weights[document.tokenizer.all_special_ids] = special
    table = SparseStaticEmbedding(tokenizer=document.tokenizer, weight=weights, frozen=True)
    routes = {"query": [table], "document": [document, SpladePooling("max", "log1p_relu")]}
    router = Router.for_query_document(routes["query"], routes["document"])
    model = SparseEncoder(modules=[router], similarity_fn_name="dot", device="cpu")
    model.save(str(place), create_model_card=False)
    (inner,) = place.glob("document_0_*")
    with_graph(workshop, place, inner.name)


def autoencoder(workshop: Workshop, place: Path) -> None:
    encoder = workshop.encoder("bert")
    modules = [Transformer(str(encoder)), Pooling(SIZE), SparseAutoEncoder(SIZE, 128, k=8)]
    SparseEncoder(modules=modules, device="cpu").save(str(place), create_model_card=False)
    (place / "onnx").mkdir()
    shutil.copy(encoder / GRAPH, place / GRAPH)


def bare_splade(workshop: Workshop, place: Path) -> None:
    """A masked language model and nothing that says what it is for."""
    shutil.copytree(workshop.encoder("bert", "ForMaskedLM", "bytes-bert"), place)


SPARSE = [
    Layout("SpladePooling max", "sparse", splade(lambda: SpladePooling("max"))),
    Layout("SpladePooling log1p_relu", "sparse",
           splade(lambda: SpladePooling("max", "log1p_relu"))),
    Layout("SpladePooling, prompts", "sparse",
           splade(lambda: SpladePooling("max"), prompts={"query": "ask: ", "document": "read: "})),
    Layout("Router, SparseStaticEmbedding", "sparse", routed),
    Layout("masked language model alone", "sparse", bare_splade),
    Layout("SparseStaticEmbedding weighs special tokens", "sparse",
           lambda workshop, place: routed(workshop, place, 2.5), refused="special token"),
    Layout("SpladePooling sum", "sparse", splade(lambda: SpladePooling("sum")), refused="sum"),
    Layout("SparseAutoEncoder", "sparse", autoencoder, refused="SparseAutoEncoder"),
]  # fmt: skip


def projection(**options: Any) -> Dense:
    """A layer on token vectors, without an activation."""
    torch.manual_seed(7)
    sizes = {"in_features": SIZE, "out_features": PROJECTION, "bias": False}
    return Dense(**sizes | {"activation_function": torch.nn.Identity()} | TOKENS | options)


def tokens(mask: dict[str, Any] | None = None, wide: bool = False, **settings: Any) -> Make:
    """A folder that MultiVectorEncoder saved; `settings` are those of its Transformer."""

    def make(workshop: Workshop, place: Path) -> None:
        from sentence_transformers import MultiVectorEncoder
        from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

        encoder = workshop.encoder("bert")
        layers = [projection()]
        if wide:
            first = projection(
                out_features=96, bias=True, activation_function=torch.nn.GELU(), use_residual=True
            )
            layers = [first, projection(in_features=96)]
        of_model = {key: settings[key] for key in ("similarity_fn_name",) if key in settings}
        own = {key: value for key, value in settings.items() if key not in of_model}
        skipped = MultiVectorMask([",", ".", "nosuchtoken"], **mask or {})
        model = MultiVectorEncoder(
            modules=[Transformer(str(encoder), **own), *layers, Normalize(**TOKENS), skipped],
            prompts={"query": "[unused0]", "document": "read: "}, device="cpu", **of_model,
        )  # fmt: skip
        model.save(str(place), create_model_card=False)
        (place / "onnx").mkdir()
        shutil.copy(encoder / GRAPH, place / GRAPH)

    return make


class Projected(torch.nn.Module):
    """A whole ColBERT: states, projection, L2."""

    def __init__(self, model: torch.nn.Module, inputs: Sequence[str], weight: torch.Tensor) -> None:
        super().__init__()
        self.states = States(model, inputs, "last_hidden_state")
        self.weight = weight
        self.eval()

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        rows = self.states(*values) @ self.weight.T
        return torch.nn.functional.normalize(rows, dim=-1)


def pylate(inside: bool = False, architecture: str = "bert", **settings: Any) -> Make:
    """PyLate's layout before 2.0 of its format: what pylate 1.6.0 saves (see test_layouts).

    `inside`: the ONNX file holds projection and L2, as next-plaid's exporter writes it.
    """

    def make(workshop: Workshop, place: Path) -> None:
        vocabulary = "minilm" if architecture == "bert" else "bytes-bert"
        source = workshop.encoder(architecture, vocabulary=vocabulary)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        tokenizer.add_tokens([AddedToken(name, normalized=False) for name in ("[Q] ", "[D] ")])
        tokenizer.save_pretrained(place)
        edit(place / "tokenizer_config.json", model_max_length=100)
        padding = {} if architecture == "bert" else {"pad_token_id": tokenizer.pad_token_id}
        model = small(architecture, vocab_size=len(tokenizer), **padding).eval()
        model.save_pretrained(place)
        layer = projection()
        inputs = ["input_ids", "attention_mask"]
        if inside:
            whole = Projected(model, inputs, layer.linear.weight.detach())
            trace(whole, place / "model.onnx", inputs, ["output"])
        else:
            trace(States(model, inputs, "last_hidden_state"), place / GRAPH, inputs)
        config = layer.get_config_dict()
        names = ("in_features", "out_features", "bias", "activation_function")
        (place / "1_Dense").mkdir()
        edit(
            place / "1_Dense/config.json",
            **{name: config[name] for name in names},
            use_residual=False,
        )
        save_file(layer.state_dict(), place / "1_Dense/model.safetensors")
        types = {
            "": "sentence_transformers.models.Transformer",
            "1_Dense": "pylate.models.Dense.Dense",
        }
        modules = [
            {"idx": index, "name": str(index), "path": path, "type": kind}
            for index, (path, kind) in enumerate(types.items())
        ]
        (place / "modules.json").write_text(json.dumps(modules), "utf-8")
        edit(place / "sentence_bert_config.json", max_seq_length=99, do_lower_case=False)
        said = {
            "model_type": "ColBERT", "prompts": {"query": "", "document": ""},
            "default_prompt_name": None, "similarity_fn_name": "MaxSim", "query_prefix": "[Q] ",
            "document_prefix": "[D] ", "query_length": 24, "document_length": 90,
            "attend_to_expansion_tokens": False, "skiplist_words": [",", ".", "!"],
            "do_query_expansion": True,
        } | settings  # fmt: skip
        (place / SETTINGS).write_text(json.dumps(said), "utf-8")

    return make


METADATA = {
    "query_maxlen": 32, "doc_maxlen": 100, "mask_punctuation": True, "dim": PROJECTION,
    "attend_to_mask_tokens": False, "query_token_id": "[unused0]", "doc_token_id": "[unused1]",
    "similarity": "cosine",
}  # fmt: skip


def stanford(inside: bool, **changes: Any) -> Make:
    """colbertv2.0's layout: HF_ColBERT, linear.weight beside the encoder.

    `inside`: model.onnx gives the projected rows as "contextual", without L2 as Vespa's exporter
    leaves them; else onnx/model.onnx is the encoder alone.
    """

    def make(workshop: Workshop, place: Path) -> None:
        source = workshop.copy("bert", place)
        tensors = {
            f"bert.{key}": value for key, value in load_file(place / "model.safetensors").items()
        }
        torch.manual_seed(3)
        weight = torch.randn(PROJECTION, SIZE)
        save_file(
            tensors | {"linear.weight": weight}, place / "model.safetensors", {"format": "pt"}
        )
        edit(place / "config.json", architectures=["HF_ColBERT"])
        (place / "artifact.metadata").write_text(json.dumps(METADATA | changes), "utf-8")
        if inside:
            shutil.rmtree(place / "onnx")
            model = transformers.BertModel.from_pretrained(workshop.encoder("bert")).eval()
            inputs = ["input_ids", "attention_mask"]
            trace(Projected(model, inputs, weight), place / "model.onnx", inputs, ["contextual"])
        assert source == place

    return make


MULTI_VECTOR = [
    Layout("MultiVectorEncoder, lengths", "multi-vector",
           tokens(query_length=24, document_length=90)),
    Layout("MultiVectorEncoder, expansion", "multi-vector",
           tokens(query_expansion={"strategy": "fixed", "length": 32})),
    Layout("MultiVectorEncoder, attended expansion", "multi-vector",
           tokens(query_expansion={"strategy": "fixed", "length": 20, "attend": True})),
    Layout("MultiVectorEncoder, meanmaxsim, query skiplist", "multi-vector",
           tokens({"skiplist_tasks": ["query"]}, query_length=24, document_length=90,
                  similarity_fn_name="meanmaxsim")),
    Layout("MultiVectorEncoder, two Dense modules", "multi-vector",
           tokens(wide=True, query_length=24, document_length=90)),
    Layout("PyLate", "multi-vector", pylate()),
    Layout("PyLate, no expansion", "multi-vector", pylate(do_query_expansion=False)),
    Layout("PyLate, attended expansion", "multi-vector", pylate(attend_to_expansion_tokens=True)),
    Layout("PyLate, no punctuation", "multi-vector", pylate(skiplist_words=[])),
    Layout("PyLate, modernbert", "multi-vector", pylate(architecture="modernbert")),
    Layout("PyLate, projection inside", "multi-vector", pylate(inside=True)),
    Layout("Stanford, encoder graph", "multi-vector", stanford(inside=False)),
    Layout("Stanford, projection inside", "multi-vector", stanford(inside=True)),
    Layout("Stanford, attended", "multi-vector", stanford(inside=True, attend_to_mask_tokens=True)),
    Layout("MultiVectorEncoder, least expansion", "multi-vector",
           tokens(query_expansion={"strategy": "min", "length": 32})),
    Layout("MultiVectorMask keeps some tokens", "multi-vector",
           tokens({"keep_only_token_ids": [5]}), refused="token ids only"),
]  # fmt: skip


class ThreeHeads(torch.nn.Module):
    """bge-m3's graph: the vector, a weight a token, and a vector a token but the first."""

    def __init__(self, model: torch.nn.Module, heads: dict[str, torch.nn.Linear]) -> None:
        super().__init__()
        self.states = States(model, ("input_ids", "attention_mask"), "last_hidden_state")
        self.heads = torch.nn.ModuleDict(heads)
        self.eval()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = self.states(ids, mask)
        unit = torch.nn.functional.normalize
        weights = torch.relu(self.heads["sparse"](rows))
        vectors = unit(self.heads["colbert"](rows[:, 1:]), dim=-1) * mask[:, 1:, None]
        return unit(rows[:, 0], dim=-1), weights, vectors


def three_heads(workshop: Workshop, place: Path) -> None:
    workshop.copy("xlm-roberta", place, vocabulary="unigram")
    shutil.rmtree(place / "onnx")
    torch.manual_seed(2)
    heads = {"colbert": torch.nn.Linear(SIZE, SIZE), "sparse": torch.nn.Linear(SIZE, 1)}
    torch.nn.init.constant_(heads["sparse"].bias, 0.3)
    for name, head in heads.items():
        torch.save(head.state_dict(), place / f"{name}_linear.pt")
    model = transformers.AutoModel.from_pretrained(place).eval()
    outputs = ["dense_vecs", "sparse_vecs", "colbert_vecs"]
    trace(ThreeHeads(model, heads), place / "model.onnx", outputs=outputs)


def plain(architecture: str = "bert", vocabulary: str = "minilm") -> Make:
    """What optimum leaves of a transformers folder: weights, config, tokenizer, graph."""
    return lambda workshop, place: _plain(workshop, place, architecture, vocabulary)


def _plain(workshop: Workshop, place: Path, architecture: str, vocabulary: str) -> None:
    workshop.copy(architecture, place, vocabulary=vocabulary)


def pair(workshop: Workshop, place: Path) -> None:
    """model.onnx and tokenizer.json, nothing else."""
    source = workshop.encoder("bert")
    place.mkdir()
    shutil.copy(source / GRAPH, place / "model.onnx")
    shutil.copy(source / "tokenizer.json", place)


def renamed_graph(name: str) -> Make:
    def make(workshop: Workshop, place: Path) -> None:
        dense()(workshop, place)
        (place / GRAPH).rename(place / "onnx" / name)

    return make


def whole(workshop: Workshop, place: Path) -> None:
    """optimum's export of the whole sentence-transformers model, in the folder's root."""
    dense()(workshop, place)
    shutil.rmtree(place / "onnx")
    model = transformers.AutoModel.from_pretrained(place).eval()
    trace(Whole(model), place / "model.onnx", outputs=["token_embeddings", "sentence_embedding"])


class Whole(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.states = States(model, ("input_ids", "attention_mask"), "last_hidden_state")
        self.eval()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.states(ids, mask)
        share = mask[:, :, None].to(rows.dtype)
        mean = (rows * share).sum(1) / share.sum(1).clamp(min=1e-9)
        return rows, torch.nn.functional.normalize(mean, dim=-1)


def narrow(workshop: Workshop, place: Path) -> None:
    """A graph of int32 inputs."""
    dense()(workshop, place)
    model = transformers.AutoModel.from_pretrained(place).eval()
    inputs = ["input_ids", "attention_mask", "token_type_ids"]
    trace(States(model, inputs, "last_hidden_state"), place / GRAPH, inputs, dtype=torch.int32)


def positions(workshop: Workshop, place: Path) -> None:
    """A decoder's graph with position_ids, as transformers.js has it."""
    dense("qwen3", lambda: [Pooling(SIZE, "lasttoken"), Normalize()], "bytes-end")(workshop, place)
    model = transformers.AutoModel.from_pretrained(place).eval()
    inputs = ["input_ids", "attention_mask", "position_ids"]
    trace(States(model, inputs, "last_hidden_state"), place / GRAPH, inputs)


PLAIN = [
    Layout("encoder alone", "plain", plain(), {"pooling": "mean"}),
    Layout("encoder alone, cls", "plain", plain("modernbert", "bytes-bert"), {"pooling": "cls"}),
    Layout("model.onnx and tokenizer.json", "plain", pair, {"pooling": "mean"}),
    Layout("encoder alone, pooling not said", "plain", plain(), refused="pooling"),
    Layout("pair, pooling not said", "plain", pair, refused="pooling"),
]
GRAPHS = [
    Layout("sentence_embedding inside the graph", "dense", whole),
    Layout("int32 inputs", "dense", narrow),
    Layout("position_ids", "dense", positions),
    Layout("a graph of another name", "dense", renamed_graph("encoder.onnx"),
           {"file": "onnx/encoder.onnx"}),
    Layout("onnx/model_O3.onnx by name", "dense", renamed_graph("model_O3.onnx"),
           {"file": "onnx/model_O3.onnx"}),
]  # fmt: skip
M3 = Layout("bge-m3, three outputs", "m3", three_heads)
