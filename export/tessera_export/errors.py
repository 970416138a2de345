"""Define ExportError, the exception that an export raises on purpose."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tessera_onnx import ConfigError, LoadError

# The distribution is in the folder `export` of the checkout; no package index has it by name.
CHECKOUT = "./export"


def install(extra: str) -> str:
    """What to do for a package that an extra brings, from the folder of the checkout."""
    return f'run `pip install "{CHECKOUT}[{extra}]"` in the checkout of tessera-onnx'


class ExportError(Exception):
    """A model cannot be exported faithfully: a fact is missing, or the graph differs from torch.

    One sentence that names the fact or the figure; the command prints it without a traceback.
    """


@contextmanager
def as_export_error() -> Iterator[None]:
    """Turn what the reader of folders raises into ExportError; also a decorator.

    The reader names arguments, such as `pooling=`; here they are options, such as `--pooling`,
    and a length may be given too.
    """
    try:
        yield
    except (LoadError, ConfigError) as error:
        text = re.sub(r"\b(give|and) ([a-z_]+)=(?!\w)", _option, str(error), flags=re.IGNORECASE)
        missing = re.match(r"(max_length|document_length) is missing", text)
        if missing:
            text += f", or give --{missing[1].replace('_', '-')}"
        raise ExportError(text) from error


def _option(found: re.Match[str]) -> str:
    return f"{found[1]} --{found[2].replace('_', '-')}"
