"""The adapter for fastembed's users against fastembed itself, on the same weights."""

import inspect
import itertools
import json
import pickle
import shutil
from pathlib import Path

import fastembed
import numpy as np
import pytest
import tessera_onnx_starter
from fastembed.common.model_description import ModelSource, PoolingType
from fastembed.common.types import Device
from fastembed.rerank.cross_encoder import TextCrossEncoder as TheirCrossEncoder
from framework_corpus import QUERIES, texts
from framework_page import run_section
from PIL import Image
from qdrant_client import QdrantClient, models
from server_process import ARTIFACTS
from test_docs import blocks, run_python

import tessera_onnx
from tessera_onnx import LoadError, ModelNotFound, TesseraVision
from tessera_onnx.integrations import fastembed as ours
from tessera_onnx.kinds import known_models

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

STARTER = Path(tessera_onnx_starter.__file__).parent
STOP_WORDS = Path(tessera_onnx.__file__).parent / "models" / "stop_words"
MINILM = "all-minilm-l6-v2"
NOWHERE = ModelSource(hf="nobody/nothing")
SHORT = ["a cat", "The cat, a dog! and more.", "", "dog", "cats (and) dogs?"]
SPECIAL = {"pad_token": "[PAD]", "mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def folder(place, source, graph, longest, **files):
    """A folder as fastembed reads it: an artifact's graph and tokenizer, and files it wants."""
    place.mkdir()
    shutil.copy(source / graph, place / "model.onnx")
    if (source / "tokenizer.json").exists():
        shutil.copy(source / "tokenizer.json", place)
    wanted = {"tokenizer_config": {"model_max_length": longest, "pad_token": "[PAD]"}}
    wanted |= {"config": {"pad_token_id": 0}, "special_tokens_map": SPECIAL} | files
    for name, content in wanted.items():
        (place / f"{name}.json").write_text(json.dumps(content))
    return {"specific_model_path": str(place), "cache_dir": str(place)}


def custom(name, *args, **kwargs):
    known = {each["model"] for each in fastembed.TextEmbedding.list_supported_models()}
    if name not in known:
        fastembed.TextEmbedding.add_custom_model(
            name, *args, sources=NOWHERE, model_file="model.onnx", **kwargs
        )


def same(found, wanted, atol=1e-5):
    found, wanted = list(found), list(wanted)
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=atol)


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    custom("t/minilm", PoolingType.DISABLED, True, dim=384, output_name="sentence_embedding")
    place = tmp_path_factory.mktemp("fastembed") / "minilm"
    options = folder(place, STARTER / "minilm", "model.int8.onnx", 256)
    return fastembed.TextEmbedding("t/minilm", threads=1, **options)


def test_dense_vectors_of_the_starters_model(minilm):
    model = ours.TextEmbedding(MINILM, threads=1)
    some = [*SHORT, *texts()[:60], "long " * 700]
    with pytest.warns(tessera_onnx.TruncationWarning):
        found = list(model.embed(some))
    same(found, minilm.embed(some, batch_size=8))
    same(model.query_embed(QUERIES, batch_size=2), minilm.query_embed(QUERIES, batch_size=2))
    same(model.query_embed("a cat"), minilm.query_embed("a cat"))
    same(model.passage_embed(some[:9]), minilm.passage_embed(some[:9]))
    same(model.embed("a cat"), minilm.embed("a cat"))
    assert model.token_count(some[:-1]) == minilm.token_count(some[:-1])
    assert model.token_count("a cat") == minilm.token_count("a cat")
    assert model.embedding_size == minilm.embedding_size == 384


def test_dense_vectors_with_mean_pooling(tmp_path):
    custom("t/states", PoolingType.MEAN, True, dim=32)
    options = folder(tmp_path / "made", ARTIFACTS / "states", "model.onnx", 40)
    theirs = fastembed.TextEmbedding("t/states", **options)
    model = ours.TextEmbedding(specific_model_path=str(ARTIFACTS / "states"))
    some = [text for text in SHORT if text]
    same(model.embed(some), theirs.embed(some))
    # The folder of fastembed opens too, with what its files do not say.
    model = ours.TextEmbedding(pooling="mean", max_length=40, **options)
    same(model.embed(some), theirs.embed(some))


