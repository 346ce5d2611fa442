"""Bounds on the segments of a JPEG and the chunks of a PNG.

Both formats are lists of pieces that Pillow reads one by one, in Python. A file of a few megabytes can hold a
million empty ones, and a JPEG thousands of passes over the same picture; both are refused here before they cost time.
"""

from __future__ import annotations

from core.errors import ImageError

__all__ = ["check_segments"]

_MOST_SEGMENTS = 10_000
"""Most pieces besides the pixels; cameras and editors write less than a hundred."""

_MOST_PIXEL_CHUNKS = 100_000
_MOST_SCANS = 50
"""Most passes over the pixels of a progressive JPEG; encoders make about ten."""

_PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8\xff"
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xDA)})
_START_OF_SCAN = 0xDA
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_DECODABLE_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
"""Baseline, extended and progressive, with Huffman or arithmetic coding; the others are lossless or layered."""


def check_segments(data: bytes) -> None:
    """Refuse a JPEG or a PNG that has too many pieces, or a kind of JPEG that no common program writes.

    Args:
        data: The whole file, of any format.

    Raises:
        ImageError: With code ``damaged``, ``unsupported-format`` or ``unsupported-depth``.
    """
    if data.startswith(_PNG_START):
        _check_chunks(data)
    elif data.startswith(_JPEG_START):
        _check_markers(data)


def _check_chunks(data: bytes) -> None:
    place, pixels, others = len(_PNG_START), 0, 0
    while place + 8 <= len(data):
        if data[place + 4 : place + 8] == b"IDAT":
            pixels += 1
        else:
            others += 1
        if others > _MOST_SEGMENTS or pixels > _MOST_PIXEL_CHUNKS:
            raise ImageError("damaged", "The PNG consists of too many chunks; save it again with another program.")
        place += 12 + int.from_bytes(data[place : place + 4], "big")


def _check_markers(data: bytes) -> None:
    place = 2
    for _ in range(_MOST_SEGMENTS):
        if place + 4 > len(data) or data[place] != 0xFF or data[place + 1] == _START_OF_SCAN:
            break
        marker = data[place + 1]
        if marker in _FRAME_MARKERS:
            _check_frame(marker, data[place + 4 : place + 5])
        if marker in {0x00, 0xFF}:
            place += 1
        elif marker in _BARE_MARKERS:
            place += 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    else:
        raise ImageError("damaged", "The JPEG has too many segments before its picture; save it again.")
    scans = data.count(b"\xff\xda")
    if scans > _MOST_SCANS:
        raise ImageError(
            "unsupported-format", f"The JPEG draws its picture in {scans:,} passes; save it as a baseline JPEG."
        )


def _check_frame(marker: int, precision: bytes) -> None:
    if marker not in _DECODABLE_FRAMES:
        raise ImageError(
            "unsupported-format", "The file is a lossless or layered JPEG; save it as PNG or as an ordinary JPEG."
        )
    if precision and precision[0] != 8:
        raise ImageError(
            "unsupported-depth", f"The JPEG has {precision[0]} bits per sample; save it as 8-bit JPEG or as 16-bit PNG."
        )
