"""A heatmap of the network's last feature map, which knows where in the input each of its values looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.images.cells import Box

__all__ = ["Heatmap", "MapGeometry", "find_peak"]


class MapGeometry(NamedTuple):
    """The grid of a feature map on the input: value (i, j) is centred on pixel (top + i * stride, left + j * stride).

    Attributes:
        stride: Input pixels from one value to the next.
        top: Row of the input that the first value is centred on, 0 for the middle of the first pixel.
        left: The same, column.
    """

    stride: int
    top: float = 0.0
    left: float = 0.0


def find_peak(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return row and column of a map's peak, between its values: the mean place of the largest and its neighbours.

    Args:
        values: Evidence, 0 or more, (h, w); each place counts by its value.

    Example:
        >>> find_peak(np.float32([[0, 0, 0], [0, 1, 1], [0, 0, 0]]))
        (1.0, 1.5)
    """
    row, column = divmod(int(values.argmax()), values.shape[1])
    top, left = max(0, row - 1), max(0, column - 1)
    part = values[top : row + 2, left : column + 2].astype(np.float64)
    total = float(part.sum())
    if not total:
        return float(row), float(column)
    down, across = part.sum(axis=1) @ np.arange(part.shape[0]), part.sum(axis=0) @ np.arange(part.shape[1])
    return top + float(down) / total, left + float(across) / total


@dataclass(frozen=True, slots=True)
class Heatmap:
    """What spoke for one class, and where.

    A network that halves the size with centred filters, as ResNet does, has output i of each stage centred on input
    pixel 2 i. Value i of the last map is therefore centred on input pixel ``stride * i``, the first pixel of its
    cell and not the middle (Araujo et al. 2019, doi:10.23915/distill.00021), whatever the input's size; other networks
    have other grids. Where the side of the input is no multiple of the stride, the last cell reaches past the input.

    Attributes:
        values: Evidence in [0, 1], (h, w) float32; zero everywhere where nothing speaks for the class.
        height: Height of the network's input, in pixels.
        width: Width of the network's input, in pixels.
        geometry: The grid of the values on the input.

    Example:
        >>> Heatmap(np.float32([[0, 0], [0, 1]]), height=64, width=64, geometry=MapGeometry(32)).peak()
        (0.5078125, 0.5078125)
    """

    values: NDArray[np.float32]
    height: int
    width: int
    geometry: MapGeometry

    @property
    def has_evidence(self) -> bool:
        """Whether anything in the image speaks for the class."""
        return bool(self.values.any())

    def peak(self) -> tuple[float, float]:
        """Return where the map points, as shares of the input's height and width (`find_peak`)."""
        row, column = find_peak(self.values)
        stride, top, left = self.geometry
        return (row * stride + top + 0.5) / self.height, (column * stride + left + 0.5) / self.width

    def placed(self, box: Box) -> tuple[float, float, float, float]:
        """Return where the values lie in an image of which the network saw `box`.

        Args:
            box: The part of the image that was resized to the network's input, in pixels of the image.

        Returns:
            x and y of the first value, and the distance between two values in x and in y; in pixels, where a whole
            number means the middle of a pixel.
        """
        pixel_x, pixel_y = (box.right - box.left) / self.width, (box.bottom - box.top) / self.height
        stride, top, left = self.geometry
        first_x, first_y = box.left + pixel_x * (left + 0.5) - 0.5, box.top + pixel_y * (top + 0.5) - 0.5
        return first_x, first_y, pixel_x * stride, pixel_y * stride
