"""Define a small model that maps a page image to one vector a word, in a text encoder's space.

For every strip of two pixels, convolutions predict its letter, the letter's place in its word, and
where that word begins; for every cell of 8 x 8 pixels, whether a word begins there. The strips of a
word add up to a small table of letters by places, which dense layers map to the word's vector.
Predicting letters only makes the training faster: at search time the vectors are compared.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera_export.training.page_canvas import ALPHABET, CELL, PLACES, STRIP

LETTERS = len(ALPHABET)
LETTER_HEAD = LETTERS + 1  # and none
STRIPS = CELL // STRIP  # in a cell
BEFORE = 2  # strips before its cell that a word may have
SPAN = 82  # strips from there on: words of up to 164 pixels
PER_STRIP = LETTER_HEAD + PLACES + 1
FARTHEST = 16.0  # unit of distance to a word's beginning, in pixels
DIMENSION = 128


class Conv(nn.Module):
    """A convolution without bias whose weights are one matrix, as the optimizer Muon wants them."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        drawn = nn.Conv2d(before, after, kernel).weight.detach()
        self.weight = nn.Parameter(drawn.flatten(1))
        self.shape = drawn.shape
        self.stride, self.dilation = stride, dilation
        self.padding = tuple((k - 1) // 2 * d for k, d in zip(kernel, dilation, strict=True))

    def forward(self, hidden: Tensor) -> Tensor:
        """(n, before, r, c) to (n, after, r / stride, c / stride)."""
        kernel = self.weight.view(self.shape)
        return functional.conv2d(hidden, kernel, None, self.stride, self.padding, self.dilation)


class Block(nn.Module):
    """x + convolutions of x along the line, `dilation` columns apart."""

    def __init__(self, channels: int, dilation: int, height: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(channels, channels, (height, 5), dilation=(1, dilation)),
            Conv(channels, channels, (1, 1)),
            nn.BatchNorm2d(channels),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """(n, channels, r, c) to the same."""
        return functional.relu(hidden + self.layers(hidden))


class PageEncoder(nn.Module):
    """Page images to word vectors, 2.6 M parameters."""

    def __init__(self, width: int = 96, hidden: int = 1024, dimension: int = DIMENSION) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _conv(1, 32, (3, 3), stride=(2, 2)),
            _conv(32, 48, (3, 3), stride=(2, 1)),
            _conv(48, 48, (3, 3)),
            _conv(48, 64, (3, 3), stride=(2, 1)),
            _conv(64, 64, (3, 3)),
            _conv(64, width, (3, 4), stride=(1, 2)),
            Block(width, 1, 3),
            Block(width, 2),
            Block(width, 4),
            Block(width, 8),
            Block(width, 8),
            Block(width, 2),
        )
        self.strips = nn.Conv2d(width, 2 * PER_STRIP, 1)  # a column of the trunk is two strips
        self.cells = nn.Sequential(
            nn.Conv2d(width, 32, (1, 4), stride=(1, 2), padding=(0, 1)),
            nn.ReLU(),
            nn.Conv2d(32, 2, 1),
        )
        self.reach = nn.Parameter(torch.tensor(3.0))
        self.reader = nn.Sequential(
            nn.Linear(PLACES * LETTERS + 1, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, dimension),
        )

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What stands where: (n, r, s, 57) for strips and (n, r, c, 2) for cells.

        `pixels` (n, 3, h, w), white = 1 and black = -1; r = h / 8, s = w / 2, c = w / 8. A strip
        has the logits of 40 letters and 16 places and its distance from the word's beginning; a
        cell the logit of a beginning and how far inside it is. Distances are in 16 pixels.
        """
        ink = (1 - pixels.mean(dim=1, keepdim=True)) / 2  # 0 where white, as the padding
        hidden = self.trunk(ink)
        strips = self.strips(hidden).permute(0, 2, 3, 1)
        strips = strips.reshape(*strips.shape[:2], -1, PER_STRIP)
        return strips, self.cells(hidden).permute(0, 2, 3, 1)

    def read(self, strips: Tensor, cells: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Unit vectors (m, 128) of the words that begin in the cells named by row and column.

        `row` (m,) counts rows over all images: n * r of them. `strips` and `cells` are what
        `features` gave.
        """
        table = self.table(strips, cells, row, column)
        return functional.normalize(self.reader(table), dim=-1)

    def table(self, strips: Tensor, cells: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """The votes of each word's strips, (m, 16 * 39 + 1): letters by places, and the length."""
        letter = _padded(strips[..., :LETTER_HEAD].softmax(dim=-1)[..., :LETTERS])
        place = _padded(strips[..., LETTER_HEAD:-1].softmax(dim=-1))
        behind = _padded(strips[..., -1:])
        strip = column[:, None] * STRIPS + torch.arange(BEFORE + SPAN, device=row.device)
        chosen = (row[:, None], strip)
        inside = cells.flatten(0, 1)[row, column, 1]
        begin = column * CELL + inside * FARTHEST
        middle = (strip - BEFORE) * STRIP + 1
        apart = middle - behind[chosen][..., 0] * FARTHEST - begin[:, None]
        weight = torch.exp(-0.5 * (apart / self.reach) ** 2)
        votes = (place[chosen] * weight[..., None]).transpose(1, 2) @ letter[chosen]
        total = votes.sum(dim=-1, keepdim=True)
        length = total.sum(dim=1) / 32
        return torch.cat([(votes / (total + 0.5)).flatten(1), length], dim=1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (n, r * c, 128) and keep (n, r * c): only cells with keep > 0 have a vector."""
        strips, cells = self.features(pixels)
        keep = cells[..., 0]
        picture, line, column = (keep > 0).nonzero(as_tuple=True)
        found = self.read(strips, cells, picture * keep.shape[1] + line, column)
        vectors = pixels.new_zeros(*keep.shape, found.shape[-1])
        vectors = vectors.index_put((picture, line, column), found)
        return vectors.flatten(1, 2), keep.flatten(1)


def _padded(strips: Tensor) -> Tensor:
    """(n, r, s, k) as lines (n * r, more than s, k), with zeros, which vote for nothing, around."""
    return functional.pad(strips.flatten(0, 1), (0, 0, BEFORE, SPAN))


def _conv(
    before: int,
    after: int,
    kernel: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> nn.Sequential:
    """Convolution, batch norm, ReLU; the size is divided by the stride exactly."""
    return nn.Sequential(
        Conv(before, after, kernel, stride, dilation), nn.BatchNorm2d(after), nn.ReLU()
    )
