"""Texts a second, memory and latency against other embedders on the same weights, in one run.

    python benchmarks/peers.py --model ARTIFACT --weights FOLDER [--python NAME=PATH ...]
                               [--texts 2000] [--rounds 3] [--only NAME ...] [--sample N]

ARTIFACT is a dense model folder that `tessera-export FOLDER --kind dense` made, fp32 and int8;
FOLDER holds the original weights in the layout of sentence-transformers. Nothing is installed: a
peer that an interpreter lacks is left out, and `--python fastembed=/venv/bin/python` names another
interpreter for the peers of that distribution. Each one runs in a process of its own with the
machine's threads; all take turns, round by round. A peer whose name ends in "sorted" gets the
texts sorted by length and the batch size, of 4, 8, 16 and 32, that is fastest for it on a quarter
of them. Vectors are compared before anything is timed. Texts are docstrings of the standard
library and of NumPy, 10 to 400 tokens.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve()
BATCHES = (4, 8, 16, 32)
SHORT = "How do I read a file line by line in Python?"
WORD = "file "  # one token of BERT's vocabulary


# ---------------------------------------------------------------- a loader a peer, in its process


def tessera(precision):
    def load(options):
        sys.path.insert(0, str(HERE.parents[1]))
        from tessera_onnx import TesseraDense

        model = TesseraDense(path=options["model"], precision=precision, max_length=512)
        return lambda texts, _: model.encode_batch(texts)

    return load


def fastembed(name):
    def load(options):
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        folder = Path(tempfile.mkdtemp(prefix="peers-"))
        for file in Path(options["weights"]).glob("*.json"):
            shutil.copy(file, folder)
        shutil.copy(Path(options["model"], "tokenizer.json"), folder)
        shutil.copy(Path(options["model"], f"model.{name}.onnx"), folder / "model.onnx")
        TextEmbedding.add_custom_model(
            model="local/same-weights",
            pooling=PoolingType.DISABLED,  # the graph pools and normalises
            normalization=False,
            sources=ModelSource(hf="local/same-weights"),
            dim=384,
            model_file="model.onnx",
        )
        model = TextEmbedding("local/same-weights", specific_model_path=str(folder))

        def encode(texts, batch):
            size = {"batch_size": batch} if batch else {}
            return np.array(list(model.embed(texts, **size)))

        return encode

    return load


def light_embed(options):
    from light_embed import TextEmbedding

    folder = Path(tempfile.mkdtemp(prefix="peers-"))
    for file in Path(options["weights"]).glob("*.json"):
        shutil.copy(file, folder)
    shutil.copy(Path(options["model"], "tokenizer.json"), folder)
    shutil.copy(Path(options["model"], "model.fp32.onnx"), folder / "model.onnx")
    config = {
        "model_name": "same-weights",
        "onnx_file": "model.onnx",
        "onnx_output_map": {"sentence_embedding": "sentence_embedding"},
        "normalize": False,
    }
    model = TextEmbedding(str(folder), model_config=config)
    return lambda texts, batch: np.asarray(model.encode(texts, batch_size=batch or 32))


def sentence_transformers(**kwargs):
    def load(options):
        from sentence_transformers import SentenceTransformer

        arguments = dict(kwargs)
        if "dtype" in arguments:
            arguments["model_kwargs"] = {"torch_dtype": arguments.pop("dtype")}
        model = SentenceTransformer(options["weights"], device="cpu", **arguments)
        model.max_seq_length = 512
        return lambda texts, batch: np.asarray(model.encode(texts, batch_size=batch or 32))

    return load


def sentence_transformers_int8(options):
    from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

    folder = tempfile.mkdtemp(prefix="peers-")
    SentenceTransformer(options["weights"], device="cpu", backend="onnx").save_pretrained(folder)
    model = SentenceTransformer(folder, device="cpu", backend="onnx")
    export_dynamic_quantized_onnx_model(model, "avx512_vnni", folder)
    name = {"file_name": "model_qint8_avx512_vnni.onnx"}
    model = SentenceTransformer(folder, device="cpu", backend="onnx", model_kwargs=name)
    model.max_seq_length = 512
    return lambda texts, batch: np.asarray(model.encode(texts, batch_size=batch or 32))


ST = "sentence-transformers"
# name: (environment, loader, precision that it is compared with)
PEERS = {
    "tessera-onnx fp32": ("tessera-onnx", tessera("fp32"), "fp32"),
    "tessera-onnx int8": ("tessera-onnx", tessera("int8"), "int8"),
    "fastembed": ("fastembed", fastembed("fp32"), "fp32"),
    "fastembed sorted": ("fastembed", fastembed("fp32"), "fp32"),
    "fastembed int8 sorted": ("fastembed", fastembed("int8"), "int8"),
    "light-embed sorted": ("light-embed", light_embed, "fp32"),
    f"{ST} sorted": (ST, sentence_transformers(), "fp32"),
    f"{ST} bf16 sorted": (ST, sentence_transformers(dtype="bfloat16"), "fp32"),
    f"{ST} ONNX sorted": (f"{ST}[onnx]", sentence_transformers(backend="onnx"), "fp32"),
    f"{ST} ONNX int8 sorted": (f"{ST}[onnx]", sentence_transformers_int8, "int8"),
}


def child(name: str) -> None:
    """Answer the parent's requests, a JSON line each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    options = json.loads(sys.stdin.readline())
    start = time.perf_counter()
    encode = PEERS[name][1](options)
    encode([SHORT], None)
    texts = options["texts"]
    batch = None
    place = np.arange(len(texts))
    if name.endswith("sorted"):
        place = np.argsort([len(text) for text in texts], kind="stable")[::-1]
    ordered = [texts[i] for i in place]
    answer: dict = {"load": time.perf_counter() - start}
    for request in map(str.strip, sys.stdin):
        if request == "vectors":
            vectors = np.empty((options["checked"], 384), np.float32)
            vectors[:] = encode(texts[: options["checked"]], 8)
            answer["vectors"] = vectors.tolist()
        elif request == "tune":
            if name.endswith("sorted"):
                seconds = {size: timed(encode, ordered[::4], size) for size in BATCHES}
                batch = min(seconds, key=seconds.get)
            answer = {"batch": batch}
        elif request == "run":
            answer = {"seconds": timed(encode, ordered, batch)}
        elif request == "one":
            answer = {"seconds": [timed(encode, [SHORT], None) for _ in range(100)]}
        elif request == "peak":
            answer = {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        else:
            break
        print(json.dumps(answer), file=answers, flush=True)


def timed(encode, texts, batch) -> float:
    start = time.perf_counter()
    encode(texts, batch)
    return time.perf_counter() - start


# ---------------------------------------------------------------- the parent


class Peer:
    """A child process and what it has measured."""

    def __init__(self, name: str, python: str, options: dict) -> None:
        self.name = name
        self.seconds: list[float] = []
        quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        # A file, for a pipe that nobody reads fills up; it lives as long as the process.
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [python, str(HERE), "--child", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if options["loud"] else self.errors,
            text=True,
            env=quiet,
        )
        self.tell(json.dumps(options))

    def tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            print(line, file=self.process.stdin, flush=True)

    def ask(self, request: str) -> dict:
        self.tell(request)
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            error = self.errors.read().strip().splitlines()
            raise RuntimeError(error[-1][:150] if error else "it ended")
        return json.loads(line)


def docstrings(tokenizer: Path, n: int, least: int = 10, most: int = 400) -> list[str]:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(tokenizer))
    backend.no_padding()
    backend.no_truncation()
    files = [*Path(sysconfig.get_paths()["stdlib"]).glob("*.py")]
    files += Path(np.__file__).parent.glob("**/*.py")
    found = {}
    for path in sorted(files):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            owner = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            text = ast.get_docstring(node) if isinstance(node, owner) else None
            if text:
                found[" ".join(text.split())] = None
    counts = [len(e.ids) for e in backend.encode_batch_fast(list(found))]
    texts = [t for t, count in zip(found, counts, strict=True) if least <= count <= most]
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[i] for i in order[:n]]


