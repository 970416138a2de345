"""What callers of TesseraVision write."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, assert_type

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tessera_onnx import BinaryTokens, Int8Vectors, PackedTokens, Ranked, TesseraVision
from tessera_onnx.images.similarity_map import Answer, Region

Float = NDArray[np.float32]
OutputDtype = Literal["float32", "int8", "binary"]

model = TesseraVision("tessera-page", max_pixels=10**7, image_only=True, threads=1)
picture = Image.new("RGB", (20, 20))
pixels = np.zeros((20, 20, 3), dtype=np.uint8)
stop = threading.Event()

# One image, of every form.
page = model.encode_document("page.png")
assert_type(page, Float)
assert_type(model.encode_document(Path("page.png"), output_dtype="float32", pool_factor=3), Float)
assert_type(model.encode_document(picture, output_dtype="int8"), Int8Vectors)
assert_type(model.encode_document(pixels, output_dtype="binary"), BinaryTokens)
assert_type(model.encode_document(b"bytes"), Float)
assert_type(model.encode_document({"bytes": b"bytes", "path": None}), Float)

# Several images.
assert_type(model.encode_documents(["page.png", picture], timeout=5.0, cancel=stop), list[Float])
assert_type(model.encode_documents([pixels], output_dtype="int8"), list[Int8Vectors])
assert_type(model.encode_documents(iter([b"a"]), output_dtype="binary"), list[BinaryTokens])
assert_type(model.encode_iter(["a.png"], progress=True), Iterator[Float])
assert_type(model.encode_iter(["a.png"], output_dtype="int8"), Iterator[Int8Vectors])
assert_type(model.encode_iter(["a.png"], output_dtype="binary"), Iterator[BinaryTokens])
assert_type(model.encode_pages("a.pdf", dpi=100, pages=[1, 2]), Iterator[Float])
assert_type(model.encode_pages("a.pdf", pages="1-3", output_dtype="int8"), Iterator[Int8Vectors])
assert_type(model.encode_pages(b"%PDF", output_dtype="binary"), Iterator[BinaryTokens])

# Queries.
query = model.encode_query("a text")
assert_type(query, Float)
assert_type(model.encode_query("a text", output_dtype="int8"), Int8Vectors)
assert_type(model.encode_query("a text", output_dtype="binary"), BinaryTokens)
assert_type(model.encode_query(["a", "b"]), list[Float])
assert_type(model.encode_query(("a", "b"), output_dtype="int8"), list[Int8Vectors])
assert_type(model.encode_query(iter(["a"]), output_dtype="binary"), list[BinaryTokens])
assert_type(model.query_tokens("a text"), list[str])

# Scores: texts or vectors with images or vectors.
codes = model.encode_document(picture, output_dtype="int8")
assert_type(model.search("a text", "page.png"), float)
assert_type(model.search(query, codes), float)
assert_type(model.search_document("a text", "page.png"), float)
assert_type(model.score("a text", ["page.png", page, codes]), Float)
assert_type(model.score(codes, PackedTokens([page])), Float)
assert_type(model.rank("a text", [page], 3, timeout=1), list[Ranked])

# Where the answer is.
assert_type(model.similarity_map("a text", "a.pdf", page=2, dpi=150), Float)
assert_type(model.regions(query, picture), list[Region])
assert_type(model.locate("a text", "a.pdf", password="secret"), Answer)
assert_type(model.save_similarity_map("a text", pixels, Path("map.png"), token=0), Float)
assert_type(model.embedding_dim(), int)
assert_type(model.num_patches(), int | None)


def any_dtype(dtype: OutputDtype) -> None:
    assert_type(
        model.encode_document(picture, output_dtype=dtype), Float | Int8Vectors | BinaryTokens
    )


# Wrong uses.
TesseraVision("tessera-page", max_length=5)  # E: call-arg
model.encode_document(["page.png"])  # E: call-overload
model.encode_document(np.zeros((20, 20, 3), dtype=np.float32))  # E: arg-type
model.encode_document(picture, output_dtype="uint8")  # E: call-overload
model.encode_document(picture, output="int8")  # E: call-overload, call-overload
model.encode_document(picture, "int8")  # E: call-overload
model.encode_documents(picture)  # E: call-overload
model.encode_documents(["a.png"], dpi=100)  # E: call-overload, call-overload
model.encode_iter([1, 2])  # E: list-item, list-item
model.encode_pages("a.pdf", pages=2)  # E: call-overload
model.encode_query(3)  # E: call-overload
model.encode_query("a text", pool_factor=2)  # E: call-overload, call-overload
model.query_tokens(["a text"])  # E: arg-type
model.search(["a text"], picture)  # E: arg-type
model.search("a text", [0.5, 0.5])  # E: arg-type
model.score("a text", 3)  # E: arg-type
model.rank("a text", ["a.png"], "all")  # E: arg-type
model.similarity_map("a text", "a.pdf", page="2")  # E: arg-type
model.save_similarity_map("a text", picture)  # E: call-arg
assert codes.shape  # E: attr-defined
assert model.encode_query(["a text"]).codes  # E: attr-defined
