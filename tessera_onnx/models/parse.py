"""Convert TOML values to the dataclasses of spec.py, strictly.

A missing field and an unknown key are errors: spec.py lists every field and has no defaults. A
message lists every faulty key at once.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import types
import typing
from collections.abc import Collection
from typing import Any, Literal

from tessera_onnx.errors import LoadError
from tessera_onnx.models.spec import ABSENT

MAX_CHARACTERS = 4096  # of a value, and of the faults that one message lists
MAX_UNKNOWN = 20  # unknown keys that one message lists
MISSING = " is missing"
# Keys that descriptions of earlier versions hold and that say nothing any more.
RETIRED = {"Graph": {"inputs"}, "SubGraph": {"inputs"}}


def build(target: Any, value: Any, where: str, required: Collection[str] = ()) -> Any:
    """Convert a TOML value to the type `target`.

    `required` names tables that are optional in `target` and must be present here. Raises LoadError
    that lists every field which is missing, unknown or of another type.
    """
    faults: list[str] = []
    if dataclasses.is_dataclass(target):
        built: Any = build_table(target, value, where, faults, required)
    else:
        built = _typed(target, value, where, faults)
    if not faults:
        return built
    default = "; no missing fact has a default" if any(MISSING in fault for fault in faults) else ""
    if len(faults) == 1:
        raise LoadError(f"{faults[0]}{default}")
    short = [re.sub(rf"^{re.escape(where)}(\.| (?=has))", "", fault) for fault in faults]
    room = itertools.accumulate(len(fault) + 2 for fault in short)
    listed = [fault for fault, end in zip(short, room, strict=True) if end <= MAX_CHARACTERS]
    more = [f"and {len(short) - len(listed)} more"] if len(listed) < len(short) else []
    raise LoadError(f"{where}: {len(faults)} faults: {'; '.join(listed + more)}{default}")


@functools.cache
def field_types(table: type) -> dict[str, Any]:
    """The type of each field of a dataclass, by name."""
    return typing.get_type_hints(table)


def _typed(target: Any, value: Any, where: str, faults: list[str]) -> Any:
    """Convert `value` to the type `target`; faults in tables are added to `faults`."""
    origin = typing.get_origin(target)
    if origin is Literal:
        if value not in typing.get_args(target):
            choices = ", ".join(repr(choice) for choice in typing.get_args(target))
            raise LoadError(f"{where} is {value!r:.80}, expected one of {choices}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise LoadError(f"{where} must be an array, got {type(value).__name__}")
        item = typing.get_args(target)[0]
        return tuple(_typed(item, part, f"{where}[{i}]", faults) for i, part in enumerate(value))
    if _is_optional(target):  # and present
        return _typed(typing.get_args(target)[0], value, where, faults)
    if dataclasses.is_dataclass(target):
        return build_table(target, value, where, faults)
    return _build_scalar(target, value, where)


def _is_optional(hint: Any) -> bool:
    """Whether a field is of a type `... | None`. Python makes another union of a Literal."""
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def _build_scalar(target: Any, value: Any, where: str) -> Any:
    if target is float and type(value) is int:
        return float(value)
    if type(value) is not target:
        raise LoadError(f"{where} must be {target.__name__}, got {type(value).__name__}")
    if target is int and not -(2**63) <= value < 2**63:  # TOML's, and what NumPy takes
        raise LoadError(f"{where} is not a number of 64 bits")
    if target is str and len(value) > MAX_CHARACTERS:
        raise LoadError(f"{where} has {len(value)} characters, at most {MAX_CHARACTERS} are read")
    if target is str and re.search(r"[\x00-\x08\x0b-\x1f\x80-\x9f]", value):
        raise LoadError(f"{where} holds a control character, which could steer a terminal")
    return value


def build_table(
    target: Any, value: Any, where: str, faults: list[str], required: Collection[str] = ()
) -> Any:
    """Convert a TOML table to a dataclass; every missing or unknown key is added to `faults`."""
    if not isinstance(value, dict):
        raise LoadError(f"{where} must be a table, got {type(value).__name__}")
    hints = field_types(target)
    unknown = sorted(set(value) - set(hints) - RETIRED.get(target.__name__, set()))
    if unknown:
        names = ", ".join(f"{name!r:.80}" for name in unknown[:MAX_UNKNOWN])
        several = f"keys {names}" if len(unknown) > 1 else f"key {names}"
        faults.append(f"{where} has the unknown {several}: known are {', '.join(hints)}")
    built = dict.fromkeys(hints)
    for name, hint in hints.items():
        field = f"{where}.{name}"
        if name in value:
            try:
                built[name] = _typed(hint, value[name], field, faults)
            except LoadError as error:
                faults.append(str(error))
        elif not _is_optional(hint) or name in required:
            absent = f" (write {ABSENT[name]} where there is none)" if name in ABSENT else ""
            faults.append(f"{field}{MISSING}{absent}")
            table = typing.get_args(hint)[0] if name in required else hint
            if dataclasses.is_dataclass(table):
                # The missing fields of the table too, so that they are not the next error.
                build_table(table, {}, field, faults)
    return target(**built)
