"""One path from a file to the network's input, and one guard around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hostile import encoded, picture

from core.data.class_folders import Sample
from core.data.image_set import load_images
from core.errors import ImageError
from core.finding.search import CellSearch
from core.images.decoder import MAX_BYTES
from core.images.preprocessing import Preprocessing
from core.images.reading import Unreadable, prepare_image, processing, read_file, read_safely

if TYPE_CHECKING:
    from pathlib import Path

SMALL = Preprocessing.model_validate({"height": 64, "width": 64})


def test_a_file_and_its_pixels_are_prepared_alike() -> None:
    one, prepared = prepare_image(encoded(picture(), "PNG"), SMALL)
    other, same = prepare_image(np.asarray(picture()), SMALL)
    np.testing.assert_array_equal(one.rgb, other.rgb)
    np.testing.assert_array_equal(prepared.pixels, same.pixels)
    assert (one.format, other.format) == ("PNG", "RAW")


def test_files_and_pixels_have_the_same_limit() -> None:
    for image in (encoded(picture(), "PNG"), np.asarray(picture())):
        with pytest.raises(ImageError, match="limit is 1,000") as caught:
            prepare_image(image, SMALL, max_pixels=1_000)
        assert caught.value.code == "too-large"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (cv2.error("no"), "not-processable"),
        (ValueError("no"), "not-processable"),
        (OverflowError("no"), "not-processable"),
        (MemoryError(), "out-of-memory"),
        (ImageError("empty", "The file is empty."), "empty"),
    ],
)
def test_the_guard_turns_what_nobody_foresaw_into_an_error_of_the_image(error: Exception, code: str) -> None:
    with pytest.raises(ImageError) as caught, processing():
        raise error
    assert caught.value.code == code


def test_why_a_file_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        read_file(tmp_path / "gone.png")
    assert caught.value.code == "not-found"
    with pytest.raises(ImageError) as caught:
        read_file(tmp_path)
    assert caught.value.code == "unreadable"
    with (tmp_path / "large.png").open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(ImageError) as caught:
        read_file(tmp_path / "large.png")
    assert caught.value.code == "too-large"


def test_work_on_a_file_gives_its_result_or_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert read_safely(tmp_path / "file", len) == 3

    def fail(_: bytes) -> int:
        raise ValueError

    found = read_safely(tmp_path / "file", fail)
    assert isinstance(found, Unreadable)
    assert (found.path, found.code) == (tmp_path / "file", "not-processable")


def test_a_picture_that_cannot_be_prepared_is_left_out_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What OpenCV refuses in the middle of loading ends one image, not the whole training."""
    for name in ("good.png", "bad.png"):
        (tmp_path / name).write_bytes(encoded(picture(2 if name == "good.png" else 3), "PNG"))
    bad = np.asarray(picture(3))
    balance = Preprocessing.balance

    def refuse(self: Preprocessing, part: np.ndarray, rgb: np.ndarray) -> np.ndarray:
        if np.array_equal(rgb, bad):
            raise cv2.error("no")
        return balance(self, part, rgb)

    monkeypatch.setattr(Preprocessing, "balance", refuse)
    images = load_images(
        [Sample(tmp_path / name, 0, "") for name in ("bad.png", "good.png")], CellSearch(SMALL), margin=1.25
    )
    assert len(images) == 1
    assert [(one.path.name, one.code) for one in images.unreadable] == [("bad.png", "not-processable")]
