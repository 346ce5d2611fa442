"""From a file to the network's input, the same way for training, evaluation, audit, batch and service."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import cv2
import numpy as np

from core.errors import ImageError
from core.images.decoder import MAX_BYTES, MAX_PIXELS, Picture, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from numpy.typing import NDArray

    from core.finding.search import CellSearch
    from core.images.cells import Box
    from core.images.preprocessing import Prepared

__all__ = ["Preparer", "Unreadable", "prepare_cells", "prepare_image", "processing", "read_file", "read_safely"]

T = TypeVar("T")


class Preparer(Protocol):
    """What cuts the network's input out of a picture."""

    def prepare(self, rgb: NDArray[np.uint8], marked: Box | None = None) -> Prepared:
        """Prepare a picture's main cell."""
        ...


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An image file that cannot be used, and why.

    Attributes:
        path: The file.
        code: Stable code of the reason, as in `ImageError`.
        message: The reason in one sentence.
    """

    path: Path
    code: str
    message: str


@contextmanager
def processing() -> Generator[None]:
    """Surround what is done with one picture, from its bytes on: what no check foresaw is an error of that picture.

    Raises:
        ImageError: With code ``not-processable``; or ``out-of-memory``, which may pass.
    """
    try:
        yield
    except MemoryError as error:
        raise ImageError("out-of-memory", "There is too little memory at present to process the picture.") from error
    except (cv2.error, ValueError, OverflowError) as error:
        raise ImageError("not-processable", f"The picture cannot be processed ({type(error).__name__}).") from error


def prepare_image(
    image: bytes | NDArray[np.uint8],
    cells: Preparer,
    *,
    marked: Box | None = None,
    max_pixels: int = MAX_PIXELS,
    check: Callable[[], object] | None = None,
) -> tuple[Picture, Prepared]:
    """Decode one image and cut out the network's input; safe to call from several threads.

    Args:
        image: A whole file, or pixels that are decoded already, (H, W, 3) uint8 RGB.
        cells: What finds and prepares the cell: a `CellSearch`, or the record of the network that is to see it.
        marked: Where the cell is in a field that shows several; none: the image is of one cell.
        max_pixels: Refuse pictures with more pixels than this.
        check: Called between decoding and preparing; what it raises stops the work.

    Raises:
        ImageError: The image cannot be used.

    Example:
        >>> picture, prepared = prepare_image(Path("cell.jpg").read_bytes(), bundle.record.preprocessing)
        >>> prepared.pixels.shape
        (224, 224, 3)
    """
    with processing():
        picture = _picture(image, max_pixels)
        if check is not None:
            check()
        return picture, cells.prepare(picture.rgb, marked)


def prepare_cells(
    image: bytes | NDArray[np.uint8],
    cells: CellSearch,
    *,
    max_pixels: int = MAX_PIXELS,
    max_cells: int | None = None,
    check: Callable[[], object] | None = None,
) -> tuple[Picture, list[Prepared]]:
    """Decode one image and cut out an input for each of its white cells; safe to call from several threads.

    Args:
        image: A whole file, or pixels that are decoded already, (H, W, 3) uint8 RGB.
        cells: What finds and prepares them.
        max_pixels: Refuse pictures with more pixels than this.
        max_cells: Refuse pictures with more cells than this.
        check: Called between the steps; what it raises stops the work.

    Raises:
        ImageError: The image cannot be used.
    """
    with processing():
        picture = _picture(image, max_pixels)
        if check is not None:
            check()
        return picture, cells.prepare_every(picture.rgb, most=max_cells, check=check)


def read_file(path: Path) -> bytes:
    """Read one file, unless it is larger than any image may be.

    Raises:
        ImageError: With code ``not-found``, ``permission-denied``, ``unreadable`` or ``too-large``.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(error) from error
    if len(data) > MAX_BYTES:
        raise ImageError("too-large", f"The file has more than {MAX_BYTES:,} bytes. Compress it, or cut it up.")
    return data


def read_safely(path: Path, work: Callable[[bytes], T]) -> T | Unreadable:
    """Read one file and do something with it; say why where that cannot be.

    Args:
        path: The file.
        work: Given the file's bytes; what it raises as an error of the image becomes the reason.
    """
    try:
        with processing():
            return work(read_file(path))
    except ImageError as error:
        return Unreadable(path, error.code, error.message)


def _picture(image: bytes | NDArray[np.uint8], max_pixels: int) -> Picture:
    if isinstance(image, np.ndarray):
        return Picture.from_pixels(image, max_pixels=max_pixels)
    return decode(image, max_pixels=max_pixels)


def _unreadable(error: OSError) -> ImageError:
    if error.errno == errno.ENOENT:
        return ImageError("not-found", "The file does not exist any more.")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return ImageError("permission-denied", "The file may not be read by this user.")
    return ImageError("unreadable", f"The file cannot be read ({error.strerror or error}).")
