"""The shipped catalogue: what its entries say fits together, and old names still find a model."""

import dataclasses
import re

import pytest

from tessera_onnx import LoadError, ModelNotFound, Tessera, TesseraDense, TesseraVision
from tessera_onnx.cli import models
from tessera_onnx.models import catalogue
from tessera_onnx.models.spec import PRECISIONS, UNPINNED

SPECS = catalogue.catalogue()
BY_NAME = {name: spec for spec in SPECS for name in (spec.id, *spec.aliases)}
# The ids of the original's registry. Left out are minicoil-v1 and timesfm-1.0-200m, which nothing
# here can run (docs/models.md says why).
ORIGINAL_IDS = """
bge-m3-multi colbert-small colbert-v2 colpali-v1.2 colpali-v1.3-hf gte-modern-colbert
jina-colbert-v2 jina-colbert-v2-96 jina-colbert-v2-64 bge-base-en-v1.5 bge-small-en-v1.5
bge-large-en-v1.5 jina-embeddings-v2-small-en jina-embeddings-v2-base-en
jina-embeddings-v2-base-code jina-embeddings-v3 nomic-embed-v1.5 snowflake-arctic-l
multilingual-e5-small multilingual-e5-base multilingual-e5-large gte-modernbert-base
mxbai-embed-large-v1 splade-v3 splade-pp-en-v1 splade-pp-en-v2 chronos-bolt-small
""".split()  # noqa: SIM905 - a list of thirty strings reads worse


@pytest.fixture(params=SPECS, ids=lambda spec: spec.id)
def spec(request):
    return request.param


def test_names_are_unique_and_the_originals_are_kept():
    assert len(BY_NAME) == sum(1 + len(spec.aliases) for spec in SPECS)
    assert set(ORIGINAL_IDS) <= set(BY_NAME)


def test_a_model_is_found_by_the_repository_of_its_weights(spec):
    assert BY_NAME[spec.source] is spec


def test_every_file_that_the_recipe_names_is_listed(spec):
    listed = {file.name for file in spec.files}
    tables = [spec.graph, *(spec.vision.parts() if spec.vision else ())]
    graphs = {getattr(table, name) for table in tables for name in spec.precisions()}
    named = graphs if spec.text is None else {*graphs, spec.text.tokenizer}
    if spec.sparse is not None and spec.sparse.idf:
        named.add(spec.sparse.idf)
    if spec.attention is not None:
        named.add(spec.attention.stop_words)
    if spec.minicoil is not None:
        named |= {spec.minicoil.stop_words, spec.minicoil.vocabulary, spec.minicoil.weights}
    if spec.lexical is not None:
        named = {language.stop_words for language in spec.lexical.languages} - {""}
    if spec.static is not None:
        named.add(spec.static.file)
    for recipe in (spec.dense, spec.multi_vector, spec.reranker):
        modules = (recipe and recipe.modules) or ()
        named |= {module.file for module in modules if module.file}
    assert named <= listed
    # Nothing else is fetched but weights beside a graph.
    for name in listed - named:
        assert name.removesuffix("data")[:-1] in graphs


def test_without_a_hub_the_files_are_those_of_the_export(spec):
    names = {getattr(spec.graph, precision) for precision in spec.precisions()}
    if spec.hub is None and spec.lexical is None:
        assert names == {"model.fp32.onnx"}
        outputs = {kind: recipe.output for kind, recipe in spec.text_recipes().items()}
        known = {
            "dense": "sentence_embedding",
            "multi-vector": "token_embeddings",
            "sparse": "sparse_embedding",
        }
        assert outputs == {kind: known[kind] for kind in outputs}


def test_the_files_of_a_hub_are_doubtful_unless_all_have_their_hash(spec):
    """A hash stands in the catalogue only where two public sources agree on it."""
    hashed = all(file.sha256 != UNPINNED for file in spec.files)
    assert (spec.hub is not None and not hashed) == ("files" in spec.unverified)
    if spec.hub is not None:
        pinned = spec.hub.revision != UNPINNED
        assert (spec.hub.sources is not None) == pinned
        # Hashes are those of one commit: a repository that moves on would contradict them.
        assert pinned or {(f.sha256, f.size) for f in spec.files} == {(UNPINNED, -1)}
        if spec.hub.repository == spec.source and pinned:
            assert spec.revision == spec.hub.revision  # one snapshot


def test_sources_of_pins_can_be_looked_up_or_counted(spec):
    for source in (spec.hub and spec.hub.sources) or ():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+|[1-9]\d* public pins?", source)


def test_an_output_is_named_only_where_several_would_fit(spec):
    outputs = {kind: recipe.output for kind, recipe in spec.text_recipes().items()}
    if spec.attention is not None:  # the graph gives the attention of every layer
        assert set(outputs.values()) == {"attention_6"}
    elif spec.hub is not None and len(outputs) == 1:
        assert set(outputs.values()) == {""}


def test_an_export_is_given_the_prompts_of_its_entry(spec):
    """tessera-export leaves what is unverified to the folder, and many folders name no prompts."""
    if spec.hub is None and spec.dense is not None:
        for role in ("query", "document"):
            name = f"dense.{role}.prompt."
            doubtful = any(name.startswith(f"{doubt}.") for doubt in spec.unverified)
            assert not (doubtful and getattr(spec.dense, role).prompt)


def test_what_is_unverified_is_a_field_of_the_entry(spec):
    for name in spec.unverified:
        value = spec
        for part in name.split("."):
            names = {field.name for field in dataclasses.fields(value)}
            assert part in names, name
            value = getattr(value, part)
        assert value is not None, name
    assert len(set(spec.unverified)) == len(spec.unverified)


def test_info_marks_what_is_unverified(spec):
    shown = list(models.facts(spec))
    assert dict(shown)["source"].startswith(spec.source)
    for name, fact in shown:
        doubtful = any(f"{name}.".startswith(f"{doubt}.") for doubt in spec.unverified)
        assert fact.endswith("(unverified)") == doubtful
    marked = {name for name, fact in shown if fact.endswith("(unverified)")}
    assert all(any(f"{m}.".startswith(f"{name}.") for m in marked) for name in spec.unverified)


def test_no_hash_is_claimed_for_a_file_that_nobody_saw(spec):
    for file in spec.files:
        is_here = spec.hub is not None or spec.lexical is not None
        assert is_here or (file.sha256, file.size) == (UNPINNED, -1)
        assert re.fullmatch(r"[0-9a-f]{64}|unpinned", file.sha256)
        assert file.size == -1 or file.size > 0
    assert re.fullmatch(r"[0-9a-f]{40}|unpinned", spec.revision)
    if spec.revision == UNPINNED:
        assert "revision" not in spec.unverified


def test_precisions_and_sizes_make_sense(spec):
    assert spec.graph is None or spec.graph.best_cpu in PRECISIONS
    for recipe in spec.text_recipes().values():
        assert 0 < getattr(recipe, "dimension", 1) <= 4096
        assert spec.lexical or recipe.document.max_length <= spec.text.max_positions


def test_an_image_model_that_nobody_offers_ready_says_how_it_is_made():
    for opener in (Tessera, TesseraVision):
        with pytest.raises(ModelNotFound, match="tessera-export vidore/colpali-v1.3-hf --kind vis"):
            opener("colpali-v1.3-hf")
    with pytest.raises(LoadError, match="is of kind vision, not dense"):
        TesseraDense("colpali-v1.3-hf")
