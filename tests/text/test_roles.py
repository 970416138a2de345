"""Texts that are said to be neither query nor document: the prompt of a model that has one."""

import json

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, TEXTS, copy
from click.testing import CliRunner

from tessera_onnx import (
    ConfigError,
    LoadError,
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    TruncationWarning,
)
from tessera_onnx.cli.main import main

CLASSES = {"dense": TesseraDense, "multi_vector": TesseraMultiVector, "sparse": TesseraSparse}
MODELS = {"dense": "prompts", "multi_vector": "colbert", "sparse": "splade"}
PROMPT = "the rain "
SHORT = [text for text in TEXTS if 0 < len(text) < 40]


def role_of(kind, name, prompt=PROMPT, length=40):
    lines = [f"[model.{kind}.{name}]", f'prompt = "{prompt}"', f"max_length = {length}"]
    if kind == "multi_vector":
        lines += ["marker_ids = [2]", 'expansion = "none"', "skip_ids = [7, 8, 9]"]
    return "\n".join(lines) + "\n"


def plain_copy(target, model, *kinds, **options):
    """A copy of a test artifact whose recipes read texts of neither role after PROMPT."""
    tables = "\n".join(role_of(kind, "plain", **options) for kind in kinds)
    return copy(model, target, lambda text: f"{text}\n{tables}")


def document_copy(target, model, kind):
    """A copy whose documents are read as the plain texts of `plain_copy` are."""

    def edit(text):
        head, table = text.split(f"[model.{kind}.document]\n")
        _, mark, rest = table.partition("\n[model.export]")
        return head + role_of(kind, "document") + mark + rest

    return copy(model, target, edit)


@pytest.fixture(params=list(CLASSES))
def kind(request):
    return request.param


@pytest.fixture
def three(kind, tmp_path):
    """The model as it is, with a prompt for plain texts, and with that prompt for documents."""
    places = (
        ARTIFACTS / MODELS[kind],
        plain_copy(tmp_path / "plain", MODELS[kind], kind),
        document_copy(tmp_path / "documents", MODELS[kind], kind),
    )
    models = [CLASSES[kind](path=place) for place in places]
    yield models
    for model in models:
        model.close()


def flat(result):
    if isinstance(result, list):
        return np.concatenate([flat(part) for part in result])
    if isinstance(result, tuple):
        return np.concatenate([np.ravel(part) for part in result])
    return np.ravel(result)


def equal(a, b):
    np.testing.assert_allclose(flat(a), flat(b), atol=1e-6)


def test_every_way_of_no_role_takes_the_prompt(three, kind):
    _, model, expected = three
    truth = expected.encode_document(SHORT)
    equal(model.encode_batch(SHORT), truth)
    equal([model.encode(text) for text in SHORT], list(truth))
    equal(list(model.encode_iter(SHORT)), list(truth))
    together = model.encode_all(SHORT)
    equal(getattr(together, kind), truth)
    counts = expected.token_count(SHORT, role="document")
    assert model.token_count(SHORT).tolist() == counts.tolist()
    if kind == "multi_vector":
        assert model.tokens("a cat sat") == expected.tokens("a cat sat", role="document")
        quantized = model.encode_quantized(SHORT[0])
        assert np.array_equal(quantized.bits, expected.quantize(truth[0]).bits)


def test_queries_and_documents_keep_their_own_prompts(three, kind):
    bare, model, _ = three
    equal(model.encode_query(SHORT), bare.encode_query(SHORT))
    equal(model.encode_document(SHORT), bare.encode_document(SHORT))
    equal(model.encode_document(SHORT[0]), bare.encode_document(SHORT[0]))
    for role in ("query", "document"):
        equal(list(model.encode_iter(SHORT, role=role)), list(bare.encode_iter(SHORT, role=role)))
        equal(getattr(model.encode_all(SHORT, role=role), kind),
              getattr(bare.encode_all(SHORT, role=role), kind))  # fmt: skip
        counts = bare.token_count(SHORT, role=role)
        assert model.token_count(SHORT, role=role).tolist() == counts.tolist()
    assert model.similarity(SHORT[0], SHORT[1]) == pytest.approx(
        bare.similarity(SHORT[0], SHORT[1]), abs=1e-6
    )
    ours, theirs = (each.rank(SHORT[0], SHORT) for each in (model, bare))
    assert [row.index for row in ours] == [row.index for row in theirs]
    assert [row.score for row in ours] == pytest.approx([row.score for row in theirs], abs=1e-5)
    if kind == "multi_vector":
        equal(model.score(SHORT[0], SHORT), bare.score(SHORT[0], SHORT))
        ours, theirs = (each.explain(SHORT[0], SHORT[1]) for each in (model, bare))
        assert [match[:2] for match in ours] == [match[:2] for match in theirs]


