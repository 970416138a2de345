"""ONNX Runtime's telemetry is switched off by the environment, before its import.

Wheels from 1.29 hold it. At import they write a device id and a database of events into the
user's cache folder, and some eight seconds later they look up a host of their maker and call it.
`onnxruntime.disable_telemetry_events` comes after the import and stops neither; this variable does.
"""

from __future__ import annotations

import os
import sys

VARIABLE = "ORT_DISABLE_TELEMETRY"
OFF = {"1", "true", "yes", "on"}  # ONNX Runtime takes all other values for a no
FIRST = (1, 29)

_came_too_late = False


def switch_off() -> None:
    """Set the variable where the user has not; to be called before onnxruntime is imported."""
    global _came_too_late  # noqa: PLW0603 (a fact of the process)
    if os.environ.get(VARIABLE):  # an empty value would leave the telemetry on
        return
    _came_too_late = sys.modules.get("onnxruntime") is not None
    os.environ[VARIABLE] = "1"


def problem(version: str) -> str | None:
    """Why that version of onnxruntime, imported before this package, has its telemetry on.

    None where it is off, or on by the user's own choice.
    """
    if not (_came_too_late and _has_telemetry(version)):
        return None
    return (
        f"onnxruntime {version} was imported before tessera_onnx, so its telemetry is on in this "
        f"process: import tessera_onnx first, or set {VARIABLE}=1 in the environment"
    )


def state(version: str) -> str:
    """Whether the telemetry of that version is on in this process, and why."""
    if not _has_telemetry(version):
        return f"none in onnxruntime {version}"
    if _came_too_late:
        return "on: onnxruntime was imported before tessera_onnx"
    if os.environ.get(VARIABLE, "").lower() not in OFF:
        return f"on: {VARIABLE} is set, and not to 1"
    return "off"


def _has_telemetry(version: str) -> bool:
    """Whether a version may hold it; one that cannot be read may."""
    try:
        major, minor = (int(part) for part in version.split(".")[:2])
    except ValueError:
        return True
    return (major, minor) >= FIRST
