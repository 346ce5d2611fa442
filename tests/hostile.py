"""Files that nobody should have to meet: each with the code that it must be refused with.

`write_hostile_files` writes what is bad; `write_odd_files` writes what looks bad and must be classified.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from core.images.drawings import draw_field

if TYPE_CHECKING:
    from pathlib import Path


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


def hostile_contents() -> dict[str, tuple[bytes, set[str]]]:
    """Name of each bad file, its bytes, and the codes that say what is wrong with it."""
    jpeg, png, tiff = encoded(picture(), "JPEG"), encoded(picture(), "PNG"), encoded(picture(), "TIFF")
    webp, bmp, gif = encoded(picture(), "WEBP"), encoded(picture(), "BMP"), encoded(picture(), "GIF")
    grey = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    cut = {"truncated", "damaged"}
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
