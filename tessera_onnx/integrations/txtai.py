"""txtai: dense and sparse vectors of an Embeddings index, by the names of these classes.

Embeddings(method="tessera_onnx.integrations.txtai.TesseraVectors", path="MODEL") takes one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import install_hint
from tessera_onnx.text.dense import TesseraDense
from tessera_onnx.text.sparse import TesseraSparse

try:
    from txtai.vectors import Vectors
    from txtai.vectors.sparse.base import SparseVectors
except ImportError as error:
    raise ImportError(f"txtai is not installed: {install_hint('txtai')}") from error


class TesseraVectors(Vectors):
    """Dense vectors; queries and documents have the prompts of the model.

    Of the configuration, `path` is an id, folder or repository, and `vectors` has the options of
    `TesseraDense`. txtai wraps what is wrong with a model in an ImportError, as its cause.
    """

    def loadmodel(self, path: str | None) -> TesseraDense:
        """Open the model."""
        return TesseraDense(path, **self.config.get("vectors", {}))

    def encode(self, data: list[str], category: str | None = None) -> NDArray[np.float32]:
        """The vectors (n, dimension) float32 of queries, or of documents: category "data"."""
        model: TesseraDense = self.model
        return model.encode_document(data) if category == "data" else model.encode_query(data)

    def normalize(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit vectors; zero vectors, which static models give for an empty text, stay zero."""
        norms = np.linalg.norm(embeddings, axis=-1, keepdims=True)
        found: NDArray[np.float32] = embeddings / np.maximum(norms, np.float32(1e-30))
        return found


class TesseraSparseVectors(SparseVectors):
    """Sparse vectors, for the `vectormethod` of `sparse`; configured as `TesseraVectors`.

    txtai has no inverse document frequencies, so BM25 is its own `keyword`, not this.
    """

    def loadmodel(self, path: str | None) -> TesseraSparse:
        """Open the model."""
        return TesseraSparse(path, **self.config.get("vectors", {}))

    def encode(self, data: list[str], category: str | None = None) -> Any:
        """The vectors of queries or documents as a scipy CSR matrix (n, vocab_size)."""
        from scipy.sparse import csr_matrix, vstack  # as the base class needs

        model = self.model
        found = model.encode_document(data) if category == "data" else model.encode_query(data)
        size = model.vocab_size()
        return vstack([vector.to_scipy(size) for vector in found] or [csr_matrix((0, size))], "csr")
