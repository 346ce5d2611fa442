"""How a picture is searched: at which sizes, in which tiles, and how what they found is put together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from core.images.cells import Box
from core.images.light import not_margin, white_balanced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = [
    "GRANULARITY",
    "STRIDE",
    "WHITE",
    "FoundCell",
    "Pass",
    "merged",
    "mostly_unseen",
    "passes",
    "reading_order",
    "without_platelets",
]

STRIDE = 4
"""Pixels of the network's input per value of its output."""

GRANULARITY = 32
"""The input's sides are multiples of it."""

WHITE = 225.0
"""Level that the background of each channel is scaled to, and that fills what lies past a picture."""

_STEP = 4
"""A pass over tiles sees pixels this many times larger than the pass above it."""

_WHOLE = 6.0
"""A picture is also searched in tiles where its longer side is more than this many times the input's."""

_OVERLAP = 0.3125
"""Share of a tile that the next one shows again: cells up to that size are whole in one of them."""

_EDGE = 1.5
"""Pixels of the input from the edge of a tile within which a box counts as cut by it."""

_SAME_UNION, _SAME_INSIDE = 0.45, 0.7
"""Two boxes are one cell where they share so much of their union, or the smaller lies so far inside the other."""

_NEIGHBOURS = np.ones((3, 3), np.uint8)

_MOST = 2_000
"""Cells of one picture: many times those of a slide's largest tile."""

_SMALL = 1 / 3
"""Smallest size of a cell relative to the most certain one of its picture: white cells measure 7 to 20 micrometres,
platelets 2 to 3."""

_HALF_SEEN = 0.6
"""Depth of what is seen of a cell that is cut through its middle, relative to its length: 0.5, and what boxes of cut
cells are too deep."""


class FoundCell(NamedTuple):
    """A white cell that was found.

    Attributes:
        box: Where it is, as far as it is seen, in pixels of the picture.
        score: How certain the finder is, between 0 and 1.
    """

    box: Box
    score: float


