"""Models made to do harm: what they are refused for, with real graphs, packs and files."""

import importlib
import json
import os
import signal
import subprocess
import sys
import textwrap

import graphs
import numpy as np
import onnxruntime as ort
import pytest
from artifact_tools import ARTIFACTS, HANG, add_file, copy, relist, replace

from tessera_onnx import (
    EncodingError,
    IntegrityError,
    LoadError,
    TesseraDense,
    TesseraSparse,
    TesseraTimeSeries,
    TesseraVision,
    TokenizationError,
    list_models,
)
from tessera_onnx.cli import doctor
from tessera_onnx.models import installed, resolve

GRAPH = "model.fp32.onnx"
BODY = graphs.summing(half=False)
BEGUN = BODY.replace(b"sentence_embedding", b"sentence_beginning")
OUT = "sentence_embedding"


def with_graph(folder, content, **options):
    relist(copy("prompts", folder), GRAPH, content)
    return TesseraDense(path=folder, threads=1, on_long="truncate", **options)


def after(*nodes):
    """A model whose last nodes are these, from "sentence_beginning" on."""
    return graphs.model(BEGUN + b"".join(nodes))


def added(initializer):
    """A model that adds the sum of a weight called "extra"."""
    return after(
        graphs.field(5, initializer),
        graphs.node("ReduceSum", ["extra"], "sum", keepdims=0),
        graphs.node("Add", ["sentence_beginning", "sum"], OUT),
    )


def test_the_graph_that_the_others_are_made_of_works(tmp_path):
    with with_graph(tmp_path / "m", graphs.model(BODY)) as model:
        expected = np.linspace(1, 2, 32)
        expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(model.encode("cat"), expected, atol=1e-6)


def test_a_graph_in_onnxruntimes_own_format(tmp_path):
    """Its files may not be looked into for names of other files, so they are not read."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "m.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    content = (ARTIFACTS / "prompts" / GRAPH).read_bytes()
    ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    stored = (tmp_path / "m.ort").read_bytes()
    assert stored[4:8] == b"ORTM"
    with pytest.raises(LoadError, match="cannot be opened on cpu"):
        with_graph(tmp_path / "m", stored)


def test_packed_weights_that_onnxruntime_does_not_know(tmp_path):
    """As 8 bits before 1.23: the message names the version and says what to do."""
    node = graphs.node("MatMulNBits", ["x", "w", "s"], "y", "com.microsoft", K=32, N=32, bits=3)
    content = graphs.model(graphs.summing(half=False) + node)
    hint = rf"\(MatMulNBits\) may need a newer onnxruntime than {ort.__version__}"
    with pytest.raises(LoadError, match=hint):
        with_graph(tmp_path / "m", content)


NESTED = graphs.field(2, "x")
for _ in range(3000):
    NESTED = graphs.node("If", ["c"], "o", then_branch=NESTED)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        pytest.param(
            after(graphs.node("Run", ["sentence_beginning"], OUT, "evil")),
            "not a registered",
            id="an operator of somebody else's library",
        ),
        pytest.param(
            after(
                graphs.node(
                    "EPContext", ["sentence_beginning"], OUT, "com.microsoft",
                    embed_mode=0, ep_cache_context="/etc/passwd",
                )
            ),
            "EPContext",
            id="a file for a provider",
        ),
        pytest.param(
            after(
                graphs.node(
                    "PythonOp", ["sentence_beginning"], OUT, "com.microsoft", func_name="os.system"
                )
            ),
            "cannot be opened",
            id="Python code",
        ),
        pytest.param(
            added(graphs.tensor("extra", 1, [2**40], b"")), "cannot be opened", id="a huge weight"
        ),
        pytest.param(
            added(graphs.tensor("extra", 1, [2**32, 2**32], b"")),
            "cannot be opened",
            id="a size that wraps around",
        ),
        pytest.param(
            added(graphs.tensor("extra", 1, [-5], b"")), "cannot be opened", id="a negative size"
        ),
        pytest.param(
            added(graphs.tensor("extra", 1, [9], b"\0" * 8)), "cannot be opened", id="bytes too few"
        ),
        pytest.param(
            after(
                graphs.constant("size", np.array([2**45])),
                graphs.node("ConstantOfShape", ["size"], "big"),
                graphs.node("ReduceSum", ["big"], "sum", keepdims=0),
                graphs.node("Add", ["sentence_beginning", "sum"], OUT),
            ),
            "bad_alloc|cannot be opened",
            id="a huge result",
        ),
        pytest.param(graphs.model(BODY + NESTED), "cannot be opened", id="3,000 nested graphs"),
        pytest.param(graphs.model(BODY)[:-7], "cannot be opened", id="cut"),
        pytest.param(
            graphs.model(
                BEGUN + graphs.node("Cast", ["sentence_beginning"], OUT, to=8), dtype=8
            ),
            "'sentence_embedding' of .* holds object",
            id="texts as output",
        ),
        pytest.param(
            graphs.model(BEGUN + graphs.node("Concat", ["sentence_beginning"] * 2, OUT, axis=1)),
            r"has the shape \(1, 64\)",
            id="another size than its type says",
        ),
    ],
)  # fmt: skip
def test_graphs_that_are_refused(tmp_path, content, match):
    with pytest.raises(LoadError, match=match):
        with_graph(tmp_path / "m", content)


def test_float16_that_overflows_on_a_long_text_is_found(tmp_path):
    """The opening's probe passes; the sum of a long text leaves float16: infinity, for real."""
    half = graphs.model(
        BEGUN + graphs.node("Cast", ["sentence_beginning"], OUT, to=graphs.FLOAT16),
        dtype=graphs.FLOAT16,
    )
    edit = replace((f'fp32 = "{GRAPH}"\nfp16 = ""', f'fp32 = "{GRAPH}"\nfp16 = "{GRAPH}"'))
    relist(copy("prompts", tmp_path / "m", edit), GRAPH, half)
    with TesseraDense(
        path=tmp_path / "m", precision="fp16", threads=1, on_long="truncate"
    ) as model:
        assert np.isfinite(model.encode("cat")).all()
        long = "search " * 60
        with pytest.raises(EncodingError, match=r"^text: .*holds NaN or infinity.*'fp32'"):
            model.encode(long)
        found = model.encode_iter(["cat"] * 5000 + [long])
        with pytest.raises(EncodingError, match="^text 5000: "):
            for _ in range(5001):
                vector = next(found)
        assert np.isfinite(vector).all()
    whole = graphs.model(BODY)
    with with_graph(tmp_path / "w", whole) as model:  # the advice is right
        assert np.isfinite(model.encode(long)).all()


