"""Folders that are not opened: what they hold, which file says so, and what to do."""

import pytest
from foreign_folders import (
    GRAPH,
    SETTINGS,
    SIZE,
    dense,
    edit,
    graph,
    modules,
    plain,
    refused,
    tensors,
    tokenizer,
    write,
)

from tessera_onnx import ConfigError
from tessera_onnx.models.foreign import files
from tessera_onnx.models.foreign.reader import identifier, read


def test_half_of_the_files(tmp_path):
    folder = dense(tmp_path / "model")
    kept = {name: (folder / name).read_bytes() for name in ("config.json", "tokenizer.json", GRAPH)}
    for name, message in (
        ("config.json", "has no config.json, although modules.json lists a Transformer"),
        ("tokenizer.json", "has no tokenizer.json: save its tokenizer with transformers"),
        (GRAPH, "has no ONNX file: make one with `tessera-export MODEL --kind KIND --output DIR`"),
    ):
        (folder / name).unlink()
        refused(folder, message)
        write(folder, {name: kept[name]})
    (folder / "tokenizer_config.json").unlink()
    (folder / "sentence_bert_config.json").unlink()
    refused(folder, "max_length is missing: neither .* says it; download the whole folder")
    refused(tmp_path / "nothing", "there is no folder of that name")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has no ONNX file")


def test_weights_that_the_graph_keeps_elsewhere(tmp_path):
    from faults import graphs

    outside = graphs.field(13, graphs.field(1, "location") + graphs.field(2, "model.onnx_data"))
    weight = graphs.field(5, graphs.tensor("w", 1, [64, 64], b"", outside))
    content = graphs.model(weight)
    folder = plain(tmp_path, **{GRAPH: content})
    error = refused(folder, "has weights in onnx/model.onnx_data, which is missing: download the")
    assert error.path == str(folder / "onnx/model.onnx_data")
    write(folder, {"onnx/model.onnx_data": b"1234"})
    names = [file.name for file in read(folder).spec.files]
    assert names == [GRAPH, "onnx/model.onnx_data", "tokenizer.json"]
    # Another precision whose weights are missing is left out.
    write(folder, {"onnx/model_fp16.onnx": content.replace(b"model.onnx_data", b"fp16_.onnx_data")})
    assert read(folder).spec.graph.fp16 == ""
    # Before the graph is here, the usual names tell its data.
    (folder / GRAPH).unlink()
    data = ["onnx/model.onnx.data", "onnx/model.onnx_data", "onnx/model.onnx_data_1"]
    listing = dict.fromkeys([GRAPH, *data, "onnx/model_q4.onnx_data"], 5)
    found = read(folder, pooling="mean", listing=listing).spec
    assert [file.name for file in found.files] == [GRAPH, *data, "tokenizer.json"]
    assert [file.size for file in found.files] == [5, 5, 5, 5, -1]


def test_files_of_two_models(tmp_path):
    folder = dense(tmp_path)
    edit(folder, "config.json", hidden_size=16)
    refused(folder, "pools states of 8 numbers, but config.json says the hidden size 16")
    edit(folder, "config.json", hidden_size=SIZE, vocab_size=9)
    refused(folder, "says vocab_size 9, but tokenizer.json has the id 28")
    edit(folder, "config.json", vocab_size=64)
    write(folder, {GRAPH: graph(("last_hidden_state", ("b", "n", 12)))})
    refused(folder, r"gives 12 numbers a token \(last_hidden_state\), but 1_Pooling.* says 8")
    write(folder, {GRAPH: graph(("sentence_embedding", ("b", 12)))})
    refused(folder, r"gives vectors of 12 numbers \(sentence_embedding\), but the configuration ma")
    write(folder, {GRAPH: graph(("token_embeddings", ("b", "n", "size")))})
    assert read(folder).spec.dense.dimension == SIZE