def start(names: list[str], pythons: dict[str, str], options: dict) -> dict[str, Peer]:
    """The peers that run, after their vectors were compared."""
    peers = {}
    truth = None
    for name in names:
        peer = Peer(name, pythons.get(PEERS[name][0], sys.executable), options)
        try:
            answer = peer.ask("vectors")
            vectors = np.array(answer["vectors"])
        except RuntimeError as error:
            print(f"left out: {name}: {error}", flush=True)
            continue
        truth = vectors if truth is None else truth
        peer.cosine = (vectors * truth).sum(axis=1) / np.linalg.norm(vectors, axis=1)
        peer.load = answer["load"]
        peer.batch = peer.ask("tune")["batch"]
        peers[name] = peer
    return peers


def table(peers: dict[str, Peer], n_texts: int) -> None:
    print(
        f"{'':34} {'batch':>5} {'texts/s':>8} {'best':>6} {'ours is (least..most)':>24} "
        f"{'cosine mean/min':>16} {'one ms':>7} {'load s':>6} {'peak MB':>8}"
    )
    for name, peer in peers.items():
        ours = peers.get(f"tessera-onnx {PEERS[name][2]}")
        ratio = ""
        if ours is not None and ours is not peer:
            ratios = [b / a for a, b in zip(ours.seconds, peer.seconds, strict=True)]
            ratio = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f}..{max(ratios):.2f})"
        median, best = statistics.median(peer.seconds), min(peer.seconds)
        print(
            f"{name:34} {peer.batch or '':>5} {n_texts / median:8.1f} {n_texts / best:6.1f} "
            f"{ratio:>24} {peer.cosine.mean():9.5f}/{peer.cosine.min():.4f} "
            f"{1000 * statistics.median(peer.one):7.2f} {peer.load:6.2f} {peer.peak:8.0f}"
        )


