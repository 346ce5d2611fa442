"""What is retained of a picture to draw on: all of it made smaller, or the surroundings of a cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from core.images.cells import Box
from core.images.overlay import DISPLAY_SIDE, shrink_to

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from core.model.prediction import Prediction

__all__ = ["View"]

_ROOM = 0.25
"""Room around the part that the network saw, relative to its side."""

_SURE, _FLAGGED, _WRITING = (91, 63, 143), (224, 160, 48), (255, 255, 255)


@dataclass(frozen=True, slots=True)
class View:
    """A part of a picture, at its size or smaller.

    Attributes:
        rgb: (h, w, 3) uint8.
        left: Left edge of the part in pixels of the picture.
        top: Upper edge.
        factor: Size of a pixel of the picture in pixels of `rgb`.
    """

    rgb: NDArray[np.uint8]
    left: float
    top: float
    factor: float

    @classmethod
    def of(cls, rgb: NDArray[np.uint8], longest: int = DISPLAY_SIDE) -> View:
        """Return all of a picture, (H, W, 3) uint8, its longer side at most `longest` pixels."""
        small, factor = shrink_to(rgb, longest)
        return cls(small, 0.0, 0.0, factor)

    @classmethod
    def around(cls, rgb: NDArray[np.uint8], box: Box, longest: int = DISPLAY_SIDE) -> View:
        """Return a copy of a part of a picture with some room around it, as far as the picture reaches.

        Args:
            rgb: The picture, (H, W, 3) uint8.
            box: The part, in pixels of the picture.
            longest: Most pixels of the copy's longer side.
        """
        room_x, room_y = _ROOM * (box.right - box.left), _ROOM * (box.bottom - box.top)
        left, top = max(0, int(box.left - room_x)), max(0, int(box.top - room_y))
        part = rgb[top : max(top + 1, int(box.bottom + room_y)), left : max(left + 1, int(box.right + room_x))]
        small, factor = shrink_to(part, longest)
        return cls(small.copy(), float(left), float(top), factor)

    @property
    def region(self) -> Box:
        """The part that is seen, in pixels of the picture."""
        height, width = self.rgb.shape[:2]
        return Box(0.0, 0.0, float(width), float(height)).scaled(1 / self.factor).moved(self.left, self.top)

    def place(self, box: Box) -> Box:
        """Return a box of the picture in pixels of the view."""
        return box.moved(-self.left, -self.top).scaled(self.factor)

    def with_boxes(self, cells: Iterable[tuple[int, Prediction]]) -> NDArray[np.uint8]:
        """Draw the boxes of cells with their numbers on a copy, flagged ones orange.

        Args:
            cells: Number and prediction of each.
        """
        drawn = self.rgb.copy()
        thick = max(1, round(max(drawn.shape[:2]) / 400))
        for number, prediction in cells:
            if prediction.cell is None:
                continue
            left, top, right, bottom = (round(edge) for edge in self.place(prediction.cell))
            colour = _FLAGGED if prediction.flag else _SURE
            cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), colour, thick, cv2.LINE_AA)
            (wide, high), below = cv2.getTextSize(str(number), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
            corner = (left, top - 2 if top > high + below + 2 else top + high + below)
            cv2.rectangle(drawn, (left, corner[1] - high - below), (left + wide + 3, corner[1]), colour, -1)
            place = (left + 2, corner[1] - below + 1)
            cv2.putText(drawn, str(number), place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, _WRITING, 1, cv2.LINE_AA)
        return np.asarray(drawn, np.uint8)
