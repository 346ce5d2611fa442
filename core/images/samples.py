"""Samples of more than 8 bits, scaled to 8 by what their depth is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from core.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["colours_on_white", "largest_sample", "read_colours", "scale_to_eight_bit"]


def largest_sample(samples: NDArray[np.unsignedinteger], declared: int | None) -> int:
    """Return the value that stands for full brightness.

    Cameras put 10, 12 or 14 bits into files of 16 and seldom say so. Where no depth is declared, or the samples
    exceed the one that is, the depth is that of the largest sample: the next power of two above it, minus one.

    Args:
        samples: Samples of one image, of any shape, uint16.
        declared: Largest value by the file's own words, if it has any.

    Returns:
        At least 255.
    """
    found = int(samples.max(initial=0))
    if declared is not None and found <= declared:
        return declared
    return (1 << max(8, found.bit_length())) - 1


def scale_to_eight_bit(samples: NDArray[np.unsignedinteger], largest: int) -> NDArray[np.uint8]:
    """Scale linearly so that `largest` becomes 255; larger samples become 255 too."""
    scaled = np.rint(samples.astype(np.float32) * (255.0 / largest))
    return np.clip(scaled, 0, 255).astype(np.uint8)


def read_colours(data: bytes) -> NDArray[np.uint16]:
    """Decode a PNG or TIFF with 16-bit colours, which Pillow would reduce to the high byte.

    Args:
        data: The whole file, whose header was checked.

    Returns:
        Samples as they are stored, (H, W, 3) RGB or (H, W, 4) RGBA, uint16. OpenCV turns a TIFF upright by its own
        tag, but no PNG by its EXIF.

    Raises:
        ImageError: With code ``unsupported-depth`` where OpenCV cannot read this kind either.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] not in {3, 4}:
        raise ImageError(
            "unsupported-depth", "The colours have 16 bits, stored in a way that cannot be read; export 8-bit RGB."
        )
    order = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return np.asarray(cv2.cvtColor(pixels, order), np.uint16)


def colours_on_white(
    samples: NDArray[np.uint16], declared: int | None, *, premultiplied: bool = False
) -> NDArray[np.uint8]:
    """Scale 16-bit colours to 8 bits and lay them on white.

    Args:
        samples: (H, W, 3) RGB or (H, W, 4) RGBA, uint16.
        declared: Largest value by the file's own words, if it has any.
        premultiplied: Whether the colours are multiplied by alpha already.

    Returns:
        (H, W, 3) uint8.
    """
    largest = largest_sample(samples[..., :3], declared)
    if samples.shape[2] == 3:
        return scale_to_eight_bit(samples, largest)
    alpha = samples[..., 3:].astype(np.float32) / max(largest, largest_sample(samples[..., 3:], None))
    colours = samples[..., :3].astype(np.float32) * (255.0 / largest)
    laid = (colours if premultiplied else colours * alpha) + 255.0 * (1 - alpha)
    return np.clip(np.rint(laid), 0, 255).astype(np.uint8)
