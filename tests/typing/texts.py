"""What callers of the classes for texts write."""

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

from tessera_onnx import TesseraDense

Float = NDArray[np.float32]

dense = TesseraDense("all-minilm-l6-v2")
assert_type(dense.encode("a text"), Float)
dense.encode(["a text"])  # E: arg-type
dense.encode("a text", output_dtype="int8")  # E: call-arg
