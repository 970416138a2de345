"""Which ONNX file is taken from a folder, by the names that sentence-transformers, optimum,
transformers.js and others give.
"""

import itertools
import json
import shutil
import typing
from pathlib import Path

import pytest
import tessera_onnx_starter
from artifact_tools import ARTIFACTS

from tessera_onnx import ConfigError, LoadError, Tessera, TesseraDense
from tessera_onnx.models.foreign import graph_io, graphs
from tessera_onnx.models.foreign.graphs import Choice, choose, place, precision_of
from tessera_onnx.runtime import cpu

ARM = ["onnx/model_qint8_arm64.onnx", "onnx/model_qint8_avx512.onnx"]
SENTENCE_TRANSFORMERS = [
    "config.json",
    "model.safetensors",
    "onnx/model.onnx",
    *(f"onnx/model_O{level}.onnx" for level in (1, 2, 3, 4)),
    *ARM,
    "onnx/model_qint8_avx512_vnni.onnx",
    "onnx/model_quint8_avx2.onnx",
    "openvino/openvino_model.xml",
    "openvino/openvino_model_qint8_quantized.xml",
]
TRANSFORMERS_JS = [
    f"onnx/model{end}.onnx"
    for end in ("", "_fp16", "_int8", "_uint8", "_quantized", "_q4", "_q4f16", "_bnb4")
]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.onnx"], ("model.onnx", "", "")),
        (["model.onnx", "onnx/model.onnx"], ("model.onnx", "", "")),
        (["model.onnx", "onnx/model.onnx", "onnx/model_int8.onnx"], ("model.onnx", "", "")),
        (["model_int8.onnx", "onnx/model.onnx"], ("onnx/model.onnx", "", "")),
        (
            ["model.onnx", "model_int8.onnx", "onnx_config.json"],
            ("model.onnx", "", "model_int8.onnx"),
        ),
        (["model_optimized.onnx", "model.safetensors"], ("model_optimized.onnx", "", "")),
        (["model_optimized.onnx", "model.onnx"], ("model.onnx", "", "")),
        (["onnx/model_O1.onnx", "onnx/model_O2.onnx"], ("onnx/model_O2.onnx", "", "")),
        (["onnx/model_O3.onnx", "onnx/model.onnx"], ("onnx/model.onnx", "", "")),
        (["onnx/model_quantized.onnx"], ("", "", "onnx/model_quantized.onnx")),
        (
            ["onnx/model_q4.onnx", "onnx/model_q4f16.onnx", "onnx/model_fp16.onnx"],
            ("", "onnx/model_fp16.onnx", "", "onnx/model_q4.onnx"),
        ),
        (["minilm.onnx", "tokenizer.json"], ("minilm.onnx", "", "")),
        (["fp16/model.onnx"], ("fp16/model.onnx", "", "")),
        (["onnx/vision_model.onnx", "onnx/encoder.onnx"], ("onnx/encoder.onnx", "", "")),
        ([".cache/model.onnx", "._model.onnx", "a.onnx"], ("a.onnx", "", "")),
        (["model.onnx_data", "model.onnx"], ("model.onnx", "", "")),
        (
            ["onnx/model.onnx", "onnx/text_model.onnx", "onnx/vision_model.onnx"],
            ("onnx/text_model.onnx", "", ""),
        ),
        (
            ["onnx/text_model.onnx", "onnx/text_model_fp16.onnx", "onnx/text_model_quantized.onnx"],
            ("onnx/text_model.onnx", "onnx/text_model_fp16.onnx", "onnx/text_model_quantized.onnx"),
        ),
    ],
)
def test_the_graphs_of_a_folder(names, expected):
    choice = choose(names)
    found = (choice.fp32, choice.fp16, choice.int8, choice.int4)
    assert found == (*expected, "")[: len(found)]
    assert choice.files() == [name for name in expected if name]
    assert getattr(choice, choice.best()) == choice.files()[0]
    rest = {n for n in names if n.endswith(".onnx") and not n.startswith(".")} - set(expected)
    assert set(choice.also) == rest


