"""What callers of the classes for texts write."""

from collections.abc import Iterator
from typing import Literal, assert_type

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import (
    BinaryTokens,
    Embeddings,
    Int8Vectors,
    PackedSparse,
    PackedTokens,
    Ranked,
    SparseVector,
    TesseraDense,
    TesseraMultiVector,
    TesseraReranker,
    TesseraSparse,
    fuse,
    maxsim,
)

Float = NDArray[np.float32]
texts = ["one text", "another"]
float16: NDArray[np.float16] = np.zeros((2, 4), dtype=np.float16)

# Dense: one vector per text.
dense = TesseraDense("all-minilm-l6-v2")
assert_type(dense.encode("a text"), Float)
assert_type(dense.encode_batch(texts), Float)
assert_type(dense.encode_batch(texts, output_dtype="float32", progress=True), Float)
assert_type(dense.encode_batch(texts, output_dtype="int8", task="clustering"), Int8Vectors)
assert_type(dense.encode_batch(texts, output_dtype="binary", timeout=5), BinaryTokens)
assert_type(dense.encode_batch(text for text in texts), Float)
assert_type(dense.encode_query("a query"), Float)
assert_type(dense.encode_query("a query", output_dtype="int8"), Int8Vectors)
assert_type(dense.encode_document(texts, prompt="title: "), Float)
assert_type(dense.encode_document(texts, output_dtype="binary"), BinaryTokens)
assert_type(dense.encode_iter(texts, role="query"), Iterator[Float])
assert_type(dense.encode_iter(texts, output_dtype="int8"), Iterator[Int8Vectors])
assert_type(dense.similarity("a query", dense.encode("a text")), float)
assert_type(dense.similarity([0.6, 0.8], dense.encode_query("a", output_dtype="int8")), float)
assert_type(dense.rank("a query", texts, top_k=1), list[Ranked])
assert_type(dense.rank("a query", float16), list[Ranked])
assert_type(dense.rank(dense.encode("a"), [dense.encode("b")]), list[Ranked])
assert_type(dense.rank("a", dense.encode_batch(texts, output_dtype="binary")), list[Ranked])
assert_type(dense.token_count(texts), NDArray[np.int64])
assert_type(dense.encode_all(texts), Embeddings)


def chosen_later(form: Literal["float32", "int8"]) -> Float | Int8Vectors:
    return dense.encode_batch(texts, output_dtype=form)


dense.encode(["a text"])  # E: arg-type
dense.encode("a text", output_dtype="int8")  # E: call-arg
dense.encode_batch([1, 2])  # E: list-item
dense.encode_batch(texts, output_dtype="float64")  # E: call-overload
dense.encode_batch(texts, role="query")  # E: call-overload
dense.encode_query(None)  # E: call-overload
dense.encode_iter(texts, role="title")  # E: call-overload
dense.similarity("a", 1)  # E: arg-type
dense.rank("a query", texts, top_k="all")  # E: arg-type
codes: Int8Vectors = dense.encode_batch(texts)  # E: assignment
for vector in dense.encode_iter(texts, output_dtype="binary"):
    vector.dequantize()  # E: attr-defined

# Multi-vector: one vector per token.
colbert = TesseraMultiVector("colbert-ir/colbertv2.0", path="folder", on_long="error")
assert_type(colbert.encode("a text"), Float)
assert_type(colbert.encode_batch(texts), list[Float])
assert_type(colbert.encode_batch(texts, output_dtype="int8", pool_factor=2), list[Int8Vectors])
assert_type(colbert.encode_query("a query"), Float)
assert_type(colbert.encode_query(texts), list[Float])
assert_type(colbert.encode_query("a query", output_dtype="binary"), BinaryTokens)
assert_type(colbert.encode_document("a text", output_dtype="int8"), Int8Vectors)
assert_type(colbert.encode_document(texts, output_dtype="binary"), list[BinaryTokens])
assert_type(colbert.encode_iter(texts), Iterator[Float])
assert_type(colbert.similarity("a query", colbert.encode("a text")), float)
assert_type(colbert.score("a query", colbert.encode_document(texts)), Float)
assert_type(colbert.rank("a query", texts), list[Ranked])
assert_type(colbert.quantize(colbert.encode("a text")), BinaryTokens)
query_token, document_token, product = colbert.explain("a query", "a text")[0]
assert_type(query_token, str)
assert_type(product, float)
assert_type(maxsim(colbert.encode_query("a query"), float16), float)

