"""Pictures of cells and fields: from the slides, or from what the run stored where the slides cannot be read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from core.errors import DataError, LeukorayError
from core.images.decoder import decode
from core.images.overlay import encode_jpeg, shrink_to
from pipelines.classification.sheet import THUMBNAIL, sheet_place

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.images.cells import Box
    from pipelines.classification.run_folder import RunFolder
    from pipelines.reviewing.sources import SourceImages
    from pipelines.reviewing.state import ReviewState

__all__ = ["FIELD_SIDE", "Pictures"]

FIELD_SIDE = 1600
"""Most pixels of the longer side of a field that the page shows."""

_ROOM = 1.5
"""Side of what is shown of a cell, relative to the longer side of its box."""

_CACHED_BYTES = 256 << 20
_DECODED_AT_ONCE = 4
_EMPTY = 245


class _Image(NamedTuple):
    slide: str
    name: str


class Pictures:
    """Reads and cuts pictures for the page; for any number of threads.

    Args:
        run: Folder of the run.
        sources: The images of its slides.
        state: What the review says, for the places of the cells.
    """

    def __init__(self, run: RunFolder, sources: SourceImages, state: ReviewState) -> None:
        self._run, self._sources, self._state = run, sources, state
        self._lock = threading.Lock()
        self._decoded: OrderedDict[_Image, NDArray[np.uint8]] = OrderedDict()
        self._places = threading.BoundedSemaphore(_DECODED_AT_ONCE)
        self._parts = {
            _Image(key.slide, key.image): int(state.cells.place[row, 0]) for key, row in state.cells.rows.items()
        }
        self._sheet = lru_cache(16)(self._read_sheet)

    def cell(self, row: int, side: int) -> bytes:
        """Return a square around a cell as a JPEG; all of the image where the cell has no box.

        Args:
            row: Row of the cell.
            side: Width and height of the picture in pixels.

        Raises:
            DataError: With code ``no-picture`` where neither the slides nor the run have one.
        """
        key = self._state.key(row)
        try:
            rgb = self._image(_Image(key.slide, key.image))
        except (LeukorayError, OSError) as error:
            return self._stored(row, side, error)
        return encode_jpeg(_square(rgb, self._state.box(row), side), 88)

    def field(self, row: int) -> bytes:
        """Return the whole image of a cell as a JPEG, its longer side at most `FIELD_SIDE` pixels.

        Raises:
            DataError: With code ``no-picture`` where the slides do not have it.
        """
        key = self._state.key(row)
        try:
            rgb = self._image(_Image(key.slide, key.image))
        except (LeukorayError, OSError) as error:
            raise _no_picture(error) from error
        return encode_jpeg(shrink_to(rgb, FIELD_SIDE)[0], 88)

    def heatmap(self, row: int) -> bytes:
        """Return the overlay that the run stored.

        Raises:
            DataError: With code ``no-picture`` where it stored none, or it is gone.
        """
        path = self._state.cells.gradcam[row].as_py() if row < len(self._state.cells) else None
        if not path:
            raise DataError("no-picture", "The run has no heatmap of this cell.")
        try:
            return self._run.folder.read(path)
        except (LeukorayError, OSError) as error:
            raise _no_picture(error) from error

    def _image(self, image: _Image) -> NDArray[np.uint8]:
        """Return a decoded image, (H, W, 3) uint8; the last ones stay in memory."""
        with self._lock:
            if image in self._decoded:
                self._decoded.move_to_end(image)
                return self._decoded[image]
        with self._places:
            rgb = decode(self._sources.read(self._sources.name(*image, self._parts[image]))).rgb
        with self._lock:
            self._decoded[image] = rgb
            while sum(one.nbytes for one in self._decoded.values()) > _CACHED_BYTES and len(self._decoded) > 1:
                self._decoded.popitem(last=False)
        return rgb

    def _stored(self, row: int, side: int, why: Exception) -> bytes:
        """Return the thumbnail that the run's report shows."""
        if row >= len(self._state.cells):
            raise _no_picture(why) from why
        name, left, top = sheet_place(*(int(number) for number in self._state.cells.place[row]))
        try:
            sheet = self._sheet(name)
        except (LeukorayError, OSError) as error:
            raise _no_picture(error) from error
        part = sheet[top : top + THUMBNAIL[1], left : left + THUMBNAIL[0]]
        return encode_jpeg(_fitted(part, side), 88)

    def _read_sheet(self, name: str) -> NDArray[np.uint8]:
        return decode(self._run.folder.read(f"report/thumbnails/{name}")).rgb


def _square(rgb: NDArray[np.uint8], box: Box | None, side: int) -> NDArray[np.uint8]:
    """Cut out a square around a box and bring it to a size; what lies beyond the image is grey."""
    if box is None:
        return _fitted(rgb, side)
    half = 0.5 * _ROOM * max(box.right - box.left, box.bottom - box.top, 2.0)
    x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    left, top = max(0, round(x - half)), max(0, round(y - half))
    part = rgb[top : max(top + 1, round(y + half)), left : max(left + 1, round(x + half))]
    factor = side / (2 * half)
    size = [max(1, min(side, round(edge * factor))) for edge in (part.shape[1], part.shape[0])]
    square = np.full((side, side, 3), _EMPTY, np.uint8)
    corner = [
        min(side - length, max(0, round((start - middle + half) * factor)))
        for start, middle, length in ((left, x, size[0]), (top, y, size[1]))
    ]
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    square[corner[1] : corner[1] + size[1], corner[0] : corner[0] + size[0]] = cv2.resize(part, size, interpolation=way)
    return square


def _fitted(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Fit a picture into a square, its proportions kept."""
    factor = side / max(rgb.shape[:2])
    size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
    square = np.full((side, side, 3), _EMPTY, np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return square


def _no_picture(error: Exception) -> DataError:
    return DataError("no-picture", f"The picture cannot be read ({str(error).splitlines()[0][:200]}).")
