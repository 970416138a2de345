"""Devices, threads, closing, forking, pickling, and one object in many threads."""

import multiprocessing
import os
import pickle
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, HANG, TEXTS, copy, replace

from tessera_onnx import (
    ConfigError,
    DeviceError,
    EncodingError,
    IntegrityError,
    TesseraDense,
    TesseraMultiVector,
    TesseraSparse,
    UnsupportedDimension,
)
from tessera_onnx.runtime import cpu, devices
from tessera_onnx.runtime import session as runtime_session
from tessera_onnx.runtime.graph import SPIN_US, open_graph

pytestmark = pytest.mark.filterwarnings("ignore::tessera_onnx.TruncationWarning")


def test_threads_follow_argument_environment_affinity(monkeypatch):
    assert cpu.cpu_threads(3) == 3
    monkeypatch.setenv("TESSERA_THREADS", "5")
    assert cpu.cpu_threads() == 5
    assert cpu.cpu_threads(1) == 1
    monkeypatch.setenv("TESSERA_THREADS", "many")
    with pytest.raises(ConfigError, match="TESSERA_THREADS must be a whole number"):
        cpu.cpu_threads()
    monkeypatch.delenv("TESSERA_THREADS")
    assert 1 <= cpu.cpu_threads() <= os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        assert cpu.cpu_threads() <= len(os.sched_getaffinity(0))
    with pytest.raises(ConfigError, match=r"threads must lie in 1\.\.1024, got 0"):
        cpu.cpu_threads(0)
    with pytest.raises(ConfigError, match=r"lie in 1\.\.1024"):
        cpu.cpu_threads(1 << 40)
    with pytest.raises(TypeError, match="threads must be int"):
        cpu.cpu_threads("2")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_cgroup_quota(tmp_path, files, expected):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cpu.cgroup_quota(tmp_path) == expected


def test_device_names():
    assert devices.choose_device("cpu", static=False) == ["cpu"]
    assert devices.choose_device("cuda:1", static=False) == ["cuda:1"]
    assert devices.choose_device("auto", static=False)[-1] == "cpu"
    assert devices.choose_device("auto", static=False, int8_on_cuda=True) == ["cpu"]
    for name in ("gpu", "cuda:x", "cuda:", "cpu:1", "cpu:", ""):
        with pytest.raises(ConfigError, match="device must be"):
            devices.choose_device(name, static=False)
    with pytest.raises(DeviceError, match="dynamic shapes"):
        devices.choose_device("coreml", static=False)
    with pytest.raises(TypeError, match="device must be str"):
        devices.choose_device(0, static=False)


def test_an_explicit_device_never_falls_back():
    if "CUDAExecutionProvider" in devices.onnxruntime().get_available_providers():
        with TesseraDense(path=ARTIFACTS / "prompts", device="cuda") as model:
            assert model.device == "cuda"
        return
    with pytest.raises(DeviceError, match=r"needs CUDAExecutionProvider.*PATH\[cuda\]"):
        TesseraDense(path=ARTIFACTS / "prompts", device="cuda")


def test_auto_falls_back_once_and_says_why(monkeypatch, caplog):
    """The choice logic alone: a provider that claims to be there and is not."""
    monkeypatch.setattr(runtime_session, "choose_device", lambda *_, **__: ["cuda", "cpu"])
    if "CUDAExecutionProvider" not in devices.onnxruntime().get_available_providers():
        with TesseraDense(path=ARTIFACTS / "prompts") as model:
            assert model.device == "cpu"
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "falling back from cuda to cpu" in caplog.text


def test_missing_onnxruntime_names_both_extras(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(DeviceError, match=r"PATH\[cpu\].*\[cuda\] in place of"):
        TesseraDense(path=ARTIFACTS / "prompts")


def test_precision_that_the_model_lacks():
    with pytest.raises(ConfigError, match="has no int8 graph, only fp32"):
        TesseraDense(path=ARTIFACTS / "prompts", precision="int8")
    with pytest.raises(ConfigError, match="has no int4 graph, .*export it with --precision int4"):
        TesseraDense(path=ARTIFACTS / "prompts", precision="int4")
    with pytest.raises(ConfigError, match="precision must be one of fp32, fp16, int8, int4"):
        TesseraDense(path=ARTIFACTS / "prompts", precision="int2")


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"dimension": 12}, UnsupportedDimension, "gives 32, 16, 8 dimensions, not 12"),
        ({"max_length": 2}, ConfigError, r"max_length 2 must lie in 3\.\.64"),
        ({"max_length": 65}, ConfigError, r"max_length 65 must lie in 3\.\.64"),
        ({"max_length": "9"}, TypeError, "max_length must be int"),
        ({"on_long": "cut"}, ConfigError, "on_long must be"),
    ],
)
def test_options_that_cannot_work(options, error, match):
    with pytest.raises(error, match=match):
        TesseraDense(path=ARTIFACTS / "prompts", **options)


def test_max_length_of_a_model_with_fixed_queries_is_the_documents():
    with TesseraMultiVector(path=ARTIFACTS / "colbert", max_length=10, on_long="truncate") as model:
        assert len(model.encode("cat " * 30)) == 10
        assert len(model.encode_query("cat " * 30)) == 32


def test_close_is_idempotent_and_later_use_raises():
    with TesseraDense(path=ARTIFACTS / "prompts") as model:
        model.encode("cat")
    model.close()
    with pytest.raises(EncodingError, match="this model is closed"):
        model.encode("cat")


