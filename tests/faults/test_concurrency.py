"""One object in many threads and processes, for every kind: the same numbers or one clear error."""

import contextlib
import functools
import gc
import io
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pdf_files
import pytest
from artifact_tools import ARTIFACTS, HANG, TEXTS
from cases_images import COLOURS
from cases_images import opened as open_vision
from cases_text import MODELS, open_kind
from PIL import Image

from tessera_onnx import (
    EncodingError,
    PackedSparse,
    PackedTokens,
    SparseVector,
    TesseraTimeSeries,
    TesseraVision,
)
from tessera_onnx.images import decode
from tessera_onnx.images import pdf as images_pdf
from tessera_onnx.images.decode import open_image

resource = pytest.importorskip("resource", reason="signals, forks and limits of POSIX")
pytestmark = pytest.mark.filterwarnings("ignore::tessera_onnx.TruncationWarning")
VISION = {"vision": "tessera-page-mini", "vision, language model": "colqwen2"}
KINDS = [*MODELS, "time-series", "time-series, groups", *VISION]
PAGES = [COLOURS, COLOURS[:, :120], COLOURS.swapaxes(0, 1), COLOURS[::-1], COLOURS[:30]]
CONTEXTS = [np.sin(np.arange(20 + 40 * i) / 3) + i for i in range(6)]


def opened(kind, **options):
    if kind in MODELS:
        return open_kind(kind, **options)
    if kind in VISION:
        return open_vision(VISION[kind], **options)
    name = "chronos2" if "groups" in kind else "bolt"
    return TesseraTimeSeries(path=ARTIFACTS / name, **options)


def work(model):
    """Flat arrays of all that a model is asked in these tests."""
    if isinstance(model, TesseraTimeSeries):
        return [model.forecast_quantiles(CONTEXTS, 80).ravel()]
    if isinstance(model, TesseraVision):
        scores = model.score(TEXTS[0], PAGES)
        cells = model.similarity_map(TEXTS[1], COLOURS)
        found = [*model.encode_documents(PAGES), *model.encode_query(TEXTS[:3]), cells, scores]
        return [np.ravel(each) for each in found]
    found = [*model.encode_batch(TEXTS), *model.encode_query(TEXTS[:3])]
    ranked = model.rank(TEXTS[0], TEXTS)
    flat = [np.concatenate([np.ravel(part) for part in each]) if isinstance(each, tuple)
            else np.ravel(each) for each in found]  # fmt: skip
    return [*flat, np.array([item.score for item in ranked])]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for ours, truth in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_sixteen_threads_equal_one(kind, threads):
    with opened(kind, threads=threads) as model:
        expected = work(model)
        start = threading.Barrier(16)

        def call(_):
            start.wait(HANG)
            return work(model)

        with ThreadPoolExecutor(16) as pool:
            for found in pool.map(call, range(16)):
                assert_same(found, expected)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "language" not in kind])
def test_sixteen_threads_open_the_second_session_together(kind):
    """A new object has the session for batches alone; all ask for the other one at once."""

    def call(model):
        if kind in VISION:
            return model.encode_document(COLOURS)
        return model.forecast(CONTEXTS[0]) if "time" in kind else model.encode("cat")

    with opened(kind, threads=2) as other:
        expected = call(other)
    with opened(kind, threads=2) as model:
        start = threading.Barrier(16)

        def go(_):
            start.wait(HANG)
            return call(model)

        with ThreadPoolExecutor(16) as pool:
            for found in pool.map(go, range(16)):
                for ours, truth in zip(found, expected, strict=True):
                    np.testing.assert_array_equal(ours, truth)
        assert list(model._session._sessions) == [
            False
        ]  # the probed one, which nobody needs, is gone