def test_prompts_are_left_to_the_caller_as_by_fastembed_unless_asked_for(tmp_path):
    custom("t/prompts", PoolingType.DISABLED, True, dim=32)
    options = folder(tmp_path / "made", ARTIFACTS / "prompts", "model.fp32.onnx", 40)
    theirs = fastembed.TextEmbedding("t/prompts", **options)
    here = {"specific_model_path": str(ARTIFACTS / "prompts")}
    plain, prompted = ours.TextEmbedding(**here), ours.TextEmbedding(prompts=True, **here)
    same(plain.embed(SHORT), theirs.embed(SHORT))
    same(plain.query_embed(SHORT), theirs.query_embed(SHORT))
    same(prompted.query_embed(["a cat"]), theirs.embed(["query: a cat"]))
    same(prompted.passage_embed(["a cat"]), theirs.embed(["passage: a cat"]))


def test_a_static_model(tmp_path):
    shutil.copytree(STARTER / "tessera_static", tmp_path / "made")
    (tmp_path / "made" / "model.toml").unlink()
    options = {"specific_model_path": str(tmp_path / "made"), "cache_dir": str(tmp_path)}
    theirs = fastembed.TextEmbedding("minishlab/potion-base-8M", **options)
    some = [text for text in SHORT if text]
    for model in (ours.TextEmbedding("tessera-static-mini"), ours.TextEmbedding(**options)):
        same(model.embed(some), theirs.embed(some))


def same_sparse(found, wanted):
    found, wanted = list(found), list(wanted)
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        assert one.as_dict().keys() == other.as_dict().keys()
        assert one.as_dict() == pytest.approx(other.as_dict(), rel=1e-4, abs=1e-5)
        assert one.as_object().keys() == other.as_object().keys()


def test_splade(tmp_path):
    options = folder(tmp_path / "made", ARTIFACTS / "splade", "model.fp32.onnx", 40)
    theirs = fastembed.SparseTextEmbedding("prithivida/Splade_PP_en_v1", **options)
    model = ours.SparseTextEmbedding(specific_model_path=str(ARTIFACTS / "splade"))
    same_sparse(model.embed(SHORT), theirs.embed(SHORT))
    same_sparse(model.query_embed("a cat"), theirs.query_embed("a cat"))
    assert model.token_count(SHORT) == theirs.token_count(SHORT)
    vector = next(model.embed("a cat"))
    again = ours.SparseEmbedding.from_dict(vector.as_dict())
    assert again.as_dict() == vector.as_dict()
    assert ours.SparseEmbedding.from_dict({}).as_dict() == {}


@pytest.mark.parametrize("language", ["english", "german"])
def test_bm25(language):
    options = {"specific_model_path": str(STOP_WORDS), "language": language}
    theirs = fastembed.SparseTextEmbedding("Qdrant/bm25", **options)
    model = ours.SparseTextEmbedding("Qdrant/bm25", language=language)
    some = [*texts()[:50], "Die Häuser der Städte, und das Haus", "He's running; ran 3.5 times!"]
    same_sparse(model.embed(some), theirs.embed(some))
    same_sparse(model.query_embed(QUERIES), theirs.query_embed(QUERIES))


def test_late_interaction(tmp_path):
    options = folder(tmp_path / "made", ARTIFACTS / "colbert", "model.fp32.onnx", 48)
    theirs = fastembed.LateInteractionTextEmbedding("colbert-ir/colbertv2.0", **options)
    model = ours.LateInteractionTextEmbedding(specific_model_path=str(ARTIFACTS / "colbert"))
    same(model.embed(SHORT[:2]), theirs.embed(SHORT[:2]), atol=1e-4)
    same(model.query_embed(SHORT[:2]), theirs.query_embed(SHORT[:2]), atol=1e-4)
    assert model.embedding_size == 128
    for is_doc, extended in itertools.product((True, False), repeat=2):
        how = {"is_doc": is_doc, "include_extension": extended}
        assert model.token_count(SHORT[:2], **how) == theirs.token_count(SHORT[:2], **how)