class Pass(NamedTuple):
    """One look at a picture, or at a tile of it.

    Attributes:
        region: The part that is looked at, in whole pixels of the picture.
        width: Width that it is resized to, in pixels.
        height: Height that it is resized to, in pixels.
        inner: Whether the left, upper, right and lower edge lie inside the picture.
    """

    region: Box
    width: int
    height: int
    inner: tuple[bool, bool, bool, bool]

    def pixels(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the network's input before normalisation, with sides that are multiples of `GRANULARITY`.

        Args:
            rgb: The picture, (H, W, 3) uint8.
        """
        left, top, right, bottom = map(int, self.region)
        small = _resized(rgb[top:bottom, left:right], self.width, self.height)
        shown = not_margin(small)
        small = white_balanced(small, small, WHITE)
        if not shown.all():
            small[~shown] = WHITE
        below, beside = -self.height % GRANULARITY, -self.width % GRANULARITY
        if not (below or beside):
            return small
        return np.asarray(
            cv2.copyMakeBorder(small, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=(WHITE, WHITE, WHITE)), np.uint8
        )

    def cells(self, output: NDArray[np.float32], least: float) -> list[FoundCell]:
        """Read what the network gave.

        Args:
            output: (5, h, w) float32, as `FinderNetwork.forward` describes it.
            least: Score below which nothing counts as found.

        Returns:
            The peaks, each with its box inside the picture; none whose box a tile cuts off.
        """
        certainty = output[0]
        peaks = (certainty >= _logit(least)) & (certainty >= cv2.dilate(certainty, _NEIGHBOURS))
        rows, columns = np.nonzero(peaks)
        scores = 1 / (1 + np.exp(-certainty[rows, columns]))
        reach = np.exp(np.minimum(output[1:, rows, columns], 6.0)) * STRIDE
        x, y = (columns + 0.5) * STRIDE, (rows + 0.5) * STRIDE
        limits = (self.width, self.height)
        edges = [x - reach[0], y - reach[1], x + reach[2], y + reach[3]]
        cut = np.zeros(len(rows), bool)
        for side, inner in enumerate(self.inner):
            near = edges[side] < _EDGE if side < 2 else edges[side] > limits[side - 2] - _EDGE
            cut |= near & inner
        edges = [np.clip(edge, 0, limits[side % 2]) for side, edge in enumerate(edges)]
        across = (self.region.right - self.region.left) / self.width
        down = (self.region.bottom - self.region.top) / self.height
        found: list[FoundCell] = []
        for place in np.flatnonzero(~cut & (x < self.width) & (y < self.height)):
            left, top, right, bottom = (float(edge[place]) for edge in edges)
            box = Box(left * across, top * down, right * across, bottom * down)
            box = box.moved(self.region.left, self.region.top)
            found.append(FoundCell(box, float(scores[place])))
        return found


def passes(width: int, height: int, side: int) -> Iterator[Pass]:
    """Yield the looks that a picture takes: the whole of it, and, of a large one, tiles that overlap.

    Args:
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        side: Longer side of the network's input in pixels.
    """
    longer = max(width, height)
    yield _look(Box(0.0, 0.0, float(width), float(height)), width, height, side)
    step = _STEP
    while longer > _WHOLE * side * step / _STEP:
        tile = side * step
        for top, bottom in _spans(height, tile):
            for left, right in _spans(width, tile):
                yield _look(Box(float(left), float(top), float(right), float(bottom)), width, height, side)
        step *= _STEP


def merged(found: Sequence[FoundCell]) -> list[FoundCell]:
    """Keep one of several findings of the same cell, the most certain one, and at most the 2,000 most certain cells."""
    if len(found) < 2:
        return list(found)
    ordered = sorted(found, key=lambda cell: -cell.score)
    boxes = np.array([cell.box for cell in ordered], float).reshape(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    free = np.ones(len(ordered), bool)
    kept: list[FoundCell] = []
    for place, cell in enumerate(ordered):
        if not free[place] or len(kept) == _MOST:
            continue
        kept.append(cell)
        inside = np.minimum(boxes[:, 2:], boxes[place, 2:]) - np.maximum(boxes[:, :2], boxes[place, :2])
        both = np.maximum(inside, 0).prod(axis=1)
        smaller = np.minimum(areas, areas[place])
        free &= (both <= _SAME_UNION * (areas + areas[place] - both)) & (both <= _SAME_INSIDE * smaller)
    return kept


def without_platelets(found: Sequence[FoundCell], width: int, height: int) -> list[FoundCell]:
    """Leave out what is far too small to be a cell beside the most certain one, but for what the edge cuts off.

    Args:
        found: What was found in a picture.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
    """
    if not found:
        return []
    least = _SMALL * max(found, key=lambda cell: cell.score).box.longer
    return [cell for cell in found if cell.box.longer >= least or _at_edge(cell.box, width, height)]


def reading_order(found: Sequence[FoundCell]) -> list[FoundCell]:
    """Return cells row by row from above, each row from the left; cells beside each other are one row."""
    left = sorted(found, key=lambda cell: (cell.box.top + cell.box.bottom, cell.box.left))
    ordered: list[FoundCell] = []
    while left:
        limit = left[0].box.bottom
        row = [cell for cell in left if cell.box.top + cell.box.bottom <= 2 * limit]
        ordered += sorted(row, key=lambda cell: (cell.box.left, cell.box.top))
        left = left[len(row) :]
    return ordered


def mostly_unseen(box: Box, width: int, height: int) -> bool:
    """Whether the edge of the picture hides more than half of a cell.

    A round cell is cut through its middle where what is seen is half as deep as it is long along the edge. In a corner
    it counts as mostly hidden.

    Args:
        box: What is seen of it.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
    """
    wide, high = box.right - box.left, box.bottom - box.top
    beside = (box.left <= 1) != (box.right >= width - 1)
    above = (box.top <= 1) != (box.bottom >= height - 1)
    return (beside and above) or (beside and wide < _HALF_SEEN * high) or (above and high < _HALF_SEEN * wide)


def _resized(rgb: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize a picture; one that gets much smaller in two steps.

    The mean of a whole number of pixels is several times faster than that of parts of pixels, so the picture is first
    resized to a multiple of the size. Down to half the size there is little to antialias: on 99 % of the images of four
    laboratories the finder gives the same cells as with the mean of parts of pixels.
    """
    times = min(rgb.shape[1] // width, rgb.shape[0] // height)
    if times < 2:
        return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    rgb = np.asarray(cv2.resize(rgb, (times * width, times * height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _logit(share: float) -> float:
    return math.log(share / (1 - share)) if 0 < share < 1 else math.copysign(math.inf, share - 0.5)


def _at_edge(box: Box, width: int, height: int) -> bool:
    return box.left <= 1 or box.top <= 1 or box.right >= width - 1 or box.bottom >= height - 1


def _look(region: Box, width: int, height: int, side: int) -> Pass:
    wide, high = region.right - region.left, region.bottom - region.top
    scale = side / max(wide, high)
    inner = (region.left > 0, region.top > 0, region.right < width, region.bottom < height)
    return Pass(region, max(1, round(wide * scale)), max(1, round(high * scale)), inner)


def _spans(length: int, tile: int) -> list[tuple[int, int]]:
    """Return where overlapping tiles of one size begin and end."""
    if length <= tile:
        return [(0, length)]
    count = 1 + math.ceil((length - tile) / (tile * (1 - _OVERLAP)))
    return [(begin, begin + tile) for begin in np.linspace(0, length - tile, count).round().astype(int).tolist()]
