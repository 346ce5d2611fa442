from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import pytest
from hostile import (
    changed_frame,
    dicom,
    encoded,
    endless_tiff,
    hostile_contents,
    jpeg_of_segments,
    odd_contents,
    picture,
    png_chunk,
    png_header,
    png_of_chunks,
    raw_tiff,
    two_frames,
)
from PIL import Image

from core.errors import ImageError
from core.images import tiff
from core.images.decoder import MAX_PIXELS, Picture, decode

BAD = hostile_contents()
ODD = odd_contents()
FIELD = np.asarray(picture())


@pytest.mark.parametrize("name", BAD, ids=lambda name: ascii(name[:40]))
def test_a_bad_file_is_refused_with_a_code_and_a_sentence(name: str) -> None:
    content, codes = BAD[name]
    with pytest.raises(ImageError) as caught:
        decode(content)
    assert caught.value.code in codes
    assert caught.value.message.endswith(".")
    assert "\n" not in caught.value.message


def test_there_are_at_least_forty_kinds_of_bad_file() -> None:
    assert len(BAD) >= 40


@pytest.mark.parametrize("name", ODD, ids=lambda name: ascii(name[:40]))
def test_an_odd_file_that_is_good_is_decoded(name: str) -> None:
    rgb = decode(ODD[name]).rgb
    assert rgb.dtype == np.uint8
    assert rgb.ndim == 3
    assert rgb.shape[2] == 3
    assert rgb.flags["C_CONTIGUOUS"]


def test_a_bomb_is_refused_before_its_pixels_are_decoded() -> None:
    header = png_header(50_000, 50_000) + png_chunk(b"IDAT", b"not even compressed")
    with pytest.raises(ImageError, match=r"2,500,000,000 pixels; the limit is 25,000,000 .* cut it into fields"):
        decode(header)


def test_a_picture_above_the_limit_is_refused_with_its_size_and_the_limit() -> None:
    with pytest.raises(ImageError, match=r"6,000 x 5,000 pixels; the limit is 25,000,000 .* Make it smaller"):
        decode(png_header(6_000, 5_000) + png_chunk(b"IDAT", b""))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("TIFF", endless_tiff(50_000)),
        ("BigTIFF", endless_tiff(30_000, big=True)),
        ("PNG", png_of_chunks(300_000)),
        ("JPEG", jpeg_of_segments(1_000_000)),
        ("padding", b"\xff\xd8" + b"\xff" * 4_000_000),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_time_to_refuse_does_not_grow_with_what_a_file_claims(kind: str, data: bytes) -> None:
    assert len(data) > 3_000_000
    begun = time.perf_counter()
    with pytest.raises(ImageError):
        decode(data)
    assert time.perf_counter() - begun < 0.5


def test_one_look_at_the_second_directory_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets: list[int] = []
    unpack = struct.unpack_from
    monkeypatch.setattr(tiff.struct, "unpack_from", lambda *args: offsets.append(args[2]) or unpack(*args))
    with pytest.raises(ImageError, match="export the one"):
        decode(endless_tiff(5_000))
    assert len(offsets) < 50
    assert max(offsets) < 1_000


@pytest.mark.parametrize("format", ["PNG", "WEBP", "MPO", "TIFF"])
def test_a_file_of_several_pictures_is_refused(format: str) -> None:  # noqa: A002
    with pytest.raises(ImageError, match="several") as caught:
        decode(two_frames(format))
    assert caught.value.code == "multi-frame"


def animation_that_claims(frames: int) -> bytes:
    """An APNG of one frame that claims to have many."""
    png = encoded(Image.new("RGB", (64, 64)), "PNG")
    return png[:33] + png_chunk(b"acTL", struct.pack(">II", frames, 0)) + png[33:]


