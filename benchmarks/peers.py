"""Texts a second, memory and latency against other embedders on the same weights, in one run.

    python benchmarks/peers.py --model ARTIFACT --weights FOLDER [--python NAME=PATH ...]
        [--tokens-model ARTIFACT --tokens-weights FOLDER] [--texts 2000] [--rounds 3]
        [--only PEER ...] [--loud]

ARTIFACT is a dense model folder that `tessera-export FOLDER --kind dense` made, fp32 and int8;
FOLDER holds the original weights in the layout of sentence-transformers. The other pair is the
same for token vectors: a folder that `pylate.models.ColBERT(FOLDER).save_pretrained` made, and its
artifact (--kind multi-vector --document-length 512). Nothing is installed: a peer that an
interpreter lacks is left out, and `--python fastembed=/venv/bin/python` names another interpreter
for the peers of an environment, see loaders.py; chronos-forecasting, where there is one, runs
forecast_speed.py, whose environment needs tessera-onnx-export too.

Texts are docstrings of the standard library and of NumPy, 10 to 400 tokens. A peer whose name ends
in "sorted" gets them sorted by their number of tokens, and the batch size, of 1 to 64, that is
fastest for it on an eighth of them; sorting is not counted. Ours get them as they come. Vectors are
compared first, of texts of all lengths; a peer of fp32 or bf16 whose vectors are not ours is
marked. Then each peer gets a fresh process, all take turns, and every other round runs backwards.
Ratios are those of a round: median, least and most. Latency is the median of single calls between
the rounds. Load is import, model and first vector with warm files; peak is the most memory that the
second process ever had (Linux; processes that a peer starts are not counted).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np
from loaders import PEERS, environment, prepare

HERE = Path(__file__).resolve()
BATCHES = (1, 2, 4, 8, 16, 32, 64)
CHECKED = 100  # texts
EQUAL = 0.999  # least cosine with our fp32 vectors
PAUSE = 0.3  # seconds for the threads of the peer before to fall asleep
SHORT = "How do I read a file line by line in Python?"
WORD = "file "  # one token of BERT's vocabulary


# ---------------------------------------------------------------- the process of a peer


def child(name: str) -> None:
    """Answer the parent's requests, a JSON line each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    options = json.loads(sys.stdin.readline())
    texts, batch = options["texts"], options["batch"]
    start = time.perf_counter()
    encode = PEERS[name].load(options)
    encode([SHORT], batch)
    load = time.perf_counter() - start
    for request in map(str.strip, sys.stdin):
        if request == "vectors":
            rows = encode([texts[i] for i in options["checked"]], 8)
            np.savez(Path(options["work"], "vectors"), *[np.ravel(row) for row in rows])
            answer: dict = {"shape": np.shape(rows[0])}
        elif request == "tune":
            answer = {"batch": tuned(encode, texts) if name.endswith("sorted") else None}
        elif request == "warm":
            answer = {"seconds": timed(encode, texts[::8], batch), "load": load}
        elif request == "run":
            answer = {"seconds": timed(encode, texts, batch)}
        elif request == "one":
            answer = {"seconds": [timed(encode, [SHORT], batch) for _ in range(40)]}
        else:  # not getrusage: that counts the memory of the process before exec too
            status = Path("/proc/self/status").read_text()
            answer = {"peak": int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024}
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # some leave threads behind that would not end


