"""What callers of TesseraTimeSeries write."""

import threading
from decimal import Decimal
from typing import Any, Protocol, assert_type

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import TesseraTimeSeries

Forecast = NDArray[np.float32 | np.float64]


class Column(Protocol):
    """A series of pandas, as far as it matters here: pandas has no types of its own."""

    def to_numpy(
        self, dtype: Any = None, copy: bool = False, na_value: object = None, **_: Any
    ) -> NDArray[Any]: ...


class Table:
    """A data frame."""


model = TesseraTimeSeries("chronos-bolt-tiny", device="cpu")
stop = threading.Event()

# One series, and several, in every form.
assert_type(model.forecast([1.0, 2.0, float("nan")]), Forecast)
assert_type(model.forecast([1, 2, 3], 10), Forecast)
assert_type(model.forecast([Decimal(1), Decimal(2)], 10), Forecast)
assert_type(model.forecast(np.arange(10)), Forecast)
assert_type(model.forecast(np.zeros((3, 10), dtype=np.float32)), Forecast)
assert_type(model.forecast([[1.0, 2.0], [3.0]]), Forecast)
assert_type(model.forecast([np.arange(10), np.arange(5)], timeout=1, cancel=stop), Forecast)
assert_type(model.forecast([np.arange(10), np.arange(5)], groups=["a", "a"]), Forecast)
assert_type(model.forecast_quantiles(np.arange(10), 5, [0.1, 0.9]), Forecast)
assert_type(model.forecast_quantiles(np.arange(10), levels=np.array([0.1])), Forecast)
assert_type(model.forecast_quantiles([1.0], groups=np.array([0]), extrapolate="tails"), Forecast)


def columns(column: Column) -> None:
    assert_type(model.forecast(column), Forecast)
    assert_type(model.forecast([column, column], groups=column), Forecast)


# A frame gives a frame of the same library.
table = Table()
assert_type(model.forecast_frame(table), Table)
assert_type(
    model.forecast_frame(table, id="shop", timestamp="day", target="sold", levels=[0.5]), Table
)

assert_type(model.quantiles(), tuple[float, ...])
assert_type(model.prediction_length(), int)
assert_type(model.context_length(), int)

# Wrong uses.
TesseraTimeSeries("chronos-bolt-tiny", max_length=5)  # E: call-arg
model.forecast("1, 2, 3")  # E: arg-type
model.forecast(3.0)  # E: arg-type
model.forecast({"a": [1.0, 2.0]})  # E: arg-type
model.forecast([1.0, 2.0], "10")  # E: arg-type
model.forecast([1.0, 2.0], [0.5])  # E: arg-type
model.forecast([1.0, 2.0], levels=[0.5])  # E: call-arg
model.forecast([1.0, 2.0], groups=3)  # E: arg-type
model.forecast([1.0, 2.0], groups={"a"})  # E: arg-type
model.forecast_quantiles([1.0], levels=0.5)  # E: arg-type
model.forecast_quantiles([1.0], levels=["0.5"])  # E: list-item
model.forecast_quantiles([1.0], extrapolate="linear")  # E: arg-type
model.forecast_frame(table, id=3)  # E: arg-type
model.forecast_frame(table, column="sold")  # E: call-arg
assert model.forecast([1.0, 2.0]).codes  # E: attr-defined