def test_an_animation_that_claims_a_billion_frames_is_refused_at_once() -> None:
    begun = time.perf_counter()
    with pytest.raises(ImageError) as caught:
        decode(animation_that_claims(1_000_000_000))
    assert caught.value.code == "multi-frame"
    assert time.perf_counter() - begun < 0.5


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (raw_tiff(np.zeros((32, 32, 3), np.float32)), "unsupported-depth", "floating-point numbers of 32 bits"),
        (raw_tiff(np.zeros((32, 32), np.int16)), "unsupported-depth", "signed numbers of 16 bits"),
        (raw_tiff(np.zeros((32, 32, 3), np.uint32)), "unsupported-depth", "whole numbers of 32 bits"),
        (raw_tiff(np.zeros((32, 32), np.uint8), compression=33_003), "unsupported-format", "compressed in a way"),
        (raw_tiff(np.zeros((32, 32), np.uint8), photometric=9), "unsupported-format", "photometric interpretation 9"),
        (dicom(), "unsupported-format", "a DICOM file"),
        (changed_frame(0xC1, 12), "unsupported-depth", "12 bits per sample"),
        (changed_frame(0xC3, 8), "unsupported-format", "lossless"),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "unsupported-format", "a sound or a video"),
        (b"\0\0\0\x18ftypmp42" + bytes(60), "unsupported-format", "a video"),
        (b"\0\0\0\x18ftypavif" + bytes(60), "unsupported-format", "HEIC or AVIF"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60), "unsupported-format", "JPEG XL"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "unsupported-format", "HDF5"),
        (b"ZISRAWFILE" + bytes(60), "unsupported-format", "Zeiss CZI"),
        (b"P5 32 32 255\n" + bytes(60), "unsupported-format", "Netpbm"),
        (b"P3 patients were seen", "not-an-image", "not an image"),
        (b"BMI of the patients: 22", "not-an-image", "not an image"),
        (b"<!DOCTYPE note><note/>", "not-an-image", "not an image"),
        (encoded(picture(), "BMP")[:20], "damaged", "header"),
    ],
)
def test_what_is_wrong_with_a_file_is_called_by_its_name(data: bytes, code: str, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        decode(data)
    assert caught.value.code == code


def test_the_pixel_limit_is_inclusive() -> None:
    data = encoded(Image.new("L", (100, 50)), "PNG")
    assert decode(data, max_pixels=5_000).width == 100
    with pytest.raises(ImageError, match="4,999"):
        decode(data, max_pixels=4_999)
    assert MAX_PIXELS == 25_000_000


def test_exif_orientation_is_applied() -> None:
    upright = np.asarray(picture())
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = decode(encoded(Image.fromarray(upright[::-1, ::-1]), "PNG", exif=exif))
    np.testing.assert_array_equal(turned.rgb, upright)


def test_alpha_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    assert (decode(encoded(clear, "PNG")).rgb == 255).all()
    half = Image.new("RGBA", (20, 20), (0, 0, 0, 128))
    assert abs(int(decode(encoded(half, "PNG")).rgb[0, 0, 0]) - 127) <= 1


def test_palette_transparency_is_laid_on_white() -> None:
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([0, 0, 0] * 256)
    assert (decode(encoded(palette, "PNG", transparency=0)).rgb == 255).all()


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(format: str) -> None:  # noqa: A002
    ramp = np.linspace(0, 65_535, 64 * 64).astype(np.uint16).reshape(64, 64)
    rgb = decode(encoded(Image.fromarray(ramp), format)).rgb
    assert rgb[0, 0, 0] == 0
    assert rgb[-1, -1, 0] == 255
    np.testing.assert_allclose(rgb[:, :, 0], ramp / 257.0, atol=0.51)


def test_twelve_bits_in_a_sixteen_bit_tiff_use_the_declared_maximum() -> None:
    ramp = np.linspace(0, 4_095, 64 * 64).astype(np.uint16).reshape(64, 64)
    rgb = decode(encoded(Image.fromarray(ramp), "TIFF", tiffinfo={281: 4_095})).rgb
    np.testing.assert_allclose(rgb[:, :, 0], ramp / 4_095 * 255, atol=0.51)


def ramp(bits: int) -> np.ndarray:
    """Grey of so many bits, all levels from black to white, (64, 64) uint16."""
    return np.linspace(0, (1 << bits) - 1, 64 * 64).astype(np.uint16).reshape(64, 64)


def sixteen_bit_png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits per sample: grey, RGB or RGBA."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.reshape(*pixels.shape[:2], -1).shape[2]]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@pytest.mark.parametrize("write", [sixteen_bit_png, raw_tiff])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_an_undeclared_depth_is_that_of_the_largest_sample(write, bits: int) -> None:
    expected = ramp(bits) / ((1 << bits) - 1) * 255
    np.testing.assert_allclose(decode(write(ramp(bits))).rgb[..., 0], expected, atol=0.51)


@pytest.mark.parametrize("write", [sixteen_bit_png, raw_tiff])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_colours_of_sixteen_bits_keep_their_depth(write, bits: int) -> None:
    grey = ramp(bits)
    colours = np.dstack((grey, grey[::-1], grey // 2))
    found = decode(write(colours))
    np.testing.assert_allclose(found.rgb, colours / ((1 << bits) - 1) * 255, atol=0.51)
    assert found.format == ("PNG" if write is sixteen_bit_png else "TIFF")


def test_a_picture_of_less_than_eight_bits_in_sixteen_is_not_stretched_beyond_eight() -> None:
    np.testing.assert_array_equal(decode(raw_tiff(ramp(8) // 4)).rgb[..., 0], ramp(8) // 4)


def test_a_declared_depth_that_the_samples_exceed_is_not_believed() -> None:
    np.testing.assert_allclose(decode(raw_tiff(ramp(16), largest=4_095)).rgb[..., 0], ramp(16) / 257, atol=0.51)
    np.testing.assert_allclose(decode(raw_tiff(ramp(10), largest=4_095)).rgb[..., 0], ramp(10) / 4_095 * 255, atol=0.51)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_where_zero_is_white_the_picture_is_no_negative(bits: int) -> None:
    grey = ramp(bits).astype(np.uint8 if bits == 8 else np.uint16)
    found = decode(raw_tiff(grey, photometric=0)).rgb
    np.testing.assert_allclose(found[..., 0], 255 - grey / ((1 << bits) - 1) * 255, atol=0.51)


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("premultiplied", [False, True])
def test_alpha_of_sixteen_bits_is_laid_on_white(bits: int, premultiplied: bool) -> None:
    largest = (1 << bits) - 1
    share = np.linspace(0, 1, 64 * 64).reshape(64, 64, 1)
    colours = np.dstack((ramp(bits), ramp(bits)[:, ::-1], ramp(bits)[::-1])).astype(float)
    stored = colours * share if premultiplied else colours
    rgba = np.rint(np.dstack((stored, share * largest))).astype(np.uint16)
    expected = (colours * share + largest * (1 - share)) / largest * 255
    found = decode(raw_tiff(rgba, extra=1 if premultiplied else 2)).rgb
    np.testing.assert_allclose(found, expected, atol=1.0)
    if not premultiplied:
        np.testing.assert_allclose(decode(sixteen_bit_png(rgba)).rgb, expected, atol=1.0)


def test_a_fourth_sample_that_is_no_alpha_is_not_used() -> None:
    rgbx = np.dstack((ramp(16), ramp(16), ramp(16), np.zeros((64, 64), np.uint16)))
    np.testing.assert_allclose(decode(raw_tiff(rgbx, extra=0)).rgb[..., 0], ramp(16) / 257, atol=0.51)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["grey", "colours", "sixteen-bit"])
def test_every_orientation_is_turned_upright_at_every_depth(orientation: int, kind: str) -> None:
    stored = FIELD[:50, :70].copy()
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = decode(encoded(Image.fromarray(stored), "PNG", exif=exif)).rgb
    if kind == "grey":
        stored, expected = stored[..., 0], np.repeat(expected[..., :1], 3, axis=2)
    pixels = stored if kind == "grey" else stored.astype(np.uint16) * 257 if kind == "sixteen-bit" else stored
    np.testing.assert_array_equal(decode(raw_tiff(pixels, orientation=orientation)).rgb, expected)
    assert expected.shape[:2] == ((70, 50) if orientation > 4 else (50, 70))


def test_orientations_are_those_of_pillow() -> None:
    from PIL import ImageOps

    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(Image.fromarray(ramp(8).astype(np.uint8)), "PNG", exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        np.testing.assert_array_equal(decode(data).rgb[..., 0], expected)


def test_a_cut_file_of_sixteen_bit_colours_is_refused() -> None:
    for data in (sixteen_bit_png(np.dstack([ramp(16)] * 3)), raw_tiff(np.dstack([ramp(16)] * 3))):
        with pytest.raises(ImageError) as caught:
            decode(data[: len(data) // 2])
        assert caught.value.code in {"truncated", "damaged"}


def test_pixels_that_came_without_a_file_have_the_same_limits() -> None:
    assert Picture.from_pixels(np.zeros((20, 30, 3), np.uint8)).format == "RAW"
    with pytest.raises(ImageError, match="30 x 20 pixels; the limit is 599"):
        Picture.from_pixels(np.zeros((20, 30, 3), np.uint8), max_pixels=599)
    with pytest.raises(ImageError, match="at least 16"):
        Picture.from_pixels(np.zeros((10, 30, 3), np.uint8))


def test_metadata_does_not_survive_into_pixels_or_names() -> None:
    exif = Image.Exif()
    exif[0x010E] = "patient name"
    decoded = decode(encoded(picture(), "JPEG", exif=exif))
    assert decoded.format == "JPEG"
    stream = io.BytesIO()
    Image.fromarray(decoded.rgb).save(stream, "JPEG")
    assert b"patient" not in stream.getvalue()
