"""Bytes to pixels: the one decoder of training, tuning, batch and serving.

The header is checked before any pixel is decoded, so that a small file cannot ask for a large
amount of memory. What Pillow would turn silently into a wrong picture (16-bit clipped to white,
float turned black, further frames dropped, transparency laid on black) is either handled by an
explicit rule or refused with a code.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from core.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FORMATS", "MAX_BYTES", "MAX_PIXELS", "MIN_SIDE", "Picture", "decode"]

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
"""Formats that are decoded, by Pillow's names. MPO, what phones write, opens as JPEG and is refused."""

MAX_PIXELS = 25_000_000
"""Largest picture that is decoded, in pixels (a 6,000 x 4,000 camera field)."""

MAX_BYTES = 100_000_000
"""Largest file that is read, in bytes (25 megapixels of 8-bit RGB are 75 MB)."""

MIN_SIDE = 16
"""Shortest side that is classified, in pixels; below it no cell can be seen."""

_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_EIGHT_BIT = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "La", "RGBa"})
_BITS_PER_SAMPLE = 258
_MAX_SAMPLE_VALUE = 281
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error, OverflowError)


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image.

    Attributes:
        rgb: Pixels, (H, W, 3) uint8, upright, alpha laid on white.
        format: Pillow's name of the file format, one of `FORMATS`.
    """

    rgb: NDArray[np.uint8]
    format: str

    @property
    def height(self) -> int:
        """Height in pixels, after EXIF orientation."""
        return self.rgb.shape[0]

    @property
    def width(self) -> int:
        """Width in pixels, after EXIF orientation."""
        return self.rgb.shape[1]


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode one image file.

    Args:
        data: The whole file.
        max_pixels: Refuse pictures with more pixels than this, by their header.

    Returns:
        The picture as 8-bit RGB.

    Raises:
        ImageError: With code ``empty``, ``not-an-image``, ``unsupported-format``, ``too-large``,
            ``too-small``, ``multi-frame``, ``unsupported-depth``, ``truncated`` or ``damaged``.
    """
    if not data:
        raise ImageError("empty", "The file is empty (0 bytes).")
    if len(data) > MAX_BYTES:
        raise ImageError("too-large", f"The file has {len(data):,} bytes; the limit is {MAX_BYTES:,}.")
    with _open(data) as image:
        _check_header(image, max_pixels)
        _load(image)
        return Picture(np.ascontiguousarray(_to_rgb(image)), str(image.format))


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the header with the allowed decoders only."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise _foreign(data) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError("too-large", "The header declares an absurd number of pixels.") from None
    except _DAMAGED as error:
        raise ImageError("damaged", f"The header cannot be read ({_reason(error)}).") from None


_SIGNATURES = (
    (b"GIF8", "a GIF"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"8BPS", "a Photoshop file"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"\x00\x00\x00\x0cjP", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"SIMPLE", "a FITS file"),
    (b"\x76\x2f\x31\x01", "an OpenEXR file"),
    (b"P1", "a Netpbm file"),
    (b"P2", "a Netpbm file"),
    (b"P3", "a Netpbm file"),
    (b"P4", "a Netpbm file"),
    (b"P5", "a Netpbm file"),
    (b"P6", "a Netpbm file"),
    (b"qoif", "a QOI file"),
    (b"II+\x00", "a BigTIFF"),
    (b"MM\x00+", "a BigTIFF"),
)
_OWN_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\x00", b"MM\x00*", b"BM", b"RIFF")


