"""Switch off ONNX Runtime's telemetry by an environment variable, before onnxruntime is imported.

Wheels from 1.29 on have telemetry. At import they write a device id and a database of events into
the user's cache folder, and about eight seconds later they call a host of their maker.
`onnxruntime.disable_telemetry_events` can only be called after the import and stops neither.
"""

from __future__ import annotations

import os
import sys

VARIABLE = "ORT_DISABLE_TELEMETRY"
OFF = {"1", "true", "yes", "on"}  # ONNX Runtime takes all other values for a no
FIRST = (1, 29)

_came_too_late = False


def switch_off() -> None:
    """Set the variable unless the user has set it. Call this before onnxruntime is imported."""
    global _came_too_late  # noqa: PLW0603 (a fact of the process)
    if os.environ.get(VARIABLE):  # an empty value would leave the telemetry on
        return
    _came_too_late = sys.modules.get("onnxruntime") is not None
    os.environ[VARIABLE] = "1"


def problem(version: str) -> str | None:
    """Why the telemetry of this onnxruntime version is on: it was imported before this package.

    None if it is off, or on by the user's choice.
    """
    if not (_came_too_late and _has_telemetry(version)):
        return None
    return (
        f"onnxruntime {version} was imported before tessera_onnx, so its telemetry is on in this "
        f"process: import tessera_onnx first, or set {VARIABLE}=1 in the environment"
    )


def state(version: str) -> str:
    """Whether the telemetry of this onnxruntime version is on in this process, and why."""
    if not _has_telemetry(version):
        return f"none in onnxruntime {version}"
    if _came_too_late:
        return "on: onnxruntime was imported before tessera_onnx"
    if os.environ.get(VARIABLE, "").lower() not in OFF:
        return f"on: {VARIABLE} is set, and not to 1"
    return "off"


def _has_telemetry(version: str) -> bool:
    """Whether a version of onnxruntime may have telemetry; True if it cannot be parsed."""
    try:
        major, minor = (int(part) for part in version.split(".")[:2])
    except ValueError:
        return True
    return (major, minor) >= FIRST
