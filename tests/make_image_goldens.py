"""Make tests/artifacts/images*.npz: pixels and ids of transformers' processors, in samples.

`python tests/make_image_goldens.py`, with torch and transformers, once with Pillow 13 or later and
once with an earlier one, whose resampling differs (see image_cases.GOLDEN). tests/export compares
whole tensors; these are for environments without torch, so a tensor is kept as its shape and the
values at some places of it. Nothing in the file comes from this project's own code.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import image_cases as cases
import numpy as np
import upstream_images as upstream


def samples(tensor: np.ndarray) -> np.ndarray:
    """The values at cases.places(tensor.shape), after the shape itself."""
    shape = np.zeros(4)
    shape[: tensor.ndim] = tensor.shape
    return np.concatenate([shape, tensor[cases.places(tensor.shape)]]).astype(np.float32)


def main() -> None:
    golden = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        for model_id in cases.MODELS:
            dropped = []
            for content in cases.files().values():
                path.write_bytes(content)
                dropped.append(samples(upstream.pixels(model_id, str(path))))
            golden[f"{model_id} dropped"] = np.stack(dropped)
            clear = [upstream.upright(cases.files()[name]) for name in cases.CLEAR]
            on_white = [samples(upstream.pixels(model_id, image)) for image in clear]
            golden[f"{model_id} white"] = np.stack(on_white)
            pages = [str(cases.PAGES / f"{name}.png") for name in cases.PAGE_NAMES]
            found = [samples(upstream.pixels(model_id, page)) for page in pages]
            golden[f"{model_id} pages"] = np.stack(found)
    for model_id in cases.PROMPTED:
        for size in cases.SIZES:
            ids = upstream.document_ids(model_id, size)
            golden[f"{model_id} ids {size[0]} x {size[1]}"] = ids.astype(np.int16)
    np.savez_compressed(cases.GOLDEN, **golden)


if __name__ == "__main__":
    main()
