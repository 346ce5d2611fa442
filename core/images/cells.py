"""Finding the white cell by its nucleus, in two ways that need no training.

Romanowsky stains (Wright, Giemsa, May-Gruenwald) colour chromatin purple: much blue, little green. ``purple-otsu``
takes ``B - G``, which is large on the nucleus and small on red cells, granules and plasma; Otsu's threshold (1979,
doi:10.1109/TSMC.1979.4310076) splits the two at any magnification.

``density-otsu`` is for stains and cameras that make red cells bluish or everything pink. It takes optical densities
against the brightest part of the picture: the nucleus alone absorbs much red, haemoglobin and eosin absorb green and
blue. Two thresholds split three classes (Otsu's method for several: Liao et al. 2001), of which the densest is the
nucleus; where it covers too much to be one, it is split again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import cv2
import numpy as np
from pydantic import Field

from core.images.light import not_margin
from core.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Box", "CellFinder", "cell_around", "find_nucleus", "find_white_cell", "surroundings"]

_WORKING_SIDE = 160
"""The search runs on a copy whose longer side has this many pixels: enough to see a nucleus."""

_SMALLEST_CONTRAST = 18.0
"""Least colour index, in 8-bit levels, that counts as purple; below it there is no nucleus."""

_CELL_TO_NUCLEUS = 1.3
"""Longer side of a white cell, relative to its nucleus's: the median of 360 marked cells was 1.31."""

_SURROUNDINGS = 4.0
"""Side of the square around a marked cell in which the light is looked for, relative to the cell's."""

_SMALLEST_DENSITY = 15.0
"""Least density index, 127 per unit of optical density, that counts as stained."""

_ABSORBED = np.array([1.0, 0.5, -0.7])
"""What red, green and blue density count: chromatin absorbs red, haemoglobin and eosin green and blue."""

_FEWEST_PIXELS, _ROUNDS = 60, 4

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

    def moved(self, right: float, down: float) -> Box:
        """Return the same rectangle, further to the right and down."""
        return Box(self.left + right, self.top + down, self.right + right, self.bottom + down)

    @property
    def area(self) -> float:
        """Its area in square pixels."""
        return (self.right - self.left) * (self.bottom - self.top)

    @property
    def longer(self) -> float:
        """Its longer side in pixels."""
        return max(self.right - self.left, self.bottom - self.top)

    def shared(self, other: Box) -> float:
        """Return the area that it has in common with another rectangle, in square pixels."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, wide) * max(0.0, high)

    def holds_middle_of(self, other: Box) -> bool:
        """Whether the middle of another rectangle lies in it."""
        x, y = (other.left + other.right) / 2, (other.top + other.bottom) / 2
        return self.left <= x <= self.right and self.top <= y <= self.bottom


class CellFinder(Settings):
    """How the white cell is cut out, as the preprocessing record keeps it."""

    method: Literal["purple-otsu", "density-otsu"] = Field(
        "purple-otsu", description="purple-otsu: colour index, Otsu; density-otsu: optical densities, three classes"
    )
    scale: float = Field(
        1.9, gt=0.5, le=10, description="side of the square, in multiples of the nucleus's longer side"
    )
    beyond: bool = Field(
        False,
        description="keep the cell in the middle of the square, which is mirrored where it reaches past the image",
    )

    def box(self, rgb: NDArray[np.uint8]) -> Box | None:
        """Find the square around the white cell.

        Args:
            rgb: Image, (H, W, 3) uint8.

        Returns:
            A square of whole pixels, `scale` times the nucleus's longer side, centred on the nucleus (as far
            as the image reaches, unless it may go `beyond`), or None where there is no nucleus.
        """
        nucleus = find_nucleus(rgb, self.method)
        return None if nucleus is None else self.box_of(rgb, nucleus)

    def box_of(self, rgb: NDArray[np.uint8], nucleus: Box) -> Box:
        """Return the square around a white cell whose nucleus is known, as `box` does."""
        return _square(rgb, nucleus, self.scale, beyond=self.beyond)

    def box_around(self, rgb: NDArray[np.uint8], marked: Box) -> Box:
        """Return the square around a white cell that was marked in a field: its size is known, and not looked for.

        Args:
            rgb: Field, (H, W, 3) uint8.
            marked: The cell's box, cytoplasm included.

        Returns:
            A square of whole pixels as large as `box` would be for a nucleus of usual size, centred on the cell as
            far as the image reaches.
        """
        return _square(rgb, marked, self.scale / _CELL_TO_NUCLEUS, beyond=self.beyond)


def cell_around(rgb: NDArray[np.uint8], nucleus: Box) -> Box:
    """Return the square that a white cell with this nucleus usually fills, as far as the image reaches.

    Args:
        rgb: Image, (H, W, 3) uint8.
        nucleus: Box of the nucleus, as `find_nucleus` gives it.
    """
    square = _square(rgb, nucleus, _CELL_TO_NUCLEUS, beyond=True)
    height, width = rgb.shape[:2]
    return Box(max(square.left, 0.0), max(square.top, 0.0), min(square.right, width), min(square.bottom, height))


def surroundings(rgb: NDArray[np.uint8], box: Box | None) -> NDArray[np.uint8]:
    """Return the part of a field around a cell that shows the same light: four times the cell's size.

    Args:
        rgb: Field, (H, W, 3) uint8.
        box: The cell; none: the image is of one cell, and all of it is returned.
    """
    if box is None:
        return rgb
    part = _square(rgb, box, _SURROUNDINGS)
    return rgb[int(part.top) : int(part.bottom), int(part.left) : int(part.right)]


def find_nucleus(rgb: NDArray[np.uint8], method: str = "purple-otsu") -> Box | None:
    """Find the bounding box of the nucleus, all its lobes included.

    Args:
        rgb: Image, (H, W, 3) uint8.
        method: ``purple-otsu`` or ``density-otsu``.

    Returns:
        The box in pixels of `rgb`, or None where nothing is purple enough or of a nucleus's size.
    """
    small = _at_working_size(rgb)
    if method == "density-otsu":
        found = _dense_group(small)
    else:
        mask = _purple(_purple_index(small))
        found = None if mask is None else _main_group(mask)
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


def _dense_group(rgb: NDArray[np.uint8]) -> tuple[int, int, int, int] | None:
    """Return the box of the nucleus by optical densities, (left, top, right, bottom)."""
    index, shown = _density_index(rgb)
    if not shown.any():
        return None
    threshold = max(_upper_threshold(index[shown]), _SMALLEST_DENSITY)
    found = None
    for attempt in range(_ROUNDS):
        mask = np.asarray((index > threshold) & shown, np.uint8)
        group = _main_group(mask)
        if group is None and attempt:
            break
        found = group or found
        if group is not None and _could_be_nucleus(mask, group):
            break
        above = index[mask == 1]
        if len(above) < _FEWEST_PIXELS:
            break
        finer, _ = cv2.threshold(above.reshape(-1, 1), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        if finer <= threshold:
            break
        threshold = finer
    return found


def _could_be_nucleus(mask: NDArray[np.uint8], group: tuple[int, int, int, int]) -> bool:
    """Whether a group is compact enough to be one cell's nucleus, and not the red cells of half a picture."""
    left, top, right, bottom = group
    side = max(right - left, bottom - top) / min(mask.shape)
    filled = float(mask[top:bottom, left:right].mean())
    return (side < 0.6 and filled > 0.3) or (side < 0.75 and filled > 0.5)


