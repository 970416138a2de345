"""Check what the Transformer module of sentence-transformers does beside running the encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tessera_onnx.errors import LoadError
from tessera_onnx.models.foreign.files import SETTINGS, read_table
from tessera_onnx.models.foreign.tokenizer_file import transformer_settings

# By task, the output of the encoder that is read and the name under which modules find it
# (sentence_transformers/base/modules/transformer.py, TRANSFORMER_TASK_DEFAULTS).
TASKS = {"feature-extraction": "last_hidden_state", "fill-mask": "logits"}
OTHER_TASKS = {
    "text-generation": "a language model that answers with words",
    "any-to-any": "a language model that answers with words",
    "sequence-classification": "a reranker or another classifier",
    "retrieval": "a model of page images",
}
TOKENS = "token_embeddings"
# Keys with which the tokenizer is loaded that change no token id; so do flags of trust.
HARMLESS = {"model_max_length", "padding_side", "use_fast", "revision"}
# Libraries whose files are read here, and the newest version whose rules are known.
KNOWN = {"sentence-transformers": (6, 2), "transformers": (5, 23), "tokenizers": (0, 23)}
# Libraries that only make the graph, which is made already.
MAKERS = {
    "torch", "pytorch", "python", "numpy", "safetensors", "accelerate", "peft", "onnx", "optimum",
    "onnxruntime", "optimum-onnx", "flash-attn", "xformers", "einops", "huggingface-hub", "kernels",
    "sentencepiece", "protobuf",
}  # fmt: skip


def check(folder: Path, *, sparse: bool = False) -> None:
    """Raises LoadError unless the Transformer module in `folder` reads plain texts, as here."""
    settings, path = transformer_settings(folder)
    task = settings.get("transformer_task", "fill-mask" if sparse else "feature-extraction")
    if task not in TASKS:
        what = OTHER_TASKS.get(str(task), "unknown here")
        raise LoadError(f"{path} has the transformer_task {task!r:.60}: {what}", path=str(path))
    modalities = settings.get("modality_config", {})
    if not isinstance(modalities, dict):
        raise LoadError(f"{path} has a modality_config that is no object", path=str(path))
    if "message" in modalities:
        raise LoadError(
            f"{path} puts every text into a chat template (modality_config has 'message'), and "
            "chat templates are not rendered here",
            path=str(path),
        )
    text = modalities.get("text")
    if modalities and (
        not isinstance(text, dict)
        or text.get("method", "forward") != "forward"
        or text.get("method_output_name", TASKS[task]) != TASKS[task]
    ):
        raise LoadError(
            f"{path} reads texts by {text!s:.200} (modality_config.text); known is forward with "
            f"{TASKS[task]}",
            path=str(path),
        )
    if settings.get("module_output_name", TOKENS) != TOKENS:
        raise LoadError(
            f"{path} has the module_output_name {settings['module_output_name']!r:.80}, known is "
            f"only {TOKENS}",
            path=str(path),
        )
    check_processing(settings, path)


def check_processing(settings: Mapping[str, Any], path: Path) -> None:
    """Raises LoadError for arguments of the tokenizer that change token ids."""
    for name in ("processing_kwargs", "processor_kwargs", "tokenizer_args"):
        table = settings.get(name) or {}
        if not isinstance(table, dict):
            raise LoadError(f"{path} has {name} that is no object", path=str(path))
        parts = {"": table} if name != "processing_kwargs" else table
        strange = [key for part in parts.values() if isinstance(part, dict) for key in part]
        strange = [key for key in strange if name == "processing_kwargs" or not _is_harmless(key)]
        if strange:
            raise LoadError(
                f"{path} calls the tokenizer with {strange[0]!s:.80} ({name}), which is not done "
                "here",
                path=str(path),
            )


def check_requirements(folder: Path) -> None:
    """Raises LoadError where a model asks for a library with newer rules than are known here.

    What only makes the graph, such as torch, is not needed any more.
    """
    path = folder / SETTINGS
    wanted = read_table(path).get("requirements")
    for name, value in wanted.items() if isinstance(wanted, dict) else ():
        text = value.get("specifier", "") if isinstance(value, dict) else value
        library = re.sub(r"[-_.]+", "-", str(name)).lower()
        if library in MAKERS:
            continue
        bounds = re.findall(r"(>=|>|===?|~=)\s*v?(\d+(?:\.\d+)*)", str(text))
        least = max((_version(number) for _, number in bounds), default=())
        known = KNOWN.get(library)
        if known is None or least[: len(known)] > known:
            newest = "" if known is None else f", and the rules of {_dotted(known)} are known here"
            raise LoadError(
                f"{path} requires {library:.80} {text!s:.80}{newest}: this model may hold facts "
                "that this version does not read",
                path=str(path),
            )


def _is_harmless(key: str) -> bool:
    return key in HARMLESS or key.startswith("trust_")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part[:9]) for part in text.split("."))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