def test_reranker(tmp_path):
    TheirCrossEncoder.add_custom_model("t/reranker", NOWHERE, model_file="model.onnx")
    options = folder(tmp_path / "made", ARTIFACTS / "reranker", "model.fp32.onnx", 64)
    theirs = TheirCrossEncoder("t/reranker", **options)
    model = ours.TextCrossEncoder(specific_model_path=str(ARTIFACTS / "reranker"))
    wanted = list(theirs.rerank("a cat", SHORT))
    assert list(model.rerank("a cat", SHORT, batch_size=2)) == pytest.approx(wanted, abs=1e-4)
    assert np.ptp(wanted) > 0.1
    pairs = list(itertools.pairwise(SHORT))
    wanted = list(theirs.rerank_pairs(pairs))
    assert list(model.rerank_pairs(pairs, parallel=2)) == pytest.approx(wanted, abs=1e-4)
    assert model.token_count(pairs) == theirs.token_count(pairs)
    bounded = list(model.rerank("a cat", SHORT, activation="sigmoid"))
    assert all(0 < score < 1 for score in bounded)


def test_images(tmp_path):
    facts = {
        "do_resize": True, "size": {"shortest_edge": 32}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": 32, "width": 32},
        "do_normalize": True, "image_processor_type": "CLIPImageProcessor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip
    options = folder(
        tmp_path / "made", ARTIFACTS / "clip", "model.fp32.onnx", 32, preprocessor_config=facts
    )
    theirs = fastembed.ImageEmbedding("Qdrant/clip-ViT-B-32-vision", **options)
    model = ours.ImageEmbedding(specific_model_path=str(ARTIFACTS / "clip"))
    rng = np.random.default_rng(3)
    pictures = [Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8)) for h, w in
                ((64, 64), (50, 40), (33, 60))]  # fmt: skip
    pictures[0].save(tmp_path / "a.png")
    given = [str(tmp_path / "a.png"), *pictures[1:]]
    same(model.embed(given), theirs.embed(given))
    same(model.embed(str(tmp_path / "a.png")), theirs.embed(given[:1]))
    assert model.embedding_size == 24
    both = ours.LateInteractionMultimodalEmbedding(specific_model_path=str(ARTIFACTS / "clip"))
    same((rows[0] for rows in both.embed_image(given)), model.embed(given))


def test_pages():
    """fastembed's own ColPali is tied to two models, so the library is what these compare with."""
    model = ours.LateInteractionMultimodalEmbedding("tessera-page-mini")
    with TesseraVision("tessera-page-mini") as library:
        page = np.full((60, 200, 3), 255, np.uint8)
        page[20:30, 20:150] = 0
        same(model.embed_image([page], batch_size=1), [library.encode_document(page)])
        same(model.embed_image(page), [library.encode_document(page)])
        same(model.embed_text(QUERIES), library.encode_query(list(QUERIES)))
        same(model.embed_text("a cat"), [library.encode_query("a cat")])
    with pytest.raises(ValueError, match="LateInteractionMultimodalEmbedding"):
        next(ours.ImageEmbedding("tessera-page-mini").embed([page]))


