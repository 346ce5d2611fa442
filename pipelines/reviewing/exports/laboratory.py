"""The two files that make an export a laboratory of training: its YAML entry, and which image is of which slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from pipelines.reviewing.cells import UNIDENTIFIED
from pipelines.reviewing.exports.tables import write_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipelines.reviewing.exports.images import ReviewedImage
    from pipelines.reviewing.exports.material import Material

__all__ = ["ClassNames", "write_laboratory"]

_HEADER = """\
# What a review gave, as a laboratory for train.py and train_finder.py. Paths are relative to this file. Classes under
# `unknown` are taught as none of the known ones; to teach one of them as a class of its own, take it off that list.
"""


class ClassNames:
    """What the labels of a review are called as classes of a laboratory.

    Cells that nobody could identify are called ``UNIDENTIFIED``, and what is no white cell ``NO-CELL``, unless a class
    has that name already.

    Args:
        material: What is exported.
    """

    def __init__(self, material: Material) -> None:
        self._known = set(material.record.bundle.classes)
        labels = set(material.labels) - {UNIDENTIFIED}
        self._unidentified = _unlike(labels, "UNIDENTIFIED")
        self.no_cell = _unlike(labels, "NO-CELL")

    def of(self, label: str) -> str:
        """Return the class of a label."""
        return self._unidentified if label == UNIDENTIFIED else label

    def unknown(self, labels: Sequence[str]) -> list[str]:
        """Return the classes among those of some labels that the bundle does not know."""
        return sorted({self.of(label) for label in labels if label not in self._known})


def write_laboratory(
    out: Path, material: Material, files: Sequence[tuple[str, ReviewedImage]], **entry: str | list[str]
) -> None:
    """Write ``groups.csv``, then ``laboratories.yaml``.

    The source of an image is its slide, so that no split has one slide on both sides. Where all are of one slide,
    which no split could divide, it is the image that the cells come from.

    Args:
        out: Folder of the export.
        material: What is exported.
        files: Path of each image in the export, relative to the laboratory's folder, and the image that it is from.
        entry: What the laboratory's entry says beside its name and its groups; empty lists are left out.
    """
    several = len({image.slide for _, image in files}) > 1
    rows = [(path, image.slide if several else image.image) for path, image in files]
    write_rows(out / "groups.csv", ("path", "source"), rows)
    name = "".join(letter for letter in material.source.name if letter.isprintable() and letter != "/").strip()
    listed: dict[str, Any] = {"name": name or "review"} | {key: value for key, value in entry.items() if value}
    content = yaml.safe_dump(
        {"laboratories": [listed | {"groups": "groups.csv"}]}, sort_keys=False, allow_unicode=True, width=1000
    )
    (out / "laboratories.yaml").write_text(_HEADER + content, encoding="utf-8")


def _unlike(labels: set[str], name: str) -> str:
    while name in labels:
        name += "_"
    return name