def test_several_graphs(tmp_path):
    folder = plain(tmp_path, **{"onnx/a.onnx": graph(), "onnx/b.onnx": graph()})
    (folder / GRAPH).unlink()
    refused(folder, "name one with file=: onnx/a.onnx, onnx/b.onnx", pooling="mean")
    assert read(folder, pooling="mean", file="onnx/b.onnx").spec.graph.fp32 == "onnx/b.onnx"
    refused(folder, "is no ONNX file of", ConfigError, file="onnx/c.onnx")
    refused(folder, "file must be a str", TypeError, file=5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BertForSequenceClassification", "is a reranker or another classifier"),
        ("LlamaForCausalLM", "is a model that writes text .* no modules.json of sentence-transfo"),
        ("T5ForConditionalGeneration", "is a model that writes text"),
        ("BertForQuestionAnswering", "finds the answer to a question"),
        ("BertForTokenClassification", "marks the tokens of a text"),
        ("ColPaliForRetrieval", r"is a model of images \(ColPaliForRetrieval\)"),
    ],
)
def test_other_models(tmp_path, name, message):
    folder = plain(tmp_path)
    edit(folder, "config.json", architectures=[name])
    refused(folder, message, pooling="mean")


def test_images(tmp_path):
    folder = plain(tmp_path)
    edit(folder, "config.json", vision_config={}, model_type="clip")
    refused(folder, "is a model of images .*`tessera-export FOLDER --kind vision")
    for kind in ("vision", "time-series"):
        refused(folder, f"only models of texts .* --kind {kind} --output DIR`", kind=kind)
    refused(folder, "kind is 'picture', expected one of dense", ConfigError, kind="picture")


def test_static_models_that_lack_their_table(tmp_path):
    folder = plain(tmp_path)
    edit(folder, "config.json", model_type="model2vec", architectures=["StaticModel"])
    refused(folder, "has no model.safetensors")
    matrix = {"words.safetensors": tensors(embedding__weight=(64, SIZE))}
    folder = write(tmp_path / "words", matrix | {"tokenizer.json": tokenizer()})
    refused(folder, "is a static model, .* .words.safetensors: embedding.weight.")


def test_minicoil(tmp_path):
    """The layout that fastembed 0.9.1 downloads: an encoder, and arrays beside it."""
    folder = plain(tmp_path)
    (folder / "minicoil.triplet.model.npy").touch()
    for options in ({}, {"kind": "sparse"}, {"kind": "dense", "pooling": "mean"}):
        refused(folder, r'is miniCOIL .* by its id, TesseraSparse\("minicoil-v1"\)', **options)
    listing = {"minicoil.triplet.model.npy": 156_000_000, **files.list_files(folder)}
    (folder / "minicoil.triplet.model.npy").unlink()
    refused(folder, "is miniCOIL", listing=listing)


def test_adapters(tmp_path):
    folder = plain(tmp_path)
    write(folder, {"adapter_config.json": {"base_model_name_or_path": "a/b", "peft_type": "LORA"}})
    refused(folder, r"is a LoRA adapter \(adapter_config.json\) .* base model 'a/b' with peft's")
    edit(folder, "adapter_config.json", peft_type="PROMPT_TUNING")
    refused(folder, "cannot be merged")
    edit(folder, "adapter_config.json", task_type="SEQ_CLS")
    refused(folder, "is a reranker")


def test_model_types(tmp_path):
    folder = dense(tmp_path)
    for name, message in (
        ("CrossEncoder", "has no last module that gives the scores"),
        ("AudioEncoder", "has the model_type 'AudioEncoder', known are SentenceTransformer"),
    ):
        edit(folder, SETTINGS, model_type=name)
        refused(folder, message)
    edit(folder, SETTINGS, model_type="SentenceTransformer")
    assert read(folder).spec.kinds == ("dense",)
    refused(folder, "is a model of kind dense, not sparse", kind="sparse")
    refused(folder, "is a model of kind dense, not multi-vector", kind="multi-vector")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"modality_config": {"text": {"method": "forward"}, "message": {}}},
            "into a chat templat",
        ),
        ({"modality_config": {"text": {"method": "get_text_features"}}}, "reads texts by"),
        ({"modality_config": {"image": {}}}, "reads texts by None"),
        ({"modality_config": 5}, "a modality_config that is no object"),
        ({"module_output_name": "sentence_embedding"}, "module_output_name 'sentence_embedding'"),
        ({"transformer_task": "text-generation"}, "task 'text-generation': a language model"),
        ({"transformer_task": "any-to-any"}, "a language model that answers"),
        ({"transformer_task": "retrieval"}, "a model of page images"),
        ({"transformer_task": "sequence-classification"}, "reads no pairs|no last module"),
        ({"transformer_task": "dreams"}, "task 'dreams': unknown here"),
        ({"processing_kwargs": {"text": {"max_length": 5}}}, "with max_length .processing_kwargs"),
        ({"tokenizer_args": {"do_lower_case": True}}, "with do_lower_case .tokenizer_args"),
        ({"processor_kwargs": "none"}, "processor_kwargs that is no object"),
    ],
)
def test_what_the_transformer_module_does_beside(tmp_path, changes, message):
    folder = dense(tmp_path)
    edit(folder, "sentence_bert_config.json", **changes)
    refused(folder, message)


