"""Choose the output of a graph that a recipe reads: by its name, then by its rank and shape.

An entry that names its output is obeyed. Where it names none, the graph tells: an output of a known
name goes before others, and what is left must be the only one that fits. Nothing is guessed between
two that fit equally.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tessera_onnx.errors import LoadError
from tessera_onnx.models.output_names import ENCODERS, POOLED
from tessera_onnx.models.spec import KIND_TABLES, Dense, Kind, ModelSpec, MultiVector, Sparse
from tessera_onnx.runtime.session import Array, Port, Session
from tessera_onnx.text import heads, modules
from tessera_onnx.text.tokenizer import Batch
from tessera_onnx.vectors.scoring import cosine

Recipe = Dense | MultiVector | Sparse
Shapes = Mapping[str, tuple[int, ...]]  # of the outputs for one text

# Names of outputs, in the order in which they are preferred. sentence-transformers and optimum:
# token_embeddings, sentence_embedding; transformers and transformers.js: last_hidden_state;
# jina-embeddings-v3 and CLIP: text_embeds; Vespa's ColBERT: contextual; BGE-M3: *_vecs.
STATES = (
    "token_embeddings", "last_hidden_state", "hidden_states", "text_embeds", "output_0", "output",
)  # fmt: skip
VECTORS = (*POOLED, "output_0", "output")
TOKENS = ("colbert_vecs", "contextual", *STATES)
WEIGHTS = ("sparse_embedding", "sparse_vecs", "logits", *STATES)
# It has the shape of a text's vector, and is none (models/output_names.py).
NEVER = {"pooler_output"}
SENTENCE = "sentence_embedding"
# Least cosine between a vector that the recipe makes and the graph's own sentence_embedding.
SAME = 0.99


class Settled(NamedTuple):
    """The spec with the names of all outputs, and the steps after the graph of each kind."""

    spec: ModelSpec
    modules: dict[Kind, modules.Step]


def check_inputs(inputs: Mapping[str, Port], spec: ModelSpec, name: str) -> None:
    """Raises LoadError for a graph that cannot read a batch of this model's texts."""
    if "input_ids" not in inputs:
        raise LoadError(
            f"{name} takes the inputs {', '.join(inputs)!s:.300} and no input_ids, so it reads no "
            "texts: choose another graph of the model with file="
        )
    if "attention_mask" not in inputs and spec.text is not None and not spec.text.fixed_length:
        raise LoadError(
            f"{name} takes no attention_mask, so a text's vector would depend on the padding of its"
            " batch: choose another graph of the model with file=, or export it again"
        )
    roles = [recipe.document for recipe in spec.text_recipes().values()]
    has_task = any(getattr(role, "task_id", None) is not None for role in roles)
    if has_task != ("task_id" in inputs):
        taken = "takes" if "task_id" in inputs else "does not take"
        raise LoadError(f"{name} {taken} the input task_id, which the model's roles contradict")


def settled(
    spec: ModelSpec,
    session: Session,
    probe: Mapping[str, Array],
    n_tokens: int,
    read: Callable[[str], bytes],
) -> Settled:
    """The spec after a look at the open graph, and the steps whose weights `read` gives.

    `probe` is one text of `n_tokens` tokens. The graph runs only where a recipe leaves the output
    open or has modules. Raises LoadError as `settle`, and where the graph's own sentence_embedding
    contradicts the recipe.
    """
    steps: dict[Kind, modules.Step] = {}
    found: dict[str, Array] | None = None
    for kind, given in spec.text_recipes().items():
        recipe = given
        listed = () if isinstance(recipe, Sparse) else recipe.modules
        if recipe.output == "" or listed or getattr(recipe, "dimension", 1) == 0:
            if found is None:
                found = run_probe(session, probe)
            reads = modules.reads(listed or (), read)
            shapes = {name: array.shape for name, array in found.items()}
            recipe = settle(given, shapes, n_tokens, reads, session.name)
            changed: dict[str, Any] = {KIND_TABLES[kind]: recipe}
            spec = dataclasses.replace(spec, **changed)
        if not isinstance(recipe, Sparse) and recipe.modules is not None:
            size = found[recipe.output].shape[-1] if found and recipe.output in found else 0
            more = () if isinstance(recipe, MultiVector) else recipe.further_poolings or ()
            steps[kind] = modules.load(recipe.modules, read, size * (1 + len(more)))
        if isinstance(recipe, Dense) and found is not None and SENTENCE in found:
            _check_sentence(recipe, found, probe, steps.get(kind), session.name)
    return Settled(spec, steps)


