import huggingface_hub
import onnx
import onnxruntime
import page_models
import pytest
from click.testing import CliRunner

from tessera_export import artifact, cli
from tessera_export.errors import ExportError
from tessera_export.texts import sample_groups
from tessera_onnx.models import catalogue

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
    (spec,) = catalogue.read_catalogue(target / "model.toml")
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


def test_what_no_kind_is_known_of_is_not_downloaded(tmp_path, monkeypatch):
    def download(*_args, **_options):
        pytest.fail("it was downloaded")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    result = run("somebody/some-model", "--output", tmp_path / "artifact")
    assert (result.exit_code, "give --kind" in result.output) == (2, True)


def test_an_idf_table_makes_queries_free(splade, tmp_path):
    table = tmp_path / "weights.json"
    table.write_text('{"hello": 2.5, "world": 1}')
    target = tmp_path / "artifact"
    base = (splade, "--kind", "sparse", "--precision", "fp32", "--max-length", 32, "--output")
    result = run(*base, target, "--idf", table)
    assert result.exit_code == 0, result.output
    (spec,) = catalogue.read_catalogue(target / "model.toml")
    assert (spec.sparse.query_weights, spec.sparse.idf) == ("idf", "idf.json")
    assert (target / "idf.json").read_text() == table.read_text()
    assert spec.file("idf.json").size == table.stat().st_size
    table.write_text('{"no such token": 1}')
    result = run(*base, tmp_path / "other", "--idf", table)
    assert (result.exit_code, "not a token" in result.output) == (1, True)


@pytest.mark.slow
def test_int8_is_calibrated_unless_it_is_refused(place, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text('"The committee met on Monday."\n{"text": "A bell rang in the fog."}\n' * 8)
    base = (place, "--kind", "dense", "--precision", "int8", "--output")
    made = {}
    for name, option in (("own", texts), ("none", "none"), ("built-in", None)):
        extra = () if option is None else ("--calibrate", option)
        result = run(*base, tmp_path / name, *extra)
        assert result.exit_code == 0, result.output
        (spec,) = catalogue.read_catalogue(tmp_path / name / "model.toml")
        graph = onnx.load(tmp_path / name / "model.int8.onnx").graph
        fixed = any(node.op_type == "MatMulIntegerToFloat" for node in graph.node)
        made[name] = (spec.export.tool.rpartition(", ")[2], fixed)
    assert made["own"] == ("int8 calibrated on 16 texts", True)
    assert made["none"] == (f"onnxruntime {onnxruntime.__version__}", False)
    count = 226 + len(sample_groups.measured())
    assert made["built-in"] == (f"int8 calibrated on {count} texts", True)


def test_a_calibration_file_without_texts(place, tmp_path):
    target, texts = tmp_path / "artifact", tmp_path / "texts.txt"
    texts.write_text("\n\n")
    for option in (texts, tmp_path / "absent.txt", place / "config.json"):
        result = run(place, "--kind", "dense", "--output", target, "--calibrate", option)
        assert (result.exit_code, result.output.startswith("Error: ")) == (1, True), result.output
        assert len(result.output.strip().splitlines()) == 1
        assert not target.exists()


def test_an_image_model(tmp_path):
    place, target = tmp_path / "Page Model", tmp_path / "artifact"
    page_models.colidefics3(place)
    base = (place, "--kind", "vision", "--precision", "fp32", "--output", target)
    result = run(*base)
    assert (result.exit_code, "give --query-prompt" in result.output) == (1, True)
    for option in (("--max-length", "32"), ("--backend", "optimum"), ("--kind", "dense"),
                   ("--calibrate", "none")):  # fmt: skip
        result = run(*base, "--query-prompt", "", *option)
        assert (result.exit_code, result.output.startswith("Error: ")) == (1, True), option
        assert not target.exists()
    result = run(*base, "--query-prompt", "Query: ")
    assert result.exit_code == 0, result.output
    assert "fp32  features  max_relative" in result.output
    assert f"TesseraVision(path={str(target)!r})" in result.output
    (spec,) = catalogue.read_catalogue(target / "model.toml")
    assert (spec.id, spec.kinds) == ("page-model", ("vision",))
    assert spec.vision.query.prefix == "Query: "


def test_the_catalogue_says_what_stands_around_a_query(tmp_path, monkeypatch):
    place, target = tmp_path / ("a" * 40), tmp_path / "artifact"  # a snapshot: its revision
    page_models.colidefics3(place)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_args, **_options: place)
    result = run("colsmol-256m", "--precision", "fp32", "--output", target)
    assert result.exit_code == 0, result.output
    (spec,) = catalogue.read_catalogue(target / "model.toml")
    entry = next(each for each in catalogue.catalogue() if each.id == "colsmol-256m")
    assert spec.vision.query == entry.vision.query
    assert spec.vision.query.suffix == "<end_of_utterance>" * 10
    assert "vision.query" in entry.unverified
    assert "vision.query" in spec.unverified


def test_usage_errors(place, tmp_path):
    base = (place, "--kind", "dense", "--output", tmp_path / "artifact")
    assert run(*base, "--precision", "int2").exit_code == 2
    assert run(*base, "--revision", "main").exit_code == 2
    assert run(*base, "--matryoshka", "a").exit_code == 2
    assert run(place, "--output", tmp_path / "artifact").exit_code == 2
    assert run("--version").exit_code == 0
    assert "tessera-export MODEL" in run("--help").output


def test_ids():
    assert artifact.identifier("Org/All-MiniLM_L6 v2") == "all-minilm_l6-v2"
    with pytest.raises(ExportError, match="--id"):
        artifact.identifier("日本")
