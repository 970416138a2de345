"""Read how the texts of a ColBERT are read: as Stanford, PyLate, sentence-transformers, next-plaid.

Sources: stanford-futuredata/ColBERT, colbert/infra/config/settings.py; lightonai/pylate,
pylate/models/colbert.py; sentence_transformers/multi_vector_encoder/model.py;
lightonai/next-plaid, next-plaid-onnx/src/lib.rs.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tessera_onnx.errors import LoadError
from tessera_onnx.models.foreign import tokenizer_check, tokenizer_file
from tessera_onnx.models.foreign.files import (
    MODULES,
    SETTINGS,
    class_of,
    module_folder,
    read_list,
    read_table,
)
from tessera_onnx.models.foreign.prompts import Prompts
from tessera_onnx.models.foreign.tokenizer_file import TokenizerFile
from tessera_onnx.models.spec import TokenRole

MASK = "MultiVectorMask"
METADATA = "artifact.metadata"
PLAID = "onnx_config.json"
Expansion = Literal["none", "unattended", "attended"]


class Said(NamedTuple):
    """What the caller says in place of the folder; None = ask the folder."""

    query_length: int | None = None
    document_length: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None


class Roles(NamedTuple):
    """How a query, a document and a text of neither role are read; None = as a document.

    `fill` is the id of the tokens of query expansion, where it is not the mask token.
    """

    query: TokenRole
    document: TokenRole
    plain: TokenRole | None
    fill: int | None = None


def stanford(
    metadata: Mapping[str, Any], tokenizer: TokenizerFile, said: Said, before: Prompts
) -> Roles:
    """Roles of Stanford's artifact.metadata."""
    # Where a key is absent its default stands in colbert/infra/config/settings.py; doc_maxlen
    # alone has no default here, because 220 there contradicts the 180 that PyLate takes.
    for key, only in (("similarity", "cosine"), ("interaction", "colbert")):
        if metadata.get(key, only) != only:
            raise LoadError(f"{METADATA} has {key} {metadata[key]!r:.80}, known is only {only}")
    length = metadata.get("doc_maxlen") if said.document_length is None else said.document_length
    if length is None:
        raise LoadError(f"document_length is missing: {METADATA} has no doc_maxlen")
    attend = bool(metadata.get("attend_to_mask_tokens", False))
    skip: set[int] = set()
    if metadata.get("mask_punctuation", True):
        # The first id of what the symbol becomes as a text, as colbert/modeling/colbert.py does.
        skip = {tokenizer.ids(symbol)[0] for symbol in string.punctuation}
    query_token = metadata.get("query_token_id") or "[unused0]"
    document_token = metadata.get("doc_token_id") or "[unused1]"
    query = TokenRole(
        prompt=before.query,
        max_length=_length(said.query_length, metadata, "query_maxlen", 32, METADATA),
        marker_ids=(tokenizer.id_of(query_token, "query_token_id"),),
        expansion="attended" if attend else "unattended",
        skip_ids=(),
    )
    document = TokenRole(
        prompt=before.document,
        max_length=tokenizer_file.tokens(METADATA, "doc_maxlen", length),
        marker_ids=(tokenizer.id_of(document_token, "doc_token_id"),),
        expansion="none",
        skip_ids=tuple(sorted(skip)),
    )
    return Roles(query, document, None)


def pylate(
    settings: Mapping[str, Any], tokenizer: TokenizerFile, said: Said, before: Prompts
) -> Roles:
    """Roles of PyLate's config_sentence_transformers.json."""
    # Absent keys: pylate/models/colbert.py takes "[Q] ", "[D] ", 32, 180, expansion, no attention
    # to it, and string.punctuation.
    expand = _default(settings, "do_query_expansion", default=True)
    attend = _default(settings, "attend_to_expansion_tokens", default=False)
    expansion: Expansion = "none" if not expand else "attended" if attend else "unattended"
    words = _default(settings, "skiplist_words", list(string.punctuation))
    query_marker, query_rest = _marker(_default(settings, "query_prefix", "[Q] "), tokenizer)
    document_marker, rest = _marker(_default(settings, "document_prefix", "[D] "), tokenizer)
    query = TokenRole(
        prompt=query_rest + before.query,
        max_length=_length(said.query_length, settings, "query_length", 32),
        marker_ids=query_marker,
        expansion=expansion,
        skip_ids=(),
    )
    document = TokenRole(
        prompt=rest + before.document,
        max_length=_length(said.document_length, settings, "document_length", 180),
        marker_ids=document_marker,
        expansion="none",
        skip_ids=_skip_ids(words, tokenizer),
    )
    # sentence-transformers makes the marker a part of the prompt of that name.
    markers = {"query": (query_marker, query_rest), "document": (document_marker, rest)}
    plain = _plain(tokenizer, said, before, document.skip_ids)
    if plain is not None:
        marker, text = markers.get(before.name, ((), ""))
        plain = replace(plain, prompt=text + plain.prompt, marker_ids=marker)
    return Roles(query, document, plain, _fill(tokenizer) if expand else None)


