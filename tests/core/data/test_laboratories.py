"""Laboratories as data: the file that names them, and cells that are marked in fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from core.data.boxes import read_boxes
from core.data.laboratories import DataOptions, DataSettings, TrainingData, read_laboratories
from core.errors import DataError, SettingsError
from core.finding.search import CellSearch
from core.images.cells import Box, CellFinder
from core.images.drawings import draw_field
from core.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "image,label,left,top,right,bottom"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A laboratory of class folders, and one of fields with two cells each."""
    rng = np.random.default_rng(5)
    for kind in ("EOSINOPHIL", "MONOCYTE"):
        (tmp_path / "crops" / kind).mkdir(parents=True)
        for number in range(2):
            cv2.imwrite(str(tmp_path / "crops" / kind / f"{number}.png"), draw_field(kind, rng)[..., ::-1])
    (tmp_path / "fields").mkdir()
    lines = [HEAD]
    for number in range(2):
        left, right = draw_field("MONOCYTE", rng), draw_field("LYMPHOCYTE", rng)
        name = f"slide{number}_1.png"
        cv2.imwrite(str(tmp_path / "fields" / name), np.hstack((left, right))[..., ::-1])
        lines += [f"{name},MONOCYTE,80,40,240,200", f"{name},LYMPHOCYTE,400,40,560,200"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "labs.yaml").write_text(
        """laboratories:
  - {name: crops, path: crops}
  - {name: fields, path: fields, boxes: boxes.csv, groups: "name:^slide[0-9]+", unknown: [LYMPHOCYTE], share: 0.5}
"""
    )
    return tmp_path


def test_paths_are_relative_to_the_file_and_cells_of_fields_are_images(place: Path) -> None:
    crops, fields = read_laboratories(place / "labs.yaml")
    assert (crops.path, fields.boxes) == (place / "crops", place / "boxes.csv")
    data = TrainingData.read(DataSettings(data=place / "labs.yaml"))
    assert data.class_names == ("EOSINOPHIL", "MONOCYTE")
    assert [len(part.samples) for part in data.sets] == [4, 4]
    assert {sample.source for sample in data.sets[1].samples} == {"fields/slide0", "fields/slide1"}
    images = data.load(CellSearch(Preprocessing(height=64, width=64, cell=CellFinder())), 1.25, 2)
    assert images.labels.tolist() == [0, 0, 1, 1, 1, -1, 1, -1]
    assert images.domains is not None
    assert images.shares is not None
    assert images.domains.tolist() == [0] * 4 + [1] * 4
    assert images.shares.tolist() == [1.0] * 4 + [0.5] * 4
    assert images.pixels.shape == (8, 80, 80, 3)
    assert not (images.inputs[4] == images.inputs[5]).all(), "two cells of one field"


def test_a_marked_cell_is_cut_out_where_it_was_marked(place: Path) -> None:
    bgr = cv2.imread(str(place / "fields" / "slide0_1.png"))
    rgb = np.ascontiguousarray(bgr[..., ::-1])
    preprocessing = Preprocessing(height=64, width=64, cell=CellFinder())
    for marked in (Box(80, 40, 240, 200), Box(400, 40, 560, 200)):
        prepared = preprocessing.prepare(rgb, marked)
        centre = (prepared.box.left + prepared.box.right) / 2
        assert prepared.found
        assert marked.left < centre < marked.right
    nothing = preprocessing.prepare(np.full_like(rgb, 230), Box(80, 40, 240, 200))
    assert nothing.found, "a person saw it"
    assert nothing.box == preprocessing.prepare(rgb, Box(80, 40, 240, 200)).box


def test_laboratories_are_left_out_by_name(place: Path) -> None:
    left = DataOptions(leave_out=["crops"]).laboratories_in(place / "labs.yaml")
    assert [laboratory.name for laboratory in left] == ["fields"]
    with pytest.raises(SettingsError, match="no laboratory elsewhere"):
        DataOptions(leave_out=["elsewhere"]).laboratories_in(place / "labs.yaml")
    with pytest.raises(SettingsError, match="No laboratory is left"):
        DataOptions(leave_out=["crops", "fields"]).laboratories_in(place / "labs.yaml")
    with pytest.raises(SettingsError, match="needs a file"):
        DataOptions(leave_out=["crops"]).laboratories_in(place / "crops")
    with pytest.raises(SettingsError, match="for each laboratory"):
        DataOptions(groups="folder:1").laboratories_in(place / "labs.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "laboratories"),
        ("laboratories: []", "laboratories"),
        ("laboratories: [{name: a}]", "path"),
        ("laboratories: [{name: a, path: b, boxen: c}]", "boxen"),
        ("laboratories: [{name: a/b, path: b}]", "name"),
        ("laboratories: [{name: a, path: b}, {name: a, path: c}]", "more than once"),
        ("laboratories: [{name: a, path: b, share: 0}]", "share"),
        ("{", "not a file of laboratories"),
        ("\0", "not a file of laboratories"),
    ],
)
def test_a_file_that_names_no_laboratories_is_refused(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "labs.yaml").write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        read_laboratories(tmp_path / "labs.yaml")
    assert caught.value.code == "laboratories-unreadable"
    assert str(tmp_path) in caught.value.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image,label\na,b\n", "no column bottom, left, right, top"),
        (f"{HEAD}\na.png,X,1,2,three,4\n", "line 2: left, top, right and bottom must be numbers"),
        (f"{HEAD}\na.png,X,1,2,3\n", "line 2"),
        (f"{HEAD}\na.png,X,10,2,3,4\n", "ends before it begins"),
        (f"{HEAD}\na.png,X,1,2,nan,4\n", "ends before it begins"),
        (f"{HEAD}\n,X,1,2,3,4\n", "must not be empty"),
    ],
)
def test_boxes_that_are_none_are_refused_with_their_line(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        read_boxes(tmp_path / "boxes.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_boxes(tmp_path / "nothing.csv")
