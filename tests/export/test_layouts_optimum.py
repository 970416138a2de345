"""Folders that sentence-transformers 5 and optimum make, in the environment of the optimum backend.

Here upstream itself writes the ONNX files: `backend="onnx"`, its optimized and quantized variants,
and `optimum-cli export onnx`.
"""

import gc
import platform
import shutil

import layouts
import layouts_tokens
import numpy as np
import pytest
import upstream
from layouts import GRAPH, SIZE, Workshop
from sentence_transformers import SentenceTransformer
from sentence_transformers.backend import (
    export_dynamic_quantized_onnx_model,
    export_optimized_onnx_model,
)
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from tessera_onnx import LoadError, Tessera, TesseraDense

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]
main_export = pytest.importorskip(
    "optimum.exporters.onnx", reason="optimum-onnx has an environment of its own"
).main_export
# What version 5 does not have: residuals, and a decoder that torch's older exporter traces.
SINCE_SIX = {"Dense with GELU and residual", "qwen3, last token, left padded", "position_ids"}
MADE = [
    layout
    for layout in [*layouts.DENSE, *layouts_tokens.SPARSE, *layouts_tokens.PLAIN]
    if layout.name not in SINCE_SIX
]
OPENED = [layout for layout in MADE if not layout.refused]
DENSE = [layout for layout in OPENED if layout.kind == "dense"]


