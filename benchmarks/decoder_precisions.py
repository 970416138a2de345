"""What each precision of a decoder costs and how near it is to fp32: one table, a row a precision.

    python benchmarks/decoder_precisions.py [--work DIR] [--rounds 3] [--texts 8] [--only ROW ...]

It needs the exporter's environment. The model has the shape of Qwen3-Embedding-0.6B (28 layers,
1024 wide, 16 heads with 8 for keys and values, 151,669 words) and random weights, a Gaussian of
0.02 as transformers draws it, because no package index has the real ones. Sizes, memory and time
are those of the real model; the errors are not, since quantization errs otherwise on trained
weights. `fp32`, `fp16`, `int8` and `int4` are graphs of tessera-export (int8 with scales by row, as
with `--calibrate none`); `dynamic int8` is `quantize_dynamic` of ONNX Runtime, which most int8
files of the hub come from; `weight-only int8` is MatMulNBits with 8 bits.

Each row opens in a process of its own, with one thread, one at a time, in turns for all rounds.
Times are of the processor, because a busy machine changes them less: seconds to open the model, the
best time of a query of 20 tokens, and passages of 100 tokens a second, in one call of
`encode_batch`. On an idle machine they are about what a user waits, but for the reading of a file
that is not in the cache of the system. The peak is the most memory of the process. Errors are over
all queries and passages: the mean and the least cosine to fp32, and the largest difference, divided
by the vector's largest value. Building takes 9 GB of memory and of disk. `--work` keeps the graphs,
so that a second run only measures. `--layers` and `--words` make a smaller model.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
# Rows of the table, and the precision under which the runtime opens the graph.
ROWS = {
    "fp32": "fp32",
    "fp16": "fp16",
    "dynamic int8": "int8",
    "int8": "int8",
    "weight-only int8": "int8",
    "int4": "int4",
}
SHAPE = {
    "vocab_size": 151_669,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32_768,
    "rope_theta": 1_000_000,
    "pad_token_id": 0,
    "bos_token_id": 101,
    "eos_token_id": 102,
}
TOKENS = 20, 100  # of a query and of a passage


def trace(work: Path, layers: int, words: int) -> None:
    """The fp32 graph of a model with random weights, in the folder of its row."""
    import torch
    import transformers

    from tessera_export.graph import storage
    from tessera_export.texts import encoder, folder, tracing
    from tessera_export.texts.torch_modules import Wrapper, load_model, traced_attention

    place = work / "torch"
    torch.manual_seed(0)
    shape = SHAPE | {"num_hidden_layers": layers, "vocab_size": words}
    model = transformers.Qwen3Model(transformers.Qwen3Config(**shape))
    model.eval().save_pretrained(place)
    del model
    write_tokenizer(place, words)
    for name, content in {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(
                [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
            )
        ],
        "1_Pooling/config.json": {
            "pooling_mode": "lasttoken",
            "embedding_dimension": SHAPE["hidden_size"],
        },
        "sentence_bert_config.json": {"max_seq_length": 512},
    }.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(json.dumps(content))
    facts = folder.read(place, ["dense"])
    traced = tracing.trace(Wrapper(load_model(facts, traced_attention(facts)), facts, None))
    files = storage.save(encoder.at(traced, "fp32"), work / "fp32" / "model.fp32.onnx")
    describe(work, "fp32", files, facts)
    shutil.rmtree(place)


def write_tokenizer(place: Path, size: int) -> None:
    """A tokenizer of one word for each id from 1000 on, with [CLS] and [SEP] around a text."""
    import tokenizers
    import transformers

    words = {f"w{number}": number for number in range(1000, size)}
    words |= {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(place)


def describe(work: Path, row: str, files: list[str], facts: Any = None) -> None:
    """Write the model.toml of a row, so that the runtime opens it as it opens an export."""
    from dataclasses import replace

    from tessera_export import artifact
    from tessera_onnx.models import catalogue

    place, precision = work / row, ROWS[row]
    if facts is not None:
        (place / "tokenizer.json").write_text(facts.tokenizer.json)
        tables = {"text": facts.tokenizer.text, "dense": facts.dense}
    else:
        (known,) = catalogue.read_catalogue(work / "fp32" / "model.toml")
        tables = {"text": known.text, "dense": known.dense}
        shutil.copy(work / "fp32" / "tokenizer.json", place)
    spec = artifact.entry(
        tables,
        artifact.Origin("decoder", source="made/here", licence="none"),
        weights_sha256="0" * 64,
        built=(precision,),
        parity=(),
        files=artifact.listed(place, [*files, "tokenizer.json"]),
        best_cpu=(precision,),
    )
    (place / "model.toml").write_text(artifact.document(replace(spec, export=None)))


def convert(work: Path, row: str) -> None:
    """The graph of a row, from that in fp32."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from tessera_export.graph import int4, int8, storage, transforms

    source, place = work / "fp32" / "model.fp32.onnx", work / row
    target = place / f"model.{ROWS[row]}.onnx"
    if row == "dynamic int8":
        quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)
        files = [target.name]
    else:
        make = {
            "fp16": transforms.half,
            "int8": int8.quantize,
            "weight-only int8": lambda model: int4.quantize(model, 8),
            "int4": int4.quantize,
        }[row]
        files = storage.save(make(onnx.load(source)), target)
    describe(work, row, files)


