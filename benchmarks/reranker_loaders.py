"""How each reranker of rerank.py is loaded: one function a library, and a row for each batching.

`prepare` lays the same weights out in the ways that the libraries read. All get 512 tokens at most
and the threads in `options["threads"]`; FlashRank cannot be told, so ONNX Runtime takes one a core.
A loader returns `score(pairs, batch)`, which gives a score a pair.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from loaders import MOST_TOKENS, REPOSITORY, ST

BEST = 0  # stands for the batch size that is found
FILES = {"fp32": "ms-marco-TinyBERT-L-2-v2", "int8": "ms-marco-MiniLM-L-12-v2"}  # of FlashRank

Options = dict[str, Any]
Pairs = list[tuple[str, str]]
Score = Callable[[Pairs, int | None], Any]


def tessera(precision: str) -> Callable[[Options], Score]:
    def load(options: Options) -> Score:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        from tessera_onnx import TesseraReranker

        model = TesseraReranker(
            path=options["model"], precision=precision, threads=options["threads"]
        )
        return lambda pairs, _: model.score_pairs(pairs, activation="raw")

    return load


def cross_encoder(dtype: str) -> Callable[[Options], Score]:
    def load(options: Options) -> Score:
        import torch
        from sentence_transformers import CrossEncoder

        torch.set_num_threads(options["threads"])
        model = CrossEncoder(
            str(Path(options["work"], "torch")), device="cpu", model_kwargs={"torch_dtype": dtype}
        )
        raw = torch.nn.Identity()
        return lambda pairs, batch: model.predict(pairs, batch_size=batch or 32, activation_fn=raw)

    return load


def fastembed(precision: str) -> Callable[[Options], Score]:
    def load(options: Options) -> Score:
        from fastembed.common.model_description import ModelSource
        from fastembed.rerank.cross_encoder import TextCrossEncoder

        TextCrossEncoder.add_custom_model(
            REPOSITORY, ModelSource(hf=REPOSITORY), model_file="model.onnx"
        )
        model = TextCrossEncoder(
            REPOSITORY,
            threads=options["threads"],
            specific_model_path=str(Path(options["work"], precision)),
        )

        def score(pairs: Pairs, batch: int | None) -> Any:
            return list(model.rerank_pairs(pairs, **({"batch_size": batch} if batch else {})))

        return score

    return load


def flashrank(precision: str) -> Callable[[Options], Score]:
    def load(options: Options) -> Score:
        from flashrank import Ranker, RerankRequest

        folder = str(Path(options["work"], precision))
        model = Ranker(FILES[precision], cache_dir=folder, log_level="WARNING")

        def score(pairs: Pairs, batch: int | None) -> Any:
            found: dict[str, list[dict]] = {}
            rows = [{"text": document} for _, document in pairs]
            for (query, _), row in zip(pairs, rows, strict=True):
                found.setdefault(query, []).append(row)
            for query, passages in found.items():
                size = batch or len(passages)
                for i in range(0, len(passages), size):  # rerank sorts the list that it is given
                    model.rerank(RerankRequest(query, passages[i : i + size]))
            return [row["score"] for row in rows]

        return score

    return load


class Row(NamedTuple):
    environment: str  # of --python
    load: Callable[[Options], Score]
    precision: str  # of ours that it is compared with
    batch: int | None = None  # None: its own
    is_sorted: bool = False
    gives_probability: bool = False


def rows() -> dict[str, Row]:
    made = {f"tessera-onnx {p}": Row("tessera-onnx", tessera(p), p) for p in FILES}
    for name, dtype in ((ST, "float32"), (f"{ST} bf16", "bfloat16")):
        row = Row(ST, cross_encoder(dtype), "fp32", 32)
        made |= {f"{name} 32 sorted": row, f"{name} best sorted": row._replace(batch=BEST)}
    for library, load in (("fastembed", fastembed), ("flashrank", flashrank)):
        for precision in FILES:
            name = f"{library}{' int8' * (precision == 'int8')}"
            row = Row(library, load(precision), precision)
            row = row._replace(gives_probability=library == "flashrank")
            made[name] = row
            for batch, label in ((32, "32"), (BEST, "best")):
                made[f"{name} {label} sorted"] = row._replace(batch=batch, is_sorted=True)
    return made


ROWS = rows()


def make(folder: Path) -> tuple[Path, Path]:
    """Weights with scores far from each other, and the artifact that is made of them."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    from tessera_export import artifact
    from tessera_export.pairs import export, facts

    starter = importlib.util.find_spec("tessera_onnx_starter")
    if starter is None or starter.origin is None:
        raise SystemExit("install tessera-onnx-starter, whose tokenizer is used, or give --model")
    tokenizer = Tokenizer.from_file(str(Path(starter.origin).parent / "minilm" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, intermediate_size=1536, num_labels=1
    )  # the rest is as in BERT: 12 heads, 30,522 tokens, 512 positions
    model = BertForSequenceClassification(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.06)
    weights, output = folder / "weights", folder / "model"
    model.save_pretrained(weights)
    BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=MOST_TOKENS).save_pretrained(
        weights
    )
    export.export(facts.read(weights), output, artifact.Origin("random weights"), tuple(FILES))
    return output, weights


def prepare(work: Path, model: Path, weights: Path) -> None:
    """Folders below `work`: torch, and fp32 and int8 for fastembed, with FlashRank's in them."""
    shutil.copytree(weights, work / "torch")
    for precision, name in FILES.items():
        folder = work / precision / name
        shutil.copytree(weights, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
        shutil.copy(model / "tokenizer.json", folder)
        graph = model / f"model.{precision}.onnx"
        if graph.exists():
            shutil.copy(graph, folder / "model.onnx")
        if not (folder / "special_tokens_map.json").exists():
            (folder / "special_tokens_map.json").write_text("{}")
        for file in folder.iterdir():  # fastembed's folder holds FlashRank's
            if file.is_file():
                (work / precision / file.name).hardlink_to(file)
        file = f"flashrank-{'TinyBERT-L-2-v2' if precision == 'fp32' else 'MiniLM-L-12-v2_Q'}.onnx"
        if graph.exists():
            (folder / "model.onnx").rename(folder / file)
