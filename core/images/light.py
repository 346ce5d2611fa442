"""The light of a picture: its background, brought to one level."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["not_margin", "white_balanced"]

_BLACK = 12
"""Level up to which a pixel is no part of a picture, but the margin of one that was turned or masked."""

_BACKGROUND = 90
_BACKGROUND_SIDE = 80
_DARKEST_BACKGROUND = 60


def not_margin(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which pixels are of a picture, (H, W) bool: black is the margin of one that was turned or masked.

    Args:
        rgb: Picture, (H, W, 3) uint8.
    """
    return np.asarray(cv2.inRange(rgb, (0, 0, 0), (_BLACK, _BLACK, _BLACK))) == 0


def white_balanced(part: NDArray[np.uint8], rgb: NDArray[np.uint8], white: float) -> NDArray[np.uint8]:
    """Scale each channel so that the background of a picture gets a level.

    The background, plasma between the cells, is what the brightest tenth of the pixels begins with.

    Args:
        part: What is scaled, (h, w, 3) uint8.
        rgb: The picture that it was cut from, or its surroundings in a large one, (H, W, 3) uint8.
        white: The level, 8 bit.
    """
    step = max(1, round(max(rgb.shape[:2]) / _BACKGROUND_SIDE))
    background = _percentile(rgb[::step, ::step], _BACKGROUND)
    factors = white / np.maximum(background, _DARKEST_BACKGROUND)
    levels = np.arange(256)[:, None] * factors
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)[:, None, :]
    return np.asarray(cv2.LUT(part, table), np.uint8)


def _percentile(rgb: NDArray[np.uint8], percent: float) -> NDArray[np.float64]:
    """Return a percentile of each channel, (3,), as `numpy.percentile` does, from counts: bytes need no sorting."""
    last = rgb.shape[0] * rgb.shape[1] - 1
    place = last * percent / 100
    values = np.empty(3)
    for channel in range(3):
        below = np.bincount(rgb[..., channel].ravel(), minlength=256).cumsum()
        low, high = np.searchsorted(below, (int(place), min(int(place) + 1, last)), side="right")
        values[channel] = low + (high - low) * (place % 1)
    return values
