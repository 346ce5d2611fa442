"""From a picture to the network's input: the one record that travels with the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from PIL import Image
from pydantic import Field, PositiveFloat

from core.images.cells import Box, CellFinder, cell_around, find_nucleus, surroundings
from core.images.light import white_balanced
from core.settings import Settings

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["Prepared", "Preprocessing", "crop_with_margin"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """One image, ready to be stacked into a batch.

    Attributes:
        pixels: Network input before normalisation, (height, width, 3) uint8.
        box: Part of the image that `pixels` shows, in pixels of the image; where the record lets it, it reaches past
            the image, which is mirrored there.
        found: False where the record asks for the white cell and none was found.
        cell: The white cell itself, in pixels of the image; None where nobody looked or none was found.
        others: Number of further cells in the image that were left out.
        hidden: Whether the image's edge hides more than half of the cell.
        marked: The cell's box where it was given, and not looked for by colour.
        score: How certain the learned finder is, between 0 and 1; None where it did not find the cell.
    """

    pixels: NDArray[np.uint8]
    box: Box
    found: bool
    cell: Box | None = None
    others: int = 0
    hidden: bool = False
    marked: Box | None = None
    score: float | None = None


class Preprocessing(Settings):
    """Everything between a decoded picture and the network, as the bundle records it.

    The picture, or the square around its white cell, is squashed to `height` x `width` with
    Pillow's antialiased bilinear filter (what timm calls ``crop_mode: squash``), white-balanced where the
    record says so, divided by 255, then normalised.
    """

    version: Literal[1] = Field(1, description="version of this record")
    height: int = Field(224, ge=32, le=1024, description="input height in pixels")
    width: int = Field(224, ge=32, le=1024, description="input width in pixels")
    mean: tuple[float, float, float] = Field((0.0, 0.0, 0.0), description="subtracted per channel, RGB in [0, 1]")
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        (1.0, 1.0, 1.0), description="divisor per channel, RGB in [0, 1]"
    )
    white: float | None = Field(
        None, ge=1, le=255, description="8-bit level that each channel's background is scaled to; none: as it is"
    )
    cell: CellFinder | None = Field(None, description="how the white cell is cut out; none: whole image")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return self.height, self.width

    def locate(self, rgb: NDArray[np.uint8], marked: Box | None = None) -> tuple[Box, Box | None, bool]:
        """Return the part of an image that is classified, the cell in it where that is known, and whether one is.

        Args:
            rgb: Decoded picture, (H, W, 3) uint8.
            marked: Where the cell is, if that is known.
        """
        whole = Box(0.0, 0.0, float(rgb.shape[1]), float(rgb.shape[0]))
        if self.cell is None:
            return marked or whole, marked, True
        if marked is not None:
            return self.cell.box_around(rgb, marked), marked, True
        nucleus = find_nucleus(rgb, self.cell.method)
        if nucleus is None:
            return whole, None, False
        return self.cell.box_of(rgb, nucleus), cell_around(rgb, nucleus), True

    def prepare(self, rgb: NDArray[np.uint8], marked: Box | None = None) -> Prepared:
        """Cut out and resize one picture.

        Args:
            rgb: Decoded picture, (H, W, 3) uint8.
            marked: Where the cell is in a field that shows several; none: the picture is of one cell.

        Example:
            >>> Preprocessing(height=64, width=64, cell=CellFinder()).prepare(picture.rgb).pixels.shape
            (64, 64, 3)
        """
        box, cell, found = self.locate(rgb, marked)
        pixels = self.balance(_resize(rgb, box, self.width, self.height), surroundings(rgb, marked))
        return Prepared(pixels, box, found, cell, marked=marked)

    def balance(self, part: NDArray[np.uint8], rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Scale each channel so that the background of the whole picture gets the level `white` (`white_balanced`).

        Args:
            part: What is scaled, (h, w, 3) uint8.
            rgb: The picture that it was cut from, or its surroundings in a large one, (H, W, 3) uint8.
        """
        if self.white is None:
            return part
        return white_balanced(part, rgb, self.white)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn (N, H, W, 3) uint8 or (N, 3, H, W) float in [0, 255] into (N, 3, H, W) float32 input."""
        pixels = pixels.float() if pixels.is_floating_point() else pixels.permute(0, 3, 1, 2).float()
        scale = 1 / (pixels.new_tensor(self.std).view(1, 3, 1, 1) * 255.0)
        offset = pixels.new_tensor(self.mean).view(1, 3, 1, 1) * -255.0 * scale
        return offset.addcmul(pixels, scale)


def crop_with_margin(
    rgb: NDArray[np.uint8], preprocessing: Preprocessing, margin: float, prepared: Prepared
) -> NDArray[np.uint8]:
    """Prepare a picture for training, with room around the input for rotation and shift.

    Args:
        rgb: Decoded picture, (H, W, 3) uint8.
        preprocessing: The record that the network will be used with.
        margin: Side of the result relative to the network's input, 1 or more.
        prepared: What `Preprocessing.prepare` gave for it.

    Returns:
        Pixels (round(height * margin), round(width * margin), 3) uint8 at the scale of
        `Preprocessing.prepare`, mirrored where they reach past the image.
    """
    box = prepared.box
    extra_x, extra_y = ((box.right - box.left) * (margin - 1) / 2, (box.bottom - box.top) * (margin - 1) / 2)
    pad = int(np.ceil(max(extra_x, extra_y))) + 1 if margin > 1 else 0
    padded = np.asarray(cv2.copyMakeBorder(rgb, pad, pad, pad, pad, cv2.BORDER_REFLECT_101), np.uint8)
    wide = Box(box.left - extra_x + pad, box.top - extra_y + pad, box.right + extra_x + pad, box.bottom + extra_y + pad)
    width, height = round(preprocessing.width * margin), round(preprocessing.height * margin)
    return preprocessing.balance(_resize(padded, wide, width, height), surroundings(rgb, prepared.marked))


def _resize(rgb: NDArray[np.uint8], box: Box, width: int, height: int) -> NDArray[np.uint8]:
    """Squash the box to width x height with a bilinear filter that is antialiased where it shrinks.

    Where a box of whole pixels is enlarged there is nothing to antialias, and OpenCV gives the same
    within a level or two in a tenth of the time. Pillow gets only the pixels that its filter can reach.
    """
    rgb, box = _mirrored(rgb, box)
    if box.right - box.left <= width and box.bottom - box.top <= height and all(edge == int(edge) for edge in box):
        whole = rgb[int(box.top) : int(box.bottom), int(box.left) : int(box.right)]
        return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    reach_x = math.ceil(max(1.0, (box.right - box.left) / width)) + 1
    reach_y = math.ceil(max(1.0, (box.bottom - box.top) / height)) + 1
    left, top = max(0, math.floor(box.left) - reach_x), max(0, math.floor(box.top) - reach_y)
    part = rgb[top : math.ceil(box.bottom) + reach_y, left : math.ceil(box.right) + reach_x]
    inside = (box.left - left, box.top - top, box.right - left, box.bottom - top)
    image = Image.fromarray(np.ascontiguousarray(part))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=inside))


def _mirrored(rgb: NDArray[np.uint8], box: Box) -> tuple[NDArray[np.uint8], Box]:
    """Return an image in which the box lies, mirrored where it reaches past the given one, and the box in it."""
    height, width = rgb.shape[:2]
    left, top = max(0, math.ceil(-box.left)), max(0, math.ceil(-box.top))
    right, bottom = max(0, math.ceil(box.right - width)), max(0, math.ceil(box.bottom - height))
    if not any((left, top, right, bottom)):
        return rgb, box
    padded = cv2.copyMakeBorder(rgb, top, bottom, left, right, cv2.BORDER_REFLECT_101)
    return np.asarray(padded, np.uint8), Box(box.left + left, box.top + top, box.right + left, box.bottom + top)
