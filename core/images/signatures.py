"""What a file is that is not an image we read: its first bytes, and the sentence that refuses it."""

from __future__ import annotations

import re

from core.errors import ImageError

__all__ = ["LONGEST_START", "begins_like_image", "describe_foreign"]

_IMAGE_STARTS = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"II*\x00",
    b"MM\x00*",
    b"II+\x00",
    b"MM\x00+",
    b"GIF87a",
    b"GIF89a",
)
"""First bytes that only an image has, by which a file whose name says nothing is recognised as one."""

LONGEST_START = 132
"""How many bytes of a file `begins_like_image` needs."""

_KINDS = (
    (b"GIF8", "a GIF"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an XZ archive"),
    (b"8BPS", "a Photoshop file"),
    (b"gimp xcf", "a GIMP file"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"icns", "an icon"),
    (b"\x00\x00\x00\x0cjP", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\xff\xd8\xff\xf7", "a JPEG-LS"),
    (b"II\xbc\x01", "a JPEG XR"),
    (b"SIMPLE  =", "a FITS file"),
    (b"\x76\x2f\x31\x01", "an OpenEXR file"),
    (b"#?RADIANCE", "a Radiance picture"),
    (b"qoif", "a QOI file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"NRRD", "an NRRD file"),
    (b"ZISRAWFILE", "a Zeiss CZI file"),
    (b"\xda\xce\xbe\x0a", "a Nikon ND2 file"),
    (b"\x70\x00\x00\x00", "a Leica LIF file"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office or microscope file"),
    (b"IIRO", "a camera's raw file"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file"),
    (b"\x1a\x45\xdf\xa3", "a video"),
)
_MEDIA_KINDS = {
    b"heic": "a HEIC or AVIF picture",
    b"heix": "a HEIC or AVIF picture",
    b"heim": "a HEIC or AVIF picture",
    b"heis": "a HEIC or AVIF picture",
    b"hevc": "a HEIC or AVIF picture",
    b"mif1": "a HEIC or AVIF picture",
    b"msf1": "a HEIC or AVIF picture",
    b"avif": "a HEIC or AVIF picture",
    b"avis": "a HEIC or AVIF picture",
    b"crx ": "a camera's raw file",
}
_NETPBM = re.compile(rb"P([1-7fF])[ \t\r\n]+[#0-9W-]")
_OWN_STARTS = (b"\xff\xd8", b"\x89PNG", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_BITMAP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})


def begins_like_image(head: bytes) -> bool:
    """Whether a file is an image by its first `LONGEST_START` bytes, readable or not, whatever its name says."""
    return head.startswith(_IMAGE_STARTS) or _is_webp(head) or _is_dicom(head)


def describe_foreign(data: bytes) -> ImageError:
    """Say what a file is that Pillow cannot open.

    Args:
        data: The whole file, or at least its first 512 bytes.

    Returns:
        The error to raise: ``unsupported-format`` where the kind of file is known, ``damaged`` where it begins
        like one of the formats that are read, ``not-an-image`` else.
    """
    kind = _kind(data)
    if kind is not None:
        return ImageError("unsupported-format", f"The file is {kind}; save it as JPEG, PNG, TIFF, BMP or WebP instead.")
    if data.startswith(_OWN_STARTS) or _is_webp(data) or _is_bitmap(data):
        return ImageError("damaged", "The file begins like an image, but its header is damaged or cut off.")
    return ImageError("not-an-image", "The content is not an image in any known format, whatever its name says.")


def _kind(data: bytes) -> str | None:
    if _is_dicom(data):
        return "a DICOM file"
    if data[4:8] == b"ftyp":
        return _MEDIA_KINDS.get(data[8:12], "a video")
    if data[:4] == b"RIFF" and not _is_webp(data):
        return "a sound or a video"
    if _NETPBM.match(data):
        return "a Netpbm file"
    return next((name for start, name in _KINDS if data.startswith(start)), None) or _kind_of_text(data)


def _kind_of_text(data: bytes) -> str | None:
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<?xml", b"<svg")):
        return "an SVG or XML text"
    return "an HTML page" if head.startswith((b"<!doctype html", b"<html")) else None


def _is_dicom(data: bytes) -> bool:
    """Whether the file has DICOM's preamble of 128 bytes and the four letters after it (DICOM PS3.10, 7.1)."""
    return data[128:132] == b"DICM"


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _is_bitmap(data: bytes) -> bool:
    return data[:2] == b"BM" and (len(data) < 18 or int.from_bytes(data[14:18], "little") in _BITMAP_HEADERS)
