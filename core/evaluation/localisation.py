"""Whether a heatmap looks at the cell: the pointing game (Zhang et al. 2018, doi:10.1007/s11263-017-1059-x)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.images.cells import Box

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from core.images.heatmap import Heatmap

__all__ = ["Pointing", "point"]


@dataclass(frozen=True, slots=True)
class Pointing:
    """Where one heatmap points, and what would point as well without looking.

    Attributes:
        hit: Whether the map's peak lies on the white cell.
        chance: Share of the image that the cell covers: what a random pixel hits.
        chance_in_crop: The same for the part that the network saw.
        centre: Whether the image's centre lies on the cell.
        centre_of_crop: Whether the centre of the part that the network saw does.
    """

    hit: bool
    chance: float
    chance_in_crop: float
    centre: bool
    centre_of_crop: bool


def point(cell: NDArray[np.bool_] | None, cam: Heatmap, box: Box, height: int, width: int) -> Pointing | None:
    """Compare a heatmap's peak with the white cell.

    Args:
        cell: What `find_white_cell` found, (h, w).
        cam: The heatmap; one without evidence hits nothing.
        box: The part of the image that the network saw, in pixels of the image.
        height: Height of the image.
        width: Width of the image.

    Returns:
        None where the image shows no white cell.
    """
    if cell is None:
        return None
    down, across = cell.shape[0] / height, cell.shape[1] / width
    part = Box(box.left * across, box.top * down, box.right * across, box.bottom * down)
    crop = cell[round(part.top) : max(1, round(part.bottom)), round(part.left) : max(1, round(part.right))]
    return Pointing(
        hit=cam.has_evidence and _at(cell, part, *cam.peak()),
        chance=float(cell.mean()),
        chance_in_crop=float(crop.mean()),
        centre=_at(cell, Box(0, 0, cell.shape[1], cell.shape[0]), 0.5, 0.5),
        centre_of_crop=_at(cell, part, 0.5, 0.5),
    )


def _at(cell: NDArray[np.bool_], part: Box, down: float, across: float) -> bool:
    """Look up a place that is given as shares of the height and width of a part of the mask."""
    row = min(int(part.top + down * (part.bottom - part.top)), cell.shape[0] - 1)
    column = min(int(part.left + across * (part.right - part.left)), cell.shape[1] - 1)
    return bool(cell[row, column])
