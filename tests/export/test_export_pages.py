"""Synthetic pages have true labels; the page model's votes; its graphs equal torch."""

import math
from pathlib import Path

import numpy as np
import pytest
import tessera_onnx_starter
import torch
from PIL import Image

from tessera_export.artifact import Origin
from tessera_export.errors import ExportError
from tessera_export.graph import storage
from tessera_export.training import page_export, page_text, pages, synthetic_pages
from tessera_export.training.page_canvas import ALPHABET, CELL, IGNORED, NO_LETTER, PLACES, STRIP
from tessera_export.training.page_model import (
    FARTHEST,
    LETTER_HEAD,
    LETTERS,
    PER_STRIP,
    PageEncoder,
)
from tessera_onnx.models import catalogue

pytestmark = pytest.mark.export
MINILM = Path(tessera_onnx_starter.__file__).parent / "minilm"


@pytest.fixture(scope="module")
def lexicon():
    return page_text.lexicon(3000, 800)


@pytest.fixture(scope="module")
def drawn(lexicon):
    return [synthetic_pages.page(3, index, lexicon) for index in range(6)]


@pytest.fixture
def tower():
    """Untrained, with batch norms that have seen something, and a keep of both signs."""
    torch.manual_seed(0)
    made = PageEncoder(width=16, hidden=32)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    made.eval()
    with torch.no_grad():
        _, cells = made.features(torch.from_numpy(page_export._pixels((1, 128, 96))))
        made.cells[2].bias[0] -= cells[..., 0].median()
    return made


def spelled(page, word, offset):
    """The letters of a word as the labels have them: a letter for each new place from its start."""
    row, column, _ = word
    begin = column * CELL + offset
    mine = (np.abs(page.starts[row] - begin) < 0.01) & (page.letters[row] < LETTERS)
    strips = np.flatnonzero(mine)
    places = page.places[row, strips]
    first = strips[np.flatnonzero(np.diff(places.astype(int), prepend=-1))]
    return "".join(ALPHABET[letter] for letter in page.letters[row, first])


def test_lexicon(lexicon):
    assert len(set(lexicon.terms)) == len(lexicon.terms)
    assert lexicon.odds.sum() == pytest.approx(1)
    assert lexicon.terms[0] == "the"
    assert set("".join(lexicon.terms)) <= set(ALPHABET)
    numbers = [term[0].isdigit() for term in lexicon.terms]
    assert lexicon.odds[numbers].sum() == pytest.approx(page_text.NUMBER_SHARE)
    drawn = lexicon.draw(np.random.default_rng(0), 20_000)
    share = np.mean([numbers[term] for term in drawn])
    assert share == pytest.approx(page_text.NUMBER_SHARE, abs=0.01)


def test_numbers_are_printed_as_reports_print_them():
    numbers = page_text._numbers(np.random.default_rng(0), 2000)
    assert {"0", "42", "1999", "2010"} <= numbers
    for number in numbers:
        assert math.isfinite(float(number.replace(",", "")))
        if "," in number:
            assert number == f"{float(number.replace(',', '')):,.{len(number.partition('.')[2])}f}"


def test_a_page_is_seeded(lexicon, drawn):
    again = synthetic_pages.page(3, 2, lexicon)
    for name in ("image", "letters", "places", "starts", "cells", "words", "offsets"):
        np.testing.assert_array_equal(getattr(drawn[2], name), getattr(again, name))
    assert not np.array_equal(drawn[1].image, again.image)


def test_labels_spell_what_was_drawn(lexicon, drawn):
    whole = count = 0
    for page in drawn:
        assert page.image.shape == (synthetic_pages.HEIGHT, synthetic_pages.WIDTH)
        for word, offset in zip(page.words, page.offsets, strict=True):
            term = lexicon.terms[word[2]]
            found = spelled(page, word, offset)
            count += 1
            whole += found == term[:PLACES]
            # Narrow letters of small print may have no strip of their own.
            assert len(found) >= len(term[:PLACES]) * 0.6
            assert page.cells[word[0], word[1]] == 1
            assert 0 <= offset < CELL
    assert count > 300
    assert whole / count > 0.8
    assert (sum((page.cells == 1).sum() for page in drawn)) == count


