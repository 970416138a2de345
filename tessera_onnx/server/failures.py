"""What went wrong with a request: a status, a sentence and headers, which a dialect writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tessera_onnx.errors import (
    ConfigError,
    EncodingError,
    InputTooLong,
    ModelNotFound,
    TesseraError,
    TimedOut,
    TokenizationError,
)
from tessera_onnx.server.fields import BadRequest
from tessera_onnx.server.served import BadInput
from tessera_onnx.server.work import Closing, Overloaded

# "invalid": the caller's fault; "fault": ours, or the model's; "lacking": the server was installed
# without an extra that the request needs.
Sort = Literal[
    "invalid",
    "key",
    "unknown",
    "large",
    "overloaded",
    "loading",
    "late",
    "method",
    "lacking",
    "fault",
]
STATUS: dict[Sort, int] = {
    "invalid": 400,
    "key": 401,
    "unknown": 404,
    "method": 405,
    "large": 413,
    "overloaded": 429,
    "fault": 500,
    "lacking": 501,
    "loading": 503,
    "late": 504,
}


class UnknownModel(TesseraError):
    """No model of that name is served."""


class Loading(TesseraError):
    """The models are not open yet, or one of them cannot be opened."""


class TooLarge(TesseraError):
    """The body is larger than the server reads."""


class WrongKey(TesseraError):
    """The request has no key that the server knows."""


# What errors mean, the first that fits. All others are a fault.
SORTS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], Sort], ...] = (
    (Overloaded, "overloaded"),
    ((Closing, Loading), "loading"),
    (TimedOut, "late"),
    ((UnknownModel, ModelNotFound), "unknown"),
    (TooLarge, "large"),
    (WrongKey, "key"),
    (ImportError, "lacking"),
    ((BadRequest, BadInput, ConfigError, TokenizationError, TypeError), "invalid"),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that has no result.

    `name` is the class of tessera_onnx.errors that a local call would have raised, or TypeError.
    """

    sort: Sort
    message: str
    status: int
    index: int | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    name: str = "TesseraError"


def failure(error: BaseException) -> Failure:
    """What an error means for the client; `Failure.sort` is "fault" for one that is not his.

    No message holds a text of the request.
    """
    index = getattr(error, "index", None)
    sort: Sort = next((sort for kinds, sort in SORTS if isinstance(error, kinds)), "fault")
    message, headers = str(error), {}
    if isinstance(error, Overloaded):
        headers = {"retry-after": str(error.retry_after)}
    elif sort == "loading":
        headers = {"retry-after": "5"}
    elif sort == "late":  # the client that set the timeout is gone: it must not try again
        headers = {"x-should-retry": "false"}
    elif sort == "key":
        headers = {"www-authenticate": "Bearer"}
    elif sort == "lacking":
        message = f"this server cannot answer that: {error}"
    elif isinstance(error, MemoryError):
        message = "the server has not enough memory for this request"
    elif not isinstance(error, TesseraError | TypeError):
        message = "the server failed: its log says why"
    elif isinstance(error, InputTooLong) and index is not None:
        message = f"input {index} {message}"
    param = error.field if isinstance(error, BadRequest) else None
    return Failure(sort, message, STATUS[sort], index, param, headers, _public_name(error, sort))


def _public_name(error: BaseException, sort: Sort) -> str:
    """The nearest class of tessera_onnx.errors: those of the server itself are no part of it."""
    if sort == "unknown":
        return ModelNotFound.__name__
    if isinstance(error, BadRequest | TooLarge | WrongKey):
        return ConfigError.__name__
    known = (kind for kind in type(error).__mro__ if kind.__module__ == TesseraError.__module__)
    found = next(known, TypeError if isinstance(error, TypeError) else EncodingError)
    return found.__name__
