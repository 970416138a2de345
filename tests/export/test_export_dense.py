import hashlib

import numpy as np
import onnx
import pytest
import torch
import transformers
from architectures import small
from conftest import Running
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

from tessera_export import artifact
from tessera_export.texts import encoder, folder
from tessera_onnx import TesseraDense
from tessera_onnx.models.spec import Task

pytestmark = pytest.mark.export


def truth(place, texts, **options):
    model = SentenceTransformer(str(place), device="cpu")
    return model.encode(list(texts), normalize_embeddings=True, **options)


@pytest.fixture(scope="module")
def minilm_artifact(minilm, tmp_path_factory):
    place = tmp_path_factory.mktemp("minilm") / "artifact"
    origin = artifact.Origin("all-minilm-l6-v2", source="a/b", licence="apache-2.0")
    encoder.export(folder.read(minilm, ["dense"]), place, origin, ("fp32", "fp16", "int8"))
    return Running(place)


@pytest.mark.slow
def test_minilm_facts(minilm_artifact, minilm):
    spec = minilm_artifact.spec
    assert (spec.text.prefix_ids, spec.text.suffix_ids, spec.text.pad_id) == ((101,), (102,), 0)
    assert (spec.text.mask_id, spec.text.max_positions) == (103, 512)
    assert (spec.dense.dimension, spec.dense.document.max_length) == (384, 256)
    assert (spec.graph.best_cpu, spec.graph.best_cuda) == ("int8", "fp16")
    assert spec.unverified == ()
    weights = hashlib.sha256((minilm / "model.safetensors").read_bytes()).hexdigest()
    assert spec.export.weights_sha256 == weights
    for file in spec.files:
        content = (minilm_artifact.place / file.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.sha256)
    listed = {file.name for file in spec.files}
    assert {path.name for path in minilm_artifact.place.iterdir()} == listed | {"model.toml"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "distance"), [("fp32", 1e-5), ("fp16", 1e-3), ("int8", None)]
)
def test_minilm_equals_sentence_transformers(minilm_artifact, minilm, texts, precision, distance):
    dense = minilm_artifact.spec.dense
    ours, _ = minilm_artifact.run(texts, dense.document, dense.output, precision)
    theirs = truth(minilm, texts)
    assert ours.dtype == np.float32
    if distance is not None:
        assert np.abs(ours - theirs).max() <= distance
    assert (ours * theirs).sum(-1).min() > (0.95 if precision == "int8" else 0.9999)


@pytest.mark.slow
def test_parity_is_written_with_its_limits(minilm_artifact):
    rows = {(r.precision, r.metric): r for r in minilm_artifact.spec.export.parity}
    assert set(rows) == {
        ("fp32", "max_abs"),
        ("fp16", "min_cosine"),
        ("int8", "min_cosine"),
        ("int8", "mean_cosine"),
    }
    assert rows["fp32", "max_abs"].value <= rows["fp32", "max_abs"].limit == 1e-5
    assert rows["int8", "mean_cosine"].value >= rows["int8", "mean_cosine"].limit == 0.98


@pytest.mark.parametrize(
    ("name", "mode", "old"),
    [
        ("bert", "cls", True),
        ("distilbert", "mean", False),
        ("roberta", "mean", True),
        ("xlm-roberta", "cls", False),
        ("modernbert", "mean", False),
        ("qwen3", "lasttoken", False),
        ("qwen3-bidirectional", "mean", False),
        ("gemma3-causal", "lasttoken", False),
        ("mpnet", "mean", False),
        ("t5", "mean", False),
        ("nomic", "mean", False),
        ("gte", "cls", False),
        ("eurobert", "mean", False),
    ],
)
def test_architectures(make, dense_files, exported, texts, name, mode, old):
    place = make(name, small(name), dense_files(mode, old=old))
    running = exported(place, "dense", precisions=("fp32", "fp16", "int8"))
    dense = running.spec.dense
    ours, _ = running.run(texts, dense.document, dense.output)
    theirs = truth(place, texts)
    assert np.abs(ours - theirs).max() <= 1e-5
    for precision, floor in (("fp16", 0.9999), ("int8", 0.95)):
        other, _ = running.run(texts, dense.document, dense.output, precision)
        assert (other * theirs).sum(-1).min() >= floor
    single, _ = running.run(texts[1:2], dense.document, dense.output)
    assert np.abs(single[0] - ours[1]).max() <= 1e-5


