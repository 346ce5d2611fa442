"""Whether a heatmap looks at the cell: the pointing game (Zhang et al. 2018, doi:10.1007/s11263-017-1059-x)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.cell import find_white_cell

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from core.cell import Box

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


def point(rgb: NDArray[np.uint8], cam: NDArray[np.float32], box: Box) -> Pointing | None:
    """Compare a map's peak with the white cell, found by colour.

    Args:
        rgb: Image, (H, W, 3) uint8.
        cam: Map in [0, 1], (h, w) float32, covering `box`.
        box: The part of the image that the network saw.

    Returns:
        None where the image shows no white cell, or the map is zero everywhere.
    """
    cell = find_white_cell(rgb)
    if cell is None or not cam.any():
        return None
    height, width = cell.shape
    row, column = _peak(cam, box)
    top, bottom = max(0, round(box.top)), max(1, round(box.bottom))
    left, right = max(0, round(box.left)), max(1, round(box.right))
    crop = cell[top:bottom, left:right]
    return Pointing(
        hit=bool(cell[min(row, height - 1), min(column, width - 1)]),
        chance=float(cell.mean()),
        chance_in_crop=float(crop.mean()),
        centre=bool(cell[height // 2, width // 2]),
        centre_of_crop=bool(crop[crop.shape[0] // 2, crop.shape[1] // 2]),
    )


def _peak(cam: NDArray[np.float32], box: Box) -> tuple[int, int]:
    """Return the pixel (row, column) at the centre of a map's largest value, where enlarging puts its peak."""
    row, column = divmod(int(cam.argmax()), cam.shape[1])
    return (
        int(box.top + (row + 0.5) * (box.bottom - box.top) / cam.shape[0]),
        int(box.left + (column + 0.5) * (box.right - box.left) / cam.shape[1]),
    )