def test_a_graph_that_fails_at_its_first_run_alone(tmp_path):
    """It opens; the probe's two tokens break it: an error of the opening, not of the first text."""
    shaped = after(
        graphs.constant("shape", np.array([7, 3])),
        graphs.node("Reshape", ["sentence_beginning", "shape"], "odd"),
        graphs.node("ReduceSum", ["odd"], "sum", keepdims=0),
        graphs.node("Add", ["sentence_beginning", "sum"], OUT),
    )
    with pytest.raises(LoadError, match="ONNX Runtime failed|cannot be opened"):
        with_graph(tmp_path / "m", shaped)


@pytest.mark.posix
def test_a_loop_without_an_end_is_outside_of_what_is_promised(tmp_path):
    """SECURITY.md says so. It harms nobody but its own process, which can be killed."""
    relist(copy("prompts", tmp_path / "m"), GRAPH, graphs.model(graphs.loop_forever()))
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (6, 9))\n"  # processor seconds
        f"from tessera_onnx import TesseraDense; TesseraDense(path={str(tmp_path / 'm')!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=HANG)
    assert done.returncode == -signal.SIGXCPU


@pytest.mark.parametrize(
    ("name", "cls", "pairs", "match"),
    [
        (
            "colbert",
            TesseraDense,
            (("max_positions = 64", f"max_positions = {2**40}"), ("= 32\n", f"= {2**40}\n")),
            "max_positions must lie in",
        ),
        ("splade", TesseraSparse, (("vocab_size = 128", f"vocab_size = {2**40}"),), "vocab_size"),
        (
            "bolt",
            TesseraTimeSeries,
            (("context_length = 2048", f"context_length = {2**40}"),),
            "context, output patch",
        ),
        (
            "bolt",
            TesseraTimeSeries,
            (("rollout_quantiles = [", f"rollout_quantiles = [{'0.5, ' * 10_000}"),),
            "a level twice",
        ),
        (
            "colqwen2",
            TesseraVision,
            (("least_pixels = 3136", f"least_pixels = {2**40}"), ("= 18816", f"= {2**40}")),
            "most_pixels is at most",
        ),
        (
            "colqwen2",
            TesseraVision,
            (("most_pixels = 18816", f"most_pixels = {2**24}"), ("\nsize = 28", "\nsize = 1")),
            "size is too small",
        ),
        ("colsmol", TesseraVision, (("\nlongest = 128", "\nlongest = 4096"),), "size is too small"),
        ("splade", TesseraSparse, (("licence = ", f"licence{'.a' * 50_000} = "),), "32 parts"),
        ("splade", TesseraSparse, (("[model.text]", f"[model{'.a' * 10**6}]"),), "32 parts"),
        ("splade", TesseraSparse, (("apache-2.0", "x" * 10**6),), "has 1000000 characters"),
    ],
)
def test_a_description_asks_for_no_memory_or_time(tmp_path, name, cls, pairs, match):
    with pytest.raises(LoadError, match=match):
        cls(path=copy(name, tmp_path / "m", replace(*pairs)))


