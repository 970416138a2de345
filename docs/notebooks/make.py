"""Run notebooks anew and store them with their output, in a form that is the same each time.

    python docs/notebooks/make.py                      # all that need no torch
    python docs/notebooks/make.py search.ipynb         # the one that you changed
    python docs/notebooks/make.py --to FOLDER search.ipynb

Install the extras docs and lexical first; own-models.ipynb needs the environment of the exporter.
"""

import argparse
import base64
import io
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).resolve().parent
WITH_TORCH = {"own-models.ipynb"}
COLOURS = 128  # of a stored plot


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook with the output of a new kernel; its working folder is that of the notebook.

    Raises CellExecutionError where a cell fails, SystemExit where one writes to stderr.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number:02}"
        cell.metadata = {key: cell.metadata[key] for key in ("mystnb",) if key in cell.metadata}
        if cell.cell_type == "code":
            cell.outputs = stored(cell.outputs, f"{path.name}, cell {number}")
    return notebook


def stored(outputs: list[Any], name: str) -> list[Any]:
    """The outputs to keep: text in one piece, and plots as small PNG files."""
    kept: list[Any] = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                raise SystemExit(f"{name} writes to stderr:\n{output.text}")
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        elif "image/png" in output.data:
            output.data = {"image/png": small(output.data["image/png"])}
            output.metadata = {}
        kept.append(output)
    return kept


def small(png: str) -> str:
    """A PNG in base64 with few colours: a third of the size, and no version of matplotlib."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    stream = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii") + "\n"


def main() -> None:
    """Run the notebooks that are named and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="file names; without any, all that need no torch")
    parser.add_argument("--to", type=Path, default=HERE, help="write into this folder")
    arguments = parser.parse_args()
    every = {path.name for path in HERE.glob("*.ipynb")}
    if unknown := set(arguments.names) - every:
        parser.error(f"no such notebook: {', '.join(sorted(unknown))}")
    for name in arguments.names or sorted(every - WITH_TORCH):
        sys.stderr.write(f"{name}\n")
        nbformat.write(run(HERE / name), arguments.to / name)


if __name__ == "__main__":
    main()
