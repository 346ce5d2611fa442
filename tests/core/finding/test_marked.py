"""Marked fields as a finder learns from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from core.data.laboratories import Laboratory
from core.finding.marked import list_fields
from core.images.cells import Box

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def laboratory(tmp_path: Path) -> Laboratory:
    """Return four fields: one with two white cells, one with a platelet, one with a smudge, one with a cell."""
    (tmp_path / "images").mkdir()
    (tmp_path / "boxes.csv").write_text(
        "image,label,left,top,right,bottom\n"
        "a.png,MONOCYTE,1,1,9,9\na.png,NEUTROPHIL,20,1,29,9\n"
        "b.png,PLATELET,1,1,3,3\n"
        "c.png,SMUDGE,1,1,9,9\nc.png,MONOCYTE,20,1,29,9\n"
        "d.png,NEUTROPHIL,1,1,9,9\n"
    )
    given = {"name": "drawn", "path": tmp_path / "images", "boxes": tmp_path / "boxes.csv", "not_white": ["PLATELET"]}
    return Laboratory.model_validate(given)


def boxes_of(laboratory: Laboratory) -> dict[str, int]:
    return {field.path.name: len(field.boxes or ()) for field in list_fields(laboratory)}


def test_a_field_has_all_its_white_cells_and_no_platelet(laboratory: Laboratory) -> None:
    assert boxes_of(laboratory) == {"a.png": 2, "b.png": 0, "c.png": 2, "d.png": 1}
    assert list_fields(laboratory)[0].boxes == (Box(1, 1, 9, 9), Box(20, 1, 29, 9))


def test_half_of_the_fields_keep_all_their_cells(laboratory: Laboratory) -> None:
    assert boxes_of(laboratory.model_copy(update={"half": "even"})) == {"a.png": 2, "c.png": 2}
    assert boxes_of(laboratory.model_copy(update={"half": "odd"})) == {"b.png": 0, "d.png": 1}


def test_a_field_with_a_label_that_is_left_out_is_left_out(laboratory: Laboratory) -> None:
    assert boxes_of(laboratory.model_copy(update={"ignored": ["SMUDGE"]})) == {"a.png": 2, "b.png": 0, "d.png": 1}