PAIRS = {
    "TextEmbedding": fastembed.TextEmbedding,
    "SparseTextEmbedding": fastembed.SparseTextEmbedding,
    "LateInteractionTextEmbedding": fastembed.LateInteractionTextEmbedding,
    "LateInteractionMultimodalEmbedding": fastembed.LateInteractionMultimodalEmbedding,
    "ImageEmbedding": fastembed.ImageEmbedding,
    "TextCrossEncoder": TheirCrossEncoder,
}
# Of fastembed alone: any folder opens here, so nothing has to be registered; pages have no count.
NOT_HERE = {
    ("LateInteractionMultimodalEmbedding", "token_count"),
    ("TextEmbedding", "add_custom_model"),
    ("TextCrossEncoder", "add_custom_model"),
    ("TextCrossEncoder", "get_embedding_size"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_names_and_arguments_are_those_of_fastembed(name):
    made, theirs = getattr(ours, name), PAIRS[name]
    public = [each for each in vars(theirs) if callable(getattr(theirs, each))]
    public = [each for each in public if not each.startswith("_")]
    for each in public:
        if (name, each) in NOT_HERE:
            continue
        mine, wanted = (
            [p.name for p in inspect.signature(getattr(cls, each)).parameters.values()
             if p.kind is p.POSITIONAL_OR_KEYWORD]
            for cls in (made, theirs)
        )  # fmt: skip
        assert mine == wanted, each
    accepted = inspect.signature(ours.SparseTextEmbedding.__init__).parameters
    assert list(inspect.signature(theirs.__init__).parameters) == [
        *[p.name for p in accepted.values() if p.kind is p.POSITIONAL_OR_KEYWORD],
        "kwargs",
    ]
    assert next(iter(inspect.signature(made).parameters)) == "model_name"


# Names of fastembed that the catalogue does not have; docs/frameworks.md lists them.
MISSING = {
    "BAAI/bge-base-en", "BAAI/bge-reranker-v2-m3-int8", "BAAI/bge-small-en",
    "Qdrant/Unicom-ViT-B-16", "Qdrant/Unicom-ViT-B-32", "Qdrant/clip-ViT-B-32-text",
    "Qdrant/clip-ViT-B-32-vision", "Qdrant/colmodernvbert", "Qdrant/colpali-v1.3-fp16",
    "Qdrant/constella-nano", "Qdrant/constella-zero", "Qdrant/resnet50-onnx",
    "Qdrant/stella-en-400M-v5-doc-onnx", "Qwen/Qwen3-Embedding-0.6B-Q",
    "jinaai/jina-embeddings-v2-base-de", "jinaai/jina-embeddings-v2-base-es",
    "jinaai/jina-embeddings-v2-base-zh", "minishlab/potion-multilingual-128M",
    "nomic-ai/nomic-embed-text-v1.5-Q", "nomic-ai/nomic-embed-vision-v1.5-Q",
    "prithvida/Splade_PP_en_v1",
}  # fmt: skip


def test_every_other_model_of_fastembed_is_in_the_catalogue():
    names = {name.lower() for spec in known_models() for name in (spec.id, *spec.aliases)}
    listed = {m["model"] for theirs in PAIRS.values() for m in theirs.list_supported_models()}
    listed = {name for name in listed if not name.startswith("t/")}
    assert {name for name in listed if name.lower() not in names} == MISSING
    page = (ARTIFACTS.parents[1] / "docs" / "frameworks.md").read_text()
    assert all(f"`{name}`" in page for name in MISSING)
    assert len(listed) > 60


def test_the_catalogue_is_listed():
    listed = {each["model"]: each for each in ours.TextEmbedding.list_supported_models()}
    assert listed["BAAI/bge-small-en-v1.5"]["dim"] == 384
    assert listed["BAAI/bge-small-en-v1.5"]["license"] == "mit"
    for name in ("BAAI/bge-small-en-v1.5", "baai/BGE-small-en-v1.5", MINILM):
        assert ours.TextEmbedding.get_embedding_size(name) == 384
    wanted = fastembed.LateInteractionTextEmbedding.get_embedding_size("colbert-ir/colbertv2.0")
    found = ours.LateInteractionTextEmbedding.get_embedding_size("colbert-ir/colbertv2.0")
    assert found == wanted
    with pytest.raises(ValueError, match="no dense model of the catalogue is named 'nope'"):
        ours.TextEmbedding.get_embedding_size("nope")


def test_qdrant_takes_the_vectors(minilm):
    """By the calls of a program whose import alone was changed."""

    def best(embedding):
        client = QdrantClient(":memory:")
        config = models.VectorParams(size=embedding.embedding_size, distance=models.Distance.DOT)
        client.create_collection("c", config)
        points = [
            models.PointStruct(id=i, vector=vector.tolist())
            for i, vector in enumerate(embedding.embed(iter(texts()), batch_size=64, parallel=None))
        ]
        client.upsert("c", points)
        found = [
            client.query_points("c", next(iter(embedding.query_embed(query))), limit=10).points
            for query in QUERIES
        ]
        return [[(point.id, round(point.score, 4)) for point in points] for points in found]

    found, wanted = best(ours.TextEmbedding(MINILM)), best(minilm)
    for one, other in zip(found, wanted, strict=True):
        assert [score for _, score in one] == pytest.approx([s for _, s in other], abs=2e-4)
        assert {number for number, _ in one[:5]} == {number for number, _ in other[:5]}


def test_streams_are_lazy_and_models_can_wait():
    model = ours.TextEmbedding("no such model", lazy_load=True)
    with pytest.raises(ModelNotFound):
        next(model.embed(["a"]))
    model = ours.TextEmbedding(MINILM, lazy_load=True)
    assert "model" not in vars(model)
    endless = (f"text {i}" for i in itertools.count())
    assert len(list(itertools.islice(model.embed(endless), 3))) == 3
    assert list(model.embed([])) == []
    again = pickle.loads(pickle.dumps(model))
    same(again.embed(["a"]), model.embed(["a"]))


@pytest.mark.parametrize(
    ("arguments", "device"),
    [
        ({}, "auto"),
        ({"providers": ["CPUExecutionProvider"]}, "cpu"),
        ({"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]}, "cuda"),
        ({"providers": [("CUDAExecutionProvider", {"device_id": 1})]}, "cuda:1"),
        ({"providers": [("CPUExecutionProvider", {})]}, "cpu"),
        ({"cuda": True}, "cuda"),
        ({"cuda": False}, "cpu"),
        ({"cuda": Device.CUDA, "device_ids": [2]}, "cuda:2"),
        ({"cuda": Device.AUTO}, "auto"),
        ({"cuda": Device.CPU}, "cpu"),
        ({"device_ids": [0]}, "cuda:0"),
    ],
)
def test_the_device_that_arguments_name(arguments, device):
    model = ours.TextEmbedding(MINILM, lazy_load=True, **arguments)
    assert model._options["device"] == device


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda _: ours.TextEmbedding("all-minilm"), ModelNotFound, "all-minilm-l6-v2"),
        (lambda _: ours.TextEmbedding("splade-tiny"), LoadError, "is of kind sparse"),
        (lambda _: ours.SparseTextEmbedding(MINILM), LoadError, "not sparse"),
        (lambda _: ours.TextCrossEncoder("splade-tiny"), LoadError, "not reranker"),
        (lambda _: ours.ImageEmbedding(MINILM), LoadError, "not vision"),
        (lambda _: ours.TextEmbedding(), ModelNotFound, "bge-small-en-v1.5"),
        (lambda _: ours.TextEmbedding(MINILM, providers=["X"]), ValueError, "providers must be of"),
        (lambda _: ours.TextEmbedding(MINILM, device_ids=[0, 1]), ValueError, "one device"),
        (lambda _: ours.TextEmbedding(MINILM, nonsense=1), TypeError, "nonsense"),
        (lambda m: list(m.embed(None)), TypeError, "texts must be a list"),
        (lambda m: list(m.embed(["a", None])), TypeError, "must be str"),
        (lambda m: list(m.query_embed({"a": 1})), TypeError, "its keys"),
        (lambda m: m.token_count(None), TypeError, "texts must be a list"),
    ],
)
def test_wrong_arguments(call, error, message):
    model = ours.TextEmbedding(MINILM)
    with pytest.raises(error, match=message):
        call(model)


def test_the_snippets_of_the_page():
    run_section("fastembed")


@pytest.mark.parametrize("text", blocks("python", "fastembed"))
def test_blocks_of_other_pages(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "minilm", ARTIFACTS / "states", "model.onnx", 40)
    run_python(text)
