"""Train a page model on synthetic pages: `python -m tessera_export.training.pages`.

The target of a term is the unit mean of the token vectors that the starter's text encoder gives the
term alone. The loss moves a word's vector towards its own target and away from other targets.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from tessera_export.training import page_text, synthetic_pages
from tessera_export.training.page_canvas import ALPHABET, IGNORED, PLACES, STRIP, Page
from tessera_export.training.page_model import DIMENSION, FARTHEST, LETTERS, Conv, PageEncoder
from tessera_onnx import TesseraMultiVector

Float32 = NDArray[np.float32]

STEPS = 1450
PICTURES = 3  # a step, of 256 x 512 pixels each
RATE = 2e-3
MATRIX_RATE = 4e-3  # of Muon, for the convolutions
WARM_UP = 60
FALL = 0.5  # the share of the steps over which the rate falls
SPELLED = 768  # terms a step that are spelled out for the reader, without a picture
NEGATIVES = 4096
SHARPNESS = 16.0  # of the softmax over cosines
KEPT = 50  # steps between checkpoints
FIRST_WORDS = 100  # steps before which strips know too little to be read


def targets(lexicon: page_text.Lexicon, encoder: Path) -> Float32:
    """A unit vector a term, (n, 128): the mean of the token vectors that the encoder gives it."""
    with TesseraMultiVector(path=encoder, dimension=DIMENSION) as model:
        rows = model.encode_batch(list(lexicon.terms))
    means = np.stack([row.mean(axis=0) for row in rows])
    unit: Float32 = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit


class Batch:
    """Pictures and what stands in them, as tensors."""

    def __init__(self, drawn: list[Page]) -> None:
        def stacked(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(page, name) for page in drawn]))

        self.images = stacked("image")
        self.letters = stacked("letters").long()
        self.places = stacked("places").long()
        self.starts = stacked("starts")
        self.cells = stacked("cells").long()
        height = self.cells.shape[1]
        down = np.array([height, 0, 0], np.int32)
        shifted = [page.words + n * down for n, page in enumerate(drawn)]
        self.words = torch.from_numpy(np.concatenate(shifted)).long()
        self.offsets = torch.from_numpy(np.concatenate([page.offsets for page in drawn]))

    def pixels(self) -> Tensor:
        """The graph's input: (n, 3, h, w), white = 1 and black = -1."""
        values = self.images.float() / 127.5 - 1
        return values[:, None].expand(-1, 3, -1, -1)


class Batches(IterableDataset[Batch]):
    """Endless batches of a seed, drawn by a worker while the model learns."""

    def __init__(
        self, seed: int, lexicon: page_text.Lexicon, first: int = 0, size: int = PICTURES
    ) -> None:
        self.seed = seed
        self.lexicon = lexicon
        self.first = first
        self.size = size

    def __iter__(self) -> Iterator[Batch]:
        for step in itertools.count(self.first):
            numbers = range(step * self.size, (step + 1) * self.size)
            yield Batch(
                [synthetic_pages.page(self.seed, number, self.lexicon) for number in numbers]
            )


