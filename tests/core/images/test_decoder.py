from __future__ import annotations

import io

import numpy as np
import pytest
from hostile import encoded, hostile_contents, odd_contents, picture, png_chunk, png_header
from PIL import Image

from core.errors import ImageError
from core.images.decoder import MAX_PIXELS, decode

BAD = hostile_contents()


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


@pytest.mark.parametrize("name", odd_contents(), ids=lambda name: ascii(name[:40]))
def test_an_odd_file_that_is_good_is_decoded(name: str) -> None:
    rgb = decode(odd_contents()[name]).rgb
    assert rgb.dtype == np.uint8
    assert rgb.ndim == 3
    assert rgb.shape[2] == 3
    assert rgb.flags["C_CONTIGUOUS"]


def test_a_bomb_is_refused_before_its_pixels_are_decoded() -> None:
    header = png_header(50_000, 50_000) + png_chunk(b"IDAT", b"not even compressed")
    with pytest.raises(ImageError, match=r"50000 x 50000|absurd"):
        decode(header)


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


def test_metadata_does_not_survive_into_pixels_or_names() -> None:
    exif = Image.Exif()
    exif[0x010E] = "patient name"
    decoded = decode(encoded(picture(), "JPEG", exif=exif))
    assert decoded.format == "JPEG"
    stream = io.BytesIO()
    Image.fromarray(decoded.rgb).save(stream, "JPEG")
    assert b"patient" not in stream.getvalue()