@pytest.mark.parametrize("kind", KINDS)
def test_closed_while_in_use(kind):
    model = opened(kind, threads=2)
    expected = work(model)
    ends = []

    def loop():
        try:
            while True:
                assert_same(work(model), expected)
        except Exception as error:
            ends.append(error)

    threads = [threading.Thread(target=loop) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    model.close()
    model.close()
    for thread in threads:
        thread.join(HANG)
        assert not thread.is_alive()
    assert [type(end) for end in ends] == [EncodingError] * 8
    assert all("this model is closed" in str(end) for end in ends)
    with pytest.raises(EncodingError, match="this model is closed"):
        work(model)
    with pickle.loads(pickle.dumps(model)) as again:  # a closed one pickles as what opens it
        assert_same(work(again), expected)


def forked(call):
    """The error of a call in a fork of this process, or nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a hang ends here
        said = ""
        try:
            call()
        except BaseException as error:
            said = repr(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    return said if os.waitpid(child, 0)[1] == 0 else f"a dead child {said}"


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_fork_it_says_so_and_in_the_parent_goes_on(kind):
    with opened(kind, threads=2) as model:
        expected = work(model)
        assert re.match("EncodingError.*opened in process", forked(lambda: work(model)))
        assert_same(work(model), expected)


class Slow(io.BytesIO):
    """A file that is read up to its pixels, and then waits."""

    waits, reached, may_go = False, threading.Event(), threading.Event()

    def read(self, *size):
        if self.waits:
            self.reached.set()
            self.may_go.wait(HANG)
        return super().read(*size)


def test_a_fork_reads_an_image_while_a_thread_of_its_parent_does():
    """One PIL image is read at a time, and in the fork nobody is left who reads the other."""
    file = Slow()
    Image.fromarray(COLOURS).save(file, "PNG")
    image = Image.open(file)
    file.waits = True
    read = functools.partial(open_image, where="image", alpha="white")
    thread = threading.Thread(target=read, args=[image])
    thread.start()
    assert file.reached.wait(HANG)
    assert forked(lambda: read(Image.fromarray(COLOURS))) == ""
    file.may_go.set()
    thread.join(HANG)
    np.testing.assert_array_equal(read(image), COLOURS)


def spawned(function, argument):
    """What a function gives in a spawned process, whose end is an error, where a Pool waits on."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, argument).result(HANG)


@pytest.mark.parametrize("kind", KINDS)
def test_pickled_to_a_spawned_process(kind):
    with opened(kind, threads=1) as model:
        assert_same(spawned(work, model), work(model))


def test_two_models_in_a_process_and_two_objects_of_one():
    models = [opened(kind, threads=1) for kind in KINDS] + [opened("dense", threads=1)]
    expected = [work(model) for model in models]
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda i: (i, work(models[i])), list(range(len(models))) * 4):
            assert_same(found[1], expected[found[0]])
    for model in models[:-1]:
        model.close()
    assert_same(work(models[-1]), expected[0])
    models[-1].close()


INTERRUPT = """
import signal, sys, threading, time
sys.path[:0] = {path!r}
from test_concurrency import *
import warnings; warnings.simplefilter("ignore")
model = opened({kind!r}, threads={threads})
expected = work(model)
long = (
    (lambda: model.forecast(CONTEXTS * 40, 20_000))
    if isinstance(model, TesseraTimeSeries)
    else (lambda: model.encode_documents(PAGES * 5_000))
    if isinstance(model, TesseraVision)
    else (lambda: model.encode_batch(TEXTS * 20_000))
)
try:
    threading.Timer({after}, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    long()
    print("was not interrupted")
except KeyboardInterrupt:
    pass
assert_same(work(model), expected)
print("goes on")
"""


def test_a_fork_reads_a_pdf_while_a_thread_of_its_parent_does():
    pdf = pdf_files.build([pdf_files.page()])
    has_it, may_go = threading.Event(), threading.Event()

    def hold():
        with decode.LOCKS["pdfium"]:
            has_it.set()
            may_go.wait(HANG)

    thread = threading.Thread(target=hold)
    thread.start()
    assert has_it.wait(HANG)
    assert forked(lambda: list(images_pdf.read_pages(pdf))) == ""
    may_go.set()
    thread.join(HANG)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_is_prompt_and_the_object_goes_on(kind, threads):
    code = INTERRUPT.format(path=sys.path, kind=kind, threads=threads, after=0.6)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG, check=False
    )
    assert (done.stdout, done.returncode) == ("goes on\n", 0), done.stderr
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert used < 40  # seconds of processors; the whole call would take minutes


def threads_after(first):
    """Threads that a new process takes after this line of code, and those of ONNX Runtime in it."""
    code = (
        f"import os, sys\n{first}\n"
        "os.environ['OPENBLAS_NUM_THREADS'] = '1'\n"
        "os.environ['TOKENIZERS_PARALLELISM'] = 'false'\n"
        "from tessera_onnx import TesseraDense\nfrom tessera_onnx.runtime import cpu, devices\n"
        "devices.onnxruntime()\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        f"model = TesseraDense(path={str(ARTIFACTS / 'prompts')!r})\n"
        "model.encode('cat'); model.encode_batch(['cat', 'dog ' * 30] * 99)\n"
        "print(cpu.cpu_threads(), len(os.listdir('/proc/self/task')) - before)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TESSERA_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return map(int, done.stdout.split())


@pytest.mark.linux
@pytest.mark.parametrize("cpus", [1, 2])
def test_threads_follow_the_processes_cpus(cpus):
    """The affinity of a real process, as a container's cpuset sets it, and ORT's real threads."""
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < cpus:
        cpus = len(mine)
    threads, more = threads_after(f"os.sched_setaffinity(0, {mine[:cpus]})")
    assert threads == cpus
    assert more <= cpus  # not the machine's; the workers of a batch have ended


@pytest.fixture
def quota():
    """A control group of this machine whose processes may use one processor."""
    v1 = Path("/sys/fs/cgroup/cpu")
    folder = (v1 if v1.is_dir() else v1.parent) / f"tessera-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here ({error}): test_cgroup_quota has its files")
    try:
        if v1.is_dir():
            (folder / "cpu.cfs_quota_us").write_text("90000")
        else:
            (folder / "cpu.max").write_text("90000 100000")
        (folder / "below").mkdir()
        yield folder / "below"
    except OSError as error:
        pytest.skip(f"no quota can be set here ({error}): test_cgroup_quota has its files")
    finally:
        for made in (folder / "below", folder):
            with contextlib.suppress(OSError):
                made.rmdir()


