"""Turn the chat template of a CrossEncoder's folder into data, by what it makes of probe texts.

sentence-transformers gives the template a message of the role "query", one of the role "document"
and, for a prompt, one of the role "system". What it makes of them is tokenized as one text and cut
at its end, where its tail is put back (sentence_transformers/base/modules/transformer.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tessera_export.errors import ExportError
from tessera_export.texts import token_check
from tessera_onnx.models.foreign import answers
from tessera_onnx.models.foreign.found import Folder
from tessera_onnx.models.spec_pairs import DOCUMENT, INSTRUCTION, QUERY, PairTemplate

# No template spells them.
MARKS = ("\ue000q\ue001", "\ue000d\ue001", "\ue000s\ue001")
PROBES = (
    ("", ""), ("a", ""), ("", "b"), (" a ", " b "), ("\na\n", "\n\nb\n"), ("<|im_end|>", "</s>"),
    ("{{ 1 }}", "{% raw %}"), ("&<>\"'", "\\n\t"), ("a\u0301\u00a0", "\u3000\u200bb"),
)  # fmt: skip


def is_spoken(found: Folder) -> bool:
    """Whether a chat template of the folder spells the pairs."""
    table, _ = answers.settings(found)
    modalities = table.get("modality_config")
    return isinstance(modalities, dict) and "message" in modalities


def derive(found: Folder, folder: Path) -> PairTemplate:
    """The template of `folder`. Raises ExportError for one that does more than put texts around
    the texts of a pair.
    """
    table, name = answers.settings(found)
    render = _Render(folder, table, name)
    query, document, system = MARKS
    whole = render(query, document)
    if whole.count(query) != 1 or whole.count(document) != 1:
        raise ExportError(f"{name}: the chat template does not hold query and document once")
    before, _, rest = whole.partition(query)
    between, found_document, after = rest.partition(document)
    if not found_document:
        raise ExportError(f"{name}: the chat template puts the document before the query")
    for one, other in PROBES:
        if render(one, other) != before + one + between + other + after:
            raise ExportError(f"{name}: the chat template changes the texts of a pair")
    default = _default(found)
    told = _instructed(before, render(query, document, system), whole, system)
    if default is not None and told is None:
        raise ExportError(f"{name}: the chat template has no place for {found.settings}"[:300])
    if not _is_apart(found, after):
        raise ExportError(
            f"{name}: after the document the chat template has no special token first, so where "
            "the document ends depends on its letters"
        )
    form, said = (before, "") if told is None else told
    return PairTemplate(
        before="",
        query=form + QUERY,
        between=between,
        document=DOCUMENT,
        after=(after,),
        instruction=said if default is None else default,
        instructed="" if told is None else INSTRUCTION,
        query_share=1.0,
        limits="pair",
    )


class _Render:
    """The text that the chat template makes of a pair."""

    def __init__(self, folder: Path, table: dict[str, Any], name: str) -> None:
        self._upstream = token_check.load_upstream(folder, trust_remote_code=False)
        modalities = table["modality_config"]
        self._flat = modalities["message"].get("format") == "flat"
        processing = table.get("processing_kwargs") or {}
        strange = set(processing) - {"chat_template"}
        own = dict(processing.get("chat_template") or {})
        if strange or own.pop("restore_suffix", True) is not True:
            raise ExportError(f"{name} has processing_kwargs that change how a pair is cut")
        self._options = own
        self._name = name

    def __call__(self, query: str, document: str, system: str | None = None) -> str:
        """Raises ExportError where the template fails."""
        parts = [("query", query), ("document", document)]
        if system is not None:
            parts.insert(0, ("system", system))
        messages = [
            {"role": role, "content": text if self._flat else [{"type": "text", "text": text}]}
            for role, text in parts
        ]
        try:
            made = self._upstream.apply_chat_template(messages, tokenize=False, **self._options)
        except Exception as error:  # a template may raise anything
            raise ExportError(
                f"{self._name}: the chat template fails: {type(error).__name__}"
            ) from None
        return str(made)


def _default(found: Folder) -> str | None:
    """The prompt that every pair has, unless the caller gives another."""
    name = found.settings.get("default_prompt_name")
    prompts = found.settings.get("prompts")
    said = prompts.get(name) if isinstance(prompts, dict) and name is not None else None
    return said if isinstance(said, str) and said else None


def _instructed(before: str, told: str, whole: str, system: str) -> tuple[str, str] | None:
    """What stands before the query, with a place for an instruction, and what stands there else.

    None where the template does not only put the system's text in the place of another.
    """
    start, found, rest = told.partition(system)
    if not found or system in rest or not whole.startswith(start):
        return None
    for end in range(len(start), len(before) + 1):
        if whole[end:] == rest:
            return start + INSTRUCTION + before[end:], before[len(start) : end]
    return None


def _is_apart(found: Folder, after: str) -> bool:
    """Whether `after` begins with a token that no letters before it join."""
    added = found.tokenizer.tokenizer.get_added_tokens_decoder().values()
    return any(after.startswith(token.content) and not token.lstrip for token in added)
