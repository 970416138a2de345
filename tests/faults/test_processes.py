"""What a program does around a call: forks, signals, its end, warnings as errors, a lost stderr."""

import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, HANG

from tessera_onnx import PackedTokens

pytestmark = pytest.mark.posix

HEAD = f"""
import atexit, gc, io, multiprocessing, os, signal, sys, threading, time, warnings
sys.path[:0] = {sys.path!r}
import numpy as np
from tessera_onnx import *
warnings.simplefilter("ignore", TruncationWarning)
FOLDER = {str(ARTIFACTS / "prompts")!r}
def opened(**options): return TesseraDense(path=FOLDER, threads=2, **options)
def opened_real(threads): return TesseraDense("all-minilm-l6-v2", threads=threads)
"""


def run(code, expected, *, options=(), **more):
    """What a program prints; a hang fails here."""
    done = subprocess.run(
        [sys.executable, *options, "-c", HEAD + textwrap.dedent(code)],
        capture_output=True, text=True, timeout=HANG, check=False, **more,
    )  # fmt: skip
    assert (done.stdout.strip(), done.returncode) == (expected, 0), done.stderr
    return done.stderr


def test_a_fork_closes_and_replaces_what_it_inherits():
    """ONNX Runtime's own end of a session would wait for threads that a fork does not have."""
    run(
        """
        model = opened()
        model.encode("cat"); model.encode_batch(["cat", "dog " * 30] * 99)
        other = opened(); other.encode("cat")
        def start():
            global model
            other.close()
            model = opened()
        def work(text): return model.encode(text).shape
        with multiprocessing.get_context("fork").Pool(1, start) as pool:
            print(pool.apply_async(work, ("cat",)).get(30), model.encode("cat").shape)
        """,
        "(32,) (32,)",
    )


LIMIT = """
class Late(Exception): pass
class Limit:
    def late(self, *_): raise Late("a text limit of the caller's")
def plain(*_): raise Late("a text limit of the caller's")
signal.signal(signal.SIGALRM, {handler})
"""


@pytest.mark.parametrize("handler", ["plain", "Limit().late"])
@pytest.mark.parametrize(
    ("model", "call"),
    [
        ("opened_real(1)", "m.encode_batch(['the cat sat ' * 9] * 9999)"),
        ("opened_real(2)", "m.encode_batch(['the cat sat ' * 9] * 9999)"),
        ("opened_real(1)", "[m.encode('cat') for _ in range(99999)]"),
        ("TesseraSparse('splade-tiny', threads=1)", "m.encode_batch(['the cat ' * 9] * 99999)"),
        ("TesseraTimeSeries(threads=1)", "m.forecast([np.arange(999.0)] * 9999, 9)"),
        (
            "TesseraVision('tessera-page-mini', threads=1)",
            "m.encode_documents([np.zeros((300, 300, 3), np.uint8)] * 9999)",
        ),
        ("opened()", "m.token_count(['the cat sat ' * 9] * 199999)"),
    ],
)
def test_a_time_limit_of_the_callers_comes_through(handler, model, call):
    """As Ctrl-C does: it is no failure of the batch that ran, nor of the text that was read."""
    run(
        LIMIT.format(handler=handler)
        + textwrap.dedent(
            f"""
            m = {model}
            for after in (0.2, 0.31, 0.47):
                start = time.process_time()
                try:
                    signal.setitimer(signal.ITIMER_REAL, after)
                    {call}
                    print("swallowed")
                except Late:
                    if time.process_time() - start > 10: print("late")
                signal.setitimer(signal.ITIMER_REAL, 0)
            print("done")
            """
        ),
        "done",
    )


def test_a_signal_closes_a_model_that_is_being_opened():
    run(
        """
        for after in (0.002, 0.01, 0.02, 0.05):
            m = TesseraDense("all-minilm-l6-v2", threads=2)
            signal.signal(signal.SIGALRM, lambda *_: m.close())
            signal.setitimer(signal.ITIMER_REAL, after)
            try:
                for _ in range(1000): m.encode("cat")
            except EncodingError as error:
                print("this model is closed" in str(error), end=" ")
        """,
        "True True True True",
    )


def test_what_a_program_encodes_at_its_end():
    run(
        """
        model = opened()
        series = TesseraTimeSeries("tessera-bolt-mini", threads=2)
        atexit.register(lambda: print(model.encode_batch(["cat", "dog " * 30] * 99).shape))
        atexit.register(lambda: print(series.forecast([np.arange(40.0)] * 99, 8).shape))
        """,
        "(99, 8)\n(198, 32)",
    )


def test_no_thread_can_be_started():
    """As under a limit of processes: none has a stack so large."""
    run(
        """
        model = opened()
        expected = model.encode_batch(["cat", "dog " * 30] * 99)
        threading.stack_size(2**40)
        try:
            threading.Thread(target=print).start()
        except RuntimeError:
            found = model.encode_batch(["cat", "dog " * 30] * 99)
            print(np.allclose(found, expected, atol=1e-6))
        """,
        "True",
    )


def test_where_warnings_are_errors_the_failure_goes_first():
    run(
        """
        warnings.simplefilter("error")
        model = opened()
        long = "dog " * 900
        def texts():
            yield long
            raise KeyError("the caller's own")
        for call in (lambda: list(model.encode_iter(texts())),
                     lambda: model.encode_batch([long, "cat"]),
                     lambda: model.encode(long)):
            try:
                call()
            except Exception as error:
                print(type(error).__name__)
        stream = model.encode_iter([long] * 3)
        next(stream)
        stream.close()
        """,
        "KeyError\nTruncationWarning\nTruncationWarning",
    )


def test_packs_are_loaded_without_touching_everybodys_warnings(tmp_path, monkeypatch):
    """Their filters are those of all threads: what one puts there, another meets."""
    PackedTokens([np.ones((3, 8), np.float32)] * 5).save(tmp_path / "p.pack")
    monkeypatch.setattr(warnings, "catch_warnings", None)
    assert len(PackedTokens.load(tmp_path / "p.pack")) == 5


def test_a_bar_whose_reader_goes_away_ends_nothing():
    run(
        """
        reader, writer = os.pipe()
        os.dup2(writer, 2)
        os.close(writer)
        model = opened(on_long="truncate")
        threading.Timer(0.2, os.close, [reader]).start()
        print(model.encode_batch(["the cat sat " * 5] * 60000, progress=True).shape)
        sys.stderr = None
        print(model.encode_batch(["cat"] * 3, progress=True).shape)
        """,
        "(60000, 32)\n(3, 32)",
    )


def test_an_open_model_works_from_another_folder(tmp_path):
    """Its second session reads the graph again."""
    run(
        f"""
        os.chdir({str(ARTIFACTS)!r})
        model = TesseraDense(path="prompts", threads=2)
        os.chdir("/")
        print(model.encode_batch(["a"] * 800).shape, model.encode("cat").shape)
        os.chdir({str(tmp_path)!r}); os.mkdir("gone"); os.chdir("gone"); os.rmdir("../gone")
        try: TesseraDense("all-minilm-l6-v2", cache_dir="c")
        except LoadError as error: print(error)
        """,
        "(800, 32) (32,)\nthe working directory is gone: No such file or directory",
    )
