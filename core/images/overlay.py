"""Pictures of heatmaps: their colours, the overlay on the image, the panel of three."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from core.errors import SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.images.cells import Box
    from core.images.heatmap import Heatmap

__all__ = [
    "COLOUR_MAPS",
    "DISPLAY_SIDE",
    "NO_EVIDENCE",
    "apply_colours",
    "encode_jpeg",
    "encode_png",
    "heatmap_layer",
    "lay_back",
    "overlay",
    "panel",
    "shrink_to",
    "write_words",
]

DISPLAY_SIDE = 1024
"""Longest side of a picture that is drawn for people, in pixels."""

COLOUR_MAPS = {
    "jet": cv2.COLORMAP_JET,
    "turbo": cv2.COLORMAP_TURBO,
    "viridis": cv2.COLORMAP_VIRIDIS,
    "inferno": cv2.COLORMAP_INFERNO,
}
"""Names of the colour maps that may be asked for, and OpenCV's numbers."""

NO_EVIDENCE = "no evidence"
"""What a picture says instead of colours where nothing speaks for the class."""

_BLANK = 236


def lay_back(cam: Heatmap, box: Box, height: int, width: int) -> NDArray[np.float32]:
    """Enlarge a heatmap to the part of the image that the network saw.

    Args:
        cam: The heatmap.
        box: The part that the network saw, in pixels of the image.
        height: Height of the image.
        width: Width of the image.

    Returns:
        Map in [0, 1], (height, width) float32; zero where the network saw nothing.
    """
    left, top, right, bottom = _whole_pixels(box, height, width)
    whole = np.zeros((height, width), np.float32)
    whole[top:bottom, left:right] = _enlarge(cam, box, (left, top, right, bottom))
    return whole