def test_close_ends_inference_free_queries_too(tmp_path):
    edit = replace(('query_weights = "model"', 'query_weights = "ones"'))
    with TesseraSparse(path=copy("splade", tmp_path / "m", edit)) as model:
        model.encode_query("cat")
    with pytest.raises(EncodingError, match="this model is closed"):
        model.encode_query("cat")


def test_a_graph_that_changes_under_an_open_model_is_never_used(tmp_path):
    folder = copy("prompts", tmp_path / "m")
    with TesseraDense(path=folder, threads=2) as model:
        model.encode_batch(["cat", "dog " * 30] * 20)  # the session for batches is open
        path = folder / "model.fp32.onnx"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match="has sha256.*changed since it was opened"):
            model.encode("cat")  # opens the session for single texts


def test_close_during_use_gives_results_or_one_clear_error():
    model = TesseraDense(path=ARTIFACTS / "prompts", threads=2)
    expected = model.encode_batch(TEXTS)
    outcomes = []

    def work():
        try:
            for _ in range(1000):
                np.testing.assert_allclose(model.encode_batch(TEXTS), expected, atol=1e-5)
        except EncodingError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    model.close()
    for thread in threads:
        thread.join(HANG)
        assert not thread.is_alive()
    assert len(outcomes) == 4
    assert all("this model is closed" in outcome for outcome in outcomes)


def test_sixteen_threads_on_one_object_equal_one_thread():
    with TesseraMultiVector(path=ARTIFACTS / "colbert", threads=2) as model:
        expected = [model.encode(text) for text in TEXTS]
        with ThreadPoolExecutor(16) as pool:
            rounds = list(pool.map(lambda _: model.encode_batch(TEXTS), range(48)))
        for found in rounds:
            for rows, reference in zip(found, expected, strict=True):
                np.testing.assert_allclose(rows, reference, atol=1e-5)


def _encode(model):
    return model.encode("cat")


def test_pickled_to_a_spawned_process():
    with TesseraDense(path=ARTIFACTS / "prompts", dimension=16) as model:
        copied = pickle.loads(pickle.dumps(model))
        assert repr(copied) == repr(model)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(_encode, model).result(HANG)
        np.testing.assert_allclose(found, model.encode("cat"), atol=1e-6)


@pytest.mark.posix
def test_use_after_fork_is_one_clear_error():
    with TesseraDense(path=ARTIFACTS / "prompts") as model:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                model.encode("cat")
                message = "no error"
            except EncodingError as error:
                message = str(error)
            os.write(writer, message.encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        with os.fdopen(reader) as stream:
            assert "opened in process" in stream.read()
        model.encode("cat")


def test_keyboard_interrupt_midway_then_reuse(monkeypatch):
    with TesseraDense(path=ARTIFACTS / "prompts", threads=2) as model:
        expected = model.encode_batch(TEXTS)
        run = model._encoder.session.run
        calls = []

        def interrupted(*args, **kwargs):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return run(*args, **kwargs)

        monkeypatch.setattr(model._encoder.session, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.encode_batch(TEXTS * 50)
        monkeypatch.undo()
        np.testing.assert_allclose(model.encode_batch(TEXTS), expected, atol=1e-5)


def test_nan_from_a_graph_is_found(monkeypatch):
    with TesseraDense(path=ARTIFACTS / "prompts") as model:
        session = model._encoder.session._session(parallel=model._encoder.session.workers > 1)

        class Broken:
            def run(self, names, feeds, options):
                return [np.full((len(feeds["input_ids"]), 32), np.nan, np.float32)]

        monkeypatch.setattr(model._encoder.session, "_sessions", {True: Broken(), False: Broken()})
        with pytest.raises(EncodingError, match=r"^text: the output .* holds NaN .*fp32"):
            model.encode("cat")
        assert session is not None


def test_a_session_is_held_for_each_use_alone():
    texts = TEXTS * 300  # more than one batch
    with TesseraDense(path=ARTIFACTS / "prompts", threads=2) as model:
        expected = model.encode_batch(texts)
        assert list(model._session._sessions) == [True]
        model.encode("cat")
        model.encode("cat")
        assert set(model._session._sessions) == {True, False}
    with TesseraDense(path=ARTIFACTS / "prompts", threads=2) as model:
        model.encode("cat")
        assert list(model._session._sessions) == [False]
        np.testing.assert_array_equal(model.encode_batch(texts), expected)


@pytest.mark.linux
def test_a_large_batch_leaves_no_memory_behind(monkeypatch):
    """The arena gives back what the scores of long texts took."""
    rows, length = 40, 64
    ids = np.full((rows, length), 5, dtype=np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def resident():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    with TesseraDense(path=ARTIFACTS / "prompts", threads=1) as model:
        session = model._session
        session.run(feeds)
        held = {}
        for large in (False, True):
            monkeypatch.setattr(runtime_session, "LARGE_BATCH", 1 if large else 1 << 40)
            for _ in range(2):
                session.run({name: np.repeat(rows, 30, axis=0) for name, rows in feeds.items()})
            held[large] = resident()
    assert held[True] < held[False] - 10


def test_sessions_have_the_options_that_were_measured():
    """Each was worth a factor, and none changes a result: nothing else would show its loss."""
    graph = (ARTIFACTS / "prompts" / "model.fp32.onnx").read_bytes()
    threads = len(cpu.cpus())
    options = open_graph("model.fp32.onnx", graph, "cpu", threads).get_session_options()
    assert options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern
    entry = options.get_session_config_entry
    assert entry("session.intra_op.spin_duration_us") == str(SPIN_US)
    if threads > 1:  # one place for each thread but the caller's
        assert len(entry("session.intra_op_thread_affinities").split(";")) == threads - 1