def _foreign(data: bytes) -> ImageError:
    """Say what the bytes are, if they are not one of the allowed formats."""
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    kind = next((name for magic, name in _SIGNATURES if data.startswith(magic)), None)
    if data[4:12] in {b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"}:
        kind = "a HEIC or AVIF picture"
    if kind is None and head[:5].lower() in {b"<?xml", b"<svg "}:
        kind = "an SVG or XML text"
    if kind is None and (head[:9].lower() == b"<!doctype" or head[:5].lower() == b"<html"):
        kind = "an HTML page"
    if kind is not None:
        return ImageError("unsupported-format", f"The file is {kind}; save it as JPEG, PNG, TIFF, BMP or WebP instead.")
    if data.startswith(_OWN_SIGNATURES):
        return ImageError("damaged", "The file begins like an image, but its header is damaged or cut off.")
    return ImageError("not-an-image", "The content is not an image in any known format, whatever its name says.")


def _check_header(image: ImageFile.ImageFile, max_pixels: int) -> None:
    """Refuse by the header alone, before a pixel is decoded."""
    if image.format not in FORMATS:
        raise ImageError(
            "multi-frame", f"The file holds several pictures ({image.format}); export the one to classify."
        )
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            "too-large", f"The header declares {width} x {height} pixels; the limit is {max_pixels:,} in all."
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            "too-small", f"The picture has {width} x {height} pixels; each side needs at least {MIN_SIDE}."
        )
    frames = _frames(image)
    if frames != 1:
        raise ImageError("multi-frame", f"The file holds {frames} frames or pages; export the one to classify.")
    if image.mode == "RGB" and _declared_maximum(image) not in {255, 65_535}:
        raise ImageError(
            "unsupported-depth",
            "The colours use only a part of 16 bits; export 8-bit RGB, or 16-bit over the full range.",
        )
    if image.mode in _SIXTEEN_BIT or image.mode in _EIGHT_BIT:
        return
    raise ImageError(
        "unsupported-depth",
        f"The pixels are of a kind that has no fixed range (mode {image.mode!r}, 32-bit or float);"
        " export 8-bit or 16-bit grey or RGB.",
    )


def _frames(image: ImageFile.ImageFile) -> int:
    """Count frames without decoding them; damage met while counting is damage."""
    try:
        return int(getattr(image, "n_frames", 1))
    except _DAMAGED as error:
        raise ImageError("damaged", f"The list of frames cannot be read ({_reason(error)}).") from None


def _load(image: ImageFile.ImageFile) -> None:
    """Decode all pixels; a file that ends early is refused, never padded."""
    try:
        image.load()
    except Image.DecompressionBombError:
        raise ImageError("too-large", "The file unpacks to far more data than its size suggests.") from None
    except MemoryError:
        raise ImageError("too-large", "The picture does not fit into memory.") from None
    except _DAMAGED as error:
        reason = _reason(error)
        if "truncated" in reason or "broken data stream" in reason or "unexpected end" in reason.lower():
            raise ImageError("truncated", f"The file ends before the picture does ({reason}).") from None
        raise ImageError("damaged", f"The pixels cannot be decoded ({reason}).") from None


def _to_rgb(image: ImageFile.ImageFile) -> NDArray[np.uint8]:
    """Apply EXIF orientation, the declared depth and alpha; return (H, W, 3) uint8."""
    upright = _upright(image)
    if upright.mode in _SIXTEEN_BIT:
        grey = _scale_to_eight_bit(np.asarray(upright), _declared_maximum(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if upright.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in upright.info:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    return np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))


def _upright(image: ImageFile.ImageFile) -> Image.Image:
    """Rotate by the EXIF orientation; damaged EXIF says nothing, so nothing is rotated."""
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGED:
        return image


def _declared_maximum(image: ImageFile.ImageFile) -> int:
    """Largest value a sample may take: TIFF's MaxSampleValue or BitsPerSample, else 65535."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return 65_535
    largest = tags.get(_MAX_SAMPLE_VALUE)
    largest = largest[0] if isinstance(largest, tuple) and largest else largest
    if isinstance(largest, int) and 255 < largest <= 65_535:
        return largest
    bits = tags.get(_BITS_PER_SAMPLE)
    bits = bits[0] if isinstance(bits, tuple) and bits else bits
    return (1 << bits) - 1 if isinstance(bits, int) and 8 <= bits <= 16 else 65_535


def _scale_to_eight_bit(samples: NDArray[np.uint16], largest: int) -> NDArray[np.uint8]:
    """Scale linearly so that the declared maximum becomes 255."""
    scaled = np.rint(samples.astype(np.float32) * (255.0 / largest))
    return np.clip(scaled, 0, 255).astype(np.uint8)


def _reason(error: BaseException) -> str:
    """First line of Pillow's own words, short enough for a table cell."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:120]