def test_a_description_that_lies_elsewhere(tmp_path):
    folder = copy("splade", tmp_path / "m")
    (folder / "model.toml").rename(tmp_path / "model.toml")
    (folder / "model.toml").symlink_to(tmp_path / "model.toml")
    with pytest.raises(IntegrityError, match="link out of its folder"):
        TesseraSparse(path=folder)
    (tmp_path / "link").symlink_to(copy("splade", tmp_path / "real"))
    with TesseraSparse(path=tmp_path / "link"):  # a folder may be reached by one
        pass


@pytest.mark.parametrize(
    ("part", "rules", "error", "match"),
    [
        ("pre_tokenizer", {"type": "FixedLength", "length": 0}, TokenizationError, "panics"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "EA=="}, LoadError, "Prec"),
        ("model", {"type": "WordLevel", "unk_token": "?", "vocab": {}}, LoadError, "no id of"),
    ],
)
def test_rules_that_the_tokenizer_fails_on(tmp_path, part, rules, error, match):
    """Some make Rust panic, which reaches Python as no Exception."""
    folder = copy("prompts", tmp_path / "m")
    content = json.loads((folder / "tokenizer.json").read_text())
    relist(folder, "tokenizer.json", json.dumps({**content, part: rules}).encode())
    with pytest.raises(error, match=match):
        with TesseraDense(path=folder, threads=1) as model:
            model.encode("cat")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"3", b"[]", b"[" * 100_000, b"\xff\xfe", b'{"cat": "x"}', b'{"cat": {"a": 1}}',
        b'{"cat": null}', b'{"cat": NaN}', b'{"cat": 1e999}', b'{"cat": 1e39}', b'{"cat": -5}',
        b'{"cat": ' + b"9" * 10_000 + b"}", b'{"\\ud800": 1}',
    ],
)  # fmt: skip
def test_a_table_of_weights_that_is_none(tmp_path, content):
    edit = replace(('query_weights = "model"', 'query_weights = "idf"'), ('idf = ""', 'idf = "i"'))
    folder = copy("splade", tmp_path / "m", edit)
    add_file(folder, "i", content)
    with pytest.raises(LoadError, match="i is not a table|i holds a weight"):
        TesseraSparse(path=folder, threads=1)


# ---------------------------------------------------------------- packs


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that packages are installed into, without pip."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    importlib.invalidate_caches()


def install(
    site, distribution, entry, package, models=(), edit=str, code="raise SystemExit('ran')"
):
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{installed.ENTRY_POINTS}]\n{entry}\n")
    if package:
        (site / package).mkdir()
        (site / package / "__init__.py").write_text(code)
        for name in models:
            copy(name, site / package / name, edit)


def test_no_code_of_a_pack_runs(site):
    install(site, "evil", "evil = evil_pack.inner:run", "evil_pack", ["splade"])
    assert "test-splade" in list_models(installed=True)
    with TesseraSparse("test-splade") as model:
        model.encode("cat")
    assert "evil_pack" not in sys.modules


