"""Read the fields of a request's JSON object; what is wrong with one is an error that names it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import orjson

from tessera_onnx.errors import TesseraError

Word = TypeVar("Word", bound=str)
# Of a body: Python makes an object of each, and nothing else runs meanwhile.
NESTED = 1 << 19
VALUES = 1 << 22
TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
WORDS = 64  # in a list of words


class BadRequest(TesseraError):
    """A request that cannot be read. `field` names what is wrong; the message holds no value."""

    def __init__(self, message: str, *, field: str | None = None, index: int | None = None) -> None:
        """`index` is the number of the item of the field."""
        super().__init__(message, index=index)
        self.field = field


class Fields:
    """The fields of a JSON object. One that is null counts as absent; unknown ones do not matter.

    Clients of several protocols send fields that others do not know, such as `user`.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "") -> None:
        """`where` goes before the names of fields in messages, such as "parameters."."""
        self._values = values
        self._where = where

    @classmethod
    def parse(cls, body: bytes) -> Fields:
        """The object in the body of a request. Raises BadRequest."""
        if _has_many(body) and (body.count(b'"') > 2 * VALUES or _has_many(TEXT.sub(b"", body))):
            raise BadRequest(
                f"the body has more than {NESTED} lists or {VALUES} values: send several requests"
            )
        try:
            found = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise BadRequest(
                f"the body is no JSON: line {error.lineno}, column {error.colno}"
            ) from None
        if not isinstance(found, dict):
            raise BadRequest(f"the body must be a JSON object, got {_kind(found)}")
        return cls(found)

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def get(self, *names: str) -> Any:
        """The first of some fields that is there, None without any."""
        return next((self._values[n] for n in names if self._values.get(n) is not None), None)

    def require(self, name: str) -> Any:
        """A field that must be there."""
        found = self._values.get(name)
        if found is None:
            raise BadRequest(f"{self._where}{name} is missing", field=name)
        return found

    def text(self, name: str, default: str | None = None) -> str | None:
        """A text."""
        found: str | None = self._typed(name, str, "a text", default)
        return found

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        found: bool = self._typed(name, bool, "true or false", default)
        return found

    def whole(self, name: str, default: int | None = None, least: int = 1) -> int | None:
        """A whole number, `least` or more."""
        found = self._values.get(name)
        if found is None:
            return default
        if isinstance(found, bool) or not isinstance(found, int) or found < least:
            got = found if type(found) is int else _kind(found)
            raise BadRequest(
                f"{self._where}{name} must be a whole number from {least} up, got {got}", field=name
            )
        return found

    def word(self, name: str, words: Sequence[Word], default: Word) -> Word:
        """One of some words."""
        found = self._typed(name, str, f"one of {', '.join(words)}", default)
        chosen = next((word for word in words if word == found), None)
        if chosen is None:
            raise BadRequest(f"{self._where}{name} must be one of {', '.join(words)}", field=name)
        return chosen

    def words(self, name: str, words: Sequence[Word], default: Sequence[Word]) -> list[Word]:
        """A list of some words, without doubles; one word alone counts as a list."""
        found = self._values.get(name)
        if found is None:
            return list(default)
        listed = [found] if isinstance(found, str) else found
        if (
            not isinstance(listed, list)
            or not 0 < len(listed) <= WORDS
            or any(each not in words for each in listed)
        ):
            raise BadRequest(
                f"{self._where}{name} must be a list of {', '.join(words)}", field=name
            )
        return list(dict.fromkeys(listed))

    def texts(self, name: str, *, most: int) -> list[str]:
        """A list of texts, up to `most`. Raises BadRequest with the index of a wrong item."""
        found = self.require(name)
        if not isinstance(found, list):
            raise BadRequest(
                f"{self._where}{name} must be a list of texts, got {_kind(found)}", field=name
            )
        return check_texts(found, f"{self._where}{name}", most)

    def object(self, name: str) -> Fields:
        """An object; an empty one where the field is absent."""
        return Fields(self._typed(name, dict, "an object", {}), f"{self._where}{name}.")

    def _typed(self, name: str, kind: type, what: str, default: Any) -> Any:
        found = self._values.get(name)
        if found is None:
            return default
        if not isinstance(found, kind):
            raise BadRequest(f"{self._where}{name} must be {what}, got {_kind(found)}", field=name)
        return found


def _has_many(body: bytes) -> bool:
    """Whether a body has too many values; marks inside of texts count too."""
    nested = body.count(b"[") + body.count(b"{")
    return nested > NESTED or nested + body.count(b",") > VALUES


def check_texts(items: list[Any], name: str, most: int) -> list[str]:
    """The items of a list, all of them texts, up to `most`."""
    check_number(items, name, most)
    for i, item in enumerate(items):
        if not isinstance(item, str):
            raise BadRequest(f"{name}[{i}] must be a text, got {_kind(item)}", field=name, index=i)
    return items


def check_number(items: Sequence[Any], name: str, most: int) -> None:
    """Raises BadRequest for more than `most` items."""
    if len(items) > most:
        raise BadRequest(
            f"{name} has {len(items)} items, a request may have {most}: send several requests, or "
            "start the server with a larger --max-texts",
            field=name,
        )


def _kind(value: Any) -> str:
    """What JSON calls a value's type."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    names = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