def tuned(encode, texts, every: int = 8) -> int:
    """The fastest batch size, on blocks of neighbours: single texts would be padded more."""
    block = BATCHES[-1]
    texts = [text for i, text in enumerate(texts) if i // block % every == 1] or texts
    seconds = {size: timed(encode, texts, size) for size in BATCHES}
    for size in sorted(seconds, key=seconds.get)[:3]:
        seconds[size] = min(seconds[size], timed(encode, texts, size))
    return min(seconds, key=seconds.get)


def timed(encode, texts, batch) -> float:
    start = time.perf_counter()
    found = encode(texts, batch)
    seconds = time.perf_counter() - start
    if len(found) != len(texts):
        raise ValueError(f"{len(found)} vectors for {len(texts)} texts")
    return seconds


# ---------------------------------------------------------------- the parent


class Peer:
    """A child process and what it has measured."""

    def __init__(self, name: str, python: str, options: dict, script: Path = HERE) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.one: list[float] = []
        # A file, for a pipe that nobody reads fills up; it lives as long as the process.
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [python, str(script), "--child", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if options["loud"] else self.errors,
            text=True,
            env=environment(Path(options["work"]), options["threads"]),
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

    def times(self, rival: Peer | None) -> str:
        """The seconds of a round as a multiple of the rival's: median (least..most)."""
        if rival is None or rival is self:
            return ""
        ratios = [b / a for a, b in zip(rival.seconds, self.seconds, strict=True)]
        return f"{statistics.median(ratios):.2f}x ({min(ratios):.2f}..{max(ratios):.2f})"

    def end(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def docstrings(
    tokenizer: Path, n: int, least: int = 10, most: int = 400
) -> tuple[list[str], list[int]]:
    """Texts in random order, and the number of tokens of each."""
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
    texts = [(t, c) for t, c in zip(found, counts, strict=True) if least <= c <= most]
    order = np.random.default_rng(0).permutation(len(texts))
    kept = [texts[i] for i in order[:n]]
    return [text for text, _ in kept], [count for _, count in kept]


def ours(name: str) -> str:
    return f"tessera-onnx {PEERS[name].rival}"


def exact(name: str) -> str:
    return ours(name).replace("int8", "fp32")


def cosines(rows: list[np.ndarray], truth: list[np.ndarray]) -> np.ndarray:
    """Of each text's vector, or of its token vectors one after the other; 0 for other sizes."""
    if len(rows) != len(truth):
        return np.zeros(len(truth))
    pairs = zip(rows, truth, strict=True)
    return np.array(
        [
            a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) if a.shape == b.shape else 0.0
            for a, b in pairs
        ]
    )


def start(names: list[str], pythons: dict[str, str], options: dict, counts: list[int]) -> list:
    """The peers that run, after their vectors were compared and their batch size was found."""
    peers: list[Peer] = []
    truths: dict[str, list[np.ndarray]] = {}
    longest = sorted(range(len(counts)), key=lambda i: -counts[i])
    for name in names:
        python = pythons.get(PEERS[name].environment, sys.executable)
        order = longest if name.endswith("sorted") else range(len(counts))
        checked = longest[:: -(-len(counts) // CHECKED)]
        place = {i: where for where, i in enumerate(order)}
        sent = options | {"texts": [options["texts"][i] for i in order], "batch": None}
        sent["checked"] = [place[i] for i in checked]
        first = Peer(name, python, sent)
        try:
            first.ask("vectors")
            with np.load(Path(options["work"], "vectors.npz")) as arrays:
                rows = list(arrays.values())
            sent["batch"] = first.ask("tune")["batch"]
            first.end()
            peer = Peer(name, python, sent)
            peer.load = peer.ask("warm")["load"]
        except RuntimeError as error:
            if name == exact(name):
                raise SystemExit(f"{name} is what the others are compared with: {error}") from None
            print(f"left out: {name}: {error}", flush=True)
            continue
        peer.batch = sent["batch"]
        peer.cosine = cosines(rows, truths.setdefault(exact(name), rows))
        peers.append(peer)
        print(f"ready: {name}", file=sys.stderr, flush=True)
    return peers


def measure(peers: list[Peer], rounds: int) -> None:
    for number in range(rounds):
        for peer in peers if number % 2 == 0 else peers[::-1]:
            time.sleep(PAUSE)
            peer.seconds.append(peer.ask("run")["seconds"])
            peer.one += peer.ask("one")["seconds"]
    for peer in peers:
        peer.peak = peer.ask("peak")["peak"]
        peer.end()


def table(peers: list[Peer], n_texts: int) -> None:
    print(
        f"{'':40} {'batch':>5} {'texts/s':>8} {'best':>6} {'ours is (least..most)':>24} "
        f"{'cosine mean/min':>16} {'one ms':>7} {'load s':>6} {'peak MB':>8}"
    )
    by_name = {peer.name: peer for peer in peers}
    marked = False
    for name, peer in by_name.items():
        ratio = peer.times(by_name.get(ours(name)))
        median, best = statistics.median(peer.seconds), min(peer.seconds)
        differs = bool(ours(name) == exact(name) and peer.cosine.min() < EQUAL)
        marked |= differs
        print(
            f"{name + ' !' * differs:40} {peer.batch or '':>5} {n_texts / median:8.1f} "
            f"{n_texts / best:6.1f} {ratio:>24} {peer.cosine.mean():9.5f}/{peer.cosine.min():.4f} "
            f"{1000 * statistics.median(peer.one):7.2f} {peer.load:6.2f} {peer.peak:8.0f}"
        )
    if marked:
        print(f"! not the same work: cosines with our fp32 vectors below {EQUAL}")


def singles(model: str, n: int) -> None:
    """n texts in one call against n calls, and what a call adds to the session's own run."""
    from tessera_onnx import TesseraDense
    from tessera_onnx.text.tokenizer import feeds, padded

    with TesseraDense(path=model, precision="int8", max_length=512) as encoder:
        for n_tokens in (16, 64, 256):
            texts = [WORD * (n_tokens - 2)] * n
            encoder.encode_batch(texts[:8])
            encoder.encode(texts[0])
            ratios = []
            for _ in range(3):
                batch = timed(lambda texts, _: encoder.encode_batch(texts), texts, None)
                one = timed(lambda texts, _: [encoder.encode(text) for text in texts], texts, None)
                ratios.append(one / batch)
            print(
                f"{n} texts of {n_tokens:3} tokens: one batch is {statistics.median(ratios):.2f}x "
                f"({min(ratios):.2f}..{max(ratios):.2f}) {n} calls"
            )
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


def chosen(options: argparse.Namespace) -> list[str]:
    """The peers to run, with ours that they are compared with."""
    wanted = set(options.only or PEERS)
    wanted |= {ours(name) for name in wanted} | {exact(name) for name in wanted}
    if not options.tokens_model:
        wanted = {name for name in wanted if "tokens" not in name}
    return [name for name in PEERS if name in wanted]


def forecasts(pythons: dict[str, str], rounds: int) -> None:
    """chronos-forecasting has a benchmark of its own."""
    here = sys.executable if importlib.util.find_spec("chronos") else None
    python = pythons.get("chronos-forecasting", here)
    if python:
        command = [python, HERE.with_name("forecast_speed.py"), "--rounds", str(rounds)]
        subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--tokens-model", type=Path)
    parser.add_argument("--tokens-weights", type=Path)
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
    pythons = dict(item.split("=", 1) for item in options.python)
    known = {row.environment for row in PEERS.values()} | {"chronos-forecasting"}
    if unknown := pythons.keys() - known:
        parser.error(f"--python knows {sorted(known)}, not {sorted(unknown)}")
    sys.path.insert(0, str(HERE.parents[1]))
    from tessera_onnx.runtime.cpu import cpu_threads, physical_summary

    texts, counts = docstrings(options.model / "tokenizer.json", options.texts)
    with tempfile.TemporaryDirectory(prefix="peers-") as work:
        prepare(Path(work), options.model, options.weights)
        sent = {"work": work, "threads": cpu_threads(), "texts": texts, "loud": options.loud}
        for name in ("model", "tokens_model", "tokens_weights"):
            folder = getattr(options, name)
            sent[name] = folder and str(folder.resolve())
        peers = start(chosen(options), pythons, sent, counts)
        measure(peers, options.rounds)
    print(f"{physical_summary()}; {cpu_threads()} threads")
    print(f"{len(texts)} texts of {min(counts)} to {max(counts)} tokens, {sum(counts)} in all")
    table(peers, len(texts))
    singles(str(options.model), min(200, len(texts)))
    if not options.only:
        forecasts(pythons, options.rounds)


if __name__ == "__main__":
    main()
