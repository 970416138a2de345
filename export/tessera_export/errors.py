"""The one exception that an export raises on purpose."""


class ExportError(Exception):
    """A model cannot be exported faithfully: a fact is missing, or the graph differs from torch.

    One sentence that names the fact or the figure; the command prints it without a traceback.
    """
