"""How each embedder of peers.py is loaded: one function a peer, and its row in a table.

`prepare` lays the same weights out in the ways that the peers read, before anything is timed: a
loader then does what its user would do and no more. All get 512 tokens at most and the threads in
`options["threads"]`, by argument where there is one; where there is none (light-embed, infinity's
ONNX engine) ONNX Runtime takes one a core. EmbedAnything halves the cores and cannot be told.
A loader returns `encode(texts, batch)`, which gives a vector or an array of token vectors a text.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MOST_TOKENS = 512
REPOSITORY = "same/weights"  # what the folder is called in the cache of a hub that nobody asks
ST = "sentence-transformers"

Options = dict[str, Any]
Encode = Callable[[list[str], int | None], Any]


def prepare(work: Path, model: Path, weights: Path) -> None:
    """Folders below `work`: torch, fp32 and int8 as they are, hub with pooling to be cut off."""
    shutil.copytree(weights, work / "torch")
    _set(work / "torch" / "sentence_bert_config.json", "max_seq_length")
    _set(work / "torch" / "tokenizer_config.json", "model_max_length")
    hub = work / "hf" / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    for folder, graph in (
        (work / "fp32", "fp32"),
        (work / "int8", "int8"),
        (hub / "snapshots" / "0", None),
    ):
        folder.mkdir(parents=True)
        for file in [*(work / "torch").glob("*.json"), *(work / "torch").glob("vocab.txt")]:
            shutil.copy(file, folder)
        shutil.copy(model / "tokenizer.json", folder)  # without padding to 128 and truncation
        if graph:
            shutil.copy(model / f"model.{graph}.onnx", folder / "model.onnx")
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("0")


def _set(path: Path, key: str) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: MOST_TOKENS}))


def environment(work: Path, threads: int) -> dict[str, str]:
    """Variables of a peer's process: the same threads, no network."""
    pools = ("OMP", "MKL", "OPENBLAS", "RAYON", "TESSERA")
    names = {f"{pool}_NUM_THREADS": str(threads) for pool in pools}
    names |= {"TESSERA_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    names["ORT_DISABLE_TELEMETRY"] = "1"  # of ONNX Runtime, which peers import by themselves
    names |= {"HF_HOME": str(work / "hf"), "HF_HUB_CACHE": str(work / "hf" / "hub")}
    names |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    return {**os.environ, **names}


def token_graph(options: Options) -> Path:
    """The folder of the fp32 graph without its pooling, for peers that pool by themselves.

    Made once, by the first of them; their environments need the package onnx for it.
    """
    (folder,) = Path(options["work"], "hf", "hub").glob("models--*/snapshots/*")
    target = folder / "model.onnx"
    if not target.exists():
        import onnx

        source = Path(options["work"], "fp32", "model.onnx")
        graph = onnx.load(source)
        norms = [node for node in graph.graph.node if node.op_type == "LayerNormalization"]
        last = norms[-1].output[0]
        for node in graph.graph.node:  # optimum asks for the output by this name
            for names in (node.input, node.output):
                names[:] = ["last_hidden_state" if name == last else name for name in names]
        onnx.save(graph, target)
        inputs = [value.name for value in graph.graph.input]
        onnx.utils.extract_model(target, target, inputs, ["last_hidden_state"])
    return folder


# ---------------------------------------------------------------- vectors of texts


def tessera(precision: str) -> Callable[[Options], Encode]:
    def load(options: Options) -> Encode:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        from tessera_onnx import TesseraDense

        folder, threads = options["model"], options["threads"]
        model = TesseraDense(
            path=folder, precision=precision, threads=threads, max_length=MOST_TOKENS
        )
        return one_or_many(model)

    return load


def one_or_many(model: Any) -> Encode:
    return lambda texts, _: (
        model.encode_batch(texts) if len(texts) > 1 else [model.encode(texts[0])]
    )


def fastembed(precision: str) -> Callable[[Options], Encode]:
    def load(options: Options) -> Encode:
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        TextEmbedding.add_custom_model(
            model=REPOSITORY,
            pooling=PoolingType.DISABLED,  # the graph pools and normalises
            normalization=False,
            sources=ModelSource(hf=REPOSITORY),
            dim=384,
            model_file="model.onnx",
        )
        folder = str(Path(options["work"], precision))
        threads = options["threads"]
        model = TextEmbedding(REPOSITORY, specific_model_path=folder, threads=threads)

        def encode(texts: list[str], batch: int | None) -> Any:
            size = {"batch_size": batch} if batch else {}
            return np.array(list(model.embed(texts, **size)))

        return encode

    return load


def light_embed(options: Options) -> Encode:
    from light_embed import TextEmbedding

    config = {
        "model_name": REPOSITORY,
        "onnx_file": "model.onnx",
        "onnx_output_map": {"sentence_embedding": "sentence_embedding"},
        "normalize": False,
    }
    model = TextEmbedding(str(Path(options["work"], "fp32")), model_config=config)
    return lambda texts, batch: model.encode(texts, batch_size=batch or 32)


def libembedding(options: Options) -> Encode:
    from libembedding import TextEmbedding

    model = TextEmbedding(
        str(token_graph(options)),
        pooling="mean",
        threads=options["threads"],
        max_length=MOST_TOKENS,
        offline=True,
    )
    return lambda texts, batch: model.embed(texts, batch_size=batch)


def embed_anything(options: Options) -> Encode:
    """Its ONNX backend. Its other one, Candle, takes about ten times as long."""
    token_graph(options)
    from embed_anything import EmbeddingModel, TextEmbedConfig, WhichModel

    model = EmbeddingModel.from_pretrained_onnx(
        WhichModel.Bert, hf_model_id=REPOSITORY, path_in_repo="model.onnx"
    )

    def encode(texts: list[str], batch: int | None) -> Any:
        found = model.embed_query(texts, config=TextEmbedConfig(batch_size=batch or 32))
        return np.array([item.embedding for item in found], np.float32)

    return encode


def infinity(engine: str) -> Callable[[Options], Encode]:
    def load(options: Options) -> Encode:
        if engine == "optimum":
            # From inside, since this engine joins the path of a folder to itself.
            os.chdir(token_graph(options))
        import torch
        from infinity_emb import AsyncEmbeddingEngine, EngineArgs

        torch.set_num_threads(options["threads"])
        loop = asyncio.new_event_loop()
        engines = {}  # its batch size belongs to an engine

        def encode(texts: list[str], batch: int | None) -> Any:
            if batch not in engines:
                arguments = EngineArgs(
                    model_name_or_path="."
                    if engine == "optimum"
                    else str(Path(options["work"], "torch")),
                    engine=engine,
                    device="cpu",
                    batch_size=batch or 32,
                    bettertransformer=False,  # transformers has it no more
                    model_warmup=False,
                    pooling_method="mean",
                )
                engines[batch] = AsyncEmbeddingEngine.from_args(arguments)
                loop.run_until_complete(engines[batch].astart())
            vectors, _ = loop.run_until_complete(engines[batch].embed(sentences=texts))
            return vectors

        return encode

    return load


def sentence_transformers(dtype: str = "float32") -> Callable[[Options], Encode]:
    def load(options: Options) -> Encode:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(options["threads"])
        folder = str(Path(options["work"], "torch"))
        model = SentenceTransformer(folder, device="cpu", model_kwargs={"torch_dtype": dtype})
        return lambda texts, batch: model.encode(texts, batch_size=batch or 32)

    return load


def sentence_transformers_onnx(file: str) -> Callable[[Options], Encode]:
    """Its own export of the weights, and its own int8 form of that."""

    def load(options: Options) -> Encode:
        import onnxruntime
        import torch
        from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

        torch.set_num_threads(options["threads"])
        folder = Path(options["work"], "exported")
        if not folder.exists():
            source = str(Path(options["work"], "torch"))
            SentenceTransformer(source, device="cpu", backend="onnx").save_pretrained(str(folder))
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options["threads"]

        def opened(name: str) -> SentenceTransformer:
            arguments = {"file_name": name, "session_options": settings}
            return SentenceTransformer(
                str(folder), device="cpu", backend="onnx", model_kwargs=arguments
            )

        if not (folder / "onnx" / file).exists():
            export_dynamic_quantized_onnx_model(opened("model.onnx"), "avx512_vnni", str(folder))
        model = opened(file)
        return lambda texts, batch: model.encode(texts, batch_size=batch or 32)

    return load


# ---------------------------------------------------------------- vectors of tokens


def tessera_tokens(precision: str) -> Callable[[Options], Encode]:
    def load(options: Options) -> Encode:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        from tessera_onnx import TesseraMultiVector

        folder, threads = options["tokens_model"], options["threads"]
        model = TesseraMultiVector(path=folder, precision=precision, threads=threads)
        return one_or_many(model)

    return load


def pylate(options: Options) -> Encode:
    import torch
    from pylate.models import ColBERT

    torch.set_num_threads(options["threads"])
    model = ColBERT(options["tokens_weights"], document_length=MOST_TOKENS, device="cpu")
    return lambda texts, batch: model.encode(texts, batch_size=batch or 32, is_query=False)


def multi_vector_encoder(options: Options) -> Encode:
    import torch
    from sentence_transformers import MultiVectorEncoder

    torch.set_num_threads(options["threads"])
    model = MultiVectorEncoder(options["tokens_weights"], device="cpu")
    return lambda texts, batch: model.encode_document(
        texts, batch_size=batch or 32, convert_to_numpy=True
    )


class Row(NamedTuple):
    environment: str  # of --python
    load: Callable[[Options], Encode]
    rival: str  # ours that it is compared with; vectors are compared with the fp32 of the kind


PEERS = {
    "tessera-onnx fp32": Row("tessera-onnx", tessera("fp32"), "fp32"),
    "tessera-onnx int8": Row("tessera-onnx", tessera("int8"), "int8"),
    "fastembed": Row("fastembed", fastembed("fp32"), "fp32"),
    "fastembed sorted": Row("fastembed", fastembed("fp32"), "fp32"),
    "fastembed int8 sorted": Row("fastembed", fastembed("int8"), "int8"),
    "light-embed sorted": Row("light-embed", light_embed, "fp32"),
    f"{ST} sorted": Row(ST, sentence_transformers(), "fp32"),
    f"{ST} bf16 sorted": Row(ST, sentence_transformers("bfloat16"), "fp32"),
    f"{ST} ONNX sorted": Row(f"{ST}[onnx]", sentence_transformers_onnx("model.onnx"), "fp32"),
    f"{ST} ONNX int8 sorted": Row(
        f"{ST}[onnx]", sentence_transformers_onnx("model_qint8_avx512_vnni.onnx"), "int8"
    ),
    "infinity torch sorted": Row("infinity-emb", infinity("torch"), "fp32"),
    "infinity ONNX sorted": Row("infinity-emb", infinity("optimum"), "fp32"),
    "embed-anything ONNX sorted": Row("embed-anything", embed_anything, "fp32"),
    "libembedding-ng sorted": Row("libembedding-ng", libembedding, "fp32"),
    "tessera-onnx tokens fp32": Row("tessera-onnx", tessera_tokens("fp32"), "tokens fp32"),
    "tessera-onnx tokens int8": Row("tessera-onnx", tessera_tokens("int8"), "tokens int8"),
    "pylate tokens sorted": Row("pylate", pylate, "tokens fp32"),
    f"{ST} tokens sorted": Row(ST, multi_vector_encoder, "tokens fp32"),
}
