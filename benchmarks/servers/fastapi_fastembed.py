"""fastembed behind FastAPI, as people write it: `uvicorn fastapi_fastembed:app`.

MODEL is the folder with model.onnx, whose graph pools and normalises; THREADS are ONNX Runtime's.
"""

import os

from fastapi import FastAPI
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from pydantic import BaseModel

NAME = "same/weights"
TextEmbedding.add_custom_model(
    model=NAME,
    pooling=PoolingType.DISABLED,
    normalization=False,
    sources=ModelSource(hf=NAME),
    dim=384,
    model_file="model.onnx",
)
model = TextEmbedding(
    NAME, specific_model_path=os.environ["MODEL"], threads=int(os.environ["THREADS"])
)
app = FastAPI()


class Body(BaseModel):
    model: str
    input: str | list[str]


@app.get("/health")
def health() -> dict:
    return {}


@app.post("/v1/embeddings")
def embeddings(body: Body) -> dict:
    texts = [body.input] if isinstance(body.input, str) else body.input
    rows = [row.tolist() for row in model.embed(texts)]
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
    return {"object": "list", "model": body.model, "data": data}