@pytest.mark.parametrize(
    ("processor", "names", "expected"),
    [
        ("vnni", SENTENCE_TRANSFORMERS, "onnx/model_qint8_avx512_vnni.onnx"),
        ("x86", SENTENCE_TRANSFORMERS, "onnx/model_quint8_avx2.onnx"),
        ("arm64", SENTENCE_TRANSFORMERS, "onnx/model_qint8_arm64.onnx"),
        ("other", SENTENCE_TRANSFORMERS, "onnx/model_quint8_avx2.onnx"),
        (None, SENTENCE_TRANSFORMERS, "onnx/model_quint8_avx2.onnx"),
        ("vnni", TRANSFORMERS_JS, "onnx/model_quantized.onnx"),
        ("x86", TRANSFORMERS_JS, "onnx/model_uint8.onnx"),
        ("arm64", TRANSFORMERS_JS, "onnx/model_quantized.onnx"),
        ("vnni", ARM, "onnx/model_qint8_avx512.onnx"),
        ("x86", ARM, "onnx/model_qint8_avx512.onnx"),
    ],
)
def test_int8_is_chosen_by_processor(processor, names, expected):
    assert choose(names, processor=processor).int8 == expected


@pytest.mark.parametrize("products", ["vnni", "x86"])
def test_a_model_takes_the_graph_of_its_processor(tmp_path, monkeypatch, products):
    """Opened by its folder: the class knows the processor, and the reader chooses."""
    folder = tmp_path / "found"
    names = {"vnni": "model_qint8_avx512_vnni.onnx", "x86": "model_quint8_avx2.onnx"}
    starter = Path(tessera_onnx_starter.__file__).parent / "minilm"
    folder.mkdir()
    for name in names.values():
        shutil.copy(starter / "model.int8.onnx", folder / name)
    shutil.copy(starter / "tokenizer.json", folder)
    config = {"hidden_size": 384, "max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps(config))
    settings = {"pad_token": "[PAD]", "model_max_length": 256}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(cpu, "byte_products", lambda: products)
    for model in (TesseraDense(path=folder), Tessera(path=folder), TesseraDense(str(folder))):
        assert model.spec.graph.int8 == names[products]
        model.close()


def test_the_precision_of_a_name():
    by_precision = {
        precision: [name for name in SENTENCE_TRANSFORMERS if precision_of(name) == precision]
        for precision in ("fp32", "fp16", "int8")
    }
    assert by_precision["fp32"] == [
        "onnx/model.onnx",
        *(f"onnx/model_O{i}.onnx" for i in (1, 2, 3)),
    ]
    assert by_precision["fp16"] == ["onnx/model_O4.onnx"]
    assert len(by_precision["int8"]) == 4
    assert precision_of("somebody.onnx") is None
    assert choose(SENTENCE_TRANSFORMERS).fp16 == "onnx/model_O4.onnx"
    assert choose([*SENTENCE_TRANSFORMERS, "onnx/model_fp16.onnx"]).fp16 == "onnx/model_fp16.onnx"


def test_the_table_is_whole():
    ends = [name.end for name in graphs.NAMES]
    assert len(set(ends)) == len(ends)
    assert set(graphs.INT8_ORDER) == set(typing.get_args(graphs.Processor))
    chosen = {
        name.end for name in graphs.NAMES if name.precision == "int8" and not name.by_name_only
    }
    for order in graphs.INT8_ORDER.values():
        assert len(order) == len(set(order))
        assert set(order) == chosen
    for name in graphs.NAMES:
        files = [f"onnx/model{name.end}.onnx"]
        if name.by_name_only or name.precision == "int4":
            with pytest.raises(LoadError, match="only graphs that differ from the original"):
                choose(files)
        else:
            assert choose(files) == Choice(**{name.precision: files[0]})
        assert choose(files, file=files[0]) == Choice(**{name.precision: files[0]})


@pytest.mark.parametrize("file", ["onnx/model_O3.onnx", "model_O3.onnx", "./onnx/model_O3.onnx"])
def test_the_named_file_alone_is_used(file):
    choice = choose(SENTENCE_TRANSFORMERS, file=file)
    assert choice.files() == ["onnx/model_O3.onnx"]
    assert choice.best() == "fp32"
    assert "onnx/model.onnx" in choice.also
    assert choose(TRANSFORMERS_JS, file="model_q4.onnx").best() == "int4"
    assert choose(["a.onnx", "b.onnx"], file="b.onnx").fp32 == "b.onnx"
    assert choose(["a/b/c.onnx", "model.onnx"], file="a/b/c.onnx").fp32 == "a/b/c.onnx"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            "model_O5.onnx",
            r"file='model_O5.onnx' is no ONNX file of the folder; it has onnx/model_",
        ),
        ("onnx/model_qint8_vnni.onnx", "it has onnx/model_qint8_avx512_vnni.onnx, "),
        ("zzz", "it has onnx/model.onnx, onnx/model_O1.onnx, "),
        ("../onnx/model.onnx", "is no ONNX file of the folder"),
        ("/onnx/model.onnx", "is no ONNX file of the folder"),
        ("config.json", "is no ONNX file of the folder"),
        ("openvino/openvino_model.xml", "is no ONNX file of the folder"),
        ("", "is no ONNX file of the folder"),
        ("a text " * 100, "a text of 700 characters is no ONNX file of the folder"),
    ],
)
def test_a_file_that_is_not_there(file, message):
    with pytest.raises(ConfigError, match=message):
        choose(SENTENCE_TRANSFORMERS, file=file)
    with pytest.raises(ConfigError, match=r"the folder has no ONNX file \(\*.onnx\)"):
        choose(["config.json"], file=file)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "FOLDER has no ONNX file: make one with `tessera-export MODEL"),
        (
            ["model.safetensors", "openvino/openvino_model.xml"],
            r"no ONNX file \(model.safetensors hold weights for torch\): make one",
        ),
        (["openvino/openvino_model.xml"], r"OpenVINO's openvino/openvino_model.xml is not read"),
        (
            ["a.onnx", "b.onnx"],
            "do not tell which one is the model: name one with file=: a.onnx",
        ),
        (["int8/model.onnx", "fp16/model.onnx"], "name one with file=: fp16/model.onnx, int8/mod"),
        (["a.onnx", "model_q4.onnx"], "name one with file=: a.onnx, model_q4.onnx"),
        (["onnx/vision_model.onnx", "onnx/embed_tokens_q4.onnx"], "only parts of a model"),
        (
            ["model_q4.onnx"],
            r"with file=: model_q4.onnx \(4-bit weights in blocks of 32\)",
        ),
        ([f"{i}.onnx" for i in range(1000)], "and 980 more"),
    ],
)
def test_folders_without_a_graph_to_choose(names, message):
    with pytest.raises(LoadError, match=message):
        choose(names, where="FOLDER")


