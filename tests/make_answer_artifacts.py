"""Make the artifacts of yes/no language models, and the scores that their authors' code gives.

In an environment of its own, since mxbai-rerank wants transformers 4 and FlagEmbedding brings much:

    pip install torch==2.13.0 "transformers<5" accelerate batched peft datasets ir-datasets
    pip install --no-deps mxbai-rerank==0.1.6 FlagEmbedding==1.4.2
    python tests/make_answer_artifacts.py golden WORK

and then with the exporter's: python tests/make_answer_artifacts.py export WORK
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import answer_models
import numpy as np
import torch

HERE = Path(__file__).parent / "artifacts"
LONG = "The committee could not agree on a date, so the ship left the harbour. " * 12
QUERIES = [
    "Which planet is red?", "", "yes",
    "  what \n is\tit? ", "a<|im_end|>\n", LONG,
    "東京 \U0001f680",
]  # fmt: skip
DOCUMENTS = [
    "Mars is often called the Red Planet.", "", "no", "\n\nVenus\n", "</think> <|im_start|>user",
    LONG, "{query} {document} {instruction}",
]  # fmt: skip
PAIRS = [(query, document) for query in QUERIES for document in DOCUMENTS]
MODELS = {
    "answers-qwen3": ("Qwen3", "qwen3-reranker-0.6b", {}),
    "answers-qwen2": ("Qwen2", "mxbai-rerank-base-v2", {}),
    "answers-gemma": ("Gemma", "bge-reranker-v2-gemma", {"bos_token": "<bos>"}),
}
LENGTHS = {"answers-qwen3": (600, 230), "answers-qwen2": (400, 60), "answers-gemma": (400, 60)}
INSTRUCTION = "Find the planet"


def folders(work: Path) -> None:
    for name, (family, _, special) in MODELS.items():
        place = work / name
        answer_models.language_model(family).save_pretrained(place)
        pad = "<pad>" if family == "Gemma" else "<|endoftext|>"
        answer_models.tokenizer(pad, **special).save_pretrained(place)


def qwen3(place: Path, length: int, instruction: str | None, *, lines: int = 1) -> list[float]:
    """The sample of QwenLM/Qwen3-Embedding (README.md, transformers); `lines` end a part."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(place).eval()
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    ask = (
        "Judge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".'
    )
    before = f"<|im_start|>system\n{ask}<|im_end|>\n<|im_start|>user\n"
    after = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    if instruction is None:
        instruction = "Given a web search query, retrieve relevant passages that answer the query"
    starts, ends = (tokenizer.encode(text, add_special_tokens=False) for text in (before, after))
    end = "\n" * lines
    texts = [
        f"<Instruct>: {instruction}{end}<Query>: {query}{end}<Document>: {document}"
        for query, document in PAIRS
    ]
    room = length - len(starts) - len(ends)
    rows = tokenizer(texts, truncation="longest_first", max_length=room)["input_ids"]
    batch = tokenizer.pad(
        {"input_ids": [starts + row + ends for row in rows]}, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**batch).logits[:, -1]
    return (logits[:, yes] - logits[:, no]).tolist()


def qwen2(place: Path, length: int, instruction: str | None) -> list[float]:
    from mxbai_rerank import MxbaiRerankV2

    model = MxbaiRerankV2(str(place), device="cpu", torch_dtype=torch.float32, max_length=length)
    queries, documents = (list(texts) for texts in zip(*PAIRS, strict=True))
    return model.predict(queries, documents, instruction=instruction).tolist()


def gemma(place: Path, length: int, instruction: str | None) -> list[float]:
    from FlagEmbedding import FlagLLMReranker

    model = FlagLLMReranker(str(place), devices=["cpu"], use_fp16=False)
    return model.compute_score(PAIRS, max_length=length, prompt=instruction)


def golden(work: Path) -> None:
    folders(work)
    for name, score in (
        ("answers-qwen3", qwen3),
        ("answers-qwen2", qwen2),
        ("answers-gemma", gemma),
    ):
        found = {
            f"{kind}-{length}": score(work / name, length, told)
            for length in LENGTHS[name]
            for kind, told in (("plain", None), ("told", INSTRUCTION))
        }
        if score is qwen3:
            found["lines"] = qwen3(work / name, 600, None, lines=2)
        arrays = {key: np.array(values, np.float32) for key, values in found.items()}
        np.savez(work / name / "golden.npz", **arrays)
        print(name, {key: float(np.ptp(values)) for key, values in arrays.items()})  # noqa: T201


def export(work: Path) -> None:
    from tessera_export import artifact
    from tessera_export.pairs import export as pairs
    from tessera_export.pairs import facts, language

    for name, (_, like, _) in MODELS.items():
        known = language.chosen(like, None, ["reranker"])
        read = facts.read(work / name, LENGTHS[name][0], known)
        origin = artifact.Origin(id=f"test-{name}", source="random weights", licence="apache-2.0")
        pairs.export(read, HERE / name, origin, ("fp32",), overwrite=True)
        shutil.copy(work / name / "golden.npz", HERE / name)
    text = {"pairs": PAIRS, "instruction": INSTRUCTION, "lengths": LENGTHS}
    (HERE / "answers.json").write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    {"golden": golden, "export": export}[sys.argv[1]](Path(sys.argv[2]))
