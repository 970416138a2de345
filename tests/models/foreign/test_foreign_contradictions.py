"""Values and files that a dense folder may hold in another way than upstream writes them."""

import pytest
from foreign_folders import SETTINGS, SIZE, dense, edit, modules, write

from tessera_onnx import LoadError
from tessera_onnx.models.foreign.reader import read
from tessera_onnx.models.spec import Module

BOOLEANS = {"word_embedding_dimension": SIZE, "pooling_mode_mean_tokens": False}
LISTED = modules("Transformer", "Pooling", "Normalize")


@pytest.mark.parametrize("value", [1, "true"])
def test_a_mode_that_is_no_boolean(tmp_path, value):
    """Upstream takes all that is true in Python; another value may be an error of the maker."""
    pooling = BOOLEANS | {"pooling_mode_cls_token": value}
    folder = write(dense(tmp_path), {"1_Pooling/config.json": pooling})
    with pytest.raises(LoadError, match="has the pooling_mode_cls_token .*, expected true or fal"):
        read(folder)


def test_a_raw_vector_is_cut_as_it_is(tmp_path):
    """Without Normalize upstream cuts the pooled vector and takes no L2 before."""
    found = read(dense(tmp_path / "raw", truncate_dim=4)).spec.dense
    cut = Module("truncate", "", "identity", residual=False, dimension=4)
    assert found.modules == (cut,)
    found = read(dense(tmp_path / "unit", "Normalize", truncate_dim=4)).spec.dense
    assert [module.type for module in found.modules] == ["normalize", "truncate"]


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (
            [*LISTED[:2], LISTED[2] | {"name": "1"}],
            "lists two modules of the name '1', of which sentence-transformers drops the first",
        ),
        ([LISTED[0] | {"path": None}, *LISTED[1:]], "has a module whose path is None, expected"),
        ([LISTED[0], LISTED[1] | {"path": ["1_Pooling"]}], "has a module whose path is"),
    ],
)
def test_modules_that_upstream_reads_otherwise(tmp_path, listed, message):
    folder = write(dense(tmp_path, "Normalize"), {"modules.json": listed})
    with pytest.raises(LoadError, match=message):
        read(folder)


@pytest.mark.parametrize(
    "name", [SETTINGS, "sentence_bert_config.json", "tokenizer_config.json", "modules.json"]
)
def test_a_link_to_nothing_is_no_absent_file(tmp_path, name):
    """An incomplete copy of a hub's cache: without the file other facts would hold."""
    folder = dense(tmp_path, prompts={"query": "ask: "})
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "blobs" / "gone")
    with pytest.raises(LoadError, match=f"{name} is a link to nothing, or no file: download the"):
        read(folder)


def test_a_pointer_in_place_of_a_file(tmp_path):
    folder = write(dense(tmp_path), {"config.json": "version https://git-lfs.github.com/spec/v1\n"})
    with pytest.raises(LoadError, match=r"config.json is a pointer of Git LFS: run `git lfs pull`"):
        read(folder)


def test_a_length_beyond_the_positions_says_where_it_stands(tmp_path):
    folder = dense(tmp_path)
    edit(folder, "sentence_bert_config.json", max_seq_length=41)
    message = r"\(sentence_bert_config.json: max_seq_length\): max_length 41 must lie in 3\.\.40"
    with pytest.raises(LoadError, match=message):
        read(folder)
