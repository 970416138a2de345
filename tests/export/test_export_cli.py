import huggingface_hub
import pytest
from click.testing import CliRunner

from tessera_export import artifact, cli
from tessera_export.errors import ExportError
from tessera_onnx import registry

pytestmark = pytest.mark.export


@pytest.fixture
def place(make, dense_files, bert):
    return make("My Model", bert, dense_files("mean"))


def run(*args):
    return CliRunner().invoke(cli.main, [str(arg) for arg in args])


def test_model_is_the_default_command(place, tmp_path):
    (place / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# A model\n")
    target = tmp_path / "deep" / "artifact"
    result = run(place, "--kind", "dense", "--precision", "fp16, fp32", "--output", target,
                 "--matryoshka", "32,16", "--revision", "a" * 40)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "fp16  sentence_embedding  min_cosine" in result.output
    (spec,) = registry.read(target / "model.toml")
    assert (spec.id, spec.licence, spec.revision) == ("my-model", "mit", "a" * 40)
    assert (spec.unverified, spec.dense.matryoshka) == (("source",), (32, 16))
    assert [spec.graph.best_cpu, spec.graph.best_cuda] == ["fp32", "fp16"]
    assert target.stat().st_mode & 0o777 == 0o755

    again = run("model", place, "--kind", "dense", "--output", target)
    assert again.exit_code == 1
    assert again.output.startswith("Error: ")
    assert "not empty" in again.output
    assert len(again.output.strip().splitlines()) == 1

    # Options may stand first, and --overwrite replaces the whole folder.
    (target / "stray").write_text("x")
    replaced = run("--kind", "dense", "--precision", "fp32", "--overwrite", "--output", target,
                   "--id", "other", place)  # fmt: skip
    assert replaced.exit_code == 0, replaced.output
    assert sorted(path.name for path in target.iterdir()) == [
        "model.fp32.onnx",
        "model.toml",
        "tokenizer.json",
    ]
    assert [path.name for path in target.parent.iterdir()] == ["artifact"]


def test_failures_are_one_sentence(place, tmp_path):
    target = tmp_path / "artifact"
    wrong = [
        (place, "--kind", "sparse", "--output", target),
        (place, "--kind", "multi-vector", "--output", target),
        (tmp_path / "nowhere", "--kind", "dense", "--output", target),
        (place, "--kind", "dense", "--output", place / "config.json"),
        (place, "--kind", "dense", "--output", target, "--id", "Not An Id"),
    ]
    for args in wrong:
        result = run(*args, "--precision", "fp32")
        assert result.exit_code == 1, args
        assert result.output.startswith("Error: ")
        assert len(result.output.strip().splitlines()) == 1
        assert not target.exists()


def test_what_cannot_be_exported_is_not_downloaded(tmp_path, monkeypatch):
    def download(*_args, **_options):
        pytest.fail("it was downloaded")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    result = run("colpali-v1.3-hf", "--output", tmp_path / "artifact")
    assert (result.exit_code, "of the kind vision" in result.output) == (1, True)
    result = run("somebody/some-model", "--output", tmp_path / "artifact")
    assert (result.exit_code, "give --kind" in result.output) == (2, True)


def test_an_idf_table_makes_queries_free(splade, tmp_path):
    table = tmp_path / "weights.json"
    table.write_text('{"hello": 2.5, "world": 1}')
    target = tmp_path / "artifact"
    base = (splade, "--kind", "sparse", "--precision", "fp32", "--max-length", 32, "--output")
    result = run(*base, target, "--idf", table)
    assert result.exit_code == 0, result.output
    (spec,) = registry.read(target / "model.toml")
    assert (spec.sparse.query_weights, spec.sparse.idf) == ("idf", "idf.json")
    assert (target / "idf.json").read_text() == table.read_text()
    assert spec.file("idf.json").size == table.stat().st_size
    table.write_text('{"no such token": 1}')
    result = run(*base, tmp_path / "other", "--idf", table)
    assert (result.exit_code, "not a token" in result.output) == (1, True)


def test_usage_errors(place, tmp_path):
    base = (place, "--kind", "dense", "--output", tmp_path / "artifact")
    assert run(*base, "--precision", "int4").exit_code == 2
    assert run(*base, "--revision", "main").exit_code == 2
    assert run(*base, "--matryoshka", "a").exit_code == 2
    assert run(place, "--output", tmp_path / "artifact").exit_code == 2
    assert run("--version").exit_code == 0
    assert "tessera-export MODEL" in run("--help").output


def test_ids():
    assert artifact.identifier("Org/All-MiniLM_L6 v2") == "all-minilm_l6-v2"
    with pytest.raises(ExportError, match="--id"):
        artifact.identifier("日本")