def _density_index(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the density index (H, W) uint8, 127 per unit, and which pixels are of the picture: black is its margin."""
    shown = not_margin(rgb)
    light = np.percentile(rgb[shown], 90, axis=0) if int(shown.sum()) >= _FEWEST_PIXELS else np.full(3, 255.0)
    levels = np.arange(256)[:, None]
    tables = np.log(np.maximum(light, 60.0) / np.maximum(levels, 1)).clip(0, 2.5) * _ABSORBED
    density = sum(np.take(tables[:, channel].astype(np.float32), rgb[..., channel]) for channel in range(3))
    density = np.where(shown, np.clip(density, 0, 2), 0).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(density, (5, 5), 0) * 127, np.uint8), shown


def _upper_threshold(values: NDArray[np.uint8]) -> float:
    """Return the upper one of the two thresholds between three classes, on 64 levels."""
    share = np.bincount(values >> 2, minlength=64) / len(values)
    weight, moment = share.cumsum(), (share * np.arange(64)).cumsum()
    low, high = np.arange(64)[:, None], np.arange(64)[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (
            moment[:, None] ** 2 / weight[:, None]
            + (moment[None, :] - moment[:, None]) ** 2 / (weight[None, :] - weight[:, None])
            + (moment[-1] - moment[None, :]) ** 2 / (1 - weight[None, :])
        )
    between = np.where((low < high) & np.isfinite(between), between, -1.0)
    return float(4 * (int(between.argmax()) % 64) + 3)


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


def _square(rgb: NDArray[np.uint8], box: Box, scale: float, *, beyond: bool = False) -> Box:
    """Return the square of whole pixels around a box, `scale` times its longer side, no larger than the image.

    It stays inside the image, off the box's middle if need be, unless it may go `beyond`.
    """
    height, width = rgb.shape[:2]
    side = float(min(round(scale * box.longer), height, width))
    left = float(round((box.left + box.right - side) / 2))
    top = float(round((box.top + box.bottom - side) / 2))
    if not beyond:
        left, top = _inside(left, width - side), _inside(top, height - side)
    return Box(left, top, left + side, top + side)


def _inside(start: float, largest: float) -> float:
    return min(max(start, 0.0), largest)
