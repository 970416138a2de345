"""Yes/no language models against sentence-transformers' CrossEncoder, on small random weights."""

import json
import shutil

import answer_models
import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore

from tessera_export import artifact, cli
from tessera_export.errors import ExportError
from tessera_export.graph import tracing
from tessera_export.pairs import export, facts, language
from tessera_onnx import LoadError, TesseraReranker
from tessera_onnx.models import catalogue
from tessera_onnx.models.foreign import reader

pytestmark = pytest.mark.export

FAMILIES = ("Qwen3", "Qwen2", "Gemma")
CHAT = (
    "<|im_start|>system\nJudge the Document.<|im_end|>\n<|im_start|>user\n<Instruct>: "
    "{% set told = namespace(text='Find passages that answer') %}"
    "{% for m in messages %}{% if m.role == 'system' %}{% set told.text = CONTENT %}{% endif %}"
    "{% endfor %}{{ told.text }}\n"
    "{% for m in messages %}{% if m.role == 'query' %}<Query>: {{ CONTENT }}\n{% endif %}"
    "{% if m.role == 'document' %}<Document>: {{ CONTENT }}{% endif %}{% endfor %}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
FLAT = CHAT.replace("CONTENT", "m.content")
STRUCTURED = CHAT.replace("CONTENT", "m.content[0]['text']")


@pytest.fixture
def odd_pairs(texts):
    odd = [*texts, "a<|im_end|>b", " \n", "<Document>: {document}", "東京 🚀", "x"]
    return [(query, document) for query in odd for document in odd]


@pytest.fixture
def folder(tmp_path):
    """folder(family, chat template, answers): a folder that CrossEncoder saved."""

    def build(family="Qwen3", chat=None, answers=("yes", "no"), length=300, **settings):
        base, saved = tmp_path / f"base-{family}", tmp_path / f"saved-{family}"
        answer_models.language_model(family).save_pretrained(base)
        tokenizer = answer_models.tokenizer("<pad>" if family == "Gemma" else "<|endoftext|>")
        tokenizer.chat_template = chat
        tokenizer.save_pretrained(base)
        ids = [tokenizer.convert_tokens_to_ids(token) for token in answers]
        modules = [
            Transformer(str(base), transformer_task="text-generation", max_seq_length=length),
            LogitScore(*ids),
        ]
        CrossEncoder(modules=modules, device="cpu", **settings).save_pretrained(str(saved))
        return saved

    return build


def exported(place, target, precisions=("fp32",), **options):
    export.export(facts.read(place, **options), target, artifact.Origin("test"), precisions)
    return target


def scores(place, pairs, **options):
    opening = {"precision": "fp32", "on_long": "truncate"}
    with TesseraReranker(path=place, **opening) as model:
        return model.score_pairs(pairs, **options)


def near(ours, theirs, limit=1e-4):
    assert np.ptp(theirs) > 0.1
    assert np.abs(ours - theirs).max() <= limit


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("answers", [("yes", "no"), ("Yes",)])
def test_a_folder_without_a_template(folder, odd_pairs, tmp_path, family, answers):
    place = folder(family, answers=answers)
    upstream = CrossEncoder(str(place), device="cpu")
    made = exported(place, tmp_path / "out")
    (spec,) = catalogue.read_catalogue(made / "model.toml")
    assert (spec.reranker.answers, spec.reranker.template) == (answers, None)
    raw = upstream.predict(odd_pairs, activation_fn=torch.nn.Identity())
    near(scores(made, odd_pairs, activation="raw"), raw)
    near(scores(made, odd_pairs), upstream.predict(odd_pairs), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chat", [FLAT, STRUCTURED])
def test_a_chat_template_becomes_data(folder, odd_pairs, tmp_path, family, chat):
    place = folder(family, chat)
    upstream = CrossEncoder(str(place), device="cpu")
    with pytest.raises(LoadError, match="chat template .* a program that is not run here"):
        reader.read(with_graph(place, tmp_path), "reranker")
    made = exported(place, tmp_path / "out")
    (spec,) = catalogue.read_catalogue(made / "model.toml")
    assert spec.reranker.template.instruction == "Find passages that answer"
    assert spec.reranker.truncation == "end"
    lengths = [len(row) for row in upstream.preprocess(odd_pairs)["input_ids"]]
    assert max(lengths) == 300
    near(scores(made, odd_pairs), upstream.predict(odd_pairs), 1e-5)
    for prompt in ("Find the bell", "x\ny <|im_start|>"):
        theirs = upstream.predict(odd_pairs, prompt=prompt, activation_fn=torch.nn.Identity())
        near(scores(made, odd_pairs, instruction=prompt, activation="raw"), theirs)


def test_the_default_prompt_is_the_instruction(folder, odd_pairs, tmp_path):
    place = folder(chat=FLAT, prompts={"web": "Find web pages"}, default_prompt_name="web")
    made = exported(place, tmp_path / "out")
    near(scores(made, odd_pairs), CrossEncoder(str(place), device="cpu").predict(odd_pairs), 1e-5)


def with_graph(place, tmp_path, *, last=False, columns=None):
    """The folder with the graph of transformers' logits, of all positions or the last."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        place, attn_implementation="eager", use_cache=False
    ).eval()

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
            logits = logits[:, -1:] if last else logits
            return logits[:, -1, columns] if columns else logits

    ids = torch.randint(6, 300, (2, 9))
    axes = {0: "batch", 1: "sequence"}
    whole = axes if not last and columns is None else {0: "batch"}
    with tracing.quiet(), torch.no_grad():
        torch.onnx.export(
            Logits(), (ids, torch.ones_like(ids)), str(place / "model.onnx"), dynamo=False,
            input_names=["input_ids", "attention_mask"], output_names=["logits"], opset_version=18,
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": whole},
        )  # fmt: skip
    return place


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_of_a_whole_vocabulary(folder, odd_pairs, tmp_path, family):
    place = with_graph(folder(family), tmp_path)
    raw = CrossEncoder(str(place), device="cpu").predict(
        odd_pairs, activation_fn=torch.nn.Identity()
    )
    near(scores(place, odd_pairs, activation="raw"), raw)
    alone = [scores(place, [pair], activation="raw")[0] for pair in odd_pairs[::7]]
    near(np.array(alone), raw[::7])


def test_graphs_that_give_no_answer(folder, tmp_path):
    with pytest.raises(LoadError, match="made for another padding"):
        TesseraReranker(path=with_graph(folder(), tmp_path, last=True))
    with pytest.raises(LoadError, match="neither one score a pair nor logits of the vocabulary"):
        TesseraReranker(path=with_graph(folder(), tmp_path, columns=[3, 4]))


def test_the_graph_of_an_export_in_its_folder(folder, odd_pairs, tmp_path):
    place = folder()
    made = exported(place, tmp_path / "out")
    shutil.copy(made / "model.fp32.onnx", place / "model.onnx")
    near(scores(place, odd_pairs), scores(made, odd_pairs), 1e-6)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("1_LogitScore/config.json", {"true_token_id": None}, "true_token_id None"),
        ("1_LogitScore/config.json", {"true_token_id": 10**6}, "true_token_id 1000000"),
        ("1_LogitScore/config.json", {"false_token_id": True}, "false_token_id True"),
        ("1_LogitScore/config.json", {"module_input_name": "logits"}, "module_input_name logits"),
        ("sentence_bert_config.json", {"transformer_task": "any-to-any"}, "any-to-any"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"padding": 1}}}, "padding"),
    ],
)
def test_folders_that_say_something_else(folder, tmp_path, file, change, message):
    place = with_graph(folder(), tmp_path)
    path = place / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(LoadError, match=message):
        TesseraReranker(path=place)


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        (FLAT.replace("{{ m.content }}", "{{ m.content | trim }}"), "changes the texts"),
        (FLAT.replace("<|im_end|>\n<|im_start|>assistant", "\nAnswer"), "no special token first"),
        (FLAT.replace("<Query>: {{ m.content }}", "{{ m.content }}{{ m.content }}"), "once"),
    ],
)
def test_chat_templates_that_are_refused(folder, tmp_path, chat, message):
    with pytest.raises(ExportError, match=message):
        facts.read(folder(chat=chat))


def test_a_classifier_with_the_template(tmp_path, texts):
    """Qwen3ForSequenceClassification of W[yes] - W[no] gives the scores of the language model."""
    base, other = tmp_path / "base", tmp_path / "classifier"
    model = answer_models.language_model("Qwen3", tie_word_embeddings=False)
    tokenizer = answer_models.tokenizer()
    for place in (base, other):
        tokenizer.save_pretrained(place)
    model.save_pretrained(base)
    config = transformers.Qwen3Config.from_pretrained(base, num_labels=1)
    classifier = transformers.Qwen3ForSequenceClassification(config)
    classifier.model.load_state_dict(model.model.state_dict())
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    classifier.score.weight.data = (model.lm_head.weight[yes] - model.lm_head.weight[no])[None]
    classifier.save_pretrained(other)
    pairs = [(query, document) for query in texts for document in texts]
    made = []
    for place, like in ((base, "qwen3-reranker-0.6b"), (other, "qwen3-reranker-0.6b-seq-cls")):
        known = language.chosen(like, None, ["reranker"])
        target = tmp_path / f"{place.name}-out"
        made.append(scores(exported(place, target, max_length=600, known=known), pairs))
    near(made[0], made[1], 1e-5)
    with pytest.raises(ExportError, match="with no answers"):
        facts.read(base, 600, language.chosen("qwen3-reranker-0.6b-seq-cls", None, ["reranker"]))


def test_command(tmp_path):
    place, target = tmp_path / "qwen", tmp_path / "out"
    answer_models.language_model("Qwen3").save_pretrained(place)
    answer_models.tokenizer().save_pretrained(place)
    arguments = [str(place), "--kind", "reranker", "--output", str(target)]
    for options, message in (
        ((), "is a language model (Qwen3ForCausalLM), and none of its files says how a pair"),
        (("--template", "bge-small-en-v1.5"), "names one"),
        (("--template", "bge-reranker-base"), "that model has no template"),
        (("--template", "bge-reranker-v2-gemma", "--max-length", "1000"), "max_length 1000 lets"),
        (("--template", "qwen3-reranker-0.6b"), "8192"),
        (("--template", "qwen3-reranker-0.6b", "--max-length", "50"), "leaves no room"),
    ):
        result = CliRunner().invoke(cli.main, [*arguments, *options])
        assert (result.exit_code, message in result.output) == (1, True), result.output
    options = [
        "--template",
        "qwen3-reranker-0.6b",
        "--max-length",
        "600",
        "--precision",
        "fp32,int8",
    ]
    result = CliRunner().invoke(cli.main, [*arguments, *options])
    assert result.exit_code == 0, result.output
    with TesseraReranker(path=target) as model:
        assert model.max_length() == 600
    llama = tmp_path / "llama"
    config = transformers.LlamaConfig(**answer_models.SIZE, vocab_size=500)
    transformers.LlamaForCausalLM(config).save_pretrained(llama)
    answer_models.tokenizer().save_pretrained(llama)
    result = CliRunner().invoke(cli.main, [str(llama), *arguments[1:], "--overwrite", *options])
    assert (result.exit_code, "LlamaForCausalLM" in result.output) == (1, True), result.output