def plaid(settings: Mapping[str, Any], tokenizer: TokenizerFile, said: Said) -> Roles:
    """Roles as next-plaid reads a folder of its own export (next-plaid-onnx/src/lib.rs)."""
    if settings.get("do_lower_case") and not (tokenizer.lowers or _lowers(tokenizer)):
        raise LoadError(f"{PLAID} has do_lower_case, which tokenizer.json does not do")
    expand = bool(settings.get("do_query_expansion", True))
    words = _default(settings, "skiplist_words", list(string.punctuation))
    query_marker, query_rest = _marker(_default(settings, "query_prefix", "[Q] "), tokenizer)
    document_marker, rest = _marker(_default(settings, "document_prefix", "[D] "), tokenizer)
    query = TokenRole(
        prompt=query_rest,
        max_length=_length(said.query_length, settings, "query_length", 48, PLAID),
        marker_ids=query_marker,
        expansion="unattended" if expand else "none",
        skip_ids=(),
    )
    document = TokenRole(
        prompt=rest,
        max_length=_length(said.document_length, settings, "document_length", 300, PLAID),
        marker_ids=document_marker,
        expansion="none",
        skip_ids=_skip_ids(words, tokenizer),
    )
    return Roles(query, document, None)


def _lowers(tokenizer: TokenizerFile) -> bool:
    return tokenizer.ids("AbC") == tokenizer.ids("abc")


def _plain(
    tokenizer: TokenizerFile, said: Said, before: Prompts, skipped: tuple[int, ...]
) -> TokenRole | None:
    """A text of neither role, as sentence-transformers reads it: a document, but of the length of
    the Transformer module, and after the prompt of default_prompt_name.
    """
    if before.default is None:
        return None
    length = tokenizer_file.max_length(tokenizer, said.document_length)
    return TokenRole(before.default, length, (), "none", skipped)


def own(folder: Path, tokenizer: TokenizerFile, said: Said, before: Prompts) -> Roles:
    """Roles of sentence_transformers' MultiVectorEncoder, whose markers are prompts."""
    transformer, path = tokenizer_file.transformer_settings(tokenizer.places[0])
    masking = next((m for m in read_list(folder / MODULES) if class_of(m) == MASK), None)
    if masking is None:
        raise LoadError(f"{folder / MODULES} lists no {MASK}", path=str(folder / MODULES))
    place = module_folder(folder, masking) / "config.json"
    mask = read_table(place)
    if mask.get("keep_only_token_ids"):
        raise LoadError(
            f"{place}: MultiVectorMask keeps some token ids only, which is for images",
            path=str(place),
        )
    skipped = _skip_ids(mask.get("skiplist_words") or [], tokenizer)
    tasks = _default(mask, "skiplist_tasks", ["document"])
    tasks = [tasks] if isinstance(tasks, str) else tasks
    wanted = transformer.get("query_expansion")
    if "query" in tasks and skipped and wanted is not None:
        raise LoadError(
            f"{place}: skiplist_tasks names queries, whose expansion is kept whole here",
            path=str(place),
        )

    def role(name: str, prompt: str, length: int | None) -> TokenRole:
        length = transformer.get(f"{name}_length") if length is None else length
        if length is not None:
            length = tokenizer_file.tokens(path.name, f"{name}_length", length)
        return TokenRole(
            prompt=prompt,
            max_length=tokenizer_file.max_length(tokenizer, length),
            marker_ids=(),
            expansion="none",
            skip_ids=skipped if name in tasks else (),
        )

    document = role("document", before.document, said.document_length)
    plain = _plain(tokenizer, said, before, document.skip_ids)
    if wanted is None:
        return Roles(role("query", before.query, said.query_length), document, plain)
    query, fill = _expanded(wanted, path, transformer, tokenizer, said)
    query = replace(query, prompt=before.query)
    return Roles(query, document, plain, fill)