def test_a_pack_takes_the_place_of_no_other(site):
    """Neither by an id, nor as the default, nor by an alias, nor by the name of its entry point."""
    edit = replace(
        ('id = "test-prompts"', 'id = "all-minilm-l6-v2"'),
        ('"prompts-alias"', '"colbertv2.0"'),
    )
    install(site, "a-evil", "starter = a_evil", "a_evil", ["prompts"], edit)
    claim = "the packs tessera-onnx-starter and a-evil both hold a model 'all-minilm-l6-v2'"
    for model_id in ("all-minilm-l6-v2", None):
        with pytest.raises(LoadError, match=claim):
            TesseraDense(model_id)
    with TesseraSparse() as model:  # others are not hindered
        assert model.model() == "splade-tiny"
    assert "all-minilm-l6-v2" not in list_models(installed=True)
    assert any(claim in sentence for sentence in installed.broken())
    folder = site / "a_evil" / "prompts"
    with TesseraDense(path=folder) as model:
        model.encode("cat")
    other = replace(('id = "all-minilm-l6-v2"', 'id = "a-new-one"'))
    (folder / "model.toml").write_text(other((folder / "model.toml").read_text()))
    with TesseraDense() as model:  # its entry point is called "starter" too, and sorts first
        assert model.model() == "all-minilm-l6-v2"
    with TesseraDense("a-new-one") as model:
        model.encode("cat")
    with pytest.raises(LoadError) as caught:  # its alias is the id of a model of the catalogue
        resolve.resolve("colbertv2.0")
    assert "a-new-one" not in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    ["x = __main__", "x = not_there", "x = ???", "x = os", "x = tessera_onnx", "x = .", "x = a..b"],
)
def test_entry_points_that_lead_nowhere(site, entry):
    install(site, "odd", entry, None)
    assert "all-minilm-l6-v2" in list_models(installed=True)
    with TesseraDense() as model:
        assert model.model() == "all-minilm-l6-v2"


@pytest.mark.parametrize(
    ("metadata", "entry"),
    [
        (None, b"x = evil"),
        (b"Metadata-Version: 2.1\n", b"x = evil"),
        (b"Name: \xff\xfe\n", b"x = evil"),
        (b"Name: evil\n", b"x = \xff\xfe"),
        (b"Name: evil\n", b"x"),
        (b"Name: evil\n", b"x = /etc"),
        (b"Name: evil\n", b"x = a\0b"),
    ],
)
def test_a_damaged_package_hinders_no_other(site, metadata, entry, caplog):
    """The standard library reads all packages at once, and fails for all."""
    info = site / "evil-1.0.dist-info"
    info.mkdir()
    if metadata is not None:
        (info / "METADATA").write_bytes(metadata)
    (info / "entry_points.txt").write_bytes(f"[{installed.ENTRY_POINTS}]\n".encode() + entry)
    with TesseraDense() as model:
        assert model.model() == "all-minilm-l6-v2"
    assert "left out: " in caplog.text
    assert "all-minilm-l6-v2" in list_models(installed=True)
    if metadata is None:  # doctor tries every model
        assert "tessera-onnx-starter" in doctor.examine(None)["packs"]


def test_a_packs_files_are_read_where_they_lie_alone(site, tmp_path):
    install(site, "evil", "x = evil_pack", "evil_pack", ["splade"])
    secret = tmp_path / "secret.json"
    file = site / "evil_pack" / "splade" / "tokenizer.json"
    file.rename(secret)
    file.symlink_to(secret)
    with pytest.raises(IntegrityError, match="link out of its folder"):
        TesseraSparse("test-splade")


def test_opening_and_using_a_model_writes_nothing(tmp_path):
    """Every file of the model, its folder and the working directory stay as they were."""
    folder = copy("splade", tmp_path / "m")
    (tmp_path / "cwd").mkdir()
    code = textwrap.dedent(
        f"""
        import sys
        def audit(event, args):
            if event == "open" and isinstance(args[1], str) and set("wax+") & set(args[1]):
                sys.exit(f"writes {{args[0]}}")
            if event.split(".")[0] in {{"subprocess", "socket", "shutil", "tempfile"}}:
                sys.exit(f"does {{event}} {{args}}")
            if event in {{"os.system", "os.exec", "os.remove", "os.rename", "os.mkdir", "os.fork"}}:
                sys.exit(f"does {{event}}")
        from tessera_onnx import TesseraSparse
        with TesseraSparse(path={str(ARTIFACTS / "splade")!r}) as model:
            model.encode("cat")  # all modules are there
        sys.addaudithook(audit)
        with TesseraSparse(path={str(folder)!r}) as model:
            model.rank("cat", ["dog", "mat " * 99])
        """
    )
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path / "cwd",
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert list((tmp_path / "cwd").iterdir()) == []
