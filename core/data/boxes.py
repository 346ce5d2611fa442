"""Labelled cells in camera fields: a CSV of boxes beside a folder of images."""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING, NamedTuple

from core.data.class_folders import ClassFolders, Sample, check_class_names
from core.errors import DataError
from core.images.cells import Box

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["LabelledBox", "read_boxed_cells", "read_boxes"]

_COLUMNS = ("image", "label", "left", "top", "right", "bottom")


class LabelledBox(NamedTuple):
    """One cell that a person marked.

    Attributes:
        image: Path of the image, relative to the folder of images.
        label: Name of its type.
        box: Where it is, in pixels of the upright image.
    """

    image: str
    label: str
    box: Box


def read_boxes(file: Path) -> list[LabelledBox]:
    """Read a CSV with the columns image, label, left, top, right and bottom (in pixels).

    Raises:
        DataError: With code ``boxes-unreadable``; it names the line.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if missing := set(_COLUMNS) - set(reader.fieldnames or ()):
                raise DataError("boxes-unreadable", f"{file} has no column {', '.join(sorted(missing))}.")
            return [_parse(row, f"{file}, line {reader.line_num}") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError("boxes-unreadable", f"{file} cannot be read as a CSV of boxes ({error}).") from error


def read_boxed_cells(root: Path, boxes: Path, class_names: Sequence[str], ignored: Sequence[str] = ()) -> ClassFolders:
    """List the marked cells of a folder of camera fields.

    Args:
        root: Folder of the images.
        boxes: File for `read_boxes`.
        class_names: Classes in the order of their indices.
        ignored: Labels that are left out.

    Raises:
        DataError: With code ``not-found``, ``boxes-unreadable``, ``unknown-class`` or ``bad-class-name``.
    """
    if not root.is_dir():
        raise DataError("not-found", f"The data folder {root} does not exist.")
    cells = [cell for cell in read_boxes(boxes) if cell.label not in ignored]
    names = tuple(class_names)
    check_class_names(names)
    if unknown := sorted({cell.label for cell in cells} - set(names)):
        raise DataError("unknown-class", f"{boxes} has labels that are no known class: {', '.join(unknown)}.")
    index = {name: position for position, name in enumerate(names)}
    samples = tuple(Sample(root / cell.image, index[cell.label], None, cell.box) for cell in cells)
    return ClassFolders(root, names, samples)


def _parse(row: dict[str, str], where: str) -> LabelledBox:
    try:
        box = Box(*(float(row[name]) for name in _COLUMNS[2:]))
    except (TypeError, ValueError):
        raise DataError("boxes-unreadable", f"{where}: left, top, right and bottom must be numbers.") from None
    if not (all(map(math.isfinite, box)) and 0 <= box.left < box.right and 0 <= box.top < box.bottom):
        raise DataError("boxes-unreadable", f"{where}: the box ends before it begins, or outside the image.")
    if not row["image"] or not row["label"]:
        raise DataError("boxes-unreadable", f"{where}: image and label must not be empty.")
    return LabelledBox(row["image"], row["label"], box)