def test_threads_follow_a_quota(quota):
    """A real one, of the control group above the process's own."""
    threads, more = threads_after(f"open('{quota}/cgroup.procs', 'w').write(str(os.getpid()))")
    assert threads == 1
    assert more <= 1


@pytest.mark.linux
def test_a_closed_model_frees_its_memory_and_threads():
    tasks = Path("/proc/self/task")
    work_once = opened("dense", threads=2)
    work(work_once)
    work_once.close()
    gc.collect()
    before = len(list(tasks.iterdir()))
    for _ in range(20):
        with opened("dense", threads=2) as model:
            work(model)
    gc.collect()
    assert len(list(tasks.iterdir())) <= before + 1


def test_a_second_interrupt_does_no_harm():
    """Two Ctrl-C in a row: the second may come while the first is being handled."""
    code = INTERRUPT.format(path=sys.path, kind="time-series", threads=2, after=0.5)
    both = """try:
    stop = lambda: os.kill(os.getpid(), signal.SIGINT)
    timers = [threading.Timer(after, stop) for after in (0.5, 0.52)]
    try:
        for timer in timers: timer.start()
        long()
    except KeyboardInterrupt: pass
    for timer in timers: timer.join()
    time.sleep(1)
"""
    start, end = code.index("try:"), code.index("except KeyboardInterrupt:")
    code = code[:start] + both + code[end:]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG, check=False
    )
    assert done.stdout == "goes on\n", done.stderr
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_may_open_its_own(kind):
    """What the error of the fork advises."""
    with opened(kind, threads=2) as model:
        expected = work(model)

        def own():
            with opened(kind, threads=2) as another:
                assert_same(work(another), expected)

        assert forked(own) == ""


@pytest.mark.linux
def test_objects_are_opened_and_closed_in_many_threads_at_once():
    """Every kind in four threads: one's end takes nothing from another's beginning."""
    expected = {}
    for kind in KINDS:
        with opened(kind, threads=1) as model:
            expected[kind] = work(model)
    start = threading.Barrier(8)
    tasks = len(list(Path("/proc/self/task").iterdir()))
    descriptors = len(list(Path("/proc/self/fd").iterdir()))

    def call(number):
        start.wait(HANG)
        for kind in (KINDS[number:] + KINDS[:number])[:4]:
            with opened(kind, threads=1 + number % 2) as model:
                assert_same(work(model), expected[kind])
            with pytest.raises(EncodingError, match="closed"):
                work(model)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))
    gc.collect()
    assert len(list(Path("/proc/self/task").iterdir())) <= tasks + 1
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 1


@pytest.fixture(params=["float32", "int8", "binary", "sparse"])
def pack(request):
    rng = np.random.default_rng(1)
    if request.param == "sparse":
        rows = [np.flatnonzero(rng.random(60) < 0.2).astype(np.int32) for _ in range(300)]
        return PackedSparse([SparseVector(ids, rng.random(len(ids)).astype("f4")) for ids in rows])
    rows = [rng.standard_normal((n, 64), np.float32) for n in rng.integers(1, 60, 300)]
    return PackedTokens(rows, output_dtype=request.param, threads=2)


def scores(pack):
    query = np.random.default_rng(2).standard_normal((40, 64), np.float32)
    if isinstance(pack, PackedSparse):
        query = SparseVector(np.arange(40, dtype=np.int32), np.abs(query[:, 0]))
    best = pack.rank(query, 5)
    return [pack.score(query), np.array([item.score for item in best])]


def test_sixteen_threads_on_one_pack_and_a_model_beside_it(pack):
    expected = scores(pack)
    start = threading.Barrier(16)
    with opened("multi-vector", threads=2) as model:
        vectors = work(model)

        def call(number):
            start.wait(HANG)
            if number % 4 == 0:
                assert_same(work(model), vectors)
            return scores(pack)

        with ThreadPoolExecutor(16) as pool:
            for found in pool.map(call, range(16)):
                assert_same(found, expected)


def test_a_pack_in_a_fork_and_in_a_spawned_process(pack):
    """It has no session of its own, so that a fork of it works."""
    expected = scores(pack)
    assert forked(lambda: assert_same(scores(pack), expected)) == ""
    assert_same(spawned(scores, pack), expected)


def test_a_pack_that_is_interrupted_goes_on():
    code = (
        "import os, signal, sys, threading\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "import numpy as np\n"
        "from tessera_onnx import PackedTokens\n"
        "rows = [np.random.default_rng(i).standard_normal((50, 64), np.float32)"
        " for i in range(2000)]\n"
        "for output in ('float32', 'int8', 'binary'):\n"
        "    pack = PackedTokens(rows, output_dtype=output, threads=2)\n"
        "    expected = pack.score(rows[0])\n"
        "    try:\n"
        "        threading.Timer(0.4, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "        while True: pack.score_batch(rows[:40])\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
        "    assert np.array_equal(pack.score(rows[0]), expected)\n"
        "    print(output)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG, check=False
    )
    assert done.stdout.split() == ["float32", "int8", "binary"], done.stderr
