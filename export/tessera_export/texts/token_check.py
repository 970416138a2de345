"""Compare the token ids of the artifact's tokenizer with those of upstream's.

The gate compares graphs on token ids, so it cannot see a tokenizer that makes other ids. Here the
runtime's own tokenizer and transformers' (called as sentence-transformers calls it) read texts on
which tokenizers tend to differ.
"""

# ruff: noqa: RUF001 (letters that look alike are what tokenizers disagree about)
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tessera_export.errors import ExportError
from tessera_export.files import read_table
from tessera_export.texts.folder import Facts
from tessera_onnx.models.foreign.tokenizer_file import TokenizerFile, lowers, wants_lower
from tessera_onnx.models.spec import roles_of
from tessera_onnx.text import tokenizer as runtime

# By sort, since an error names the sort and never the text.
HOSTILE = {
    "Latin": ("Ça coûte 3 €, déjà ?", "Stra\u00dfe STRASSE \u1e9e \u0130I\u0131i", "œuvre ﬁn ﬂ ĳ"),
    "combining marks": ("cafe\u0301 A\u030angstro\u0308m", "Z\u0351\u036ba\u0328\u0301l\u0334"),
    "Cyrillic": ("Щука и ЁЛКА, 2024 г.", "їжак Ґанок"),
    "Greek": ("ΟΔΥΣΣΕΥΣ Οδυσσεύς ΣΑΣ", "ά ὦ ᾳ"),
    "Arabic": ("السَّلامُ عليكم ١٢٣", "می‌خواهم ﷺ ﻻ"),
    "Hebrew": ("שָׁלוֹם עולם", "צה״ל ׳"),
    "Devanagari": ("क्षत्रिय ज़रूर १२", "हिन्दी है।"),
    "Thai": ("ภาษาไทยไม่เว้นวรรค ๔๕", "น้ำ"),
    "Chinese": ("東京和北京，你好。", "𠮷野家 ㊙ ㎏"),
    "Japanese": ("カタカナ ひらがな ｶﾞ ガ", "「はい」〜"),
    "Korean": ("한국어 문장", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
    "Georgian": ("ქართული ᲥᲐᲠᲗᲣᲚᲘ",),
    "Ethiopic": ("አማርኛ ፩፪",),
    "full width": ("ＡＢＣ　１２３！", "𝔘𝔫𝔦 ½ ² №"),
    "empty": ("",),
    "white space": (" ", "\n", "\t \r\n ", "\u00a0\u2003\u3000", " a  b   c ", "\u2028\u2029\x85"),
    "invisible": (
        "a\u200bb\u200dc\u2060d\u00ad", "\ufeffstart", "a\u202eb\u202c", "a\x00b\x07c", "\ufffd",
    ),
    "emoji": ("👩‍👩‍👧‍👦 🏳️‍🌈", "👋🏽☺️❤", "🇫🇷🇯🇵1️⃣", "🫨🪿"),
    "special tokens": (
        "[CLS] a [SEP] b [MASK] [PAD][UNK]",
        "<s> a </s><mask>, <pad> <unk>",
        "<|endoftext|>a<|im_start|>b<|im_end|>",
        "[cls] [Mask] <S> ##a ▁a Ġa",
        "<bos><eos><start_of_turn>",
    ),
    "code": (
        "def f(x):\n\treturn x**2  # y\n",
        'if (a&&b||!c) { s = "\\n"; }',
        "<p class='a'>&amp;</p>",
        "a_b-c.d/e\\f@g#h$i%j^k",
    ),
    "long words": ("a" * 3000, "ab1-" * 500, "漢" * 600),
    "repeats": ("the " * 300, "!" * 300, "1 2 " * 100, "\n" * 50),
    "numbers": ("1234567890 3.14 1,000 1e-7", "2024-01-31T07:45:00Z +49(0)221"),
    "addresses": ("https://example.org/a?b=c&d=%20#e", "a.b+c@example.co.uk"),
}  # fmt: skip
MOST = 40  # special tokens of the file that are spelled out


def texts(found: TokenizerFile) -> list[tuple[str, str]]:
    """Every text after the name of its sort: HOSTILE's, and the file's own special tokens."""
    own = [token.content for _, token in sorted(found.tokenizer.get_added_tokens_decoder().items())]
    named = "special tokens"
    spelled = [" ".join(own[:MOST]), *(f"a{token}b {token.lower()}" for token in own[:MOST])]
    every = [(sort, text) for sort, group in HOSTILE.items() for text in group]
    return every + [(named, text) for text in spelled]


def check(facts: Facts, others: list[str]) -> None:
    """Raises ExportError when transformers makes other ids of a text than the runtime does.

    `others` are texts that are tried beside those of `texts`, all of them after every prompt of
    the model.
    """
    found = facts.tokenizer
    tried = [*(("plain texts", text) for text in others), *texts(found)]
    recipes = [recipe for recipe in (facts.dense, facts.multi_vector, facts.sparse) if recipe]
    prompts = {"", *(role.prompt for recipe in recipes for role in roles_of(recipe))}
    upstream = load_upstream(facts.folder, trust_remote_code=facts.trust_remote_code)
    ours = runtime.Tokenizer(found.json.encode(), found.text)
    wrong: list[str] = []
    for prompt in sorted(prompts):
        whole = [prompt + text for _, text in tried]
        theirs = _theirs(upstream, whole)
        bodies = [ids.tolist() for ids in ours.ids(whole)]
        around = [[*found.text.prefix_ids, *body, *found.text.suffix_ids] for body in bodies]
        pairs = zip(tried, around, theirs, strict=True)
        wrong += [sort for (sort, _), mine, other in pairs if mine != other]
    if wrong:
        raise ExportError(
            f"tokenizer.json gives other ids than transformers makes of the folder, for "
            f"{len(wrong)} of {len(tried) * len(prompts)} texts (the first of the sort "
            f"{wrong[0]!r}): save the tokenizer with transformers again"
        )


def _theirs(upstream: Any, whole: list[str]) -> list[list[int]]:
    try:
        return [list(row) for row in upstream(whole, truncation=False, verbose=False)["input_ids"]]
    except Exception as error:  # the folder's own code may raise anything, and name the text
        raise ExportError(f"transformers' tokenizer fails: {type(error).__name__}") from None


def load_upstream(folder: Path, *, trust_remote_code: bool) -> Any:
    """The folder's tokenizer as sentence-transformers sets it up. Raises ExportError."""
    from tokenizers import normalizers
    from transformers import AutoTokenizer

    try:
        upstream = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ExportError(f"transformers cannot load the tokenizer: {error}") from error
    backend = getattr(upstream, "backend_tokenizer", None)
    if wants_lower(read_table(folder / "sentence_bert_config.json")) and backend is not None:
        # sentence_transformers/base/modules/transformer.py
        before = backend.normalizer
        state = json.loads(backend.to_str())["normalizer"]
        if not lowers(state):
            parts = [normalizers.Lowercase(), *([] if before is None else [before])]
            backend.normalizer = normalizers.Sequence(parts)
    return upstream