def test_settings_that_change_nothing(tmp_path):
    folder = dense(tmp_path)
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    edit(
        folder,
        "sentence_bert_config.json",
        transformer_task="feature-extraction",
        modality_config={"text": text},
        module_output_name="token_embeddings",
        tokenizer_args={"padding_side": "left"},
        model_args={"attn_implementation": "eager"},
    )
    edit(folder, "tokenizer_config.json", padding_side="left")
    edit(folder, "config.json", auto_map={"AutoModel": "own.Model"})  # the graph holds its code
    assert read(folder).spec.dense.pooling == "mean"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"sentence-transformers": ">=6.3"}, "requires sentence-transformers >=6.3, and the rules"),
        ({"sentence_transformers": {"specifier": ">=7", "reason": "new"}}, "sentence-transformers"),
        ({"transformers": "~=6.0"}, "requires transformers ~=6.0, and the rules of 5.23 are"),
        ({"mylibrary": ""}, "requires mylibrary : this model may hold facts"),
        ({"sentence-transformers": ">=5.1,<9", "torch": ">=99", "peft": "==99"}, ""),
        ({"transformers": ">=5.23.1"}, ""),
        ("none", ""),
    ],
)
def test_requirements(tmp_path, wanted, message):
    folder = dense(tmp_path, requirements=wanted)
    if message:
        refused(folder, message)
    else:
        assert read(folder).spec.dense


def test_tokenizers_that_make_other_ids(tmp_path):
    folder = dense(tmp_path)
    for changes, message in (
        ({"truncation_side": "left"}, "cuts long texts on the 'left'"),
        ({"auto_map": {"AutoTokenizer": ["own.T", None]}}, "makes token ids with Python code"),
        (
            {"add_bos_token": True, "bos_token": "[MASK]"},
            "add_bos_token true, but tokenizer.json do",
        ),
        (
            {"add_eos_token": False, "eos_token": "[SEP]"},
            "add_eos_token false, but tokenizer.json p",
        ),
        ({"pad_token": "[NOPE]"}, r"names the pad token '\[NOPE\]': not in the vocabulary"),
        ({"model_max_length": "long"}, "has the model_max_length 'long'"),
    ):
        (folder / "sentence_bert_config.json").unlink(missing_ok=True)
        edit(folder, "tokenizer_config.json", **changes)
        refused(folder, message)
        edit(folder, "tokenizer_config.json", **(dict.fromkeys(changes) | {"pad_token": "[PAD]"}))
    single = tokenizer()["post_processor"]["single"]
    twice = tokenizer()["post_processor"] | {"single": [*single, single[1]]}
    write(folder, {"tokenizer.json": tokenizer(post_processor=twice)})
    refused(folder, "does more than put fixed ids before and after")
    for content, message in (
        ("{}", "is not a tokenizer that `tokenizers` reads"),
        ("not JSON", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        (b"\xff\xfe", "is not UTF-8 text"),
        ("[]", "must hold a JSON object"),
    ):
        write(folder, {"tokenizer.json": content})
        refused(folder, message)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tokenizer_config.json", {"additional_special_tokens": ["[NEW]"]}),
        ("tokenizer_config.json", {"extra_special_tokens": {"image_token": "[NEW]"}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"40": {"content": "[NEW]"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"40": {"content": "[MASK]"}}}),
        ("tokenizer_config.json", {"cls_token": "fox"}),  # a word, and no special token
        ("special_tokens_map.json", {"unk_token": {"content": "fox"}}),
    ],
)
def test_special_tokens_that_tokenizer_json_does_not_have(tmp_path, name, settings):
    folder = dense(tmp_path)
    edit(folder, name, **settings)
    refused(folder, f"{name} lists the token .*, which tokenizer.json does not list among its add")