@pytest.fixture(autouse=True)
def _collected():
    """The folders of upstream's exports go here, where its warning about them is ignored."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def workshop(tmp_path_factory, minilm):
    return Workshop(tmp_path_factory.mktemp("encoders"), minilm)


@pytest.fixture(scope="session")
def hostile():
    return upstream.hostile()


@pytest.mark.parametrize("layout", OPENED, ids=str)
def test_saved_by_version_5(workshop, tmp_path, hostile, layout):
    place = tmp_path / "model"
    layout.make(workshop, place)
    options = dict(layout.options)
    if layout.kind == "dense":
        upstream.compare_dense(place, hostile, **options)
    elif layout.kind == "sparse":
        upstream.compare_sparse(place, hostile, **options)
    else:
        encoder = place if (place / "config.json").exists() else workshop.encoder("bert")
        upstream.compare_plain(place, hostile, encoder, options["pooling"], **options)


@pytest.mark.parametrize("layout", [each for each in MADE if each.refused], ids=str)
def test_refused_by_name(workshop, tmp_path, layout):
    place = tmp_path / "model"
    layout.make(workshop, place)
    with pytest.raises(LoadError, match=layout.refused):
        Tessera(path=place, **layout.options)


@pytest.fixture
def saved(workshop, tmp_path):
    """saved(layout): what `backend="onnx"` exports and saves, without torch weights; the source."""

    def build(layout):
        source = tmp_path / "source"
        layout.make(workshop, source)
        shutil.rmtree(source / "onnx")
        model = SentenceTransformer(str(source), backend="onnx", device="cpu")
        model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
        assert not list((tmp_path / "saved").glob("*.safetensors"))
        return tmp_path / "saved", source

    return build


@pytest.mark.parametrize("layout", DENSE, ids=str)
def test_backend_onnx(saved, hostile, layout):
    place, source = saved(layout)
    assert (place / GRAPH).is_file()
    upstream.compare_dense(place, hostile, source)


def layout(name):
    return next(each for each in layouts.DENSE if each.name == name)


def upstream_one_by_one(place, file, texts):
    """The same file run by upstream, which a dynamic int8 graph does not do alike in batches."""
    options = {"file_name": file, "provider": "CPUExecutionProvider"}
    model = SentenceTransformer(str(place), backend="onnx", device="cpu", model_kwargs=options)
    return np.stack([model.encode(text) for text in texts])


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
def test_optimized(saved, tmp_path, hostile, level):
    place, source = saved(layout("Dense, Normalize"))
    model = SentenceTransformer(str(source), backend="onnx", device="cpu")
    export_optimized_onnx_model(model, level, str(place))
    file = f"onnx/model_{level}.onnx"
    texts = hostile[:40]
    with TesseraDense(path=place, file=file, on_long="truncate") as ours:
        found = [ours.encode(text) for text in texts]
    upstream.close(found, upstream_one_by_one(place, f"model_{level}.onnx", texts))


QUANTIZED = {
    "arm64": "qint8_arm64", "avx2": "quint8_avx2", "avx512": "qint8_avx512",
    "avx512_vnni": "qint8_avx512_vnni",
}  # fmt: skip


@pytest.mark.parametrize("config", QUANTIZED)
def test_quantized(saved, tmp_path, hostile, config):
    place, source = saved(layout("mpnet"))
    model = SentenceTransformer(str(source), backend="onnx", device="cpu")
    export_dynamic_quantized_onnx_model(model, config, str(place))
    file = f"model_{QUANTIZED[config]}.onnx"
    texts = hostile[:40]
    with TesseraDense(path=place, file=f"onnx/{file}", on_long="truncate") as ours:
        assert ours.spec.graph.precisions() == ["int8"]
        found = [ours.encode(text) for text in texts]
    expected = upstream_one_by_one(place, file, texts)
    # Ours may leave out kernels that saturate on this processor, upstream does not.
    limit = upstream.POOLED if platform.machine() != "x86_64" or config == "avx2" else 0.05
    upstream.close(found, expected, limit)


def test_fp32_is_taken_among_many(saved, hostile):
    """A folder with every file that upstream makes."""
    place, source = saved(layout("mpnet"))
    model = SentenceTransformer(str(source), backend="onnx", device="cpu")
    for config in QUANTIZED:
        export_dynamic_quantized_onnx_model(model, config, str(place))
    export_optimized_onnx_model(model, "O3", str(place))
    upstream.compare_dense(place, hostile[:20], source)


@pytest.mark.parametrize("name", ["two Dense modules", "Dense with Tanh", "xlm-roberta"])
def test_optimum_exports_the_whole_model(workshop, tmp_path, hostile, name):
    """No modules.json: sentence_embedding holds all modules, and its axis has no number."""
    source, place = tmp_path / "source", tmp_path / "model"
    layout(name).make(workshop, source)
    main_export(
        str(source), str(place), task="feature-extraction", library_name="sentence_transformers"
    )
    assert not (place / "modules.json").exists()
    upstream.compare_dense(place, hostile, source)


@pytest.mark.parametrize(
    ("architecture", "vocabulary", "mode"),
    [("bert", "minilm", "mean"), ("qwen3", "bytes-end", "lasttoken"), ("roberta", "bytes", "cls")],
)
def test_optimum_exports_the_encoder(workshop, tmp_path, hostile, architecture, vocabulary, mode):
    """Without weights; a decoder's graph asks for position_ids."""
    source = tmp_path / "source"
    source.mkdir()
    size, pad = layouts.write_tokenizer(source, vocabulary, workshop.minilm)
    padding = {} if architecture == "bert" else {"pad_token_id": pad}
    layouts.small(architecture, vocab_size=size, **padding).eval().save_pretrained(source)
    main_export(
        str(source), str(tmp_path / "model"), task="feature-extraction",
        library_name="transformers",
    )  # fmt: skip
    names = {"lasttoken": "last"}
    upstream.compare_plain(tmp_path / "model", hostile, source, mode, pooling=names.get(mode, mode))


def test_the_module_list_goes_before_the_whole_graph(workshop, tmp_path, hostile):
    """optimum's whole graph put into the folder that it was made of: no module runs twice."""
    place = tmp_path / "model"
    layout("Dense with Tanh").make(workshop, place)
    main_export(
        str(place), str(tmp_path / "whole"), task="feature-extraction",
        library_name="sentence_transformers",
    )  # fmt: skip
    shutil.rmtree(place / "onnx")
    shutil.copy(tmp_path / "whole/model.onnx", place)
    upstream.compare_dense(place, hostile)
    modules = [Transformer(str(place)), Pooling(SIZE, "mean")]
    assert SentenceTransformer(modules=modules, device="cpu").encode("a").shape == (SIZE,)