class Speller:
    """Tables of terms as perfect strips would vote them, some of them damaged."""

    def __init__(self, lexicon: page_text.Lexicon) -> None:
        terms = lexicon.terms
        codes = np.full((len(terms), PLACES + 8), LETTERS, np.int64)
        for row, term in enumerate(terms):
            spelled = [ALPHABET.find(letter) for letter in term[: codes.shape[1]]]
            codes[row, : len(spelled)] = spelled
        self.codes = torch.from_numpy(codes)

    def tables(self, terms: Tensor, generator: torch.Generator) -> Tensor:
        """(m, 16 * 39 + 1): letters smeared over places, some letters mistaken."""
        codes = self.codes[terms]
        count, length = codes.shape
        draw = torch.rand(count, length, generator=generator)
        doubt = torch.rand(count, 1, generator=generator) * 0.25
        other = torch.randint(0, LETTERS, (count, length), generator=generator)
        there = codes < LETTERS
        seen = functional.one_hot(codes, LETTERS + 1)[..., :LETTERS].float()
        wrong = functional.one_hot(other, LETTERS).float()
        share = torch.where(draw < doubt, 0.5 * torch.rand(count, length, generator=generator), 0.0)
        seen = torch.where(there[..., None], seen + share[..., None] * (wrong - seen), seen)
        strips = 2 + 3 * torch.rand(count, 1, generator=generator)  # a letter's width
        drift = torch.randn(count, 1, generator=generator) * 0.05
        smear = 0.1 + 0.04 * torch.arange(length) * torch.rand(count, 1, generator=generator)
        centre = torch.arange(length) * (1 + drift)
        centre = centre.clamp(0, PLACES - 1)
        gap = (torch.arange(PLACES)[None, :, None] - centre[:, None, :]).abs()
        place = torch.exp(-0.5 * (gap / smear[:, None, :].clamp(min=0.2)) ** 2)
        place = place / place.sum(dim=1, keepdim=True).clamp(min=1e-6)
        votes = (place * (strips * there)[:, None, :]) @ seen
        total = votes.sum(dim=-1, keepdim=True)
        return torch.cat([(votes / (total + 0.5)).flatten(1), total.sum(dim=1) / 32], dim=1)


