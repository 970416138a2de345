"""Open the graphs of a vision model, each tried with a tiny input, and what reads its texts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_onnx.errors import LoadError, TesseraError
from tessera_onnx.images.graphs import PixelEncoder, VisionLanguageModel, language_feeds
from tessera_onnx.images.prompt_ids import document_ids, image_id
from tessera_onnx.images.queries import OtherModelsQueries, OwnQueries
from tessera_onnx.models.spec import Graph, ModelSpec
from tessera_onnx.models.spec_media import SubGraph, Vision
from tessera_onnx.runtime.session import Array, Session, select
from tessera_onnx.text import tokenizer as text_tokenizer
from tessera_onnx.text.tokenizer import Runnable, Tokenizer, check_spelled

Encoder = PixelEncoder | VisionLanguageModel
Probe = Callable[[Session], dict[str, Array]]  # a tiny input for an open graph
# Opens one graph: takes the shapes of its outputs, its probe, the graph's table and a number of
# workers (None: the best number), and returns the session.
Opener = Callable[[dict[str, tuple[int | None, ...]], Probe, Graph | SubGraph, int | None], Session]
logger = logging.getLogger("tessera_onnx")


class Graphs(NamedTuple):
    """The open graphs of a model."""

    encoder: Encoder
    sessions: list[Session]

    def close(self) -> None:
        """Free all of them."""
        for session in self.sessions:
            session.close()


def open_graphs(
    open_session: Callable[..., Session],
    devices: Sequence[str],
    spec: ModelSpec,
    recipe: Vision,
    tokenizer: Tokenizer | None,
) -> Graphs:
    """Open all graphs on one device: the first of `devices` on which every graph works.

    `open_session` is Model._open. Raises LoadError where graphs, tokenizer and recipe do not belong
    together, DeviceError where no device works.
    """
    *others, last = devices
    for device in others:
        try:
            return _open_on(device, open_session, spec, recipe, tokenizer)
        except LoadError as error:  # DeviceError is one
            logger.warning("falling back from %s to %s: %s", device, last, error)
    return _open_on(last, open_session, spec, recipe, tokenizer)


def _open_on(
    device: str,
    open_session: Callable[..., Session],
    spec: ModelSpec,
    recipe: Vision,
    tokenizer: Tokenizer | None,
) -> Graphs:
    sessions: list[Session] = []

    def opened(outputs: Any, probe: Probe, table: Any, workers: int | None) -> Session:
        def wanted(session: Session) -> tuple[Any, Any]:
            return outputs, probe(session)

        session = open_session(wanted, table=table, device=device, workers=workers)
        sessions.append(session)
        return session

    try:
        return Graphs(_open_encoder(opened, spec, recipe, tokenizer), sessions)
    except (TesseraError, TypeError):
        for session in sessions:
            session.close()
        raise


def open_queries(
    graphs: Runnable | None,
    spec: ModelSpec,
    recipe: Vision,
    tokenizer: Tokenizer | None,
    options: dict[str, Any],
) -> OwnQueries | OtherModelsQueries:
    """Open what reads texts: `graphs`, or the other model that the recipe names.

    `options` are the arguments of the vision model, which the other model shares. Raises LoadError
    where there is neither, and as opening the other model does.
    """
    if recipe.text_model:
        shared = ("device", "threads", "cache_dir", "offline", "on_long")
        return OtherModelsQueries(recipe, **{name: options[name] for name in shared})
    if graphs is None or tokenizer is None or recipe.query is None:
        raise LoadError(f"model {spec.id!r} has nothing that reads texts")
    return OwnQueries(tokenizer, graphs, recipe, recipe.query, options["on_long"])


def _open_encoder(
    opened: Opener, spec: ModelSpec, recipe: Vision, tokenizer: Tokenizer | None
) -> Encoder:
    """Open the graphs that read images, and with a language model those that read texts."""
    size, n_tokens = recipe.image.size, recipe.image.tokens or None
    pixels = np.zeros((1, 3, size, size), dtype=np.float32)

    def square(session: Session) -> dict[str, Array]:
        return select({"pixel_values": pixels}, session.inputs, session.name)

    tiles, tokens, prompt = recipe.tile_graph, recipe.token_graph, recipe.prompt
    if tiles is None or tokens is None or prompt is None or tokenizer is None:
        shape = (1, recipe.dimension) if _is_pooled(recipe) else (1, None, recipe.dimension)
        keep = {recipe.keep: (1, None)} if recipe.keep else {}
        session = opened({recipe.output: shape, **keep}, square, spec.main_graph(), None)
        return PixelEncoder(session, recipe, _open_texts(opened, spec, recipe))
    # One session each: a second copy of a language model's weights takes too much memory.
    one = np.array([[tokenizer.facts.pad_id]], dtype=np.int64)
    token_session = opened(
        {tokens.output: (1, 1, None)},
        lambda session: select({"input_ids": one}, session.inputs, session.name),
        tokens,
        1,
    )
    (embedding,) = token_session.run({"input_ids": one})
    tile_session = opened({tiles.output: (1, n_tokens, embedding.shape[2])}, square, tiles, 1)

    def language(session: Session) -> dict[str, Array]:
        return language_feeds(session.inputs, embedding, np.ones_like(one))

    session = opened({recipe.output: (1, 1, recipe.dimension)}, language, spec.main_graph(), 1)

    def encode(part: str) -> list[int]:
        return [int(i) for i in tokenizer.ids([part])[0]]

    def prompt_ids(n_tokens: int, rows: int, columns: int) -> NDArray[np.int64]:
        return document_ids(prompt, n_tokens, rows, columns, encode)

    image_token = image_id(prompt, encode)
    for name in ("text", "tile", "row_end", "grid_end", "whole", "end"):
        part = getattr(prompt, name).replace("{row}", "1").replace("{column}", "1")
        check_spelled(tokenizer, part, f"model.vision.prompt.{name}")
    return VisionLanguageModel(tile_session, token_session, session, image_token, prompt_ids)


def _open_texts(opened: Opener, spec: ModelSpec, recipe: Vision) -> Session | None:
    if recipe.text_graph is None or spec.text is None:
        return None
    part = recipe.text_graph
    probe = text_tokenizer.probe(spec.text)
    one = recipe.vectors == "one"
    shape = (1, recipe.dimension) if one else (1, probe.ids.shape[1], recipe.dimension)
    return opened(
        {part.output: shape},
        lambda session: text_tokenizer.feeds(probe, None, session.inputs, session.name),
        part,
        None,
    )


def _is_pooled(recipe: Vision) -> bool:
    return recipe.vectors == "one" and recipe.pooling == "graph"