def test_positions_of_roberta_start_after_the_padding_id(make, dense_files):
    place = make("roberta", small("roberta"), dense_files("mean", max_length=129))
    assert folder.read(place, ["dense"]).tokenizer.text.max_positions == 129
    # Folders often name the whole table of 131 rows, with which upstream fails on long texts.
    place = make("whole", small("roberta"), dense_files("mean", max_length=131))
    assert folder.read(place, ["dense"]).dense.document.max_length == 129
    place = make("longer", small("roberta"), dense_files("mean", max_length=132))
    with pytest.raises(folder.ExportError, match=r"max_length 132 must lie in 3\.\.129"):
        folder.read(place, ["dense"])


def test_prompts_and_dense_layers_after_the_pooling(make, dense_files, exported, texts, bert):
    layer = {
        "in_features": 64,
        "out_features": 32,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    files = dense_files("mean", dense=[layer], prompts={"query": "ask: ", "passage": "read: "})
    place = make("prompted", bert, files)
    torch.manual_seed(2)
    tensors = {"linear.weight": torch.randn(32, 64), "linear.bias": torch.randn(32)}
    save_file(tensors, place / "2_Dense/model.safetensors")
    running = exported(place, "dense")
    dense = running.spec.dense
    assert (dense.query.prompt, dense.document.prompt, dense.dimension) == ("ask: ", "read: ", 32)
    for role, name in ((dense.query, "query"), (dense.document, "passage")):
        ours, _ = running.run(texts, role, dense.output)
        assert np.abs(ours - truth(place, texts, prompt_name=name)).max() <= 1e-5


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("t5", [(64, 48, False, "linear.Identity")]),  # GTR
        ("bert", [(64, 96, True, "linear.Identity")]),  # LEAF
        ("distilbert", [(64, 80, True, "activation.GELU"), (80, 96, True, "linear.Identity")]),
    ],
)
def test_layers_after_the_pooling(make, dense_files, exported, texts, name, layers):
    dense = [
        {
            "in_features": a,
            "out_features": b,
            "bias": bias,
            "activation_function": f"torch.nn.modules.{activation}",
        }
        for a, b, bias, activation in layers
    ]
    place = make(name, small(name), dense_files("mean", dense=dense))
    torch.manual_seed(3)
    for number, (a, b, bias, _) in enumerate(layers):
        tensors = {"linear.weight": torch.randn(b, a) / 8}
        tensors |= {"linear.bias": torch.randn(b)} if bias else {}
        save_file(tensors, place / f"{number + 2}_Dense/model.safetensors")
    running = exported(place, "dense")
    recipe = running.spec.dense
    assert recipe.dimension == layers[-1][1]
    ours, _ = running.run(texts, recipe.document, recipe.output)
    assert np.abs(ours - truth(place, texts)).max() <= 1e-5


