"""Make the image models of tests/artifacts: small random weights of the true classes, and goldens.

Run with torch, colpali-engine (its dependencies are not needed) and tessera-onnx-export:
`python tests/make_vision_artifacts.py [NAME ...]`. The golden values come from transformers' and
colpali-engine's classes and processors on the same weights, one page or query at a time.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).parent / "artifacts"
sys.path.insert(0, str(Path(__file__).parent / "export"))

import page_models  # noqa: E402

from tessera_export import artifact  # noqa: E402
from tessera_export.images import vision  # noqa: E402
from tessera_onnx.models.spec import ImageQuery  # noqa: E402

PAGES = [page_models.page(96, 64, 1), page_models.page(70, 100, 2), page_models.page(33, 32, 3)]
QUERIES = [
    "what is the late interaction of pages?",
    "rain",
    "Which figure shows the sales of cats and dogs, and which table the weather in new york now?",
]


def make(name: str, build: Callable, query: ImageQuery | str | None, run: Callable) -> None:
    with tempfile.TemporaryDirectory() as work:
        model, processor = build(Path(work))
        origin = artifact.Origin(f"test-{name}", source="random weights", licence="apache-2.0")
        facts = vision.read(Path(work), query)
        vision.export(facts, HERE / name, origin, ("fp32",), overwrite=True)
        golden = {f"page_{i}": page for i, page in enumerate(PAGES)}
        golden["queries"] = np.array(QUERIES)
        with torch.no_grad():
            golden |= run(model, processor)
    np.savez_compressed(HERE / name / "golden.npz", **golden)


def row(name: str, i: int, inputs: dict, vectors: torch.Tensor) -> dict[str, np.ndarray]:
    ids = inputs["input_ids"][0].numpy()
    return {f"{name}_ids_{i}": ids, f"{name}_vectors_{i}": vectors[0].numpy()}


def run_colpali(model: torch.nn.Module, processor: Callable) -> dict[str, np.ndarray]:
    golden = {}
    for i, page in enumerate(PAGES):
        inputs = processor(images=[Image.fromarray(page)])
        inputs.pop("labels")
        golden |= row("page", i, inputs, model(**inputs).embeddings)
    for i, text in enumerate(QUERIES):
        inputs = processor(text=[text])
        golden |= row("query", i, inputs, model(**inputs).embeddings)
    return golden


def run_colidefics3(model: torch.nn.Module, processor: Callable) -> dict[str, np.ndarray]:
    # The texts are those of colpali-engine's ColIdefics3Processor.
    golden = {}
    prompt = "<|im_start|>User:<image>Describe the image.<end_of_utterance>\nAssistant:"
    for i, page in enumerate(PAGES):
        inputs = processor(text=prompt, images=[Image.fromarray(page)], return_tensors="pt")
        golden |= row("page", i, inputs, model(**inputs))
    for i, text in enumerate(QUERIES):
        inputs = processor(text=text + "<end_of_utterance>" * 10, return_tensors="pt")
        golden |= row("query", i, inputs, model(**inputs))
    return golden


def run_colqwen2(model: torch.nn.Module, processor: Callable) -> dict[str, np.ndarray]:
    # The texts are those of colpali-engine's ColQwen2Processor; a text's token types are zeros.
    golden = {}
    tokenizer = page_models.qwen_tokenizer()
    around = "<|im_start|>user\n<|vision_start|>{}<|vision_end|>Describe the image.<|im_end|>"
    for i, page in enumerate(PAGES):
        inputs = dict(processor(images=Image.fromarray(page), return_tensors="pt"))
        cells = int(inputs["image_grid_thw"].prod()) // 4
        text = around.format("<|image_pad|>" * cells) + "<|endoftext|>"
        inputs |= tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
        inputs["pixel_values"] = inputs["pixel_values"][None]
        golden |= row("page", i, inputs, model(**inputs))
        golden[f"grid_{i}"] = inputs["image_grid_thw"][0].numpy()
    for i, text in enumerate(QUERIES):
        spelled = f"Query: {text}{'<|endoftext|>' * 10}"
        inputs = tokenizer(spelled, return_tensors="pt", return_token_type_ids=False)
        golden |= row("query", i, inputs, model(**inputs))
    return golden


def run_pair(model: torch.nn.Module, processor: Callable) -> dict[str, np.ndarray]:
    images = processor(images=[Image.fromarray(page) for page in PAGES], return_tensors="pt")
    vectors = [model.get_image_features(**images).pooler_output]
    texts = []
    for text in QUERIES:
        length = {"padding": "max_length"} if model.config.model_type == "siglip" else {}
        inputs = processor(text=text, truncation=True, return_tensors="pt", **length)
        texts.append(model.get_text_features(**inputs).pooler_output)
    vectors.append(torch.cat(texts))
    unit = [torch.nn.functional.normalize(rows, dim=-1).numpy() for rows in vectors]
    return {"pages": unit[0], "texts": unit[1]}


EVERY = {
    "colpali": lambda: make("colpali", page_models.colpali, None, run_colpali),
    "colsmol": lambda: make("colsmol", page_models.colidefics3, "", run_colidefics3),
    "colqwen2": lambda: make("colqwen2", page_models.colqwen2, "Query: ", run_colqwen2),
    "clip": lambda: make("clip", page_models.clip, None, run_pair),
    "siglip2": lambda: make("siglip2", page_models.siglip, None, run_pair),
}

if __name__ == "__main__":
    for name in sys.argv[1:] or EVERY:
        EVERY[name]()
