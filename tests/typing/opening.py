"""Open models: every option has a type, and an option that a class lacks is an error."""

from pathlib import Path
from typing import assert_type

from tessera_onnx import (
    Tessera,
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    TesseraTimeSeries,
    TesseraVision,
    list_models,
)
from tessera_onnx.models.spec import ModelSpec, Precision


def right() -> None:
    TesseraDense("all-minilm-l6-v2", dimension=384, max_length=128, on_long="truncate")
    TesseraMultiVector(path=Path("folder"), device="cpu", threads=2, cache_dir="models")
    TesseraSparse("splade-tiny", max_active_dims=64, precision="int8", offline=True)
    TesseraVision("clip", image_only=True, max_pixels=1_000_000, on_long="error")
    TesseraTimeSeries("tessera-bolt-mini", precision=None)
    with Tessera("all-minilm-l6-v2", kind="multi-vector", dimension=384) as model:
        assert_type(model.device, str)
        assert_type(model.precision, Precision | None)
        assert_type(model.spec, ModelSpec)
    assert_type(list_models("dense", installed=True), list[str])


def wrong() -> None:
    TesseraDense(devise="cpu")  # E: call-arg
    TesseraDense(max_active_dims=3)  # E: call-arg
    TesseraDense("id", "folder")  # E: arg-type, call-arg
    TesseraDense(on_long="cut")  # E: arg-type
    TesseraSparse(precision="int2")  # E: arg-type
    TesseraVision(dimension=128)  # E: call-arg
    TesseraTimeSeries(on_long="warn")  # E: call-arg
    TesseraTimeSeries(threads="2")  # E: arg-type
    Tessera("id", kind="video")  # E: arg-type
    Tessera("id", devise="cpu")  # E: call-arg
    list_models("video")  # E: arg-type
