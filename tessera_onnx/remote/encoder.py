"""Encode texts and pairs at a server, in the place of the tokenizer and graph of a local model.

The classes above it are those of local models, so arguments, checks, results and warnings are the
same. Here a role is its name, and an output that a Head reads is named after a kind of vector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import ConfigError, EncodingError, InputTooLong, TesseraError
from tessera_onnx.models.spec import Kind
from tessera_onnx.remote import link as links
from tessera_onnx.remote.link import Link
from tessera_onnx.results import SparseVector
from tessera_onnx.runtime.workers import Failure
from tessera_onnx.text.calls import Call, Encoder, Window
from tessera_onnx.text.pairs import Pair
from tessera_onnx.text.reading import RoleName
from tessera_onnx.text.tokenizer import Batch, Head, OnLong, Tokenizer, check_text, check_texts

SPECIAL = 64  # tokens that a model puts around a text, at most


@dataclasses.dataclass(frozen=True)
class RemoteRole:
    """How the server reads a text: by the name of the role, or with a task or prompt."""

    name: RoleName
    max_length: int
    task: str | None = None
    prompt: str | None = None


def kind_head(*kinds: Kind, width: int = 0) -> Head:
    """The head whose results are those of the server; a tuple of each of several kinds."""

    def apply(outputs: list[Any], _: Batch) -> Sequence[Any]:
        return outputs[0] if len(outputs) == 1 else list(zip(*outputs, strict=True))

    return Head(kinds, apply, width)


class RemoteEncoder(Encoder):
    """The texts of a model at a server; all threads that use the model share it."""

    def __init__(
        self, link: Link, model: str, on_long: OnLong, dimension: tuple[Kind, int] | None = None
    ) -> None:
        """`dimension` is that to which vectors of a kind are cut. Raises ConfigError."""
        super().__init__(None, on_long)
        self._link = link
        self._model = model
        self._cut = dimension
        self._closed = False

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises ConfigError: the tokenizer is at the server."""
        raise ConfigError("the tokenizer of this model is at its server: open the model here")

    def close(self) -> None:
        """Later calls raise EncodingError."""
        self._closed = True

    def check_open(self) -> None:
        """Raises EncodingError after `close`."""
        if self._closed:
            raise EncodingError("this model is closed: make a new object")

    def token(self, number: int) -> str:
        """The name of an entry of the vocabulary."""
        self.check_open()
        body = {"model": self._model, "ids": [int(number)]}
        found: str = self._link.post("/v1/tokens", body)["tokens"][0]
        return found

    def row_tokens(self, text: str, role: RemoteRole, name: str) -> list[str]:
        """The token of each row of a text's multi-vectors."""
        self.check_open()
        known = check_text(text, name)
        body = {"model": self._model, "texts": [known], "role": role.name, "rows": True}
        found: list[str] = self._link.post("/v1/tokens", body)["rows"][0]
        return found

    def token_counts(self, texts: Iterable[str], role: Any) -> NDArray[np.int64]:
        """Tokens of each text before any cut, prompt, marker and special tokens included: (n,)."""
        self.check_open()
        known = check_texts(texts)
        counts: list[int] = []
        for part in self._link.parts([links.json_size(text) for text in known], [0] * len(known)):
            body = {"model": self._model, "texts": known[part], "role": role.name}
            counts += self._link.post("/v1/tokens", body)["count"]
        return np.array(counts, dtype=np.int64)

    def one(
        self,
        text: str,
        role: Any,
        head: Head,
        *,
        name: str = "text",
        several: str = "give one text at a time",
    ) -> Any:
        """The head's result for one text, which errors call by `name`."""
        self.check_open()
        call = Call(role, head, self._on_long, n_texts=1)
        window = Window([check_text(text, name, several=several)], 0, name)
        results = [None]
        with call:
            self._run(window, results, call)
            window.failure.check()
        return results[0]

    def _encode_window(self, texts: Sequence[Any], results: Any, call: Call) -> Failure:
        """Put the result of each text into its place of `results`.

        The results before the row of the Failure are complete.
        """
        self.check_open()
        window = Window(texts, call.n_texts, noun=call.noun)
        call.n_texts += len(texts)
        self._run(window, results, call)
        return window.failure

    def _run(self, window: Window, results: Any, call: Call) -> None:
        items, role = window.texts, cast("RemoteRole", call.role)
        sizes = [self._size(item) for item in items]
        most = role.max_length or max(sizes, default=0)
        around = SPECIAL + len((role.prompt or "").encode())
        tokens = [min(most, size + around) for size in sizes]
        try:
            for part in self._link.parts(sizes, tokens):
                row = self._run_part(window, part, results, call)
                if row is not None:  # those before it have results
                    self._run_part(window, slice(part.start, row), results, call)
                    return
                if call.bar is not None:
                    call.bar.update(part.stop - part.start)
        except BaseException as error:  # no connection, a limit, an interrupt
            window.failure.stop(error)

    def _run_part(self, window: Window, part: slice, results: Any, call: Call) -> int | None:
        """Send some items; the row at fault, if the server names one."""
        if part.start == part.stop:
            return None
        try:
            found, tokens, counts = self._ask(window.texts[part], call)
        except TesseraError as error:
            first = int(part.start)
            if error.index is None and part.stop - first > 1:
                window.failure.at(first, error)
                return first
            row = first + (error.index or 0)
            window.failure.at(row, self._about(window, row, error, call))
            return row
        for i, result in enumerate(found, part.start):
            results[i] = result
        long = counts[counts > tokens]
        call.n_long += len(long)
        call.longest = max(call.longest, int(long.max(initial=0)))
        return None

    def _about(self, window: Window, row: int, error: TesseraError, call: Call) -> TesseraError:
        """The error of the server, about the item by its number in the whole call."""
        if isinstance(error, InputTooLong):
            rest = (
                f" has more tokens than the {call.role.max_length} that the model reads: shorten "
                'it, or pass on_long="truncate"'
            )
            return window.error(InputTooLong, [row], rest)
        return window.error(type(error), [row], f": {error}")

    def _size(self, item: Any) -> int:
        """Bytes of an item in a request."""
        return links.json_size(item)

    def _ask(self, items: Sequence[Any], call: Call) -> tuple[Any, NDArray[Any], NDArray[Any]]:
        """The result of each item, the tokens that were read of it, and those that it has."""
        role, head = cast("RemoteRole", call.role), call.head
        kinds = head.outputs
        body: dict[str, Any] = {
            "model": self._model,
            "texts": list(items),
            "kinds": kinds,
            "role": role.name,
            "task": role.task,
            "prompt": role.prompt,
            "truncate": self._on_long != "error",
        }
        if self._cut is not None and self._cut[0] in kinds:
            body["dimensions"] = self._cut[1]
        arrays, _ = self._link.arrays("/v1/encode", body, call.limit)
        outputs: list[Any] = [self._output(arrays, kind, len(items)) for kind in kinds]
        nothing = np.zeros(len(items), np.int64)
        found = head.apply(outputs, cast("Batch", None))
        return found, arrays.get("tokens", nothing), arrays.get("count", nothing)

    def _output(self, arrays: links.Arrays, kind: str, n: int) -> Any:
        if kind == "dense":  # copies: a result does not keep the whole answer in memory
            return [row.copy() for row in arrays["dense"]]
        found = links.rows(arrays, kind, n)
        return [SparseVector(*pair) for pair in found] if kind == "sparse" else found


class RemotePairs(RemoteEncoder):
    """The pairs of a reranker at a server. The output that a Head reads is an activation."""

    def _size(self, item: Pair) -> int:
        return links.json_size(item.query.text) + links.json_size(item.document) + 2

    def _ask(self, items: Sequence[Pair], call: Call) -> tuple[Any, NDArray[Any], NDArray[Any]]:
        (activation,) = call.head.outputs
        body: dict[str, Any] = {"model": self._model, "activation": activation}
        body["truncate"] = self._on_long != "error"
        if len({pair.query for pair in items}) == 1:
            body["query"] = items[0].query.text
            body["documents"] = [pair.document for pair in items]
        else:
            body["pairs"] = [[pair.query.text, pair.document] for pair in items]
        arrays, _ = self._link.arrays("/v1/score", body, call.limit)
        return list(arrays["scores"][:, None]), arrays["tokens"], arrays["count"]
