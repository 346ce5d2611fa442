"""Random views of marked fields, and what a finder should say of them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch

from core.finding.passes import STRIDE, WHITE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from core.finding.marked import MarkedField

__all__ = ["Targets", "Views", "draw_views", "targets_of"]

_SMALLEST, _LARGEST = 14.0, 150.0
"""Size of the cells in a view, in pixels."""

_TYPICAL = 0.3
"""Size of a cell where a field has none, as a share of its shorter side."""

_COVERED, _FILLED = 0.7, 0.9
"""Share of its window that a field covers at least, and a cell at most."""

_GRIDS = (0.5, 0.3, 0.2)
"""How often a view shows one field, four (two by two), and nine."""

_ALIASING = 0.75
"""Scale below which a picture is averaged before it is laid into a view."""

_SEEN, _HARDLY_SEEN = 0.35, 0.12
"""Share of a cell's box that a view must show for the cell to be asked for, and from which on it may be found."""

_SHARP = 0.11
"""Standard deviation of the peak that is asked for, relative to the box."""

_INSIDE = 0.4
"""Height of that peak from which on the box's edges are asked for."""


_NEAREST = 0.1
"""Least distance of an edge that is asked for, in units of `STRIDE` pixels."""


class Views(NamedTuple):
    """Views of fields.

    Attributes:
        pixels: (N, H, W, 3) uint8.
        boxes: Per view the boxes of its cells in pixels, (K, 4) float32.
        exact: Per view whether each box was marked, (K,) bool.
        unsure: Per view the boxes where a cell may be found or not, (K, 4) float32.
    """

    pixels: NDArray[np.uint8]
    boxes: list[NDArray[np.float32]]
    exact: list[NDArray[np.bool_]]
    unsure: list[NDArray[np.float32]]


class Targets(NamedTuple):
    """What a finder should say.

    Attributes:
        peaks: Height of the peaks, (N, h, w) float32 in [0, 1]; 1 in the middle of a cell.
        counts: Where a score counts, (N, h, w) float32: 0 or 1.
        reach: Distances to the four edges in units of `STRIDE` pixels, (N, 4, h, w) float32.
        weight: How much the edges count, (N, h, w) float32.
    """

    peaks: torch.Tensor
    counts: torch.Tensor
    reach: torch.Tensor
    weight: torch.Tensor


def draw_views(draw: Callable[[], MarkedField], count: int, side: int, rng: np.random.Generator) -> Views:
    """Draw views: of parts of one field, or of four or nine beside each other.

    Args:
        draw: Gives the next field.
        count: Number of views.
        side: Height and width of a view in pixels.
        rng: Decides everything that is random.
    """
    views = Views(np.empty((count, side, side, 3), np.uint8), [], [], [])
    for number in range(count):
        view = _View(views.pixels[number])
        grid = 1 + int(rng.choice(len(_GRIDS), p=_GRIDS))
        rows, columns = _cuts(side, grid, rng), _cuts(side, grid, rng)
        for top, bottom in pairwise(rows):
            for left, right in pairwise(columns):
                view.show(draw(), (left, top, right, bottom), rng)
        views.boxes.append(np.array(view.boxes, np.float32).reshape(-1, 4))
        views.exact.append(np.array(view.exact, bool))
        views.unsure.append(np.array(view.unsure, np.float32).reshape(-1, 4))
    return views