def contrast(
    vectors: Tensor, terms: Tensor, table: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Loss of vectors (m, 128) against the targets of their terms, and how many won.

    Cross entropy over the terms present and NEGATIVES others, plus the distance from the target.
    """
    others = torch.randint(0, len(table), (NEGATIVES,), generator=generator)
    present, place = torch.unique(terms, return_inverse=True)
    others = others[~torch.isin(others, present)]
    pool = table[torch.cat([present, others])]
    cosines = vectors @ pool.T
    near = cosines.gather(1, place[:, None])[:, 0]
    loss = functional.cross_entropy(cosines * SHARPNESS, place) + 2 * (1 - near.mean())
    return loss, (cosines.argmax(dim=1) == place).float().mean()


def losses(
    tower: PageEncoder, batch: Batch, table: Tensor, generator: torch.Generator, *, words: bool
) -> dict[str, Tensor]:
    """The losses of a batch by name, and `right`: the share of words that win."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        strips, cells = tower.features(batch.pixels())
    strips, cells = strips.float(), cells.float()
    known = batch.letters < IGNORED
    within = batch.letters < LETTERS
    logits = strips[known]
    middle = torch.arange(strips.shape[2]) * STRIP + 1.0
    distance = (middle - batch.starts)[within] / FARTHEST
    letter = functional.cross_entropy(logits[:, : LETTERS + 1], batch.letters[known])
    inner = strips[within]
    place = functional.cross_entropy(inner[:, LETTERS + 1 : -1], batch.places[within])
    start = functional.smooth_l1_loss(inner[:, -1], distance, beta=0.1)
    said = batch.cells < IGNORED
    cell = functional.binary_cross_entropy_with_logits(
        cells[..., 0][said], batch.cells[said].float()
    )
    row, column, term = batch.words.unbind(1)
    inside = cells.reshape(-1, cells.shape[2], 2)[row, column, 1]
    offset = functional.smooth_l1_loss(inside, batch.offsets / FARTHEST, beta=0.1)
    found = {"letter": letter, "place": place, "start": start, "cell": cell, "offset": offset}
    if words:
        vectors = tower.read(strips, cells, row, column)
        found["word"], found["right"] = contrast(vectors, term, table, generator)
    return found


WEIGHTS = {"letter": 1.0, "place": 0.5, "start": 1.0, "cell": 6.0, "offset": 1.0, "word": 0.5}
Report = Callable[[int, dict[str, float]], None]


def train(
    encoder: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    words: int = page_text.WORDS,
    checkpoint: Path | None = None,
    report: Report | None = None,
) -> PageEncoder:
    """A page encoder trained for the text model, of kind multi-vector, in the folder `encoder`.

    The state goes to `checkpoint` after every KEPT steps; where the file is there, training goes
    on from it, as it would have gone on but for the negatives drawn. `report` is called after
    every step with its number and the losses.
    """
    torch.manual_seed(seed)
    lexicon = page_text.lexicon(words, words // 2)
    table = torch.from_numpy(targets(lexicon, encoder))
    speller = Speller(lexicon)
    spelling = torch.from_numpy(lexicon.odds)
    tower = PageEncoder()
    optimizers = _optimizers(tower)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    rates = [group["lr"] for group in groups]
    first = _resume(checkpoint, tower, optimizers) if checkpoint and checkpoint.exists() else 0
    generator = torch.Generator().manual_seed(seed + first)
    batches = Batches(seed, lexicon, first)
    loader = DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=6)
    for step, batch in zip(range(first, steps), loader, strict=False):
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * _share(step, steps)
        found = losses(tower, batch, table, generator, words=step >= FIRST_WORDS)
        total = sum(WEIGHTS[name] * value for name, value in found.items() if name in WEIGHTS)
        term = torch.multinomial(spelling, SPELLED, replacement=True, generator=generator)
        spelled = tower.reader(speller.tables(term, generator))
        spelled = functional.normalize(spelled, dim=-1)
        found["spelled"], found["spelled_right"] = contrast(spelled, term, table, generator)
        torch.autograd.backward(total + 0.5 * found["spelled"])
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 2.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if report:
            report(step, {name: float(value.detach()) for name, value in found.items()})
        if checkpoint and ((step + 1) % KEPT == 0 or step + 1 == steps):
            states = [optimizer.state_dict() for optimizer in optimizers]
            state = {"step": step + 1, "tower": tower.state_dict(), "optimizers": states}
            torch.save(state, checkpoint)
    tower.eval()
    return tower


def _resume(
    checkpoint: Path, tower: PageEncoder, optimizers: tuple[torch.optim.Optimizer, ...]
) -> int:
    """Load the state of a training; the steps it has taken."""
    state = torch.load(checkpoint, weights_only=True)
    tower.load_state_dict(state["tower"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])


def _optimizers(tower: PageEncoder) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the convolutions, AdamW for the rest: its steps cost little beside the matrices."""
    kernels = [module.weight for module in tower.modules() if isinstance(module, Conv)]
    chosen = {id(kernel) for kernel in kernels}
    others = [parameter for parameter in tower.parameters() if id(parameter) not in chosen]
    return (
        torch.optim.Muon(
            kernels, lr=MATRIX_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01),
    )


def _share(step: int, steps: int) -> float:
    """What part of the full rate a step takes: up, flat, down along a cosine."""
    falling = min((steps - step) / (FALL * steps), 1.0)
    return min((step + 1) / WARM_UP, 1.0) * 0.5 * (1 - math.cos(math.pi * falling))


def main() -> None:
    """The command line: trains on the CPU, prints the losses and keeps a checkpoint."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--output", type=Path, required=True, help="checkpoint to write, or to go on from (.pt)"
    )
    parser.add_argument(
        "--encoder", type=Path, required=True, help="folder of the multi-vector text model"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    begun = time.monotonic()
    sums: dict[str, list[float]] = {}

    def show(step: int, found: dict[str, float]) -> None:
        for name, value in found.items():
            sums.setdefault(name, []).append(value)
        if (step + 1) % 25 == 0:
            text = " ".join(f"{name} {np.mean(values):.4f}" for name, values in sums.items())
            print(f"step {step + 1} ({time.monotonic() - begun:.0f} s): {text}", flush=True)
            sums.clear()

    train(
        options.encoder,
        seed=options.seed,
        steps=options.steps,
        checkpoint=options.output,
        report=show,
    )


if __name__ == "__main__":
    main()
