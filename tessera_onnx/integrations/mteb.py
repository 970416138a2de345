"""MTEB: dense, sparse and multi-vector models and rerankers as arguments of `mteb.evaluate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tessera_onnx.errors import LoadError, install_hint
from tessera_onnx.kinds import KINDS, Tessera
from tessera_onnx.search.sparse_index import PackedSparse
from tessera_onnx.search.token_index import PackedTokens
from tessera_onnx.text.dense import TesseraDense
from tessera_onnx.text.reranker import TesseraReranker

try:
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
except ImportError as error:
    raise ImportError(f"MTEB is not installed: {install_hint('mteb')}") from error

SCORES = {"dense": "cosine", "multi-vector": "MaxSim", "sparse": "dot"}
TYPES = {"multi-vector": "late-interaction", "reranker": "cross-encoder"}
UNKNOWN = (
    "loader", "release_date", "languages", "n_parameters", "memory_usage_mb", "license",
    "public_training_code", "public_training_data", "training_datasets",
)  # fmt: skip


class _Opened:
    """A model with the facts by which MTEB stores its results."""

    _open: Any

    def __init__(
        self,
        model_name: str | None = None,
        revision: str | None = None,  # noqa: ARG002 (MTEB's; ours is part of the name)
        *,
        device: str | None = None,
        **options: Any,
    ) -> None:
        """Open a model with the options of its class, whose errors are raised."""
        self.model = self._open(model_name, device=device or "auto", **options)
        self._kind = self.model._kind  # noqa: SLF001

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """The facts. The name is tessera-onnx/ID, because int8 graphs have scores of their own."""
        spec, row = self.model.spec, KINDS[self._kind]
        recipe = row.recipe(spec)
        width, longest = row.sizes(recipe)
        score = getattr(recipe, "similarity", None) or SCORES.get(self._kind)
        return ModelMeta(
            name=f"tessera-onnx/{spec.id}",
            revision=spec.revision,
            max_tokens=longest or None,
            embed_dim=width,
            open_weights=True,
            framework=["ONNX"],
            similarity_fn_name=ScoringFunction(score) if score else None,
            use_instructions=self._kind != "reranker" and self.model.prompt("query") != "",
            model_type=[TYPES.get(self._kind, self._kind)],
            experiment_kwargs={"precision": self.model.precision},
            **dict.fromkeys(UNKNOWN),
        )


class TesseraSearch(_Opened):
    """A dense, sparse or multi-vector model that searches by itself (SearchProtocol).

    `kind=` chooses one of a model's kinds. Sparse and multi-vector documents are kept in
    PackedSparse and PackedTokens; BM25 weighs by the document frequencies of the corpus.
    """

    _open: Any = staticmethod(Tessera)

    def index(self, corpus: Any, **_: Any) -> None:
        """Encode a corpus, titles before texts. Raises LoadError for a model of no such vectors."""
        if KINDS[self._kind].reads != "texts":
            raise LoadError(f"model {self.model.model()!r} makes no vectors of texts")
        titles = corpus["title"] if "title" in corpus.column_names else [None] * len(corpus)
        joined = (
            f"{title} {text}".strip() if title else text.strip()
            for title, text in zip(titles, corpus["text"], strict=True)
        )
        self._ids = list(corpus["id"])
        self._numbers = {name: number for number, name in enumerate(self._ids)}
        self._index: Any = self.model.encode_document(joined)
        if self._kind == "sparse":
            self._index = PackedSparse(self._index, idf=self.model.spec.hashes_words())
        elif self._kind == "multi-vector":
            self._index = PackedTokens(self._index)

    def search(
        self,
        queries: Any,
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """The `top_k` best documents of each query, of its `top_ranked` where those are given."""
        texts = queries["text"]
        if "instruction" in queries.column_names:
            pairs = zip(texts, queries["instruction"], strict=True)
            texts = [f"{text} {more}" if more is not None else text for text, more in pairs]
        found = zip(queries["id"], self.model.encode_query(list(texts)), strict=True)
        return {
            name: self._rank(query, top_k, self._ids if top_ranked is None else top_ranked[name])
            for name, query in found
        }

    def _rank(self, query: Any, top_k: int, among: Iterable[str]) -> dict[str, float]:
        numbers = [self._numbers[name] for name in among]
        if isinstance(self._index, PackedSparse | PackedTokens):
            rows = self._index.rank(query, top_k, subset=numbers)
            return {self._ids[row.index]: row.score for row in rows}
        rows = self.model.rank(query, self._index[numbers], top_k)
        return {self._ids[numbers[row.index]]: row.score for row in rows}


class TesseraEncoder(TesseraSearch, AbsEncoder):
    """A dense model for all tasks of MTEB (EncoderProtocol), with the prompts of the model."""

    _open = TesseraDense

    def encode(self, inputs: Any, *, task_metadata: Any, prompt_type: Any = None, **_: Any) -> Any:
        """The vectors (n, dimension) float32 of a loader's texts, as queries, documents or neither.

        A task of the model is taken whose name is the type of MTEB's task, such as "clustering".
        """
        texts = (text for batch in inputs for text in batch["text"])
        if prompt_type is not None:
            encode = {"query": self.model.encode_query, "document": self.model.encode_document}
            return encode[str(prompt_type.value)](texts)
        known = {task.name.lower(): task.name for task in self.model.spec.dense.tasks}
        return self.model.encode_batch(texts, task=known.get(task_metadata.type.lower()))


class TesseraCrossEncoder(_Opened):
    """A reranker for MTEB (CrossEncoderProtocol)."""

    _open = TesseraReranker

    def predict(self, inputs1: Any, inputs2: Any, **_: Any) -> Any:
        """The score of each pair of a query and a document, (n,) float32."""
        queries, documents = (
            [text for batch in inputs for text in batch["text"]] for inputs in (inputs1, inputs2)
        )
        return self.model.score_pairs(zip(queries, documents, strict=True))
