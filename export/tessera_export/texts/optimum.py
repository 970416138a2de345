"""Export an encoder with optimum-onnx instead of our own wrapper; the runtime applies the heads.

optimum-onnx 0.1 needs transformers below 4.58, and so an environment of its own. Its graphs pass
the same gate and become the same artifact.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

from tessera_export.errors import ExportError, install
from tessera_export.texts.folder import Facts

if TYPE_CHECKING:
    import onnx

INSTALL = f"{install('optimum')}, in an environment of its own"
INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


def check() -> None:
    """Raises ExportError where optimum-onnx is not installed; imports nothing of it."""
    try:
        metadata.version("optimum-onnx")
        if util.find_spec("optimum.exporters.onnx") is not None:
            return
    except ImportError:  # PackageNotFoundError is one
        pass
    raise ExportError(f"the backend optimum needs optimum-onnx, which is not installed: {INSTALL}")


def adapt(facts: Facts) -> Facts:
    """The same model with recipes for an encoder's plain outputs.

    Raises ExportError without optimum-onnx, and for a recipe whose layers would have to lie inside
    the graph.
    """
    check()
    if facts.multi_vector is not None or facts.dense_layers or facts.weight_layers:
        raise ExportError(
            "the optimum backend exports encoders alone: a model with layers after the encoder "
            "needs the default backend"
        )
    if facts.dense is not None and facts.sparse is not None:
        raise ExportError("the optimum backend gives one graph one kind: dense or sparse")
    dense, sparse = facts.dense, facts.sparse
    if dense is not None and facts.pooling is not None:
        dense = replace(dense, output="last_hidden_state", pooling=facts.pooling)
    if sparse is not None:
        sparse = replace(sparse, output="logits", head="logits")
    return replace(facts, dense=dense, sparse=sparse)


def trace(facts: Facts) -> onnx.ModelProto:
    """The fp32 graph that optimum makes of the folder's model; it may want token_type_ids.

    Raises ExportError where optimum is missing or does not know the architecture, and for a graph
    with inputs that the runtime does not make.
    """
    check()
    try:
        from optimum.exporters.onnx import onnx_export_from_model
    except ImportError as error:
        raise ExportError(f"optimum cannot be imported ({error}): {INSTALL}") from error
    import onnx

    from tessera_export.graph import tracing, transforms
    from tessera_export.texts.torch_modules import load_model

    model = load_model(facts, "eager")
    with tempfile.TemporaryDirectory(prefix="tessera-export-") as folder:
        try:
            with tracing.quiet():
                onnx_export_from_model(
                    model,
                    folder,
                    opset=tracing.OPSET,
                    task="fill-mask" if facts.decodes else "feature-extraction",
                    do_validation=False,  # the gate compares more
                )
        except Exception as error:  # it raises whatever the model made it meet
            reason = str(error).strip()[:300]
            raise ExportError(f"optimum: {type(error).__name__}: {reason}") from error
        path = Path(folder, "model.onnx")
        onnx.checker.check_model(str(path), full_check=True)
        traced = onnx.load(path)
    transforms.strip(traced)
    unknown = sorted({item.name for item in traced.graph.input} - INPUTS)
    if unknown:
        raise ExportError(
            f"optimum's graph wants {', '.join(unknown)}, which the runtime does not feed: use the "
            "default backend"
        )
    return traced
