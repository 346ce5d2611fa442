"""Files whose names say nothing are recognised by their first bytes, and each is called by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hostile import dicom, encoded, endless_tiff, picture

from core.images.signatures import LONGEST_START, begins_like_image, describe_foreign
from pipelines.classification.slides import list_slides
from pipelines.classification.storage import open_folder

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = {
    "jpeg": encoded(picture(), "JPEG"),
    "png": encoded(picture(), "PNG"),
    "tiff": encoded(picture(), "TIFF"),
    "bigtiff": endless_tiff(1, big=True),
    "webp": encoded(picture(), "WEBP"),
    "gif": encoded(picture(), "GIF"),
    "dicom": dicom(),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_is_recognised_without_its_name(kind: str) -> None:
    assert begins_like_image(IMAGES[kind][:LONGEST_START])


@pytest.mark.parametrize("data", [b"", b"BMI: 22", b"RIFF....WAVE", b"DICM", b"P5 is a protein", bytes(200)])
def test_other_files_are_not_taken_for_images(data: bytes) -> None:
    assert not begins_like_image(data[:LONGEST_START])


def test_images_without_an_ending_are_listed_with_a_slide(tmp_path: Path) -> None:
    for name, data in IMAGES.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "notes").write_bytes(b"nothing")
    listed = {entry.image for entry in list_slides(open_folder(str(tmp_path))) if entry}
    assert listed == set(IMAGES)


def test_a_foreign_file_is_told_what_to_become() -> None:
    error = describe_foreign(dicom())
    assert error.code == "unsupported-format"
    assert error.message == "The file is a DICOM file; save it as JPEG, PNG, TIFF, BMP or WebP instead."
