"""The pieces of a run that need no cluster: names, lists, tables."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hostile import odd_contents

from pipelines.classification.listing import write_list
from pipelines.classification.overlay_path import overlay_path
from pipelines.classification.run_folder import RunFolder
from pipelines.classification.sheet import ThumbnailSheets, sheet_place
from pipelines.classification.slides import Entry
from pipelines.classification.storage import open_folder
from pipelines.classification.summary import Cell, Slide, slides_csv

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("a.jpg", "gradcam/s/a.jpg"),
        ("a.JPEG", "gradcam/s/a.JPEG"),
        ("deep/a.jpg", "gradcam/s/deep/a.jpg"),
        ("a.png", "gradcam/s/a.png.jpg"),
        ("a.png.jpg", "gradcam/s/a.png.jpg.jpg"),
        ("a.jpg.jpg", "gradcam/s/a.jpg.jpg.jpg"),
    ],
)
def test_an_overlay_is_at_the_images_own_path(image: str, expected: str) -> None:
    assert overlay_path("s", image) == expected


def test_no_two_images_share_an_overlay() -> None:
    names = [*odd_contents(), "cell", "cell.jpg", "cell.png", "cell.png.jpg", "z" * 251 + ".png", "z" * 250 + ".jpeg"]
    paths = [overlay_path("s", name) for name in names]
    assert len(set(paths)) == len(set(names))
    assert all(len(part.encode()) <= 255 for path in paths for part in path.split("/"))


@pytest.mark.parametrize("image", ["../../etc/passwd.jpg", "..", "a/../../b.png", "./x.jpg"])
def test_no_overlay_leaves_the_run(image: str) -> None:
    assert not {"", ".", ".."} & set(overlay_path("..", image).split("/"))


def test_the_list_of_images_survives_the_trip(tmp_path: Path) -> None:
    run = RunFolder(open_folder(str(tmp_path)))
    entries = [Entry("s", f"{number}.jpg", bytes([255, number])) for number in range(10)]
    assert run.read_list() is None
    written = write_list(run, iter([*entries, None]), 4, top="here")
    assert (written.parts, written.images, written.ignored, written.top_slide) == (3, 10, 1, "here")
    assert run.read_list() == written
    assert [entry for part in range(3) for entry in run.read_list_part(part)] == entries
    assert run.unfinished_parts(3) == [0, 1, 2]


def test_slides_csv_adds_up() -> None:
    slide = Slide("s, 1", counts=Counter({"A": 3, "B": 1}), n_unidentified=5, n_images=7, n_empty=1, n_errors=2)
    header, row = slides_csv([slide], ["A", "B"]).splitlines()
    assert header.startswith("slide,n,n_identified,n_A,n_B,pct_A,pct_B,pct_A_low,pct_A_high,")
    assert header.endswith(",n_flagged,n_unidentified,n_images,n_empty,n_errors,unfamiliar")
    assert row.startswith('"s, 1",9,4,3,1,75.00,25.00,19.41,99.37,')
    assert row.endswith(",0,5,7,1,2,no")


def test_what_is_not_identified_is_in_no_share() -> None:
    slide = Slide("s")
    for number, (flag, label) in enumerate(
        [("", "A"), ("low-confidence", "A"), ("several-cells", "B"), ("out-of-distribution", "B"), ("no-cell", "")]
    ):
        cell = Cell(0.5, f"{number}.jpg", 0 if flag == "no-cell" else 1, label, flag, (), None, (9, 9), (0, number))
        slide.count(cell, 10)
    assert (slide.n, slide.n_identified, slide.n_unidentified, slide.n_images, slide.n_empty) == (4, 3, 1, 5, 1)
    assert slide.share("A").percent == pytest.approx(200 / 3)
    assert [cell.flag for cell in slide.cells("")] == ["out-of-distribution", "no-cell"]
    assert slide.flagged.total() == 4


def test_thumbnails_lie_where_they_are_looked_for() -> None:
    sheets = ThumbnailSheets()
    for number in range(2050):
        sheets.add(np.full((40, 48, 3), 60 + 90 * (number in {17, 2049}), np.uint8))
    pictures = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in sheets.encoded()]
    assert len(pictures) == 2
    for index, name in ((17, "part-00000003.jpg"), (2049, "part-00000003-1.jpg")):
        sheet, left, top = sheet_place(3, index)
        assert sheet == name
        seen = pictures[int(name != "part-00000003.jpg")][top : top + 80, left : left + 96]
        assert abs(float(seen.mean()) - 150) < 3


def test_overlays_of_cells_have_names_of_their_own() -> None:
    names = [
        overlay_path("s", image, cell) for image in ("a.jpg", "a.1.jpg", "a.jpg.png", "a.png") for cell in range(3)
    ]
    assert len(set(names)) == len(names)
    assert names[:3] == ["gradcam/s/a.jpg", "gradcam/s/a.1.jpg", "gradcam/s/a.2.jpg"]
