"""Read what a language model answers with: the module LogitScore of a CrossEncoder.

Source of the rules: sentence_transformers/cross_encoder/modules/logit_score.py. A chat template of
the folder is a program in Jinja, which is not run here; the export turns it into data.
"""

from __future__ import annotations

import re
from typing import Any

from tessera_onnx.models.foreign import files, tokenizer_file, transformer
from tessera_onnx.models.foreign.files import MODULES, class_of, read_table
from tessera_onnx.models.foreign.found import Folder

SCORE = "LogitScore"
TASK = "text-generation"
LOGITS = "causal_logits"
TEXT = {"method": "forward", "method_output_name": "logits"}
# Language models whose answer the export computes: their logits are the product of a matrix and the
# last state, with nothing added and nothing scaled.
PLAIN = ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "GemmaForCausalLM")
WRITER = re.compile(r"(ForCausalLM|LMHeadModel)$")


def is_answering(found: Folder) -> bool:
    """Whether the folder lists LogitScore."""
    return SCORE in map(class_of, found.modules)


def tokens(found: Folder) -> tuple[str, ...]:
    """The tokens whose logits make the score.

    Raises LoadError for another list of modules, and for ids that the tokenizer does not have.
    """
    names = [class_of(module) for module in found.modules]
    if names != ["Transformer", SCORE]:
        raise found.error(
            f"lists {', '.join(names)!s:.300}; a reranker with {SCORE} is a Transformer and "
            f"{SCORE} alone",
            MODULES,
        )
    path = files.module_folder(found.path, found.modules[-1]) / "config.json"
    config, name = read_table(path), found.files.name_of(path)
    if config.get("module_input_name", LOGITS) != LOGITS:
        raise found.error(
            f"has the module_input_name {config['module_input_name']!s:.80}, known is {LOGITS}",
            name,
        )
    made = []
    for key in ("true_token_id", "false_token_id"):
        number = config.get(key)
        if number is None and key == "false_token_id":
            continue
        token = None
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 32:
            token = found.tokenizer.tokenizer.id_to_token(number)
        if not token:
            raise found.error(
                f"has the {key} {number!s:.40}, which is no id of {found.tokenizer.path.name}", name
            )
        made.append(token)
    if len(set(made)) != len(made):
        raise found.error("has one id as true_token_id and false_token_id", name)
    found.sources["reranker.answers"] = f"{name}: true_token_id, false_token_id"
    return tuple(made)


def settings(found: Folder) -> tuple[dict[str, Any], str]:
    """The settings of the Transformer, and the name of their file.

    Raises LoadError for a task that is no text generation.
    """
    table, path = tokenizer_file.transformer_settings(found.tokenizer.places[0])
    name = found.files.name_of(path)
    if table.get("transformer_task") != TASK:
        raise found.error(
            f"has the transformer_task {table.get('transformer_task')!s:.60}, and {SCORE} goes "
            f"with {TASK}",
            name,
        )
    return dict(table), name


def check(found: Folder) -> None:
    """Raises LoadError where a pair is spelled by a chat template, and for other settings."""
    table, name = settings(found)
    modalities = table.get("modality_config") or {"text": TEXT}
    if isinstance(modalities, dict) and "message" in modalities:
        raise found.error(
            "spells a pair by the folder's chat template (modality_config: message), a program "
            "that is not run here: export the model, which turns the template into data, with "
            "`tessera-export FOLDER --kind reranker --output DIR`",
            name,
        )
    if modalities != {"text": TEXT}:
        raise found.error(
            f"reads pairs by {modalities!s:.200} (modality_config), known is {{'text': {TEXT}}}",
            name,
        )
    transformer.check_processing(
        table, tokenizer_file.transformer_settings(found.tokenizer.places[0])[1]
    )