def _expanded(
    wanted: Any,
    path: Path,
    transformer: Mapping[str, Any],
    tokenizer: TokenizerFile,
    said: Said,
) -> tuple[TokenRole, int | None]:
    """The role of expanded queries, and the id of the expansion's tokens if it is not the mask's.

    "fixed" cuts and fills to `length`; "min" only fills up to it
    (sentence_transformers/base/modules/transformer.py, QueryExpansionConfig).
    """
    known = {"strategy", "attend", "token", "length"}
    is_table = isinstance(wanted, dict) and not set(wanted) - known
    if not is_table or wanted.get("strategy") not in ("fixed", "min"):
        raise LoadError(
            f"{path} has the query_expansion {wanted!s:.200}; known are the strategies fixed and "
            "min with length, attend and token",
            path=str(path),
        )
    length = tokenizer_file.tokens(path.name, "query_expansion.length", wanted.get("length"))
    limit = transformer.get("query_length") if said.query_length is None else said.query_length
    if wanted["strategy"] == "fixed":
        if said.query_length is None and limit is not None and limit < length:
            raise LoadError(
                f"{path} has the query_length {limit!r:.40}, less than the length of "
                f"query_expansion, {length}",
                path=str(path),
            )
        most = length if said.query_length is None else said.query_length
        until = None
    else:
        if limit is not None:
            limit = max(tokenizer_file.tokens(path.name, "query_length", limit), length)
        most, until = tokenizer_file.max_length(tokenizer, limit), length
        if length > most:
            raise LoadError(
                f"{path} fills queries up to {length} tokens, but reads {most} at most",
                path=str(path),
            )
    token = wanted.get("token")
    fill = _fill(tokenizer) if token is None else tokenizer.id_of(str(token), "query_expansion")
    role = TokenRole(
        prompt="",
        max_length=most,
        marker_ids=(),
        expansion="attended" if wanted.get("attend") else "unattended",
        skip_ids=(),
        expansion_length=until,
    )
    return role, None if fill == tokenizer.text.mask_id else fill


def _fill(tokenizer: TokenizerFile) -> int | None:
    """The id of the tokens of an expansion, None for the mask token.

    A decoder has no mask token, and upstream takes the end of the text.
    """
    if tokenizer.text.mask_id >= 0:
        return None
    return tokenizer_check.special(tokenizer.places, tokenizer.tokenizer, "eos")


def _skip_ids(words: Any, tokenizer: TokenizerFile) -> tuple[int, ...]:
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise LoadError(f"skiplist_words must be a list of words, got {words!s:.80}")
    # A word that is no token is dropped, as sentence-transformers' MultiVectorMask does; PyLate
    # would put the unknown token in its place and lose every real unknown token.
    found = {tokenizer.tokenizer.token_to_id(word) for word in words}
    return tuple(sorted(number for number in found if number is not None))


def _default(settings: Mapping[str, Any], key: str, default: Any) -> Any:
    value = settings.get(key)
    return default if value is None else value  # PyLate reads null as absent


def _length(
    wanted: int | None, settings: Mapping[str, Any], key: str, default: int, file: str = SETTINGS
) -> int:
    if wanted is not None:
        return wanted
    return tokenizer_file.tokens(file, key, _default(settings, key, default))


def _marker(prefix: str, tokenizer: TokenizerFile) -> tuple[tuple[int, ...], str]:
    """The ids of PyLate's prefix, and the rest of it, which stands before the text.

    A prefix that is one token of the vocabulary, with or without the space after it, is inserted as
    that token; another one is text (sentence_transformers/multi_vector_encoder/model.py,
    _register_prefix_tokens). PyLate itself would add a token that is not there, with a random row,
    which no graph has.
    """
    word = (prefix.split(None, 1) or [""])[0]
    for known in (prefix, word):
        number = tokenizer.tokenizer.token_to_id(known) if known else None
        if number is not None:
            return (int(number),), prefix.partition(known)[2]
    return (), prefix