colbert.encode_query("a query", pool_factor=2)  # E: call-overload
colbert.encode_batch(texts, task="clustering")  # E: call-overload
shape = colbert.encode_query(texts).shape  # E: attr-defined
colbert.score(1, texts)  # E: arg-type
colbert.similarity_quantized("a", "b")  # E: arg-type
maxsim("a query", "a text")  # E: arg-type
TesseraMultiVector("colbert", on_long="cut")  # E: arg-type
TesseraMultiVector("colbert", gpu=True)  # E: call-arg

# One ranking from several.
assert_type(fuse([colbert.rank("a query", texts), dense.rank("a query", texts)]), list[Ranked])
assert_type(fuse([[(0, 1.0)], [(1, 2)]], "dbsf", k=10), list[Ranked])
fuse(dense.rank("a query", texts))  # E: arg-type
fuse([dense.rank("a query", texts)], "mean")  # E: arg-type

# An index of token vectors.
tokens = PackedTokens(colbert.encode_iter(texts), ids=["a", "b"])
tokens.add(colbert.encode_batch(texts, output_dtype="int8"), ids=["c", "d"])
tokens.remove(["a", 2])
tokens.save("folder/tokens.pack")
assert_type(PackedTokens.load("folder/tokens.pack"), PackedTokens)
assert_type(tokens.score(colbert.encode_query("a query")), Float)
assert_type(tokens.score_batch(colbert.encode_query(texts)), Float)
assert_type(tokens.rank(colbert.encode_query("a query"), 10, subset=["b"])[0].id, str | None)
assert_type(colbert.rank("a query", tokens), list[Ranked])
for index, score in tokens.rank(colbert.encode_query("a query")):
    assert_type(index, int)
    assert_type(score, float)
tokens.rank("a query")  # E: arg-type
tokens.add(texts)  # E: arg-type
PackedTokens(output_dtype="float16")  # E: arg-type

# Sparse: weights of vocabulary entries.
splade = TesseraSparse("splade", max_active_dims=100)
assert_type(splade.encode("a text"), SparseVector)
assert_type(splade.encode_batch(texts), list[SparseVector])
assert_type(splade.encode_query("a query"), SparseVector)
assert_type(splade.encode_query(texts, max_active_dims=10), list[SparseVector])
assert_type(splade.encode_document(texts, timeout=1.5), list[SparseVector])
assert_type(splade.encode_iter(texts), Iterator[SparseVector])
assert_type(splade.similarity("a query", splade.encode("a text")), float)
assert_type(splade.rank("a query", splade.encode_batch(texts)), list[Ranked])
assert_type(splade.explain(splade.encode("a text")), list[tuple[str, float]])
assert_type(splade.encode("a text").to_qdrant()["indices"], list[int])
splade.encode_batch(texts, output_dtype="int8")  # E: call-arg
splade.similarity("a query", [0.1, 0.2])  # E: arg-type
splade.explain("a text")  # E: arg-type

# An index of sparse vectors.
postings = PackedSparse(splade.encode_iter(texts))
postings.add(splade.encode_batch(texts))
postings.save("folder/sparse.pack")
assert_type(PackedSparse.load("folder/sparse.pack", verify=True), PackedSparse)
assert_type(postings.score(splade.encode_query("a query")), Float)
assert_type(postings.rank(splade.encode_query("a query"), 10), list[Ranked])
assert_type(splade.rank("a query", postings), list[Ranked])
postings.rank("a query")  # E: arg-type
splade.rank("a query", tokens)  # E: arg-type

# Rerankers: a score a pair.
reranker = TesseraReranker("owner/name", max_length=256, on_long="truncate")
assert_type(reranker.score("a query", texts), Float)
assert_type(reranker.score("a query", iter(texts), activation="raw", timeout=5), Float)
assert_type(reranker.score_pairs([("a query", "a text")]), Float)
assert_type(reranker.rank("a query", texts, 10, activation="sigmoid"), list[Ranked])
assert_type(reranker.max_length(), int)
assert_type(reranker.activation(), str)
reranker.score("a query", texts, activation="softmax")  # E: arg-type
reranker.score_pairs(["a query", "a text"])  # E: list-item
reranker.encode("a text")  # E: attr-defined
TesseraReranker("owner/name", dimension=8)  # E: call-arg
