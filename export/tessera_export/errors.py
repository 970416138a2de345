"""Define ExportError, the exception that an export raises on purpose."""

# The distribution is in the folder `export` of the checkout; no package index has it by name.
CHECKOUT = "./export"


def install(extra: str) -> str:
    """What to do for a package that an extra brings, from the folder of the checkout."""
    return f'run `pip install "{CHECKOUT}[{extra}]"` in the checkout of tessera-onnx'


class ExportError(Exception):
    """A model cannot be exported faithfully: a fact is missing, or the graph differs from torch.

    One sentence that names the fact or the figure; the command prints it without a traceback.
    """
