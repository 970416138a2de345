"""Devices that are not there: with the CPU wheel, and for real with the CUDA wheel without CUDA."""

import json
import re
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from artifact_tools import ARTIFACTS, copy

from tessera_onnx import DeviceError, TesseraDense, TesseraTimeSeries
from tessera_onnx.cli import doctor
from tessera_onnx.runtime.devices import onnxruntime

CUDA = "CUDAExecutionProvider" in onnxruntime().get_available_providers()


def _works() -> bool:
    try:
        TesseraDense(path=ARTIFACTS / "prompts", device="cuda").close()
    except DeviceError:
        return False
    return True


# The CUDA wheel without its libraries, the driver or the GPU: .ci/nightly makes such a place.
broken_cuda = pytest.mark.skipif(not CUDA or _works(), reason="needs onnxruntime-gpu, no CUDA")


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "coreml"])
def test_an_explicit_device_raises_with_the_fix(device):
    if CUDA and device != "coreml":
        return  # below, or it works
    with pytest.raises(DeviceError, match=r"PATH\[cuda\]|device='cpu'"):
        TesseraDense(path=ARTIFACTS / "prompts", device=device)


@broken_cuda
def test_the_cuda_wheel_without_cuda_falls_back_and_says_why(caplog, capfd):
    for cls, name in ((TesseraDense, "prompts"), (TesseraTimeSeries, "bolt")):
        caplog.clear()
        with cls(path=ARTIFACTS / name) as model:
            assert model.device == "cpu"
            found = model.encode("cat") if name == "prompts" else model.forecast([1.0, 2.0])
            assert np.isfinite(found).all()
        (record,) = caplog.records
        assert "falling back from cuda to cpu" in record.getMessage()
        assert re.search(r"not found: lib\w+|CUDA or cuDNN library", record.getMessage())
    assert capfd.readouterr().out == ""  # stdout belongs to the caller


@broken_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_the_cuda_wheel_without_cuda_never_runs_elsewhere_unasked(device):
    said = r"although cuda\S* was asked for: .*onnxruntime-gpu\[cuda,cudnn\].*device='cpu'"
    with pytest.raises(DeviceError, match=said):
        TesseraDense(path=ARTIFACTS / "prompts", device=device)


@broken_cuda
def test_doctor_tells_the_fix(tmp_path):
    copy("prompts", tmp_path / "cache" / "prompts")
    code = "from tessera_onnx.cli.main import main; main(prog_name='tessera')"
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--json", "--cache-dir", tmp_path / "cache"],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert any(
        "onnxruntime-gpu[cuda,cudnn]" in problem and "test-prompts, dense on cuda" in problem
        for problem in report["problems"]
    )
    (tried,) = [model for model in report["models"] if model["id"] == "test-prompts"]
    assert {probe["device"]: probe["result"] == "works" for probe in tried["probes"]} == {
        "cpu": True, "cuda": False,
    }  # fmt: skip


BOTH = {d.metadata["Name"] for d in metadata.distributions()} >= {"onnxruntime", "onnxruntime-gpu"}


@pytest.mark.skipif(not BOTH, reason="needs both wheels of ONNX Runtime: .ci/nightly installs them")
def test_both_wheels_are_found_and_the_fix_is_told():
    """Whichever was installed last is what runs: it works, and nobody knows on what."""
    report = doctor.examine(None)
    assert any("pip uninstall onnxruntime onnxruntime-gpu" in each for each in report["problems"])
    with TesseraDense(path=ARTIFACTS / "prompts") as model:
        assert np.isfinite(model.encode("cat")).all()


def test_no_telemetry(monkeypatch):
    """ONNX Runtime's events are switched off before any session is made."""
    import onnxruntime as ort

    calls = []
    monkeypatch.setattr(ort, "disable_telemetry_events", lambda: calls.append("off"))
    session = ort.InferenceSession
    monkeypatch.setattr(
        ort, "InferenceSession", lambda *a, **k: (calls.append("made"), session(*a, **k))[1]
    )
    with TesseraDense(path=ARTIFACTS / "prompts"):
        pass
    assert calls.index("off") < calls.index("made")
