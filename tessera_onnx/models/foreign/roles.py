"""Read how a dense or sparse model of sentence-transformers reads queries, documents and texts."""

from __future__ import annotations

from pathlib import Path

from tessera_onnx.models.foreign import prompts, tokenizer_file
from tessera_onnx.models.foreign.tokenizer_file import TokenizerFile
from tessera_onnx.models.spec import Role


def read(
    folder: Path,
    tokenizer: TokenizerFile,
    *,
    max_length: int | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    ask: bool = False,
    sources: dict[str, str] | None = None,
) -> tuple[Role, Role, Role | None]:
    """Query, document and what is neither, where `folder` has a prompt for that.

    The arguments take the place of what the folder says; `ask` as in `prompts.read`. Raises
    LoadError.
    """
    said: dict[str, str] = {}
    length = tokenizer_file.max_length(tokenizer, max_length, said)
    lengths = [length, length]
    whole = said.pop("max_length")
    said |= {"query.max_length": whole, "document.max_length": whole}
    settings, path = tokenizer_file.transformer_settings(tokenizer.places[0])
    for number, key in enumerate(("query_length", "document_length")):
        if max_length is None and settings.get(key) is not None:
            lengths[number] = tokenizer_file.tokens(path.name, key, settings[key])
            tokenizer_file.check_length(lengths[number], key, tokenizer.text.max_positions)
            said[f"{key.partition('_')[0]}.max_length"] = f"{path.name}: {key}"
    found = prompts.read(folder, query_prompt, document_prompt, ask=ask)
    if sources is not None:
        sources |= said | {f"{role}.prompt": source for role, source in found.keys.items()}
    plain = None if found.default in (None, found.document) else Role(found.default or "", length)
    return Role(found.query, lengths[0]), Role(found.document, lengths[1]), plain