def singles(model: str) -> None:
    """200 texts in one call against 200 calls, and what a call adds to the session's own run."""
    sys.path.insert(0, str(HERE.parents[1]))
    from tessera_onnx import TesseraDense
    from tessera_onnx.text import feeds, padded

    with TesseraDense(path=model, precision="int8", max_length=512) as encoder:
        for n_tokens in (16, 64, 256):
            texts = [WORD * (n_tokens - 2)] * 200
            encoder.encode_batch(texts[:8])
            encoder.encode(texts[0])
            batch = timed(lambda texts, _: encoder.encode_batch(texts), texts, None)
            one = timed(lambda texts, _: [encoder.encode(text) for text in texts], texts, None)
            print(f"200 texts of {n_tokens:3} tokens: one batch is {one / batch:.2f}x 200 calls")
        tokenizer, session = encoder._encoder.tokenizer, encoder._session  # noqa: SLF001
        role = encoder.spec.dense.document
        batch = padded(tokenizer.rows([SHORT], role)[0], tokenizer.facts)
        inputs = feeds(batch, role, session.inputs)
        bare = session._session(parallel=False)  # noqa: SLF001
        pairs = []
        for _ in range(300):
            t0 = time.perf_counter()
            bare.run(["sentence_embedding"], inputs)
            t1 = time.perf_counter()
            encoder.encode(SHORT)
            pairs.append((t1 - t0, time.perf_counter() - t1))
        run, whole = (1000 * statistics.median(column) for column in zip(*pairs, strict=True))
        over = 1000 * statistics.median(b - a for a, b in pairs)
        print(f"one short text: {whole:.2f} ms, the session {run:.2f} ms, the rest {over:.3f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--weights")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=PEERS)
    parser.add_argument("--loud", action="store_true", help="show what the peers print")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    if not (options.model and options.weights):
        parser.error("--model and --weights are needed")
    texts = docstrings(Path(options.model, "tokenizer.json"), options.texts)
    sent = {"model": str(Path(options.model).resolve()), "texts": texts, "loud": options.loud}
    sent |= {"weights": str(Path(options.weights).resolve()), "checked": min(100, len(texts))}
    pythons = dict(item.split("=", 1) for item in options.python)
    peers = start(options.only or list(PEERS), pythons, sent)
    for _ in range(options.rounds):
        for peer in peers.values():
            peer.seconds.append(peer.ask("run")["seconds"])
    for peer in peers.values():
        peer.one = peer.ask("one")["seconds"]
        peer.peak = peer.ask("peak")["peak"]
        peer.tell("end")
    table(peers, len(texts))
    singles(options.model)


if __name__ == "__main__":
    main()