def run_probe(session: Session, probe: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of the graph that hold floats, for the probe. Raises LoadError without any."""
    names = [
        name
        for name, port in session.ports.items()
        if port.dtype is not None and np.dtype(port.dtype).kind == "f"
    ]
    if not names:  # ONNX Runtime takes an empty list for all outputs
        raise LoadError(f"{session.name} has no output of floats: {session.described}")
    arrays = session.run(probe, outputs=names, parallel=True, unchecked=True)
    return dict(zip(names, arrays, strict=True))


def settle(recipe: Recipe, shapes: Shapes, n_tokens: int, reads: int, name: str) -> Recipe:
    """The recipe with the name of its output, and without steps that the graph `name` takes itself.

    `shapes` are those of the outputs for one text of `n_tokens` tokens; `reads` is the number of
    features that the first module with weights reads, 0 without such a module. Raises LoadError
    where no output fits or several do.
    """
    if isinstance(recipe, Sparse):
        return _sparse(recipe, shapes, n_tokens, name)
    if isinstance(recipe, MultiVector):
        return _multi_vector(recipe, shapes, n_tokens, reads, name)
    found = _dense(recipe, shapes, n_tokens, reads, name)
    if found.dimension:
        return found
    width = shapes[found.output][-1] * (1 + len(found.further_poolings or ()))
    return dataclasses.replace(found, dimension=width)


def _dense(recipe: Dense, shapes: Shapes, n_tokens: int, reads: int, name: str) -> Dense:
    pooled = [o for o, shape in shapes.items() if len(shape) == 2 and o not in NEVER]
    states = [o for o, shape in shapes.items() if shape[:2] == (1, n_tokens) and len(shape) == 3]
    if recipe.pooling != "graph":
        if recipe.output == "" and states:
            return dataclasses.replace(recipe, output=pick(states, STATES, shapes, name))
        if recipe.output != "" and recipe.output not in pooled:
            return recipe
    free = recipe.dimension == 0 or recipe.modules
    fitting = [o for o in pooled if free or shapes[o][1] == recipe.dimension]
    output = recipe.output or pick(fitting, VECTORS, shapes, name)
    if recipe.pooling == "graph":
        return dataclasses.replace(recipe, output=output)
    # The graph pools, so it also takes the steps up to the last one that has weights.
    rest = recipe.modules
    if rest is not None:
        last = max((i for i, module in enumerate(rest) if module.file), default=-1)
        if last >= 0:
            _check_inside(rest[last].dimension, shapes[output][1], reads, output, name)
        rest = rest[last + 1 :]
    return dataclasses.replace(
        recipe, output=output, pooling="graph", further_poolings=None, modules=rest
    )


def _check_inside(dimension: int, width: int, reads: int, output: str, name: str) -> None:
    """Raises LoadError unless a graph that pools also has the layers after the pooling.

    They give `dimension` numbers and read `reads`. The sentence_embedding of optimum has all.
    """
    if width == dimension and (width != reads or output.startswith(SENTENCE)):
        return
    raise LoadError(
        f"{name} pools and gives {width} numbers in {output!r:.80}, the layers after the pooling "
        f"give {dimension} numbers of {reads}, and nothing says that the graph has them: take a "
        "graph that gives the states of tokens, or write a model.toml"
    )


def _multi_vector(
    recipe: MultiVector, shapes: Shapes, n_tokens: int, reads: int, name: str
) -> MultiVector:
    rows = n_tokens - recipe.drop_first
    fitting = [o for o, shape in shapes.items() if shape[:2] == (1, rows) and len(shape) == 3]
    output = recipe.output or pick(fitting, TOKENS, shapes, name)
    recipe = dataclasses.replace(recipe, output=output)
    width = shapes[output][-1] if shapes.get(output) else 0
    if not reads or width != recipe.dimension or output in ENCODERS:
        return recipe
    if width == reads:
        raise LoadError(
            f"{name} gives {width} numbers a token in {output!r:.80}, which the encoder gives as "
            "well as the layers after it: write a model.toml that names the output and the modules"
        )
    return dataclasses.replace(recipe, modules=None)  # the graph holds the layers


def _sparse(recipe: Sparse, shapes: Shapes, n_tokens: int, name: str) -> Sparse:
    size = recipe.vocab_size
    forms: dict[tuple[int, ...], Any] = {
        (1, size): "graph", (1, n_tokens, size): "logits", (1, n_tokens, 1): "tokens",
    }  # fmt: skip
    if recipe.output:
        return recipe
    if recipe.head == "states":
        states = [
            o for o, shape in shapes.items() if shape[:2] == (1, n_tokens) and len(shape) == 3
        ]
        return dataclasses.replace(recipe, output=pick(states, STATES, shapes, name))
    fitting = [o for o, shape in shapes.items() if shape in forms]
    if recipe.head == "tokens":
        fitting = [o for o in fitting if forms[shapes[o]] == "tokens"]
    output = pick(fitting, WEIGHTS, shapes, name)
    return dataclasses.replace(recipe, output=output, head=forms[shapes[output]])


def pick(fitting: list[str], names: tuple[str, ...], shapes: Shapes, name: str) -> str:
    """The first of `names` that fits, else the only output that fits."""
    known = [wanted for wanted in names if wanted in fitting]
    if known or len(fitting) == 1:
        return known[0] if known else fitting[0]
    listed = ", ".join(f"{o!r:.80} {shape}" for o, shape in list(shapes.items())[:20])
    what = f"several outputs that fit ({', '.join(fitting[:20])})" if fitting else "no output"
    raise LoadError(
        f"{name} has {what} for this kind of model; for one text its outputs are {listed}: name "
        "the right one as `output` in a model.toml, or choose another graph with file="
    )


def _check_sentence(
    recipe: Dense,
    found: Mapping[str, Array],
    probe: Mapping[str, Array],
    steps: modules.Step | None,
    name: str,
) -> None:
    """Compare the vector that a recipe makes with the graph's own sentence_embedding.

    Raises LoadError where they point in different directions: either the recipe or the graph is
    another model's. Graphs that give another size are not compared.
    """
    if recipe.pooling == "graph" or recipe.output not in found:
        return
    ids = np.asarray(probe["input_ids"], np.int64)
    batch = Batch(ids, np.ones_like(ids), np.array([ids.shape[1]]))
    (made,) = heads.dense_head(recipe, recipe.dimension, steps).apply([found[recipe.output]], batch)
    given = found[SENTENCE]
    if given.shape != (1, len(made)):
        return
    alike = cosine(np.asarray(made, np.float32), np.asarray(given[0], np.float32))
    if alike < SAME:
        raise LoadError(
            f"{name} gives a {SENTENCE!r} that has the cosine {alike:.3f} with the vector that the "
            "model's facts make of its token states: pooling or modules are those of another model"
        )
