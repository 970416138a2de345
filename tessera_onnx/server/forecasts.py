"""POST /v1/forecast: quantiles of the next steps of series."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from tessera_onnx.server import answers
from tessera_onnx.server.fields import BadRequest, Fields, check_number
from tessera_onnx.server.http import Answer, Call, Route
from tessera_onnx.server.operations import OWN
from tessera_onnx.server.schemas import (
    ARRAY,
    AT_LEAST_1,
    COMMON,
    NUMBER,
    TEXT,
    WHOLE,
    Schema,
    body,
    many,
    one_of,
)
from tessera_onnx.server.served import Served

Dtype = Literal["float64", "float32"]


async def forecast(call: Call) -> Answer:
    """POST /v1/forecast."""
    fields = await call.fields()
    encoding = fields.word("encoding", get_args(answers.Encoding), "json")
    size = len(call.body) // 4
    series = await call.server.beside(size, _series, fields, call.server.limits.texts)

    def can(served: Served) -> bool:
        return served.row.reads == "series"

    served, _ = call.server.registry.find(fields.text("model"), can, "forecasts")
    levels, groups = fields.get("levels"), fields.get("groups")
    extrapolate = fields.text("extrapolate")
    options = {"horizon": fields.whole("horizon"), "levels": levels, "groups": groups}
    for name in ("levels", "groups"):
        if not isinstance(options[name], list | None):
            raise BadRequest(f"{name} must be a list", field=name)
        check_number(options[name] or [], name, call.server.limits.texts)
    job = served.forecast(series, **options, extrapolate=extrapolate)
    steps = options["horizon"] or served.row.recipe(served.model.spec).prediction_length
    job.numbers = len(series) * steps * max(1, len(levels or ()))
    quantiles = await call.server.run(job, call)
    used = levels or served.row.recipe(served.model.spec).quantiles
    facts = {"model": served.name, "levels": used, "warnings": job.told}
    if encoding == "raw":
        return await call.server.beside(
            quantiles.size, answers.raw, {"quantiles": quantiles}, facts
        )
    rows = [answers.shown_array(each, encoding) for each in quantiles]
    return await call.server.beside(
        quantiles.size,
        Answer.of,
        {**facts, "data": [{"index": i, "quantiles": row} for i, row in enumerate(rows)]},
    )


def _series(fields: Fields, most: int) -> list[Any]:
    """The series of a request; null is a missing value."""
    found = fields.require("series")
    if not isinstance(found, list) or not all(isinstance(each, list) for each in found):
        raise BadRequest("series must be a list of lists of numbers", field="series")
    if len(found) > most:
        raise BadRequest(f"series has {len(found)} items, a request may have {most}")
    dtype = np.dtype(fields.word("dtype", get_args(Dtype), "float64"))
    known = []
    for i, each in enumerate(found):
        if not all(type(value) in (int, float, type(None)) for value in each):
            raise BadRequest(f"series[{i}] must hold numbers", field="series", index=i)
        # Whole numbers that float64 does not hold stay what they are: the library refuses them.
        if all(type(value) is int for value in each):
            known.append(each)
        else:
            values = np.array([np.nan if value is None else value for value in each], np.float64)
            with np.errstate(over="ignore"):  # the library refuses what is infinite
                known.append(values.astype(dtype))
    return known


FORECAST: Schema = body(
    {
        **COMMON,
        "series": many(many(NUMBER)),
        "dtype": one_of(*get_args(Dtype)),
        "horizon": AT_LEAST_1,
        "levels": many({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
        "groups": many({"type": ["string", "integer"]}),
        "extrapolate": one_of("tails"),
    },
    "series",
)
FORECASTS: Schema = body(
    {
        "model": TEXT,
        "levels": many({"type": "number"}),
        "warnings": many(TEXT),
        "data": many(body({"index": WHOLE, "quantiles": ARRAY}, "index", "quantiles")),
    },
    *("model", "levels", "warnings", "data"),
)
ROUTES = (
    Route("/v1/forecast", forecast, OWN, summary="Quantiles of the next steps of series",
          request=FORECAST, response=FORECASTS),
)  # fmt: skip