def texts(words: int, count: int, tokens: int) -> list[str]:
    """Texts of random words, with [CLS] and [SEP] of that many tokens."""
    rng = np.random.default_rng(tokens)
    numbers = rng.integers(1000, words, (count, tokens - 2))
    return [" ".join(f"w{number}" for number in row) for row in numbers]


def measure(work: Path, row: str, words: int, count: int) -> None:
    """Open a row and use it; figures to stdout as JSON, vectors into a file."""
    from tessera_onnx import TesseraDense

    queries, passages = (texts(words, count, tokens) for tokens in TOKENS)
    start = time.process_time()
    with TesseraDense(path=work / row, device="cpu", threads=1) as model:
        opened = time.process_time() - start
        singles = [model.encode(query) for query in queries]
        times = []
        for query in queries:
            start = time.process_time()
            model.encode(query)
            times.append(time.process_time() - start)
        start = time.process_time()
        batch = model.encode_batch(passages)
        rate = len(passages) / (time.process_time() - start)
    np.save(work / row / "vectors.npy", np.concatenate([np.stack(singles), np.stack(batch)]))
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
    figures = {"open": opened, "peak": peak, "ms": 1e3 * min(times), "rate": rate}
    print("RESULT", json.dumps(figures))


def run(*arguments: Any) -> str:
    """This script in a process of its own; its stdout. The process's messages are shown."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "export"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    ).stdout


def errors(work: Path, row: str) -> tuple[float, float, float]:
    """The mean and the least cosine of a row's vectors to fp32, and the largest difference."""
    ours, truth = (np.load(work / name / "vectors.npy").astype(float) for name in (row, "fp32"))
    cosines = (ours * truth).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(truth, axis=1)
    largest = (np.abs(ours - truth).max(1) / np.abs(truth).max(1)).max()
    return float(cosines.mean()), float(cosines.min()), float(largest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder that keeps the graphs (8 GB)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=8, help="queries, and as many passages")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    parser.add_argument("--words", type=int, default=SHAPE["vocab_size"])
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        step, row = options.child
        if step == "build":
            (options.work / row).mkdir(parents=True, exist_ok=True)
            if row == "fp32":
                trace(options.work, options.layers, options.words)
            else:
                convert(options.work, row)
        else:
            measure(options.work, row, options.words, options.texts)
        return
    with tempfile.TemporaryDirectory(prefix="decoder-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        rows = list(dict.fromkeys(["fp32", *options.only]))
        common = ["--work", work, "--layers", options.layers, "--words", options.words]
        common += ["--texts", options.texts, "--child"]
        for row in rows:
            if not (work / row / "model.toml").exists():
                run(*common, "build", row)
        found: dict[str, list[dict[str, float]]] = {row: [] for row in rows}
        for _ in range(options.rounds):
            for row in rows:
                found[row].append(json.loads(run(*common, "measure", row).split("RESULT")[1]))
                print(f"{row}: {found[row][-1]}", file=sys.stderr)
        show(work, found)


def show(work: Path, found: dict[str, list[dict[str, float]]]) -> None:
    from tessera_onnx.runtime.cpu import physical_summary

    print(f"{physical_summary()}, one thread, load {os.getloadavg()[0]:.1f}")
    print("| | MB | peak MB | open s | query ms | passages/s | cosine, mean / least | largest |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row, figures in found.items():
        size = sum(file.stat().st_size for file in (work / row).glob("model.*.onnx*")) / 1e6
        peak, opened, ms = (min(each[name] for each in figures) for name in ("peak", "open", "ms"))
        rate = max(each["rate"] for each in figures)
        mean, least, largest = errors(work, row)
        print(
            f"| {row} | {size:.0f} | {peak:.0f} | {opened:.1f} | {ms:.0f} | {rate:.2f} | "
            f"{mean:.4f} / {least:.4f} | {largest:.3f} |"
        )


if __name__ == "__main__":
    main()
