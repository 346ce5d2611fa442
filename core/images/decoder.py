"""Bytes to pixels: the one decoder of training, tuning, batch and serving.

The header is checked before any pixel is decoded, so that a small file cannot ask for much memory or
time. What Pillow would turn silently into a wrong picture (16-bit clipped to white or cut to its high byte,
float turned black, further frames dropped, transparency laid on black) is either handled by an
explicit rule or refused with a code.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from core.errors import ImageError
from core.images import tiff
from core.images.samples import colours_on_white, largest_sample, read_colours, scale_to_eight_bit
from core.images.segments import check_segments
from core.images.signatures import describe_foreign

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
_TIFF_DEPTHS = frozenset({1, 2, 4, 8, 12, 16})
_WHITE_IS_ZERO, _PREMULTIPLIED, _FLOAT, _SIGNED = 0, 1, 3, 2
_WIDTH, _HEIGHT, _ORIENTATION, _SAMPLES_PER_PIXEL, _EXTRA_SAMPLES = 256, 257, 274, 277, 338
_PNG_COLOURS = frozenset({2, 4, 6})
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error, OverflowError)


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image.

    Attributes:
        rgb: Pixels, (H, W, 3) uint8, upright, alpha laid on white.
        format: Pillow's name of the file format, one of `FORMATS`; ``RAW`` where there was no file.
    """

    rgb: NDArray[np.uint8]
    format: str

    @classmethod
    def from_pixels(cls, rgb: NDArray[np.uint8], *, max_pixels: int = MAX_PIXELS) -> Picture:
        """Take pixels that are decoded already, of format ``RAW``.

        Args:
            rgb: (H, W, 3) uint8.
            max_pixels: Most pixels that are accepted.

        Raises:
            ImageError: With code ``too-large`` or ``too-small``, as `decode` would.
        """
        _check_size(rgb.shape[1], rgb.shape[0], max_pixels)
        return cls(np.ascontiguousarray(rgb), "RAW")

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
            ``too-small``, ``multi-frame``, ``unsupported-depth``, ``truncated``, ``damaged`` or ``out-of-memory``.

    Example:
        >>> picture = decode(Path("cell.png").read_bytes())
        >>> picture.rgb.shape, picture.rgb.dtype, picture.format
        ((240, 320, 3), dtype('uint8'), 'PNG')
    """
    if not data:
        raise ImageError("empty", "The file is empty (0 bytes).")
    if len(data) > MAX_BYTES:
        raise ImageError(
            "too-large", f"The file has {len(data):,} bytes; the limit is {MAX_BYTES:,}. Compress it, or cut it up."
        )
    check_segments(data)
    directory = tiff.read_directory(data) if tiff.is_tiff(data) else None
    with _open(data, directory, max_pixels) as image:
        _check_header(image, directory, max_pixels)
        _load(image)
        rgb = _to_rgb(image, data, directory)
        return Picture(np.ascontiguousarray(rgb), str(image.format))


def _open(data: bytes, directory: tiff.TiffDirectory | None, max_pixels: int) -> ImageFile.ImageFile:
    """Read the header with the allowed decoders only."""
    if directory is not None:
        _check_kind_of_tiff(directory)
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise describe_foreign(data) if directory is None else _unusual_tiff(directory) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        claimed = re.search(r"\((\d+) pixels\)", str(error))
        raise _too_many_pixels(f"{int(claimed[1]):,} pixels" if claimed else "far more pixels", max_pixels) from None
    except _DAMAGED as error:
        foreign = describe_foreign(data)
        if foreign.code != "damaged":  # two letters are enough for Pillow to take a text for a BMP
            raise foreign from None
        raise ImageError("damaged", f"The header cannot be read ({_reason(error)}).") from None


def _check_kind_of_tiff(directory: tiff.TiffDirectory) -> None:
    """Refuse what Pillow would call unidentified or damaged, by its own name."""
    bits = directory.first(tiff.BITS_PER_SAMPLE, 1)
    number = directory.first(tiff.SAMPLE_FORMAT, 1)
    if number in {_FLOAT, _SIGNED} or number > 4 or bits not in _TIFF_DEPTHS:
        kinds = {
            _FLOAT: "floating-point numbers",
            _SIGNED: "signed numbers",
            5: "complex numbers",
            6: "complex numbers",
        }
        raise ImageError(
            "unsupported-depth",
            f"The TIFF's pixels are {kinds.get(number, 'whole numbers')} of {bits} bits, which have no range that is"
            " known; export 8-bit or 16-bit grey or RGB.",
        )
    compression = directory.first(tiff.COMPRESSION, 1)
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        raise ImageError(
            "unsupported-format",
            f"The TIFF is compressed in a way that cannot be read (method {compression});"
            " save it uncompressed, or with LZW or Deflate.",
        )


def _unusual_tiff(directory: tiff.TiffDirectory) -> ImageError:
    if not {_WIDTH, _HEIGHT} <= set(directory.numbers):
        return ImageError("damaged", "The TIFF does not say how large its picture is; its header is damaged.")
    photometric = directory.first(tiff.PHOTOMETRIC, 0)
    bits = ", ".join(map(str, directory.numbers.get(tiff.BITS_PER_SAMPLE, (1,))))
    return ImageError(
        "unsupported-format",
        f"The TIFF stores its pixels in an unusual way (photometric interpretation {photometric}, bits {bits});"
        " export 8-bit or 16-bit grey or RGB.",
    )


def _check_header(image: ImageFile.ImageFile, directory: tiff.TiffDirectory | None, max_pixels: int) -> None:
    """Refuse by the header alone, before a pixel is decoded."""
    if image.format not in FORMATS:
        raise ImageError(
            "multi-frame", f"The file holds several pictures ({image.format}); export the one to classify."
        )
    _check_size(*image.size, max_pixels)
    if directory.several if directory else int(getattr(image, "n_frames", 1)) != 1:
        raise ImageError("multi-frame", "The file holds several frames or pages; export the one to classify.")
    if image.mode in _SIXTEEN_BIT or image.mode in _EIGHT_BIT:
        return
    raise ImageError(
        "unsupported-depth",
        f"The pixels are of a kind that has no fixed range (mode {image.mode!r}, 32-bit or float);"
        " export 8-bit or 16-bit grey or RGB.",
    )


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _too_many_pixels(f"{width:,} x {height:,} pixels", max_pixels)
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            "too-small", f"The picture has {width} x {height} pixels; each side needs at least {MIN_SIDE}."
        )


def _too_many_pixels(claimed: str, max_pixels: int) -> ImageError:
    return ImageError(
        "too-large",
        f"The picture has {claimed}; the limit is {max_pixels:,} in all. Make it smaller, or cut it into fields.",
    )


def _load(image: ImageFile.ImageFile) -> None:
    """Decode all pixels; a file that ends early is refused, never padded."""
    try:
        image.load()
    except Image.DecompressionBombError:
        raise ImageError("too-large", "The file unpacks to far more data than its size suggests.") from None
    except MemoryError:
        raise ImageError("out-of-memory", "There is too little memory at present to decode the picture.") from None
    except _DAMAGED as error:
        reason = _reason(error)
        if "truncated" in reason or "broken data stream" in reason or "unexpected end" in reason.lower():
            raise ImageError("truncated", f"The file ends before the picture does ({reason}).") from None
        raise ImageError("damaged", f"The pixels cannot be decoded ({reason}).") from None


def _to_rgb(image: ImageFile.ImageFile, data: bytes, directory: tiff.TiffDirectory | None) -> NDArray[np.uint8]:
    """Apply depth, alpha and orientation; return (H, W, 3) uint8."""
    declared = None if directory is None else _declared_maximum(directory)
    if _has_sixteen_bit_colours(data, directory):
        return _sixteen_bit_colours(image, data, directory, declared)
    if image.mode in _SIXTEEN_BIT:
        rgb = np.repeat(_grey(image, directory, declared)[:, :, None], 3, axis=2)
    elif image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        rgb = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    else:
        rgb = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return _turn(rgb, _orientation(image))


def _grey(image: ImageFile.ImageFile, directory: tiff.TiffDirectory | None, declared: int | None) -> NDArray[np.uint8]:
    """Scale 16-bit grey to (H, W) uint8, upside down where zero means white, and white where it is transparent."""
    samples = np.asarray(image)
    grey = scale_to_eight_bit(samples, largest_sample(samples, declared))
    if directory is not None and directory.first(tiff.PHOTOMETRIC, 1) == _WHITE_IS_ZERO:
        grey = 255 - grey
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey = np.where(samples == clear, np.uint8(255), grey)
    return grey


def _has_sixteen_bit_colours(data: bytes, directory: tiff.TiffDirectory | None) -> bool:
    """Whether each pixel has several samples of 16 bits: by PNG's IHDR, or by the TIFF's directory."""
    if directory is not None:
        bits = directory.numbers.get(tiff.BITS_PER_SAMPLE, (1,))
        return max(bits) > 8 and directory.first(_SAMPLES_PER_PIXEL, len(bits)) > 1
    return data.startswith(b"\x89PNG") and data[24] == 16 and data[25] in _PNG_COLOURS


def _sixteen_bit_colours(
    image: ImageFile.ImageFile, data: bytes, directory: tiff.TiffDirectory | None, declared: int | None
) -> NDArray[np.uint8]:
    """Decode again with all 16 bits what Pillow reduced to 8; return (H, W, 3) uint8."""
    if image.mode == "CMYK":
        raise ImageError("unsupported-depth", "The picture is CMYK of 16 bits; export 8-bit or 16-bit RGB.")
    samples = read_colours(data)
    if directory is None:
        return _turn(colours_on_white(samples, declared), _orientation(image))
    extra = directory.first(_EXTRA_SAMPLES, 0)
    return colours_on_white(samples if extra else samples[..., :3], declared, premultiplied=extra == _PREMULTIPLIED)


def _orientation(image: ImageFile.ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8; damaged EXIF says nothing, so nothing is turned."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGED:
        return 1


def _turn(rgb: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn pixels upright by their EXIF orientation (Exif 2.32, tag 0x0112); what is no orientation turns nothing."""
    if orientation in {5, 6, 7, 8}:
        rgb = rgb.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        rgb = rgb[::-1]
    return rgb[:, ::-1] if orientation in {2, 3, 6, 7} else rgb


def _declared_maximum(directory: tiff.TiffDirectory) -> int | None:
    """Return the largest value that a sample may take by MaxSampleValue, or by BitsPerSample of less than 16."""
    largest = directory.first(tiff.MAX_SAMPLE_VALUE, 0)
    if 255 < largest <= 65_535:
        return largest
    bits = directory.first(tiff.BITS_PER_SAMPLE, 16)
    return (1 << bits) - 1 if 8 < bits < 16 else None


def _reason(error: BaseException) -> str:
    """Return the first line of Pillow's own words, short enough for a table cell."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:120]
