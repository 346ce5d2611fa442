"""Finding the white cell: the nucleus is the only strongly purple thing in a stained smear.

Romanowsky stains (Wright, Giemsa, May-Gruenwald) colour chromatin purple: much blue, little green.
``B - G`` is therefore large on the nucleus and small on red cells, granules and plasma; Otsu's threshold
(1979, doi:10.1109/TSMC.1979.4310076) splits the two at any magnification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import cv2
import numpy as np
from pydantic import Field

from core.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Box", "CellFinder", "find_nucleus", "find_white_cell"]

_WORKING_SIDE = 160
"""The search runs on a copy whose longer side has this many pixels: enough to see a nucleus."""

_SMALLEST_CONTRAST = 18.0
"""Least colour index, in 8-bit levels, that counts as purple; below it there is no nucleus."""

_SMALLEST_AREA, _LARGEST_AREA = 0.0015, 0.5
"""Share of the image that a nucleus may cover."""


class Box(NamedTuple):
    """A rectangle in pixels of the upright image; right and bottom are exclusive."""

    left: float
    top: float
    right: float
    bottom: float

    def scaled(self, factor: float) -> Box:
        """Return the same rectangle in an image of `factor` times the size."""
        return Box(*(edge * factor for edge in self))


class CellFinder(Settings):
    """How the white cell is cut out, as the preprocessing record keeps it."""

    method: Literal["purple-otsu"] = Field("purple-otsu", description="colour index, Otsu, largest purple group")
    scale: float = Field(
        1.9, gt=0.5, le=10, description="side of the square, in multiples of the nucleus's longer side"
    )

    def box(self, rgb: NDArray[np.uint8]) -> Box | None:
        """Find the square around the white cell.

        Args:
            rgb: Image, (H, W, 3) uint8.

        Returns:
            A square of whole pixels, `scale` times the nucleus's longer side, centred on the nucleus as far
            as the image reaches, or None where there is no nucleus.
        """
        nucleus = find_nucleus(rgb)
        if nucleus is None:
            return None
        height, width = rgb.shape[:2]
        side = self.scale * max(nucleus.right - nucleus.left, nucleus.bottom - nucleus.top)
        side = float(min(round(side), height, width))
        left = _inside(round((nucleus.left + nucleus.right - side) / 2), width - side)
        top = _inside(round((nucleus.top + nucleus.bottom - side) / 2), height - side)
        return Box(left, top, left + side, top + side)


def find_nucleus(rgb: NDArray[np.uint8]) -> Box | None:
    """Find the bounding box of the nucleus, all its lobes included.

    Args:
        rgb: Image, (H, W, 3) uint8.

    Returns:
        The box in pixels of `rgb`, or None where nothing is purple enough or of a nucleus's size.
    """
    small = _at_working_size(rgb)
    mask = _purple(_purple_index(small))
    if mask is None:
        return None
    found = _main_group(mask)
    if found is None:
        return None
    scale_x, scale_y = rgb.shape[1] / small.shape[1], rgb.shape[0] / small.shape[0]
    left, top, right, bottom = found
    return Box(left * scale_x, top * scale_y, right * scale_x, bottom * scale_y)


def find_white_cell(rgb: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """Find the white cell's pixels by colour, nucleus and cytoplasm; to judge heatmaps by, not to classify.

    Cytoplasm is what touches the nucleus, lies within its crop, and is more lilac than plasma and red cells:
    at least a sixth of the way from their colour index to the nucleus's.

    Args:
        rgb: Image, (H, W, 3) uint8.

    Returns:
        Mask (h, w) of the image at most 160 pixels wide and high, or None where there is no nucleus.

    Example:
        >>> mask = find_white_cell(decode(Path("cell.jpg").read_bytes()).rgb)
        >>> None if mask is None else mask.shape
        (120, 160)
    """
    small = _at_working_size(rgb)
    index = _purple_index(small)
    purple, crop = _purple(index), CellFinder.model_validate({}).box(small)
    if purple is None or crop is None:
        return None
    around, nucleus = float(np.median(index[purple == 0])), float(np.median(index[purple == 1]))
    inside = np.zeros(purple.shape, bool)
    inside[int(crop.top) : int(crop.bottom), int(crop.left) : int(crop.right)] = True
    lilac = np.asarray((index > around + (nucleus - around) / 6) & inside, np.uint8)
    lilac = cv2.morphologyEx(lilac, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)))
    _, parts = cv2.connectedComponents(np.asarray(np.logical_or(lilac, (purple == 1) & inside), np.uint8))
    share = np.bincount(parts[(purple == 1) & inside], minlength=2)
    share[0] = 0
    return np.isin(parts, np.flatnonzero(share >= max(1, share.max() // 5)))


def _at_working_size(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = max(rgb.shape[:2]) / _WORKING_SIDE
    if factor <= 1:
        return rgb
    size = (max(1, round(rgb.shape[1] / factor)), max(1, round(rgb.shape[0] / factor)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _purple_index(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the colour index (H, W) uint8: blue above green, smoothed."""
    _, green, blue = cv2.split(rgb)
    return np.asarray(cv2.GaussianBlur(cv2.subtract(blue, green), (5, 5), 0), np.uint8)


def _purple(index: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Return the mask (H, W) uint8 of what is purple, or None where Otsu separates nothing."""
    threshold, mask = cv2.threshold(index, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    if threshold < _SMALLEST_CONTRAST:
        _, mask = cv2.threshold(index, _SMALLEST_CONTRAST, 1, cv2.THRESH_BINARY)
    if not mask.any():
        return None
    return np.asarray(mask, np.uint8)


def _main_group(mask: NDArray[np.uint8]) -> tuple[int, int, int, int] | None:
    """Return the box of the largest group of parts; parts that nearly touch are lobes of one nucleus."""
    side = max(mask.shape)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (1 + 2 * (side // 32), 1 + 2 * (side // 32)))
    joined = cv2.dilate(mask, kernel)
    count, labels = cv2.connectedComponents(joined, ltype=cv2.CV_16U)
    if count < 2:
        return None
    purple = labels * mask
    areas = np.bincount(purple.ravel(), minlength=count)
    areas[0] = 0
    best = int(areas.argmax())
    if not _SMALLEST_AREA <= areas[best] / mask.size <= _LARGEST_AREA:
        return None
    left, top, width, height = cv2.boundingRect(np.asarray(purple == best, np.uint8))
    return left, top, left + width, top + height


def _inside(start: float, largest: float) -> float:
    return min(max(start, 0.0), largest)
