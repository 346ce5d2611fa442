"""Camera fields with their cells marked: what ``train.py`` and ``train_finder.py`` learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import ImageError
from core.images.cells import Box
from pipelines.reviewing.cells import NO_CELL
from pipelines.reviewing.exports.files import Files
from pipelines.reviewing.exports.images import box_inside
from pipelines.reviewing.exports.laboratory import ClassNames, write_laboratory
from pipelines.reviewing.exports.material import Tally
from pipelines.reviewing.exports.places import Places
from pipelines.reviewing.exports.tables import write_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipelines.reviewing.exports.images import ReviewedImage
    from pipelines.reviewing.exports.material import Material
    from pipelines.reviewing.outcome import ReviewedCell, Which

__all__ = ["write_boxes"]

_COLUMNS = ("image", "label", "left", "top", "right", "bottom", "complete")


def write_boxes(material: Material, out: Path, which: Which) -> Tally:
    """Write ``images/<slide>/<image>``, ``boxes.csv``, ``groups.csv`` and, last, ``laboratories.yaml``.

    A finder learns from every place of a field: where no cell is marked, it learns that there is none. So with
    ``reviewed`` only images are written of which a person has said what every cell is (or has signed the slide off);
    the others are counted as passed over, and single cells of theirs can be had as class folders. With ``all`` every
    image is written, and the column ``complete`` of ``boxes.csv`` says ``yes`` or ``no``: a finder should only be
    given those with yes.

    What reviewers found to be no white cell is marked too, as ``NO-CELL``, which the YAML lists under ``not_white``:
    shown to a finder as what it must not find, and left out in training the network. In an image of which a person has
    said that it has no cell, that box is the whole image.

    Args:
        material: What is exported.
        out: Folder of the export.
        which: ``reviewed`` or ``all``: the cells that were asked for.
    """
    names, places, files, tally = ClassNames(material), Places(), Files(out / "images"), Tally()
    rows: list[tuple[object, ...]] = []
    written: list[tuple[str, ReviewedImage]] = []
    for image, data in material.read_each(list(_fitting(material, which, tally)), lambda _, data: data):
        marked, unmarked = _marked(image, names.no_cell)
        if isinstance(data, ImageError):
            tally.leave_out(image, data)
            continue
        for cell in unmarked:
            tally.leave_out_without_box(image, cell)
        if not marked or (unmarked and which == "reviewed"):  # a finder would learn that there is no cell
            tally.passed_over["incomplete-image"] += 1
            continue
        *folders, name = image.image.split("/")
        path = places.place([image.slide, *folders], name)
        files.write(path, data)
        written.append((path, image))
        complete = "yes" if image.complete and not unmarked else "no"
        rows.extend((path, names.of(label), *box, complete) for label, box in marked)
        tally.labels.update(label for label, _ in marked)
        tally.images += 1
    write_rows(out / "boxes.csv", _COLUMNS, rows)
    unknown = names.unknown([label for label in tally.labels if label != names.no_cell])
    not_white = [names.no_cell] * (names.no_cell in tally.labels)
    write_laboratory(out, material, written, path="images", boxes="boxes.csv", unknown=unknown, not_white=not_white)
    return tally


def _fitting(material: Material, which: Which, tally: Tally) -> Iterator[ReviewedImage]:
    """Yield the images that are written, and count the others."""
    for image in material.images:
        if image.complete or (which == "all" and image.white):
            yield image
        else:
            tally.passed_over["incomplete-image"] += 1


def _marked(image: ReviewedImage, no_cell: str) -> tuple[list[tuple[str, Box]], list[ReviewedCell]]:
    """Return label and box of what is marked in an image, and the cells that cannot be."""
    marked: list[tuple[str, Box]] = []
    unmarked: list[ReviewedCell] = []
    for cell in image.cells:
        box = box_inside(cell)
        if cell.label != NO_CELL and box is None:
            unmarked.append(cell)
        elif cell.label != NO_CELL and box is not None:
            marked.append((cell.label, box))
        elif box is not None and cell.reviewed:
            marked.append((no_cell, box))
    if not image.white and image.complete:
        marked = marked or [(no_cell, Box(0.0, 0.0, float(image.size[0]), float(image.size[1])))]
    return marked, unmarked