def test_other_folders():
    """A sentence-transformers folder may keep its transformer below it."""
    names = ["0_Transformer/onnx/model.onnx", "onnx/model.onnx"]
    folders = ("0_Transformer", "0_Transformer/onnx")
    assert choose(names).fp32 == "onnx/model.onnx"
    assert choose(names, folders=folders).fp32 == "0_Transformer/onnx/model.onnx"
    assert choose(names, folders=folders, file="model.onnx").fp32 == "0_Transformer/onnx/model.onnx"


def test_the_order_of_the_names_is_of_no_consequence():
    names = [*TRANSFORMERS_JS[:4], "model.onnx"]
    assert len({choose(order) for order in itertools.permutations(names)}) == 1


def test_a_file_is_placed_by_its_content():
    choice = choose(["model_optimized.onnx"])
    assert place(choice, {"model_optimized.onnx": "fp16"}) == Choice(fp16="model_optimized.onnx")
    both = choose(["model.onnx", "model_quantized.onnx"])
    assert place(both, {"model.onnx": "int8"}) == Choice(
        int8="model.onnx", also=("model_quantized.onnx",)
    )
    assert place(both, {}) == both
    told = graph_io.read(ARTIFACTS / "states" / "model.onnx").precision
    assert place(both, {"model.onnx": told}) == both