def test_embeddinggemma_2(make, dense_files, exported, texts, tmp_path):
    """Vectors of another size than the encoder's; as a whole model it loads without its towers."""
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    files = dense_files("mean", prompts=prompts, size=96)
    place = make("gemma2", small("embeddinggemma2"), files)
    running = exported(place, "dense", precisions=("fp32", "fp16", "int8"))
    recipe = running.spec.dense
    assert recipe.dimension == 96
    theirs = {name: truth(place, texts, prompt_name=name) for name in prompts}
    for role, name in ((recipe.query, "query"), (recipe.document, "document")):
        ours, _ = running.run(texts, role, recipe.output)
        assert np.abs(ours - theirs[name]).max() <= 1e-5
        for precision, floor in (("fp16", 0.9999), ("int8", 0.95)):
            other, _ = running.run(texts, role, recipe.output, precision)
            assert (other * theirs[name]).sum(-1).min() >= floor

    text = transformers.AutoModel.from_pretrained(place)
    config = transformers.EmbeddingGemma2Config(
        text_config=text.config, vision_config=None, audio_config=None
    )
    composite = transformers.EmbeddingGemma2Model(config)
    composite.language_model.load_state_dict(text.state_dict())
    whole = make("whole", composite, files)
    running = exported(whole, "dense", name="whole-artifact")
    assert running.spec.dense.dimension == 96
    ours, _ = running.run(texts, recipe.query, recipe.output)
    assert np.abs(ours - theirs["query"]).max() <= 1e-5


def test_inputs_for_images_get_no_rows(make, dense_files, exported, texts, tmp_path):
    """The public graph of EmbeddingGemma 2 wants vectors of images, videos and sounds.

    In this one every row that it gets is added to the result.
    """
    place = make("gemma2", small("embeddinggemma2"), dense_files("mean", size=96))
    running = exported(place, "dense")
    model = onnx.load(running.place / running.spec.graph.fp32)
    graph = model.graph
    last = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["pooled" if name == last else name for name in node.output]
    sizes = []
    for name in ("image_features", "video_features", "audio_features"):
        shape = [f"{name}_n", 64]
        graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
        graph.node.append(onnx.helper.make_node("Shape", [name], [f"{name}_shape"], start=0, end=1))
        sizes.append(f"{name}_shape")
    nodes = (("Sum", [f"{name}_float" for name in sizes], "n"), ("Add", ["pooled", "n"], last))
    for name in sizes:
        number = onnx.helper.make_node("Cast", [name], [f"{name}_float"], to=onnx.TensorProto.FLOAT)
        graph.node.append(number)
    graph.node.extend(onnx.helper.make_node(kind, names, [to]) for kind, names, to in nodes)
    (place / "onnx").mkdir()
    onnx.save(model, place / "onnx/model.onnx")
    with TesseraDense(path=place, on_long="truncate") as ours:
        assert ours.dimension() == 96
        assert np.abs(ours.encode_batch(texts) - truth(place, texts)).max() <= 1e-5


@pytest.mark.slow
def test_embeddinggemma(make, dense_files, exported, texts):
    """Attention both ways, a window in every second layer, two Dense modules, long prompts."""
    layer = {"bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
    sizes = [(64, 96), (96, 64)]
    dense = [layer | {"in_features": a, "out_features": b} for a, b in sizes]
    prompts = {
        "query": "task: search result | query: ",
        "document": "title: none | text: ",
        "Clustering": "task: clustering | query: ",
    }
    files = dense_files("mean", dense=dense, prompts=prompts)
    place = make("gemma", small("gemma3"), files)
    for number, (a, b) in enumerate(sizes):
        tensors = {"linear.weight": torch.randn(b, a) / 8}
        save_file(tensors, place / f"{number + 2}_Dense/model.safetensors")
    running = exported(place, "dense", precisions=("fp32", "fp16", "int8"))
    recipe = running.spec.dense
    assert (recipe.query.prompt, recipe.dimension) == (prompts["query"], 64)
    assert recipe.tasks == (Task("Clustering", prompts["Clustering"]),)
    for role, name in ((recipe.query, "query"), (recipe.document, "document")):
        theirs = truth(place, texts, prompt_name=name)
        ours, _ = running.run(texts, role, recipe.output)
        assert np.abs(ours - theirs).max() <= 1e-5
        for precision, floor in (("fp16", 0.9999), ("int8", 0.95)):
            other, _ = running.run(texts, role, recipe.output, precision)
            assert (other * theirs).sum(-1).min() >= floor
