"""A reviewed run as a laboratory for training: class folders of its cells, or its fields with boxes.

Both hold ``groups.csv`` (the slide is the source, so that no split has a slide on both sides; where there is one slide
alone, the image is) and ``laboratories.yaml``, which `train.py` takes. Labels that the bundle does not know, and
``UNIDENTIFIED``, stand there as unknown; to teach one as a class, take it out of that list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import yaml

from core.errors import ImageError
from core.files import replace_file, write_table
from core.images.decoder import decode
from core.images.overlay import encode_png
from pipelines.reviewing.exports.review import class_folder, image_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from core.images.cells import Box
    from pipelines.reviewing.exports.review import ExportedReview
    from pipelines.reviewing.outcome import ReviewedCell

__all__ = ["write_boxes", "write_folders"]

_ROOM = 0.5
"""Room on each side of a cell that is cut out of a field, relative to the longer side of its box."""


def write_folders(folder: Path, review: ExportedReview) -> None:
    """Write ``CLASS/<slide>/<image>``: the image itself where it shows one cell, a cut-out where it is a field.

    What is no cell is left out. A cut-out is a PNG with the cell in the middle and half its size around it.
    """
    sources: list[tuple[str, str, str]] = []
    labels: set[str] = set()
    for slide, image, cells in review.images():
        chosen = _cells(review, cells)
        for cell, content in zip(chosen, _pictures(review, slide, image, chosen), strict=False):
            label = class_folder(cell.label)
            place = f"{label}/{image_path(slide, image)}" + (f".{cell.key.number}.png" if review.fields else "")
            replace_file(folder / place, content)
            sources.append((place, slide, image))
            labels.add(label)
    _write_laboratory(folder, review, labels, sources, {"path": "."})


def write_boxes(folder: Path, review: ExportedReview) -> None:
    """Write ``images/<slide>/<image>`` and ``boxes.csv``, every cell of them marked.

    An image of which not every cell was reviewed is left out where only reviewed cells are asked for: a finder would
    learn that the others are none.
    """
    rows: list[tuple[object, ...]] = []
    sources: list[tuple[str, str, str]] = []
    for slide, image, cells in review.images():
        chosen = [cell for cell in _cells(review, cells) if cell.box is not None]
        data = review.read(slide, image) if chosen else None
        if data is None:
            continue
        place = image_path(slide, image)
        replace_file(folder / "images" / place, data)
        sources.append((place, slide, image))
        rows += [(place, class_folder(cell.label), *(f"{edge:.1f}" for edge in cell.box or ())) for cell in chosen]
    write_table(folder / "boxes.csv", ("image", "label", "left", "top", "right", "bottom"), rows)
    labels = {str(row[1]) for row in rows}
    _write_laboratory(folder, review, labels, sources, {"path": "images", "boxes": "boxes.csv"})


def _cells(review: ExportedReview, cells: Sequence[ReviewedCell]) -> list[ReviewedCell]:
    return [cell for cell in cells if cell.label in review.categories]


def _pictures(review: ExportedReview, slide: str, image: str, cells: Sequence[ReviewedCell]) -> list[bytes]:
    """Return what is written for each cell of an image; nothing where it cannot be read."""
    data = review.read(slide, image) if cells else None
    if data is None or not review.fields:
        return [data] * len(cells) if data else []
    try:
        rgb = decode(data).rgb
    except ImageError as error:
        review.skip(slide, image, error)
        return []
    return [_cut_out(rgb, cell.box) for cell in cells]


def _cut_out(rgb: NDArray[np.uint8], box: Box | None) -> bytes:
    """Cut a square around a box out of a field; what lies beyond the field is its edge mirrored."""
    if box is None:
        return encode_png(rgb)
    half = (0.5 + _ROOM) * max(box.right - box.left, box.bottom - box.top)
    x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    left, top, right, bottom = (round(edge) for edge in (x - half, y - half, x + half, y + half))
    height, width = rgb.shape[:2]
    part = rgb[max(0, top) : min(height, bottom), max(0, left) : min(width, right)]
    beyond = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width))
    way = cv2.BORDER_REFLECT_101 if min(part.shape[:2]) > max(beyond) else cv2.BORDER_REPLICATE
    return encode_png(np.asarray(cv2.copyMakeBorder(part, *beyond, way), np.uint8))


def _write_laboratory(
    folder: Path,
    review: ExportedReview,
    labels: Iterable[str],
    sources: Sequence[tuple[str, str, str]],
    where: dict[str, str],
) -> None:
    """Write which images belong together, and the file that training takes."""
    several = len({slide for _, slide, _ in sources}) > 1
    rows = [(place, slide if several else image) for place, slide, image in sources]
    write_table(folder / "groups.csv", ("path", "source"), rows)
    unknown = sorted(set(labels) - set(review.class_names))
    entry = {"name": "reviewed", **where, "groups": "groups.csv"} | ({"unknown": unknown} if unknown else {})
    content = yaml.safe_dump({"laboratories": [entry]}, sort_keys=False, allow_unicode=True)
    replace_file(folder / "laboratories.yaml", f"# Cells of {review.title!r}, reviewed.\n{content}")