@pytest.mark.parametrize(
    ("own", "settings", "message"),
    [
        ({"lowercase": False}, {}, "normalizer, and tokenizer_config.json leaves it out, for whic"),
        ({"lowercase": False}, {"do_lower_case": True}, "says do_lower_case True"),
        ({"lowercase": True}, {"do_lower_case": False}, "says do_lower_case False"),
        ({"strip_accents": False}, {}, "has the strip_accents False in its normalizer"),
        ({"handle_chinese_chars": False}, {}, "takes tokenize_chinese_chars True"),
        ({"lowercase": False}, {"do_lower_case": False}, ""),
        ({"lowercase": False}, {"tokenizer_class": "PreTrainedTokenizerFast"}, ""),
        ({"lowercase": False}, {"tokenizer_class": "BertTokenizerFast"}, "leaves it out"),
    ],
)
def test_the_normalizer_of_bert(tmp_path, own, settings, message):
    """transformers makes it anew of tokenizer_config.json."""
    folder = dense(tmp_path)
    normalizer = {
        "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
        "strip_accents": None, "lowercase": True,
    } | own  # fmt: skip
    write(folder, {"tokenizer.json": tokenizer(normalizer=normalizer)})
    edit(folder, "tokenizer_config.json", **settings)
    if message:
        refused(folder, message)
    else:
        assert read(folder).spec.text.lowercase is False


def test_broken_configurations(tmp_path):
    folder = dense(tmp_path)
    for name in ("config.json", SETTINGS, "1_Pooling/config.json", "sentence_bert_config.json"):
        kept = (folder / name).read_bytes()
        for content in ("[]", "{", "\x00"):
            write(folder, {name: content})
            refused(folder, "must hold a JSON object|is not valid JSON")
        write(folder, {name: kept})
    edit(folder, "config.json", max_position_embeddings="many")
    refused(folder, "max_position_embeddings 'many'")


def test_pointers_of_git_lfs(tmp_path):
    folder = dense(tmp_path, "Dense")
    config = {"in_features": SIZE, "out_features": SIZE}
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    write(folder, {"2_Dense/config.json": config})
    for name in ("2_Dense/model.safetensors", "tokenizer.json", GRAPH, "config.json"):
        write(folder, {name: pointer})
        refused(folder, "is a pointer of Git LFS: run `git lfs pull` in its folder")


def test_a_folder_with_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_FILES", 3)
    refused(dense(tmp_path), "holds more than 3 files: it is no model folder")


def test_links_to_nothing_and_hidden_folders_are_passed_over(tmp_path):
    folder = dense(tmp_path)
    (folder / "onnx/model_fp16.onnx").symlink_to(tmp_path / "nothing")
    write(folder, {".cache/model_quantized.onnx": graph()})
    spec = read(folder).spec
    assert spec.graph.precisions() == ["fp32"]


def test_identifiers():
    for name, expected in (
        ("All-MiniLM-L6-v2", "all-minilm-l6-v2"),
        ("my model (1)", "my-model-1-"),
        ("_x", "x"),
        ("...", "model"),
        ("Ä", "model"),
    ):
        assert identifier(name) == expected


def test_unknown_classes_are_named_whole(tmp_path):
    folder = dense(tmp_path)
    for name in ("Transformer", "mine.Pooling", "sentence_transformers_x.models.Pooling",
                 "pylate.models.Other.Other", ""):  # fmt: skip
        listed = modules("Transformer", "Pooling")
        listed[1]["type"] = name
        write(folder, {"modules.json": listed})
        refused(folder, f"lists the module {name!r}, which is no class of sentence-transformers")
