"""Every exception of the package.

TesseraError(Exception)
├ LoadError(TesseraError, RuntimeError)      a model cannot be opened
│ ├ ModelNotFound                            no model of that name here
│ ├ DeviceError                              the device asked for does not work
│ └ IntegrityError                           a file is not the one that the model lists
├ EncodingError(TesseraError, RuntimeError)  an open model cannot encode an input
│ └ TokenizationError                        a text cannot be turned into tokens
├ ConfigError(TesseraError, ValueError)      an argument has a value that cannot work
│ ├ UnsupportedDimension
│ ├ DimensionMismatch
│ ├ QuantizationError
│ └ InputTooLong
└ FileError(TesseraError, OSError)           a file cannot be read or written

Each takes one message, so that it survives pickling. No message ever holds the user's text: an
item is named by its index and its length. A wrong *type* is a plain TypeError.
"""

import signal


class TesseraError(Exception):
    """Base of every error that this package raises on purpose."""


class LoadError(TesseraError, RuntimeError):
    """A model cannot be opened."""


class ModelNotFound(LoadError):
    """No model of that name is installed; the message names near matches."""


class DeviceError(LoadError):
    """The device asked for cannot run the model; the message holds the reason and the fix."""


class IntegrityError(LoadError):
    """A model file is missing, truncated or not the one that model.toml lists."""


class EncodingError(TesseraError, RuntimeError):
    """An open model failed on an input."""


class TokenizationError(EncodingError):
    """A text cannot be turned into tokens."""


class ConfigError(TesseraError, ValueError):
    """An argument has a value that cannot work."""


class UnsupportedDimension(ConfigError):
    """The model was not trained to be cut to that dimension."""


class DimensionMismatch(ConfigError):
    """Two arrays that must agree in a dimension do not."""


class QuantizationError(ConfigError):
    """Vectors cannot be quantized, or quantized vectors cannot be compared."""


class InputTooLong(ConfigError):
    """A text has more tokens than the model reads and `on_long="error"` was asked for."""


class FileError(TesseraError, OSError):
    """A file cannot be read or written."""


class TruncationWarning(UserWarning):
    """Input was left unread: texts beyond the model's length, images' further pages or frames.

    The message holds how many, and the longest or the first.
    """


def is_of_signal(error: BaseException) -> bool:
    """Whether a handler of a signal raised it, a time limit for one, in the midst of other code.

    Such an error is the caller's own: it says nothing of the batch that it interrupted.
    """
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = {getattr(getattr(handler, "func", handler), "__code__", None) for handler in handlers}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False


def is_single(items: object) -> bool:
    """Whether a list is due and this is none: nothing to iterate over, an array without axes."""
    return not hasattr(items, "__iter__") or getattr(items, "ndim", 1) == 0
