"""An image model of real size, with random weights: what its export and a page cost.

    python benchmarks/page_model.py make FOLDER      (torch, transformers, tests/export on the path)
    tessera-export FOLDER --kind vision --query-prompt "" --precision fp32 --output ARTIFACT
    python benchmarks/page_model.py encode ARTIFACT  (the runtime alone)

`make` writes a model of the shape of ColSmol-256M: SmolLM2-135M and a SigLIP base tower of 512
pixels. The sizes are those of HuggingFaceTB/SmolVLM-256M-Instruct as remembered, none was read off
the file. `encode` makes an A4 page of 150 dots an inch and a query into vectors and prints seconds,
rows and the peak of resident memory. The values mean nothing.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np

TEXT = {
    "model_type": "llama",
    "vocab_size": 49280,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rope_theta": 100000.0,
    "pad_token_id": 0,
}
TOWER = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}
A4 = (1240, 1754)


def make(folder: Path) -> None:
    """Save model, tokenizer and processor as colpali-engine does."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "export"))
    import page_models
    import transformers
    from transformers.models.idefics3 import image_processing_pil_idefics3 as processors

    tokenizer = page_models.smol_tokenizer()
    config = transformers.Idefics3Config(
        text_config=TEXT,
        vision_config=TOWER,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=4,
    )
    model = page_models.lively(page_models.engine("ColIdefics3")(config), seed=0)
    model.save_pretrained(folder)
    images = processors.Idefics3ImageProcessorPil(
        size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}
    )
    processor = transformers.Idefics3Processor(images, tokenizer, image_seq_len=64)
    processor.save_pretrained(folder)
    print(f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.0f} M parameters")


def encode(folder: Path) -> None:
    """Open the artifact and encode one page and one query."""
    from tessera_onnx import TesseraVision

    page = np.random.default_rng(0).integers(0, 256, (*A4[::-1], 3), dtype=np.uint8)
    clock = time.perf_counter()
    with TesseraVision(path=folder, device="cpu") as model:
        clock = lap("open", clock)
        rows = model.encode_document(page)
        clock = lap(f"page, {len(rows)} rows", clock)
        rows = model.encode_document(page)
        clock = lap("page again", clock)
        rows = model.encode_query("what is the late interaction of pages?")
        lap(f"query, {len(rows)} rows", clock)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak of resident memory: {peak:.0f} MB")


def lap(what: str, clock: float) -> float:
    """Print the seconds since `clock`; the time now."""
    print(f"{what}: {time.perf_counter() - clock:.2f} s", flush=True)
    return time.perf_counter()


if __name__ == "__main__":
    {"make": make, "encode": encode}[sys.argv[1]](Path(sys.argv[2]))
