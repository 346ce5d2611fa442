"""Files that nobody should have to meet: each with the code that it must be refused with.

`write_hostile_files` writes what is bad; `write_odd_files` writes what looks bad and must be classified.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from core.images.drawings import draw_field

if TYPE_CHECKING:
    from pathlib import Path


@cache
def picture(seed: int = 0) -> Image.Image:
    """A drawn field."""
    return Image.fromarray(draw_field("NEUTROPHIL", np.random.default_rng(seed)))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:  # noqa: A002
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def two_frames(format: str) -> bytes:  # noqa: A002
    """A file with two pictures; new images each time, since Pillow keeps encoder settings on them."""
    first, second = (Image.new("RGB", (64, 64), colour) for colour in ("red", "white"))
    return encoded(first, format, save_all=True, append_images=[second])


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def _bomb_png(side: int) -> bytes:
    """A valid PNG of side x side white pixels in a few kilobytes."""
    deflate = zlib.compressobj(9)
    rows = b"".join(deflate.compress(b"\0" + b"\xff" * (side * 3)) for _ in range(side)) + deflate.flush()
    return png_header(side, side) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def _bmp_lying_about_size() -> bytes:
    data = bytearray(encoded(picture(), "BMP"))
    data[18:22] = struct.pack("<i", 60_000)
    data[22:26] = struct.pack("<i", 60_000)
    return bytes(data)


def _tiff_pointing_nowhere() -> bytes:
    return b"II*\x00" + struct.pack("<I", 0x7FFFFFF0)


def _tiff_with_own_directory() -> bytes:
    """A TIFF whose directory names itself as the next one."""
    data = bytearray(encoded(Image.new("L", (32, 32)), "TIFF"))
    first = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    return bytes(data)


def tiff(entries: list[tuple[int, int, list[int]]], pixels: bytes = b"", *, big: bool = False, pages: int = 1) -> bytes:
    """A little-endian TIFF with the given tags (number, type 3 or 4, values), each page after the pixels.

    Tag 273 gets the place of the pixels. All pages are the same.
    """
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8)
    offset, count, width = ("Q", "Q", 8) if big else ("I", "H", 4)
    fixed = (8 if big else 2) + len(entries) * (20 if big else 12) + width
    longer = sum(len(values) * (2 if kind == 3 else 4) for _, kind, values in entries)
    size = fixed + longer
    start, chain = len(head), []
    for page in range(pages):
        here = start + page * size
        after, tags, lists = here + fixed, b"", b""
        for tag, kind, values in sorted(entries):
            numbers = [start + pages * size] if tag == 273 else values
            content = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
            if len(content) > width:
                place = struct.pack(f"<{offset}", after + len(lists))
                lists += content
            else:
                place = content.ljust(width, b"\0")
            tags += struct.pack(f"<HH{offset}", tag, kind, len(numbers)) + place
        following = here + size if page + 1 < pages else 0
        part = struct.pack(f"<{count}", len(entries)) + tags + struct.pack(f"<{offset}", following) + lists
        chain.append(part.ljust(size, b"\0"))
    return head + b"".join(chain) + pixels


def tiff_tags(rgb: np.ndarray, **changed: int) -> list[tuple[int, int, list[int]]]:
    """Tags of an uncompressed TIFF of one strip that holds an array (H, W) or (H, W, C)."""
    height, width, samples = (*rgb.shape, 1)[:3]
    bits = changed.get("bits", rgb.dtype.itemsize * 8)
    tags = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * samples),
        259: (3, [changed.get("compression", 1)]),
        262: (3, [changed.get("photometric", 1 if samples == 1 else 2)]),
        273: (4, [0]),
        277: (3, [samples]),
        278: (4, [height]),
        279: (4, [rgb.nbytes]),
        339: (3, [changed.get("format", {"f": 3, "i": 2, "u": 1, "c": 6}[rgb.dtype.kind])] * samples),
    }
    optional = {"orientation": 274, "extra": 338, "largest": 281}
    tags |= {number: (3, [changed[name]]) for name, number in optional.items() if name in changed}
    return [(number, kind, values) for number, (kind, values) in tags.items()]


def raw_tiff(pixels: np.ndarray, **changed: int) -> bytes:
    """An uncompressed TIFF of an array, with tags that Pillow would not write."""
    return tiff(tiff_tags(pixels, **changed), pixels.tobytes())


def endless_tiff(pages: int, *, big: bool = False) -> bytes:
    """A TIFF whose chain of directories is long: 140 bytes for each page, all with the same few pixels."""
    grey = np.full((32, 32), 200, np.uint8)
    return tiff(tiff_tags(grey), grey.tobytes(), big=big, pages=pages)


def greedy_tiff() -> bytes:
    """A TIFF of 100 KB whose tags claim the whole file a thousand times over."""
    tags = b"".join(struct.pack("<HHII", 1_000 + number, 7, 90_000, 8) for number in range(1_000))
    return (b"II*\0" + struct.pack("<IH", 8, 1_000) + tags + bytes(4)).ljust(100_000, b"\0")


def png_of_chunks(count: int) -> bytes:
    """A good PNG with many empty chunks before its pixels."""
    png = encoded(Image.new("RGB", (64, 64)), "PNG")
    return png[:33] + png_chunk(b"abCd", b"") * count + png[33:]


def jpeg_of_segments(count: int) -> bytes:
    """A good JPEG with many empty comments before its picture."""
    jpeg = encoded(Image.new("RGB", (64, 64)), "JPEG")
    return jpeg[:2] + b"\xff\xfe\x00\x02" * count + jpeg[2:]


def jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG whose last pass is drawn again and again."""
    jpeg = encoded(picture(), "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * count + b"\xff\xd9"


def changed_frame(marker: int, bits: int) -> bytes:
    """A JPEG that says of itself to be of another kind, or of another depth."""
    jpeg = bytearray(encoded(picture(), "JPEG"))
    place = jpeg.index(b"\xff\xc0")
    jpeg[place + 1], jpeg[place + 4] = marker, bits
    return bytes(jpeg)


def dicom() -> bytes:
    """What a DICOM file begins with."""
    return bytes(128) + b"DICM" + bytes(200)


def _damaged_contents() -> dict[str, tuple[bytes, set[str]]]:
    """The same of files that are cut off, broken, of a size that none may have, or oddly named."""
    jpeg, png, tiff = encoded(picture(), "JPEG"), encoded(picture(), "PNG"), encoded(picture(), "TIFF")
    webp, bmp, cut = encoded(picture(), "WEBP"), encoded(picture(), "BMP"), {"truncated", "damaged"}
    return {
        "header-only.jpg": (jpeg[:20], {"damaged", "truncated", "not-an-image"}),
        "cut-early.jpg": (jpeg[: len(jpeg) // 10], cut),
        "cut-middle.jpg": (jpeg[: len(jpeg) // 2], cut),
        "cut-late.jpg": (jpeg[:-400], cut),
        "cut-early.png": (png[:60], cut),
        "cut-middle.png": (png[: len(png) // 2], cut),
        "cut.tif": (tiff[: len(tiff) // 2], cut),
        "cut.webp": (webp[: len(webp) // 2], cut),
        "cut.bmp": (bmp[: len(bmp) // 2], cut),
        "flipped-bits.png": (png[:200] + bytes(255 - byte for byte in png[200:600]) + png[600:], cut),
        "nowhere.tif": (_tiff_pointing_nowhere(), {"damaged", "not-an-image", "truncated"}),
        "header.png": (png_header(64, 64), cut),
        "bomb-declared.png": (png_header(60_000, 60_000) + png_chunk(b"IDAT", b""), {"too-large"}),
        "bomb-absurd.png": (png_header(2**31 - 1, 2**31 - 1) + png_chunk(b"IDAT", b""), {"too-large"}),
        "bomb-real.png": (_bomb_png(6_000), {"too-large"}),
        "bomb.bmp": (_bmp_lying_about_size(), {"too-large"}),
        "dot.png": (encoded(Image.new("RGB", (1, 1)), "PNG"), {"too-small"}),
        "line.png": (encoded(Image.new("RGB", (4_000, 2)), "PNG"), {"too-small"}),
        "büschel-\U0001f9a0-\u202e.jpg": (b"nothing", {"not-an-image"}),
        "x" * 250 + ".jpg": (b"nothing", {"not-an-image"}),
        "new\nline.jpg": (b"nothing", {"not-an-image"}),
        "<img src=x onerror=alert(1)>.jpg": (b"nothing", {"not-an-image"}),
        "'; DROP TABLE cells;--.png": (b"nothing", {"not-an-image"}),
    }


def hostile_contents() -> dict[str, tuple[bytes, set[str]]]:
    """Name of each bad file, its bytes, and the codes that say what is wrong with it."""
    gif = encoded(picture(), "GIF")
    grey = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    return {
        "empty.jpg": (b"", {"empty"}),
        "one-byte.png": (b"\x89", {"not-an-image", "damaged"}),
        "zeros.tif": (b"\0" * 4096, {"not-an-image"}),
        "noise.webp": (np.random.default_rng(1).bytes(5000), {"not-an-image"}),
        "text.jpg": (b"this is a list of slides\n" * 20, {"not-an-image"}),
        "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", {"unsupported-format"}),
        "drawing.svg": (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", {"unsupported-format"}),
        "script.png": (b"<svg onload='alert(1)'/>", {"unsupported-format"}),
        "figure.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", {"unsupported-format"}),
        "figure-as.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", {"unsupported-format"}),
        "paper.tiff": (b"%PDF-1.7\n%...", {"unsupported-format"}),
        "archive.png": (b"PK\x03\x04" + b"\0" * 60, {"unsupported-format"}),
        "packed.jpeg": (b"\x1f\x8b\x08" + b"\0" * 60, {"unsupported-format"}),
        "picture.gif": (gif, {"unsupported-format"}),
        "gif-as.png": (gif, {"unsupported-format"}),
        "moving.gif": (two_frames("GIF"), {"unsupported-format"}),
        "icon.ico": (encoded(Image.new("RGB", (32, 32)), "ICO"), {"unsupported-format"}),
        "photo.heic": (b"\0\0\0\x18ftypheic" + b"\0" * 60, {"unsupported-format"}),
        "map.ppm": (b"P6\n64 64\n255\n" + b"\1" * 12288, {"unsupported-format"}),
        "wide.jp2": (b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\0" * 60, {"unsupported-format"}),
        "stereo.mpo": (
            two_frames("MPO"),
            {"multi-frame"},
        ),
        "stereo-as.jpg": (
            two_frames("MPO"),
            {"multi-frame"},
        ),
        "moving.png": (two_frames("PNG"), {"multi-frame"}),
        "moving.webp": (two_frames("WEBP"), {"multi-frame"}),
        "stack.tif": (two_frames("TIFF"), {"multi-frame"}),
        "float.tif": (encoded(Image.fromarray(grey.astype(np.float32)), "TIFF"), {"unsupported-depth"}),
        "thirty-two-bit.tif": (
            encoded(Image.fromarray((grey * 2e9).astype(np.int32)), "TIFF"),
            {"unsupported-depth"},
        ),
        "float-rgb.tif": (raw_tiff(np.dstack([grey] * 3).astype(np.float32)), {"unsupported-depth"}),
        "double.tif": (raw_tiff(grey), {"unsupported-depth"}),
        "signed.tif": (raw_tiff((grey * 30_000).astype(np.int16)), {"unsupported-depth"}),
        "complex.tif": (raw_tiff(grey.astype(np.complex64)), {"unsupported-depth"}),
        "odd-compression.tif": (raw_tiff((grey * 255).astype(np.uint8), compression=33_003), {"unsupported-format"}),
        "odd-colours.tif": (raw_tiff((grey * 255).astype(np.uint8), photometric=9), {"unsupported-format"}),
        "endless.tif": (endless_tiff(2_000), {"multi-frame"}),
        "endless-big.tif": (endless_tiff(1_000, big=True), {"multi-frame"}),
        "greedy.tif": (greedy_tiff(), {"damaged"}),
        "chunks.png": (png_of_chunks(11_000), {"damaged"}),
        "segments.jpg": (jpeg_of_segments(11_000), {"damaged"}),
        "passes.jpg": (jpeg_of_scans(60), {"unsupported-format"}),
        "twelve-bit.jpg": (changed_frame(0xC1, 12), {"unsupported-depth"}),
        "lossless.jpg": (changed_frame(0xC3, 8), {"unsupported-format"}),
        "scan.dcm": (dicom(), {"unsupported-format"}),
        "scan-as.png": (dicom(), {"unsupported-format"}),
        "sound.webp": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), {"unsupported-format"}),
        **_damaged_contents(),
    }


def write_hostile_files(slide: Path) -> dict[str, set[str]]:
    """Write every bad file into a slide; return the printable names and the codes they may get."""
    slide.mkdir(parents=True, exist_ok=True)
    expected: dict[str, set[str]] = {}
    for name, (content, codes) in hostile_contents().items():
        (slide / name).write_bytes(content)
        expected[name] = codes
    (slide / "folder.png").mkdir()
    (slide / "loop.jpg").symlink_to(slide / "loop.jpg")
    (slide / "gone.jpg").symlink_to(slide / "was-here.jpg")
    (slide / "up").symlink_to(slide)
    os.mkfifo(slide / "pipe.jpg")
    (slide / os.fsdecode(b"latin-\xe9.jpg")).write_bytes(b"nothing")
    return expected | {
        "folder.png": {"not-a-file"},
        "loop.jpg": {"symlink-loop"},
        "gone.jpg": {"not-found"},
        "up": {"symlink-loop"},
        "pipe.jpg": {"not-a-file"},
        "latin-\\xe9.jpg": {"not-an-image"},
    }


def odd_contents() -> dict[str, bytes]:
    """Files that look strange and are good."""
    field = picture(3)
    sixteen = (np.asarray(field.convert("L")).astype(np.uint16)) * 257
    twelve = Image.fromarray((np.asarray(field.convert("L")).astype(np.uint16)) * 16)
    clear = field.convert("RGBA")
    clear.putalpha(200)
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "grey.jpg": encoded(field.convert("L"), "JPEG"),
        "cmyk.jpg": encoded(field.convert("CMYK"), "JPEG"),
        "progressive.jpg": encoded(field, "JPEG", progressive=True),
        "turned.jpg": encoded(field, "JPEG", exif=turned),
        "palette.png": encoded(field.convert("P"), "PNG"),
        "alpha.png": encoded(clear, "PNG"),
        "one-bit.png": encoded(field.convert("1"), "PNG"),
        "sixteen-bit.png": encoded(Image.fromarray(sixteen), "PNG"),
        "sixteen-bit.tif": encoded(Image.fromarray(sixteen), "TIFF"),
        "twelve-bit.tif": encoded(twelve, "TIFF", tiffinfo={281: 4095}),
        "white-is-zero.tif": raw_tiff(65_535 - sixteen, photometric=0),
        "ten-bit.png": encoded(Image.fromarray(sixteen // 64), "PNG"),
        "colours.tif": raw_tiff(np.asarray(field, np.uint16) * 257),
        "one-page-big.tif": endless_tiff(1, big=True),
        "plain.bmp": encoded(field, "BMP"),
        "lossless.webp": encoded(field, "WEBP", lossless=True),
        "png-as.jpg": encoded(field, "PNG"),
        "jpeg-as.tif": encoded(field, "JPEG"),
        "UPPER.JPG": encoded(field, "JPEG"),
        "no-ending": encoded(field, "JPEG"),
        "two.png.jpg": encoded(field, "JPEG"),
        "two.png": encoded(field, "PNG"),
        "hash#and%20percent?.jpg": encoded(field, "JPEG"),
        "zelle-\u00e9\U0001f9a0.jpg": encoded(field, "JPEG"),
        "y" * 250 + ".png": encoded(field, "PNG"),
        "a b'c\"d.jpg": encoded(field, "JPEG"),
        "back\\slash.jpg": encoded(field, "JPEG"),
        "small.png": encoded(field.resize((40, 30)), "PNG"),
        "own-directory.tif": _tiff_with_own_directory(),
        "large.jpg": encoded(field.resize((3_200, 2_400)), "JPEG"),
    }


def write_odd_files(slide: Path) -> set[str]:
    """Write every odd but good file; return their names."""
    slide.mkdir(parents=True, exist_ok=True)
    contents = odd_contents()
    for name, content in contents.items():
        (slide / name).write_bytes(content)
    return set(contents)
