"""Make tests/artifacts/muvera.npz: fixed dimensional encodings as fastembed computes them.

`python tests/make_muvera_goldens.py` where fastembed 0.9.1 is installed. Nothing in the file comes
from this project's code.
"""

from pathlib import Path

import numpy as np
from fastembed.postprocess import Muvera

GOLDEN = Path(__file__).parent / "artifacts" / "muvera.npz"
# dim, k_sim, dim_proj, r_reps, seed; the last is not projected, the one before has empty buckets.
SETTINGS = ((8, 2, 4, 2, 7), (16, 5, 2, 3, 42), (4, 3, 4, 2, 0))
LENGTHS = (1, 3, 40)


def main() -> None:
    rng = np.random.default_rng(1)
    found = {"settings": np.array(SETTINGS)}
    for i, (dim, k_sim, dim_proj, r_reps, seed) in enumerate(SETTINGS):
        encoder = Muvera(dim, k_sim, dim_proj, r_reps, seed)
        for n in LENGTHS:
            tokens = rng.normal(size=(n, dim)).astype(np.float32)
            found[f"tokens-{i}-{n}"] = tokens
            found[f"document-{i}-{n}"] = encoder.process_document(tokens).astype(np.float32)
            found[f"query-{i}-{n}"] = encoder.process_query(tokens).astype(np.float32)
    np.savez_compressed(GOLDEN, **found)


if __name__ == "__main__":
    main()
