"""Count the CPUs that this process may use, by affinity and container quota, and name them."""

from __future__ import annotations

import functools
import math
import os
import platform
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from tessera_onnx.errors import ConfigError

UNKNOWN = "unknown processor"
VNNI = {"avx512_vnni", "avx_vnni"}
MAX_THREADS = 1024  # more is a mistake, for which ONNX Runtime's message is a C++ signature


def cpu_threads(threads: int | None = None) -> int:
    """Threads to use: `threads`, else TESSERA_THREADS, else min(CPU affinity, cgroup quota).

    Raises ConfigError for a number below 1 or a TESSERA_THREADS that is no number.
    """
    if threads is None and os.environ.get("TESSERA_THREADS"):
        try:
            threads = int(os.environ["TESSERA_THREADS"])
        except ValueError:
            raise ConfigError("TESSERA_THREADS must be a whole number of at least 1") from None
    if threads is not None:
        if isinstance(threads, bool) or not isinstance(threads, int):
            raise TypeError(f"threads must be int or None, got {type(threads).__name__}")
        if not 1 <= threads <= MAX_THREADS:
            raise ConfigError(f"threads must lie in 1..{MAX_THREADS}, got {threads}")
        return threads
    count = len(cpus()) or os.cpu_count() or 1
    return max(1, min(count, cgroup_quota() or count))


def cpus() -> list[int]:
    """Numbers of the CPUs that this process may use; [] if the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """CPUs that the container may use, rounded up, at least 1; None without a quota."""
    # cgroup v2, then v1, which has a tree for each controller and -1 for no quota.
    found = [_fields(folder / "cpu.max") for folder in _cgroup_folders(root, "")]
    found += [
        _fields(folder / "cpu.cfs_quota_us") + _fields(folder / "cpu.cfs_period_us")
        for folder in _cgroup_folders(root / "cpu", "cpu")
    ]
    quotas = [
        math.ceil(int(fields[0]) / int(fields[1]))
        for fields in found
        if len(fields) == 2 and all(field.isdecimal() and int(field) for field in fields)
    ]
    return min(quotas, default=None)


def _fields(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _cgroup_folders(root: Path, controller: str) -> list[Path]:
    """The folders of the process's cgroup and of its parents; in a container the root alone."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return [root]
    parts = [line.split(":", 2) for line in lines]  # number, controllers or nothing, path
    own = next((path for _, names, path in parts if controller in names.split(",")), "/")
    folder = root / own.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]


@functools.cache
def physical_summary() -> str:
    """One line about the processor, for `tessera doctor` and export reports."""
    name, flags = _cpuinfo()
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
    return f"{name}; {' '.join(flag for flag in wanted if flag in flags)}" if name else UNKNOWN


def saturates(flags: Collection[str] | None = None) -> bool:
    """Whether this processor adds products of unsigned and signed bytes in 16 bits (saturation.py).

    x86 processors without VNNI do. `flags` are those of /proc/cpuinfo; on a system without that
    file, NumPy tells whether the processor has AVX-512 VNNI.
    """
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return False
    found = _cpuinfo()[1] if flags is None else flags
    if found:
        return not VNNI.intersection(found)
    from numpy._core import _multiarray_umath  # type: ignore[attr-defined]  # no public name

    return not _multiarray_umath.__cpu_features__.get("AVX512VNNI", False)


def byte_products(flags: Collection[str] | None = None) -> Literal["vnni", "x86", "arm64", "other"]:
    """How this processor multiplies bytes, by which int8 graphs are chosen.

    "vnni": x86 with VNNI, which is exact; "x86": without, where products may saturate; "arm64":
    exact; "other": unknown. `flags` as in `saturates`.
    """
    machine = platform.machine().lower()
    if machine in {"x86_64", "amd64"}:
        return "x86" if saturates(flags) else "vnni"
    return "arm64" if machine in {"aarch64", "arm64"} else "other"


@functools.cache
def _cpuinfo() -> tuple[str, tuple[str, ...]]:
    """Name and flags of the first processor; empty on a system without /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "", ()
    name = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), UNKNOWN)
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return name, tuple(flags)
