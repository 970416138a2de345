"""Tokenizers of which transformers would make other ids than tokenizer.json says."""

import pytest
from foreign_folders import TOKENIZER_CONFIG, WORDS, dense, edit, tokenizer, write

from tessera_onnx import LoadError
from tessera_onnx.models.foreign.reader import read

NORMALIZER = {
    "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
    "strip_accents": None, "lowercase": True,
}  # fmt: skip
ADDED = {"special": True, "lstrip": False, "rstrip": False, "normalized": False}


def folder_of(place, *, normalizer=NORMALIZER, **config):
    settings = TOKENIZER_CONFIG | {"tokenizer_class": "BertTokenizerFast"} | config
    return write(
        dense(place, "Normalize"),
        {"tokenizer.json": tokenizer(normalizer=normalizer), "tokenizer_config.json": settings},
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"do_lower_case": False}, "has the lowercase True .* says do_lower_case False"),
        ({"strip_accents": False}, "says strip_accents False"),
        ({"tokenize_chinese_chars": False}, "says tokenize_chinese_chars False"),
        ({"cls_token": "[MASK]"}, "has a cls_token with the id 4, which tokenizer.json does not"),
        ({"sep_token": "[MASK]"}, "has a sep_token with the id 4"),
        (
            {"added_tokens_decoder": {"40": {"content": "<new>"} | ADDED}},
            "lists the token '<new>', which tokenizer.json does not list",
        ),
        (
            {"added_tokens_decoder": {"5": {"content": "[unused1]"} | ADDED}},
            r"lists the token '\[unused1\]', which",
        ),
        ({"additional_special_tokens": ["<new>"]}, "lists the token '<new>'"),
        ({"extra_special_tokens": {"new": {"content": "<new>"}}}, "lists the token '<new>'"),
    ],
)
def test_a_configuration_that_transformers_would_follow(tmp_path, config, message):
    with pytest.raises(LoadError, match=message) as caught:
        read(folder_of(tmp_path, **config))
    assert "tokenizer_config.json" in str(caught.value)
    assert "save the tokenizer with transformers again" in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True},
        {"strip_accents": True},  # what None means for lower case
        {"cls_token": "[CLS]", "sep_token": "[SEP]"},
        {"added_tokens_decoder": {"5": {"content": "[unused0]"} | ADDED}},
        {"additional_special_tokens": ["[unused0]"], "extra_special_tokens": []},
        {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False},
    ],
)
def test_a_configuration_that_agrees(tmp_path, config):
    assert read(folder_of(tmp_path, **config)).spec.kinds == ("dense",)


def test_a_cased_tokenizer_needs_its_key(tmp_path):
    """Transformers lower-cases where a configuration of BERT does not say do_lower_case."""
    cased = NORMALIZER | {"lowercase": False}
    with pytest.raises(LoadError, match="for which transformers takes do_lower_case True"):
        read(folder_of(tmp_path, normalizer=cased))
    edit(tmp_path, "tokenizer_config.json", do_lower_case=False)
    assert read(tmp_path).spec.text.lowercase is False


def test_added_tokens_of_an_older_file(tmp_path):
    folder = write(folder_of(tmp_path), {"added_tokens.json": {"[unused0]": 5}})
    assert read(folder).spec.kinds == ("dense",)
    write(folder, {"added_tokens.json": {"<new>": 40}})
    with pytest.raises(LoadError, match="lists the token '<new>'"):
        read(folder)


def test_the_vocabulary_of_another_model(tmp_path):
    folder = write(folder_of(tmp_path), {"vocab.txt": "\n".join([*WORDS, ""])})
    assert read(folder).spec.kinds == ("dense",)
    write(folder, {"vocab.txt": "\n".join([*WORDS[::-1], ""])})
    with pytest.raises(LoadError, match=r"vocab.txt and tokenizer.json hold the vocabularies of"):
        read(folder)


def test_the_space_before_a_text(tmp_path):
    """Classes of byte-level tokenizers take add_prefix_space from tokenizer_config.json alone."""
    folder = folder_of(tmp_path, tokenizer_class="RobertaTokenizerFast", add_prefix_space=True)
    spaces = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    changed = tokenizer(pre_tokenizer=spaces | {"use_regex": True}, normalizer=None)
    write(folder, {"tokenizer.json": changed})
    assert read(folder).spec.kinds == ("dense",)
    edit(folder, "tokenizer_config.json", add_prefix_space=None)
    with pytest.raises(LoadError, match="makes add_prefix_space false, and tokenizer.json has the"):
        read(folder)
    edit(folder, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert read(folder).spec.kinds == ("dense",)