def test_the_prompt_changes_the_numbers(three):
    """The other tests would pass with a model that ignores its texts' first words."""
    bare, model, _ = three
    ours, theirs = (flat(each.encode(SHORT[0])) for each in (model, bare))
    assert len(ours) != len(theirs) or np.abs(ours - theirs).max() > 1e-3


def test_a_model_without_such_a_prompt_reads_documents(kind):
    with CLASSES[kind](path=ARTIFACTS / MODELS[kind]) as model:
        equal(model.encode_batch(SHORT), model.encode_document(SHORT))
        equal(list(model.encode_iter(SHORT)), list(model.encode_iter(SHORT, role="document")))
        with pytest.raises(ConfigError, match="role must be"):
            model.token_count(SHORT, role=None)
        equal(list(model.encode_iter(SHORT, role="plain")), model.encode_batch(SHORT))


def test_lengths_of_plain_texts(kind, tmp_path):
    place = plain_copy(tmp_path / "plain", MODELS[kind], kind, length=12)
    with CLASSES[kind](path=place) as model, pytest.warns(TruncationWarning, match="to 12 tokens"):
        model.encode("one two three four five six seven eight nine ten")
    with (
        CLASSES[kind](path=place, max_length=9) as model,
        pytest.warns(TruncationWarning, match="to 9 tokens"),
    ):
        model.encode_batch(["one two three four five six seven eight nine ten"])
    wrong = plain_copy(tmp_path / "wrong", MODELS[kind], kind, length=65)
    with pytest.raises(LoadError, match=r"max_length 65 must lie in [34]\.\.64"):
        CLASSES[kind](path=wrong)


def test_dense_tasks_and_prompts_take_its_place(tmp_path):
    place = plain_copy(tmp_path / "plain", "prompts", "dense")
    with TesseraDense(path=place) as model, TesseraDense(path=ARTIFACTS / "prompts") as bare:
        equal(model.encode("a cat", prompt="rain "), bare.encode("a cat", prompt="rain "))
        equal(model.encode("a cat", prompt=""), bare.encode("a cat", prompt=""))


def test_all_kinds_of_one_run(tmp_path):
    every = plain_copy(tmp_path / "every", "m3", "dense", "sparse")
    text = (every / "model.toml").read_text()
    table = role_of("multi_vector", "plain").replace("[2]", "[]").replace("[7, 8, 9]", "[]")
    (every / "model.toml").write_text(f"{text}\n{table}")
    with (
        TesseraDense(path=every) as dense,
        TesseraMultiVector(path=every) as multi,
        TesseraSparse(path=every) as sparse,
    ):
        found = dense.encode_all(SHORT)
        equal(found.dense, dense.encode_batch(SHORT))
        equal(found.multi_vector, multi.encode_batch(SHORT))
        equal(found.sparse, sparse.encode_batch(SHORT))
    one = plain_copy(tmp_path / "one", "m3", "dense")
    with TesseraDense(path=one) as model:
        with pytest.raises(ConfigError, match="reads a text differently for each of its kinds"):
            model.encode_all(SHORT)
        assert len(model.encode_all(SHORT, role="document").dense) == len(SHORT)


def test_the_command(three, kind, tmp_path):
    def encoded(place, *options):
        args = ["encode", "--text", SHORT[0], "--model", str(place), "--json", *options]
        result = CliRunner().invoke(main, args, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        return found.pop("role"), found

    place = tmp_path / "plain"
    role, ours = encoded(place)
    bare = encoded(ARTIFACTS / MODELS[kind])
    assert encoded(place, "--role", "document") == bare
    assert (role, bare[0]) == ("plain", "document")
    assert ours != bare[1]
    if kind == "dense":
        np.testing.assert_allclose(ours["vector"], three[1].encode(SHORT[0]), atol=1e-6)
