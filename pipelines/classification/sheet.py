"""The thumbnails of one part, side by side in one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from core.images.overlay import encode_jpeg

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["THUMBNAIL", "THUMBNAIL_COLUMNS", "ThumbnailSheet"]

THUMBNAIL = (96, 80)
"""Width and height of a thumbnail, in pixels; multiples of 16, so that JPEG blocks do not mix."""
THUMBNAIL_COLUMNS = 16
"""Thumbnails in a row of a part's sheet."""


class ThumbnailSheet:
    """Places thumbnails in the order of a part's predictions.

    Args:
        count: Number of thumbnails that there may be.
    """

    def __init__(self, count: int) -> None:
        width, height = THUMBNAIL
        rows = -(-count // THUMBNAIL_COLUMNS)
        self._pixels = np.full((rows * height, THUMBNAIL_COLUMNS * width, 3), 245, np.uint8)
        self._count = 0

    def add(self, rgb: NDArray[np.uint8]) -> None:
        """Fit one image, (height, width, 3), into the next place, its proportions kept."""
        width, height = THUMBNAIL
        factor = min(width / rgb.shape[1], height / rgb.shape[0])
        size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
        row, column = divmod(self._count, THUMBNAIL_COLUMNS)
        top, left = row * height + (height - size[1]) // 2, column * width + (width - size[0]) // 2
        self._pixels[top : top + size[1], left : left + size[0]] = cv2.resize(rgb, size)
        self._count += 1

    def encode(self) -> bytes:
        """Return the sheet as a JPEG file."""
        used = -(-self._count // THUMBNAIL_COLUMNS) * THUMBNAIL[1]
        return encode_jpeg(self._pixels[:used])