class _View:
    """One view while it is drawn.

    Args:
        pixels: Where to draw, (side, side, 3) uint8.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = pixels
        self._pixels[:] = int(WHITE)
        self.boxes: list[NDArray[np.float32]] = []
        self.exact: list[bool] = []
        self.unsure: list[NDArray[np.float32]] = []

    def show(self, field: MarkedField, window: tuple[int, int, int, int], rng: np.random.Generator) -> None:
        """Show a part of a field in a window of the view, turned, mirrored, at a random size and place."""
        left, top, right, bottom = window
        wide, high = right - left, bottom - top
        rgb, boxes = _turned(field.pixels, field.boxes, int(rng.integers(8)))
        sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) if len(boxes) else np.array([_TYPICAL * min(rgb.shape[:2])])
        size = float(sizes[rng.integers(len(sizes))])
        largest = min(_LARGEST, _FILLED * min(wide, high))
        smallest = min(largest, max(_SMALLEST, size * _COVERED * min(wide, high) / max(rgb.shape[:2])))
        scale = math.exp(rng.uniform(math.log(smallest), math.log(largest))) / size
        height, width = rgb.shape[0] * scale, rgb.shape[1] * scale
        if len(boxes) and rng.random() < 0.7:  # a cell in sight
            middle = boxes[rng.integers(len(boxes))].reshape(2, 2).mean(axis=0) * scale
            x, y = rng.uniform(0.1, 0.9) * wide - middle[0], rng.uniform(0.1, 0.9) * high - middle[1]
        else:
            x, y = (rng.uniform(min(0, room), max(0, room)) for room in (wide - width, high - height))
        x, y = _settled(x, wide - width, rng), _settled(y, high - height, rng)
        matrix = np.array([[scale, 0, x + (scale - 1) / 2], [0, scale, y + (scale - 1) / 2]], np.float32)
        if scale < _ALIASING:
            size = (max(1, round(width)), max(1, round(height)))
            rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
            matrix = np.array([[1, 0, x], [0, 1, y]], np.float32)
        part = np.full((high, wide, 3), int(WHITE), np.uint8)
        cv2.warpAffine(rgb, matrix, (wide, high), dst=part, borderMode=cv2.BORDER_TRANSPARENT)
        self._pixels[top:bottom, left:right] = part
        whole = boxes * scale + np.array([x, y, x, y], np.float32)
        for box, seen in zip(whole, np.clip(whole, 0, [wide, high, wide, high]), strict=True):
            share = float(np.prod(seen[2:] - seen[:2]) / np.prod(box[2:] - box[:2]))
            moved = seen.astype(np.float32) + np.array([left, top, left, top], np.float32)
            if share >= _SEEN and min(seen[2:] - seen[:2]) > 3:
                self.boxes.append(moved)
                self.exact.append(field.exact)
            elif share >= _HARDLY_SEEN:
                self.unsure.append(moved)


def targets_of(views: Views) -> Targets:
    """Return what a finder should say of views."""
    count, side = len(views.pixels), views.pixels.shape[1] // STRIDE
    peaks, counts = np.zeros((count, side, side), np.float32), np.ones((count, side, side), np.float32)
    reach, weight = np.ones((count, 4, side, side), np.float32), np.zeros((count, side, side), np.float32)
    places = np.arange(side, dtype=np.float32) + 0.5
    for number in range(count):
        for left, top, right, bottom in views.unsure[number] / STRIDE:
            counts[number, max(0, int(top)) : math.ceil(bottom), max(0, int(left)) : math.ceil(right)] = 0
        for (left, top, right, bottom), exact in zip(views.boxes[number] / STRIDE, views.exact[number], strict=True):
            x, y = (left + right) / 2, (top + bottom) / 2
            spread_x, spread_y = (max(0.4, _SHARP * length) for length in (right - left, bottom - top))
            across = np.exp(-((places - x) ** 2) / (2 * spread_x**2))
            down = np.exp(-((places - y) ** 2) / (2 * spread_y**2))
            peak = down[:, None] * across[None, :]
            row, column = min(side - 1, int(y)), min(side - 1, int(x))
            peak /= peak[row, column]
            inside = (peak > _INSIDE) & (peak >= weight[number])
            weight[number][inside] = np.minimum(peak, 1)[inside] * (1.0 if exact else 0.0)
            rows, columns = np.nonzero(inside)
            edges = (places[columns] - left, places[rows] - top, right - places[columns], bottom - places[rows])
            reach[number, :, rows, columns] = np.maximum(np.stack(edges, 1), _NEAREST)
            peaks[number] = np.maximum(peaks[number], np.minimum(peak, 1))
            counts[number][inside] = 1
    return Targets(*(torch.from_numpy(part) for part in (peaks, counts, reach, weight)))


def _turned(
    rgb: NDArray[np.uint8], boxes: NDArray[np.float32], turn: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return one of the eight ways to lay a picture down, with its boxes."""
    boxes = boxes.copy()
    for axis in (0, 1):
        if turn >> axis & 1:
            rgb = np.flip(rgb, 1 - axis)
            boxes[:, [axis, axis + 2]] = rgb.shape[1 - axis] - boxes[:, [axis + 2, axis]]
    if turn >> 2 & 1:
        rgb, boxes = rgb.transpose(1, 0, 2), boxes[:, [1, 0, 3, 2]]
    return np.ascontiguousarray(rgb), boxes


def _settled(place: float, room: float, rng: np.random.Generator) -> float:
    """Keep most views inside the picture, or the picture inside the view; let some show its edge."""
    return place if rng.random() < 0.3 else min(max(place, min(0.0, room)), max(0.0, room))


def _cuts(side: int, grid: int, rng: np.random.Generator) -> list[int]:
    """Return where the windows of a view begin and end, along one side."""
    inner = [round(side * (cut + rng.uniform(-0.2, 0.2)) / grid) for cut in range(1, grid)]
    return [0, *inner, side]
