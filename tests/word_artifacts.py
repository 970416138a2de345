"""Write model.toml of test artifacts that weigh words by a graph: BM42 and miniCOIL."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

DESCRIPTION = """\
schema = 1

[[model]]
id = "{id}"
aliases = []
kinds = ["sparse"]
source = "random weights"
revision = "unpinned"
licence = "apache-2.0"
unverified = []
files = [
{files}]
[model.graph]
fp32 = "{graph}"
fp16 = ""
int8 = ""
best_cpu = "fp32"
best_cuda = "fp32"
best_coreml = "fp32"
static = false
[model.text]
tokenizer = "tokenizer.json"
lowercase = false
prefix_ids = [4]
suffix_ids = [5]
pad_id = 0
mask_id = 6
max_positions = 64
fixed_length = 0
{words}[model.sparse]
{head}
activation = "relu"
vocab_size = 2147483648
zero_ids = []
query_weights = "{query_weights}"
idf = ""
[model.sparse.query]
prompt = ""
max_length = 32
[model.sparse.document]
prompt = ""
max_length = 32
"""


def describe(folder: Path, names: Sequence[str], **facts: str) -> None:
    """Write model.toml, which lists the files `names` of the folder.

    `facts` are the id, the name of the graph, the table `words`, `head` (with the output) and
    `query_weights`.
    """
    listed = "".join(
        f'  {{ name = "{name}", sha256 = "'
        f'{hashlib.sha256((folder / name).read_bytes()).hexdigest()}", '
        f"size = {(folder / name).stat().st_size} }},\n"
        for name in names
    )
    (folder / "model.toml").write_text(DESCRIPTION.format(files=listed, **facts), "utf-8")
