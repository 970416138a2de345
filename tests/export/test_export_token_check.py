"""Token ids of texts that tokenizers disagree about: the artifact's, transformers', upstream's."""

import json

import pytest
import transformers
from sentence_transformers import SentenceTransformer
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tessera_export import artifact
from tessera_export.errors import ExportError
from tessera_export.texts import encoder, folder, samples, token_check
from tessera_onnx.text import tokenizer as runtime

pytestmark = pytest.mark.export

SPECIAL = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>",
           "mask_token": "<mask>"}  # fmt: skip


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def normalizer(place, **changes):
    path = place / "tokenizer.json"
    document = json.loads(path.read_text())
    edit(path, normalizer=document["normalizer"] | changes)


@pytest.fixture
def place(make, dense_files, bert):
    return make("model", bert, dense_files("mean", prompts={"query": "Query: ", "document": ""}))


def byte_level(_place):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=900, special_tokens=list(SPECIAL.values()), initial_alphabet=alphabet
    )


def unigram(_place):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=400, special_tokens=list(SPECIAL.values()), unk_token="<unk>"
    )


def trained(place, build):
    """Put a tokenizer of another sort into the folder."""
    tokenizer, trainer = build(place)
    tokenizer.train_from_iterator(samples.texts(), trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=ids)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=100, **SPECIAL
    )
    wrapped.save_pretrained(place)


def cased(place):
    normalizer(place, lowercase=False)
    edit(place / "tokenizer_config.json", do_lower_case=False)


def lowered(place):
    """A cased tokenizer that sentence-transformers makes lower case of."""
    cased(place)
    edit(place / "sentence_bert_config.json", do_lower_case=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda _place: None,
        cased,
        lowered,
        lambda place: trained(place, byte_level),
        lambda place: trained(place, unigram),
    ],
    ids=["uncased", "cased", "lowered", "byte level", "unigram"],
)
def test_ids_are_those_of_sentence_transformers(place, change):
    change(place)
    facts = folder.read(place, ["dense"])
    token_check.check(facts, samples.texts())
    tokenizer = runtime.Tokenizer(facts.tokenizer.json.encode(), facts.tokenizer.text)
    upstream = SentenceTransformer(str(place), device="cpu")
    for prompt in ("", "Query: "):
        role = facts.dense.query if prompt else facts.dense.document
        tried = [text for _, text in token_check.texts(facts.tokenizer)]
        rows, _ = tokenizer.rows(tried, role)
        for text, (ids, *_) in zip(tried, rows, strict=True):
            theirs = upstream.preprocess([text], prompt=prompt or None)["input_ids"][0].tolist()
            assert ids.tolist() == theirs, ascii(text[:80])


@pytest.mark.parametrize(
    "change",
    [
        lambda place: normalizer(place, strip_accents=False),
        lambda place: normalizer(place, handle_chinese_chars=False),
        lambda place: normalizer(place, clean_text=False),
        lambda place: normalizer(place, lowercase=False),
        lambda place: edit(place / "tokenizer_config.json", do_lower_case=False),
    ],
)
def test_a_normalizer_that_transformers_makes_anew_is_refused(place, change):
    """What the reader refuses by the names of settings is what makes other ids upstream."""
    change(place)
    with pytest.raises(ExportError, match="in its normalizer, and tokenizer_config.json"):
        folder.read(place, ["dense"])
    ours = Tokenizer.from_file(str(place / "tokenizer.json"))
    tried = [text for group in token_check.HOSTILE.values() for text in group]
    mine = [list(ours.encode(text, add_special_tokens=True).ids) for text in tried]
    upstream = token_check.load_upstream(place, trust_remote_code=False)
    assert token_check._theirs(upstream, tried) != mine


def test_a_tokenizer_that_transformers_reads_otherwise_is_refused(place, tmp_path):
    edit(place / "tokenizer.json", pre_tokenizer={"type": "WhitespaceSplit"})
    facts = folder.read(place, ["dense"])
    message = r"tokenizer.json gives other ids .* of the sort 'plain texts'"
    with pytest.raises(ExportError, match=message):
        token_check.check(facts, samples.texts())
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ExportError, match=message):
        encoder.export(facts, tmp_path / "out", artifact.Origin("test"), ("fp32",))
    assert sorted(tmp_path.iterdir()) == before


def test_errors_repeat_no_text(place, monkeypatch):
    def failing(texts, **_options):
        raise RuntimeError(texts[0])

    facts = folder.read(place, ["dense"])
    monkeypatch.setattr(token_check, "load_upstream", lambda *_args, **_options: failing)
    with pytest.raises(ExportError) as caught:
        token_check.check(facts, ["zqxjkv"])
    assert str(caught.value) == "transformers' tokenizer fails: RuntimeError"


def test_every_sort_has_texts(place):
    found = token_check.texts(folder.read(place, ["dense"]).tokenizer)
    sorts = {sort for sort, _ in found}
    assert sorts == set(token_check.HOSTILE)
    assert len(sorts) >= 20
    assert "a[MASK]b [mask]" in {text for _, text in found}
