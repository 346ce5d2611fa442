"""The thumbnails of one part, side by side in one picture, or in several where there are many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from core.images.overlay import encode_jpeg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["THUMBNAIL", "ThumbnailSheets", "sheet_name", "sheet_place"]

THUMBNAIL = (96, 80)
"""Width and height of a thumbnail, in pixels; multiples of 16, so that JPEG blocks do not mix."""

_COLUMNS, _PER_SHEET = 16, 2048


class ThumbnailSheets:
    """Places thumbnails in the order of a part's predictions."""

    def __init__(self) -> None:
        self._thumbnails: list[NDArray[np.uint8]] = []
        self._full: list[bytes] = []

    def add(self, rgb: NDArray[np.uint8]) -> None:
        """Fit one image, (height, width, 3), into the next place, its proportions kept."""
        width, height = THUMBNAIL
        factor = min(width / rgb.shape[1], height / rgb.shape[0])
        size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
        thumbnail = np.full((height, width, 3), 245, np.uint8)
        top, left = (height - size[1]) // 2, (width - size[0]) // 2
        thumbnail[top : top + size[1], left : left + size[0]] = cv2.resize(rgb, size)
        self._thumbnails.append(thumbnail)
        if len(self._thumbnails) == _PER_SHEET:
            self._full.append(self._encode())

    def encoded(self) -> Iterator[bytes]:
        """Yield the sheets as JPEG files."""
        yield from self._full
        if self._thumbnails:
            yield self._encode()

    def _encode(self) -> bytes:
        width, height = THUMBNAIL
        rows = -(-len(self._thumbnails) // _COLUMNS)
        sheet = np.full((rows, _COLUMNS, height, width, 3), 245, np.uint8)
        sheet.reshape(-1, height, width, 3)[: len(self._thumbnails)] = self._thumbnails
        self._thumbnails = []
        return encode_jpeg(sheet.transpose(0, 2, 1, 3, 4).reshape(rows * height, _COLUMNS * width, 3))


def sheet_name(part: int, number: int) -> str:
    """Return the file name of a part's sheet."""
    return f"part-{part:08d}.jpg" if number == 0 else f"part-{part:08d}-{number}.jpg"


def sheet_place(part: int, index: int) -> tuple[str, int, int]:
    """Return the sheet that shows a row of a part's predictions, and where: pixels from the left and from above."""
    number, place = divmod(index, _PER_SHEET)
    row, column = divmod(place, _COLUMNS)
    return sheet_name(part, number), column * THUMBNAIL[0], row * THUMBNAIL[1]
