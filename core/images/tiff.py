"""The first directory of a TIFF file, read without following what the file claims.

A TIFF is a chain of directories, one for each page, and each is a list of tags (TIFF 6.0, Adobe 1992; BigTIFF:
8-byte offsets). A small file can claim a chain of a million pages, or a thousand tags of a gigabyte. What is
read here is one directory and one offset after it, so that refusing such a file takes milliseconds.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BITS_PER_SAMPLE",
    "COMPRESSION",
    "MAX_SAMPLE_VALUE",
    "PHOTOMETRIC",
    "SAMPLE_FORMAT",
    "TiffDirectory",
    "is_tiff",
    "read_directory",
]

BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, MAX_SAMPLE_VALUE, SAMPLE_FORMAT = 258, 259, 262, 281, 339
"""Numbers of the tags that say how the samples are stored."""

_STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_MOST_TAGS = 4_096
_MOST_NUMBERS = 200_000
"""Most numbers of one tag: the offsets of a picture's strips or tiles are the longest list that a TIFF needs."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of one value, by the number of its type."""

_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
_BYTES = frozenset({1, 2, 6, 7})
_FEW = 16


@dataclass(frozen=True, slots=True)
class TiffDirectory:
    """What the first directory of a TIFF says.

    Attributes:
        numbers: Values of the tags that hold a few whole numbers, by the number of the tag.
        several: Whether another directory follows, that is, the file holds more than one page.
    """

    numbers: Mapping[int, tuple[int, ...]]
    several: bool

    def first(self, tag: int, default: int) -> int:
        """Return the first value of a tag, or `default` where the directory lacks it."""
        values = self.numbers.get(tag, ())
        return values[0] if values else default


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the two kinds of TIFF lay out a directory: struct formats of its parts."""

    order: str
    big: bool

    def unpack(self, layout: str, data: bytes, offset: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + layout, data, offset)

    @property
    def offset(self) -> str:
        return "Q" if self.big else "I"

    @property
    def tag_size(self) -> int:
        return 20 if self.big else 12


def is_tiff(data: bytes) -> bool:
    """Whether a file begins like a TIFF or a BigTIFF."""
    return data.startswith(_STARTS)


def read_directory(data: bytes) -> TiffDirectory:
    """Read the first directory of a TIFF, and see whether a second one follows.

    Args:
        data: The whole file; `is_tiff` is true of it.

    Raises:
        ImageError: With code ``damaged`` where the directory lies outside the file, or claims more than the file
            or any picture can hold.
    """
    layout = _Layout("<" if data[:2] == b"II" else ">", big=43 in data[2:4])
    try:
        (start,) = layout.unpack(layout.offset, data, 8 if layout.big else 4)
        (count,) = layout.unpack("Q" if layout.big else "H", data, start)
        if count > _MOST_TAGS:
            raise ImageError("damaged", f"The TIFF claims {count:,} tags; no picture needs more than {_MOST_TAGS:,}.")
        tags = start + (8 if layout.big else 2)
        after = tags + count * layout.tag_size
        numbers = _read_tags(data, layout, range(tags, after, layout.tag_size))
        (following,) = layout.unpack(layout.offset, data, after)
    except struct.error:
        raise ImageError("damaged", "The list of the TIFF's tags lies outside the file; it is cut off.") from None
    if following >= len(data):
        raise ImageError("damaged", "The TIFF's second page lies outside the file; the file is cut off.")
    return TiffDirectory(numbers, several=following not in {0, start})


def _read_tags(data: bytes, layout: _Layout, places: range) -> dict[int, tuple[int, ...]]:
    numbers: dict[int, tuple[int, ...]] = {}
    held = 0
    for place in places:
        tag, kind, count = layout.unpack("HH" + layout.offset, data, place)
        if kind not in _BYTES and count > _MOST_NUMBERS:
            raise ImageError("damaged", f"Tag {tag} of the TIFF claims {count:,} values; no picture needs so many.")
        size = count * _SIZES.get(kind, 0)
        at = place + (12 if layout.big else 8)
        if size > (8 if layout.big else 4):
            (at,) = layout.unpack(layout.offset, data, at)
            held += max(0, min(size, len(data) - at))
        if kind in _INTEGERS and 0 < count <= _FEW and at + size <= len(data):
            numbers[tag] = layout.unpack(f"{count}{_INTEGERS[kind]}", data, at)
    if held > 2 * len(data):
        raise ImageError("damaged", f"The tags of the TIFF claim {held:,} bytes, more than the file holds.")
    return numbers
