"""sentence-transformers behind FastAPI, as people write it: `uvicorn fastapi_st:app`.

MODEL is the folder, THREADS the threads of torch.
"""

import os

import torch
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

torch.set_num_threads(int(os.environ["THREADS"]))
model = SentenceTransformer(os.environ["MODEL"], device="cpu")
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
    rows = model.encode(texts, normalize_embeddings=True).tolist()
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
    return {"object": "list", "model": body.model, "data": data}