def _enlarge(cam: Heatmap, box: Box, pixels: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """Enlarge the heatmap of `box` to the whole pixels (left, top, right, bottom), bilinearly."""
    left, top, right, bottom = pixels
    first_x, first_y, step_x, step_y = cam.placed(box)
    matrix = np.array([[step_x, 0, first_x - left], [0, step_y, first_y - top]], np.float32)
    size = (right - left, bottom - top)
    part = cv2.warpAffine(cam.values, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(part, np.float32)


def _whole_pixels(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
    """Round a box to whole pixels inside the image, at least one each way."""
    left, top = min(max(0, round(box.left)), width - 1), min(max(0, round(box.top)), height - 1)
    right, bottom = min(max(left + 1, round(box.right)), width), min(max(top + 1, round(box.bottom)), height)
    return left, top, right, bottom


def apply_colours(values: NDArray[np.float32], colour_map: str = "jet") -> NDArray[np.uint8]:
    """Colour values in [0, 1], (H, W) float32, as (H, W, 3) uint8 RGB.

    Raises:
        SettingsError: With code ``unknown-colour-map``.
    """
    if colour_map not in COLOUR_MAPS:
        raise SettingsError("unknown-colour-map", f"Colour maps are {', '.join(COLOUR_MAPS)}, not {colour_map!r}.")
    return np.take(_table(colour_map), np.asarray(cv2.convertScaleAbs(values, alpha=255.0), np.uint8), axis=0)


@cache
def _table(colour_map: str) -> NDArray[np.uint8]:
    """Return OpenCV's colours for the levels 0 to 255, (256, 3) uint8 RGB."""
    levels = np.arange(256, dtype=np.uint8)[:, None]
    return np.ascontiguousarray(cv2.applyColorMap(levels, COLOUR_MAPS[colour_map])[:, 0, ::-1], np.uint8)


def overlay(
    rgb: NDArray[np.uint8], cam: Heatmap, box: Box, *, colour_map: str = "jet", strength: float = 0.4
) -> NDArray[np.uint8]:
    """Blend a heatmap's colours onto the image, within the part that the network saw.

    Args:
        rgb: Image, (H, W, 3) uint8.
        cam: The heatmap.
        box: The part of the image that the network saw, in pixels.
        colour_map: A name in `COLOUR_MAPS`.
        strength: Weight of the colours, in [0, 1].

    Returns:
        (H, W, 3) uint8; the image as it is where the heatmap has no evidence.

    Raises:
        SettingsError: With code ``unknown-colour-map``.
    """
    if not cam.has_evidence:
        return rgb.copy()
    height, width = rgb.shape[:2]
    left, top, right, bottom = _whole_pixels(box, height, width)
    colours = apply_colours(_enlarge(cam, box, (left, top, right, bottom)), colour_map)
    blended = rgb.copy()
    blended[top:bottom, left:right] = cv2.addWeighted(rgb[top:bottom, left:right], 1 - strength, colours, strength, 0)
    if (left, top, right, bottom) != (0, 0, width, height):
        cv2.rectangle(blended, (left, top), (right - 1, bottom - 1), (255, 255, 255), max(1, width // 320))
    return blended


def heatmap_layer(cam: Heatmap, box: Box, height: int, width: int, *, colour_map: str = "jet") -> NDArray[np.uint8]:
    """Return a heatmap's colours as a layer to lay on the image, clear where the network saw nothing.

    Args:
        cam: The heatmap.
        box: The part of the image that the network saw, in pixels.
        height: Height of the image.
        width: Width of the image.
        colour_map: A name in `COLOUR_MAPS`.

    Returns:
        (height, width, 4) uint8 RGBA; clear everywhere where the heatmap has no evidence.
    """
    if not cam.has_evidence:
        return np.zeros((height, width, 4), np.uint8)
    left, top, right, bottom = _whole_pixels(box, height, width)
    layer = np.zeros((height, width, 4), np.uint8)
    layer[top:bottom, left:right, :3] = apply_colours(_enlarge(cam, box, (left, top, right, bottom)), colour_map)
    layer[top:bottom, left:right, 3] = 255
    return layer


def panel(rgb: NDArray[np.uint8], cam: Heatmap, box: Box, *, colour_map: str = "jet") -> NDArray[np.uint8]:
    """Put original, heatmap and overlay side by side, (H, 3 * W, 3) uint8; in words where there is no evidence."""
    if cam.has_evidence:
        colours = apply_colours(lay_back(cam, box, *rgb.shape[:2]), colour_map)
    else:
        colours = write_words(np.full_like(rgb, _BLANK), NO_EVIDENCE)
    return np.hstack((rgb, colours, overlay(rgb, cam, box, colour_map=colour_map)))


def write_words(rgb: NDArray[np.uint8], words: str) -> NDArray[np.uint8]:
    """Write a few words along the lower edge of a copy of the image, black on a light band.

    Args:
        rgb: Image, (H, W, 3) uint8.
        words: What to write, in ASCII.
    """
    height, width = rgb.shape[:2]
    (length, tall), below = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
    size = min(0.9 * width / length, 0.2 * height / (tall + below), 1.0)
    band = min(height, round((tall + 2 * below) * size) + 2)
    written = rgb.copy()
    written[height - band :] = _BLANK
    place = (round(0.05 * width), height - round(below * size) - 1)
    cv2.putText(written, words, place, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1, cv2.LINE_AA)
    return written


def shrink_to(rgb: NDArray[np.uint8], longest: int) -> tuple[NDArray[np.uint8], float]:
    """Return the image with its longer side at most `longest` pixels, and the factor applied."""
    factor = min(1.0, longest / max(rgb.shape[:2]))
    if factor == 1.0:
        return rgb, factor
    size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8), factor


def encode_jpeg(rgb: NDArray[np.uint8], quality: int = 85) -> bytes:
    """Encode (H, W, 3) uint8 RGB as a JPEG file."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise SettingsError("not-encodable", f"OpenCV cannot encode an image of shape {rgb.shape} as JPEG.")
    return data.tobytes()


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode (H, W, 3) uint8 RGB or (H, W, 4) RGBA as a PNG file."""
    order = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, order), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise SettingsError("not-encodable", f"OpenCV cannot encode an image of shape {pixels.shape} as PNG.")
    return data.tobytes()