def test_letters_are_where_the_ink_is(lexicon):
    """FreeType's ink in the row of 8 pixels: many times as much in letters' strips as between."""
    layout = synthetic_pages.Layout(np.random.default_rng(1), lexicon)
    layout.paragraphs(0, layout.width)
    canvas = layout.canvas
    small = canvas.image.resize((canvas.width, canvas.height), Image.Resampling.BOX)
    ink = canvas.paper - np.asarray(small, float)
    strips = ink.reshape(32, CELL, -1, STRIP).mean(axis=(1, 3))
    letters = strips[canvas.letters < LETTERS].mean()
    between = strips[canvas.letters == NO_LETTER].mean()
    elsewhere = strips[canvas.letters == IGNORED].mean()
    assert letters > 4 * between
    assert letters > 4 * elsewhere


def test_strips_that_know_their_letters_spell_the_word(lexicon, drawn):
    """From labels to logits to votes: the table of a word holds its letters at their places."""
    tower = PageEncoder(width=16, hidden=32)
    batch = pages.Batch(drawn)
    strips = torch.zeros(*batch.letters.shape, PER_STRIP)
    strips[..., :LETTER_HEAD] = 30 * torch.nn.functional.one_hot(
        batch.letters.clamp(max=LETTERS), LETTER_HEAD
    )
    places = torch.nn.functional.one_hot(batch.places.clamp(max=PLACES - 1), PLACES)
    strips[..., LETTER_HEAD:-1] = 30 * places
    strips[..., -1] = (torch.arange(strips.shape[2]) * 2 + 1 - batch.starts) / FARTHEST
    cells = torch.zeros(*batch.cells.shape, 2)
    row, column, term = batch.words.unbind(1)
    cells.flatten(0, 1)[row, column, 1] = batch.offsets / FARTHEST
    tables = tower.table(strips, cells, row, column)
    votes = tables[:, :-1].reshape(-1, PLACES, LETTERS)
    right = total = 0
    for word, vote in zip(term.tolist(), votes, strict=True):
        text = lexicon.terms[word][: PLACES - 1]
        seen = "".join(ALPHABET[letter] for letter in vote[: len(text)].argmax(dim=1))
        right += sum(a == b for a, b in zip(seen, text, strict=True))
        total += len(text)
    assert right / total > 0.95
    # The speller's tables are of the same kind: nearest to the word's own among all.
    generator = torch.Generator().manual_seed(0)
    unique = term.unique()
    ideal = pages.Speller(lexicon).tables(unique, generator)[:, :-1]
    nearest = unique[torch.cdist(tables[:, :-1], ideal).argmin(dim=1)]
    assert (nearest == term).float().mean() > 0.9


def test_a_word_reads_its_own_line_only(tower, drawn):
    """Strips of other rows and beyond the reach of a word change nothing."""
    strips, cells = torch.randn(2, 5, 160, PER_STRIP), torch.randn(2, 5, 40, 2)
    row, column = torch.tensor([7]), torch.tensor([4])
    before = tower.read(strips, cells, row, column)
    other = strips.clone()
    other[0] += 1
    other[1, :2] += 1
    other[1, 3:] += 1
    other[1, 2, : 4 * 4 - 2] += 1
    other[1, 2, 4 * 4 + 82 :] += 1
    torch.testing.assert_close(tower.read(other, cells, row, column), before)
    begin = 4 * CELL + cells[1, 2, 4, 1] * FARTHEST
    other[1, 2, 21, -1] = (21 * STRIP + 1 - begin) / FARTHEST
    other[1, 2, 21, 3] += 30
    assert not torch.allclose(tower.read(other, cells, row, column), before, atol=1e-3)


def test_targets_are_the_runtimes_vectors(lexicon):
    short = page_text.Lexicon(lexicon.terms[:40], lexicon.odds[:40])
    table = pages.targets(short, MINILM)
    assert table.shape == (40, 128)
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, atol=1e-5)
    with pages.TesseraMultiVector(path=MINILM, dimension=128) as model:
        rows = model.encode_batch(list(short.terms))[7]
    mean = sum(rows) / len(rows)  # with the rows of [CLS] and [SEP]
    np.testing.assert_allclose(table[7], mean / np.linalg.norm(mean), atol=1e-5)


