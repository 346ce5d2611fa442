"""One table of all cells, for spreadsheets and statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.reviewing.cells import NO_CELL
from pipelines.reviewing.exports.material import Tally
from pipelines.reviewing.exports.tables import write_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipelines.reviewing.exports.images import ReviewedImage
    from pipelines.reviewing.exports.material import Material

__all__ = ["write_table_of_cells"]

_COLUMNS = (
    "slide",
    "image",
    "cell",
    "left",
    "top",
    "right",
    "bottom",
    "width",
    "height",
    "label",
    "by_model",
    "confidence",
    "flag",
    "reviewed",
    "reviewer",
    "at",
    "note",
    "second",
    "added",
    "bundle",
)


def write_table_of_cells(material: Material, out: Path) -> Tally:
    """Write ``cells.csv``: one row per cell, and per image without any, those that are no cell included.

    Names and notes stand in it as they are, for programs. A spreadsheet takes what begins with ``=``, ``+``, ``-`` or
    ``@`` for a formula: import the file there with its columns as text where strangers named files or wrote notes.

    Args:
        material: What is exported.
        out: Folder of the export.
    """
    tally = Tally(images=len(material.images))
    for image in material.images:
        tally.labels.update(cell.label for cell in image.white)
    write_rows(out / "cells.csv", _COLUMNS, (row for image in material.images for row in _rows(image, material.bundle)))
    return tally


def _rows(image: ReviewedImage, bundle: str) -> Iterator[tuple[object, ...]]:
    for cell in image.cells:
        edges = ("",) * 4 if cell.box is None else tuple(round(edge, 3) for edge in cell.box)
        yield (
            *cell.key,
            *edges,
            *cell.size,
            cell.label,
            cell.by_model,
            "" if cell.added or (cell.by_model == NO_CELL and not cell.confidence) else round(cell.confidence, 6),
            cell.flag,
            _word(cell.reviewed),
            cell.reviewer,
            cell.at,
            cell.note,
            cell.second,
            _word(cell.added),
            bundle,
        )


def _word(value: bool) -> str:  # noqa: FBT001 - the value that is written
    return "true" if value else "false"
