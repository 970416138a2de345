"""Exports of rerankers against sentence-transformers' CrossEncoder, on small random weights."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from architectures import small
from click.testing import CliRunner
from conftest import SMALL
from sentence_transformers import CrossEncoder
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    Transformer,
)

from tessera_export import artifact, cli, parity
from tessera_export.errors import ExportError
from tessera_export.pairs import export, facts
from tessera_onnx import TesseraReranker
from tessera_onnx.models import catalogue
from tessera_onnx.models.foreign import reader

pytestmark = pytest.mark.export


def deberta():
    torch.manual_seed(1)
    return transformers.DebertaV2ForSequenceClassification(
        transformers.DebertaV2Config(
            **SMALL, type_vocab_size=0, relative_attention=True, position_buckets=16,
            norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"],
            pooler_hidden_size=64, num_labels=1,
        )
    )  # fmt: skip


def classifier(name, **changes):
    return small(name, "ForSequenceClassification", num_labels=1, **changes)


MODELS = {
    "bert": lambda: classifier("bert"),
    "xlm-roberta": lambda: classifier("xlm-roberta"),
    "deberta": deberta,
    "modernbert, cls": lambda: classifier("modernbert", classifier_pooling="cls"),
    "modernbert, mean": lambda: classifier("modernbert", classifier_pooling="mean"),
    "qwen3": lambda: classifier("qwen3"),
}


@pytest.fixture
def pairs(texts):
    return [(query, document) for query in [*texts, ""] for document in [*texts, ""]]


@pytest.fixture
def cross_encoder(make):
    """cross_encoder(model): its folder, with weights that are far from 0 and from each other."""

    def build(model, name="reranker", length=100):
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.1)
        place = make(name, model)
        path = place / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": length}))
        return place

    return build


@pytest.fixture
def exported(tmp_path):
    def build(place, precisions=("fp32",), name="artifact"):
        export.export(facts.read(place), tmp_path / name, artifact.Origin("test"), precisions)
        return tmp_path / name

    return build


def scores(place, pairs, precision="fp32", **options):
    with TesseraReranker(path=place, precision=precision, on_long="truncate") as model:
        return model.score_pairs(pairs, **options)


@pytest.mark.parametrize("name", MODELS)
def test_architectures(cross_encoder, exported, pairs, name):
    place = cross_encoder(MODELS[name]())
    upstream = CrossEncoder(str(place), device="cpu")
    made = exported(place, ("fp32", "fp16", "int8", "int4"))
    raw = upstream.predict(pairs, activation_fn=torch.nn.Identity())
    assert np.ptp(raw) > 0.2
    assert np.abs(scores(made, pairs) - upstream.predict(pairs)).max() <= 1e-5
    assert np.abs(scores(made, pairs, activation="raw") - raw).max() <= 1e-4
    half = scores(made, pairs, "fp16", activation="raw")
    assert np.abs(half - raw).max() <= 0.01 * np.ptp(raw)
    small_ = scores(made, pairs, "int8", activation="raw")
    assert np.corrcoef(small_, raw)[0, 1] > 0.95
    least = scores(made, pairs, "int4", activation="raw")
    assert np.corrcoef(least, raw)[0, 1] > 0.9
    alone = np.concatenate([scores(made, [p], "int4", activation="raw") for p in pairs[:4]])
    assert np.abs(alone - least[:4]).max() <= 1e-5 * max(1, np.abs(raw).max())


def test_facts_of_an_artifact(cross_encoder, exported):
    place = cross_encoder(MODELS["bert"]())
    (spec,) = catalogue.read_catalogue(exported(place) / "model.toml")
    recipe = spec.reranker
    assert (spec.kinds, recipe.output, recipe.column) == (("reranker",), "logits", -1)
    assert (recipe.prefix_ids, recipe.middle_ids, recipe.suffix_ids) == ((101,), (102,), (102,))
    assert (recipe.type_ids, recipe.max_length) == ((0, 0, 0, 1, 1), 100)
    (figure,) = spec.export.parity
    assert (figure.metric, figure.limit) == ("max_abs", 1e-4)
    xlm = cross_encoder(MODELS["xlm-roberta"](), "xlm")
    (spec,) = catalogue.read_catalogue(exported(xlm, name="xlm-artifact") / "model.toml")
    with pytest.raises(ExportError, match=r"max_length 130 must lie in 3\.\.129"):
        facts.read(xlm, 130)


def test_the_head_of_ettin(make, exported, pairs, tmp_path):
    """Transformer, Pooling, Dense, GELU, LayerNorm, Dense: with the head in the graph."""
    encoder = make("encoder", small("modernbert"))
    for pooling, extra in (("cls", []), ("mean", [Normalize()])):
        torch.manual_seed(5)
        modules = [
            Transformer(str(encoder), max_seq_length=100),
            Pooling(64, pooling_mode=pooling),
            Dense(64, 48, bias=False, activation_function=torch.nn.GELU()),
            LayerNorm(48),
            *extra,
            Dense(48, 1, activation_function=torch.nn.Identity(), module_output_name="scores"),
        ]
        torch.nn.init.normal_(modules[3].norm.weight, mean=1)
        torch.nn.init.normal_(modules[3].norm.bias)
        upstream = CrossEncoder(modules=modules, device="cpu", activation_fn=torch.nn.Identity())
        place = tmp_path / f"ettin-{pooling}"
        upstream.save_pretrained(str(place))
        made = exported(place, ("fp32", "fp16"), name=f"{pooling}-artifact")
        expected = upstream.predict(pairs)
        assert np.abs(scores(made, pairs) - expected).max() <= 1e-4
        # The graph alone in the folder of its author: the modules are inside.
        shutil.copy(made / "model.fp32.onnx", place / "model.onnx")
        recipe = reader.read(place).spec.reranker
        assert (recipe.pooling, len(recipe.modules)) == (pooling, 3 + len(extra))
        assert np.abs(scores(place, pairs) - expected).max() <= 1e-4


def test_two_labels(cross_encoder, exported, pairs):
    """The score is the second of two that are named; of two without names nobody knows it."""
    model = small("bert", "ForSequenceClassification", num_labels=2)
    place = cross_encoder(model)
    with pytest.raises(ExportError, match=r"says 2 labels .* second is named relevant"):
        facts.read(place)
    config = json.loads((place / "config.json").read_text())
    config |= {"id2label": {"0": "Not relevant", "1": "relevant"}, "label2id": {}}
    (place / "config.json").write_text(json.dumps(config))
    made = exported(place)
    (spec,) = catalogue.read_catalogue(made / "model.toml")
    assert (spec.reranker.column, spec.reranker.activation) == (1, "identity")
    expected = CrossEncoder(str(place), device="cpu").predict(pairs)
    assert expected.shape == (len(pairs), 2)
    assert np.abs(scores(made, pairs) - expected[:, 1]).max() <= 1e-5
    toml = (made / "model.toml").read_text()
    (made / "model.toml").write_text(toml.replace("column = 1", "column = -1"))
    with pytest.raises(Exception, match=r"has the shape \(1, 2\)|gives 2 columns"):
        TesseraReranker(path=made)


def test_other_folders(make, dense_files, bert, cross_encoder):
    with pytest.raises(ExportError, match="is no reranker"):
        facts.read(make("dense", bert, dense_files("mean")))
    three = small("bert", "ForSequenceClassification", num_labels=3)
    with pytest.raises(ExportError, match=r"says 3 labels .* it is a classifier of texts"):
        facts.read(cross_encoder(three, "three"))
    place = cross_encoder(MODELS["bert"](), "headless")
    state = transformers.BertModel(transformers.BertConfig(**SMALL))
    state.save_pretrained(place)
    path = place / "config.json"
    config = json.loads(path.read_text()) | {
        "architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"},
    }  # fmt: skip
    path.write_text(json.dumps(config))
    with pytest.raises(ExportError, match="do not fill the tensor 'classifier"):
        export.export(facts.read(place), place / "out", artifact.Origin("test"), ("fp32",))


def test_a_tokenizer_that_lays_pairs_out_otherwise(cross_encoder, exported):
    place = cross_encoder(MODELS["bert"]())
    path = place / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    pair = tokenizer["post_processor"]["pair"]
    pair[2:2] = [pair[2]]  # [CLS] query [SEP] [SEP] document [SEP]
    path.write_text(json.dumps(tokenizer))
    recipe = facts.read(place).recipe
    assert recipe.middle_ids == (102, 102)
    upstream = transformers.AutoTokenizer.from_pretrained(place)
    if upstream("a", "b")["input_ids"].count(102) == 3:
        exported(place)
    else:  # transformers makes the post-processor of its own class anew
        with pytest.raises(ExportError, match="other ids or types than transformers makes"):
            exported(place)


def test_command(cross_encoder, tmp_path):
    place = cross_encoder(MODELS["bert"]())
    target = tmp_path / "out"
    arguments = [str(place), "--kind", "reranker", "--output", str(target)]
    for options, message in (
        (("--pooling", "mean"), "--pooling is for models of texts"),
        (("--kind", "dense"), "serves no other kind"),
        (("--backend", "optimum"), "optimum"),
        (("--query-prompt", "q"), "--query-prompt is for models of texts"),
    ):
        result = CliRunner().invoke(cli.main, [*arguments, *options])
        assert (result.exit_code, message in result.output) == (1, True), result.output
    result = CliRunner().invoke(
        cli.main, [*arguments, "--precision", "fp32,int8", "--max-length", "64"]
    )
    assert result.exit_code == 0, result.output
    assert "int8  logits  rank_correlation" in result.output
    assert f"Next: TesseraReranker(path='{target}')" in result.output
    with TesseraReranker(path=target) as model:
        assert (model.max_length(), model.precision) in ((64, "int8"), (64, "fp32"))


def test_verify_compares_with_cross_encoder(cross_encoder, exported):
    place = cross_encoder(MODELS["bert"]())
    made = exported(place, ("fp32", "fp16"))
    for precision, name in (("fp32", "model.onnx"), ("fp16", "model_fp16.onnx")):
        shutil.copy(made / f"model.{precision}.onnx", place / name)
    result = CliRunner().invoke(cli.main, ["verify", str(place)])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split("  ")[:3] for line in lines] == [
        ["model.onnx", "reranker", "pair"], ["model_fp16.onnx", "reranker", "pair"],
    ]  # fmt: skip
    assert "rank_correlation" in lines[1]
    other = exported(cross_encoder(MODELS["bert"]().apply(_other), "other"), name="other-artifact")
    shutil.copy(other / "model.fp32.onnx", place / "model.onnx")
    result = CliRunner().invoke(cli.main, ["verify", str(place), "--file", "model.onnx"])
    assert (result.exit_code, "DIFFERS" in result.output) == (1, True)


def _other(module):
    if isinstance(module, torch.nn.Linear):
        torch.nn.init.ones_(module.bias)


def test_figures_of_scores():
    truth = np.array([[0.0], [1.0], [2.0], [4.0]])
    assert parity.measure("max_of_range", [(truth + 0.1, truth)]) == pytest.approx(0.025)
    assert parity.measure("rank_correlation", [(truth**3, truth)]) == pytest.approx(1)
    assert parity.measure("rank_correlation", [(-truth, truth)]) == pytest.approx(-1)
    ties = np.array([[1.0], [1.0], [2.0], [3.0]])
    assert parity.measure("rank_correlation", [(ties, truth)]) == pytest.approx(0.9486833)
    with pytest.raises(ExportError, match="rank_correlation 0.5 .* at least 0.95"):
        parity.figure("int8", "logits", "rank_correlation", 0.5, 0.95)
    assert not parity.is_met("rank_correlation", float("nan"), 0.95)