def test_contrast_by_hand():
    """Two terms and, of the rest, none: softmax of cosines times the sharpness."""
    table = torch.eye(2)
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    loss, right = pages.contrast(
        vectors, torch.tensor([0, 1]), table, torch.Generator().manual_seed(0)
    )
    sharp = pages.SHARPNESS
    cross = (math.log(1 + math.exp(-sharp)) + math.log(1 + math.exp(sharp))) / 2
    assert float(loss) == pytest.approx(cross + 2 * (1 - 0.5), rel=1e-5)
    assert float(right) == 0.5


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_graphs_give_torchs_vectors(tower, tmp_path, precision):
    spec = page_export.export(tower, tmp_path / "a", Origin("pages"), [precision])
    figures = {figure.metric: figure.value for figure in spec.export.parity}
    if precision == "fp32":
        assert figures["max_relative"] < 1e-4
    else:
        assert figures["mean_cosine"] > 0.995


def test_the_artifact_says_what_the_runtime_needs(tower, tmp_path):
    page_export.export(tower, tmp_path / "a", Origin("pages"), ["fp32", "int8"])
    (spec,) = catalogue.read_catalogue(tmp_path / "a" / "model.toml")
    assert spec.kinds == ("vision",)
    assert (spec.vision.output, spec.vision.keep) == page_export.OUTPUTS
    assert (spec.vision.image.resize, spec.vision.image.size) == ("fit", CELL)
    assert spec.vision.text_model == "all-minilm-l6-v2"
    assert {file.name for file in spec.files} == {"model.fp32.onnx", "model.int8.onnx"}
    with pytest.raises(ExportError, match="--overwrite"):
        page_export.export(tower, tmp_path / "a", Origin("pages"), ["fp32"])


def test_the_graph_gives_each_kept_cell_its_vector_and_an_empty_page_none(tower, tmp_path):
    def run():
        path = tmp_path / "model.onnx"
        storage.save(page_export.trace(tower), path)
        return storage.session(path).run(["vectors", "keep"], {"pixel_values": pixels})

    pixels = page_export._pixels((1, 128, 96))
    vectors, keep = run()
    assert vectors.shape == (1, 16 * 12, 128)
    assert keep.shape == (1, 16 * 12)
    lengths = np.linalg.norm(vectors, axis=2)
    np.testing.assert_allclose(lengths[keep > 0], 1, atol=1e-5)
    assert 0 < (keep > 0).sum() < keep.size
    with torch.no_grad():
        tower.cells[2].bias[0] = -1e4
    vectors, keep = run()
    assert (keep < 0).all()
    assert vectors.shape == (1, 16 * 12, 128)
    with pytest.raises(ExportError, match="not trained"):
        page_export.check(tmp_path / "model.onnx", tower, "fp32")


def test_a_graph_of_other_weights_is_refused(tower, tmp_path):
    storage.save(page_export.trace(tower), tmp_path / "model.onnx")
    with torch.no_grad():
        tower.reader[4].weight.neg_()
    with pytest.raises(ExportError, match="max_relative"):
        page_export.check(tmp_path / "model.onnx", tower, "fp32")
    with torch.no_grad():
        tower.cells[2].weight[0].neg_()
    with pytest.raises(ExportError, match="other cells"):
        page_export.check(tmp_path / "model.onnx", tower, "fp32")


@pytest.mark.slow
def test_training_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "KEPT", 2)
    file = tmp_path / "state.pt"
    seen = []

    def report(step, losses):
        seen.append((step, losses["letter"]))

    pages.train(MINILM, seed=3, steps=2, words=400, checkpoint=file)
    tower = pages.train(MINILM, seed=3, steps=3, words=400, checkpoint=file, report=report)
    assert [step for step, _ in seen] == [2]
    assert torch.load(file, weights_only=True)["step"] == 3
    other = PageEncoder()
    other.load_state_dict(torch.load(file, weights_only=True)["tower"])
    torch.testing.assert_close(other.reader[4].weight, tower.reader[4].weight)


@pytest.mark.slow
def test_training_repeats_itself_and_learns():
    runs = []
    for _ in range(2):
        found = []
        pages.train(
            MINILM,
            seed=3,
            steps=6,
            words=400,
            report=lambda _, losses, f=found: f.append(losses),
        )
        runs.append(found)
    assert runs[0] == runs[1]
    for name in ("letter", "place", "start", "cell", "spelled"):
        assert runs[0][-1][name] < runs[0][0][name]
