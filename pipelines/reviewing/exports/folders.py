"""Class folders: one image per cell, as ``train.py`` takes them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from core.errors import ImageError
from core.images.cells import Box
from core.images.decoder import FORMATS, decode
from core.images.overlay import encode_png
from core.images.reading import processing
from pipelines.reviewing.exports.files import Files
from pipelines.reviewing.exports.images import box_inside
from pipelines.reviewing.exports.laboratory import ClassNames, write_laboratory
from pipelines.reviewing.exports.material import Tally
from pipelines.reviewing.exports.places import Places
from pipelines.reviewing.exports.tables import write_rows

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from pipelines.reviewing.exports.images import ReviewedImage
    from pipelines.reviewing.exports.material import Material
    from pipelines.reviewing.outcome import ReviewedCell

__all__ = ["TRAINED_ENDINGS", "cut_out", "write_folders"]

TRAINED_ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
"""Endings of the files that training finds in a class folder."""

_ROOM = 2.0
"""Side of a cut-out, relative to the cell's longer side: what the network sees of a marked cell is 1.9 of it with the
bundle that ships. With more, neighbours come into view, and training takes one of them for the cell more often."""

_LEAST_SIDE = 32
"""Pixels of a cut-out's side at least, as far as the image has them."""


class _File(NamedTuple):
    """One file of an export: its cell, what its name lacks, its bytes, and where the cell is in it if it is a cut-out.

    A cell of which nobody knows where it is has no bytes.
    """

    cell: ReviewedCell
    ending: str = ""
    data: bytes = b""
    box: Box | None = None


def write_folders(material: Material, out: Path) -> Tally:
    """Write ``<CLASS>/<slide>/<image>``, ``groups.csv`` and, last, ``laboratories.yaml``.

    In a run with one cell per image it is the image file itself that is written, byte for byte. In a run with every
    cell of its fields, and for a cell that a reviewer added, the cell is cut out of its field with room around it, as
    a PNG of the decoded pixels, named ``<image>.<cell>.png``. A file without an ending that training looks for gets
    one.

    Of a run with every cell there is ``boxes.csv`` too, which says where in its cut-out each cell is. The YAML names
    it, so that ``train.py OUT/laboratories.yaml`` takes the reviewed cell and no other. ``train.py OUT`` looks for the
    cell by its colour and can take a neighbour that touches it.

    Cells that nobody could identify are in ``UNIDENTIFIED``. It, and labels that the bundle does not know, stand under
    ``unknown`` in the YAML; ``train.py OUT --start BUNDLE`` wants each of them as ``--unknown``.

    Args:
        material: What is exported.
        out: Folder of the export.
    """
    names, places, files, tally = ClassNames(material), Places(), Files(out), Tally()
    written: list[tuple[str, ReviewedImage]] = []
    boxes: list[tuple[object, ...]] = []
    whole = material.record.arguments.cells == "one"

    def make(image: ReviewedImage, data: bytes) -> list[_File]:
        with processing():
            return _files(image, data, whole=whole)

    for image, made in material.read_each([image for image in material.images if image.white], make):
        if isinstance(made, ImageError):
            tally.leave_out(image, made)
            continue
        *folders, name = image.image.split("/")
        before = len(written)
        for cell, ending, data, box in made:
            if not data:
                tally.leave_out_without_box(image, cell)
                continue
            label = names.of(cell.label)
            path = places.place([label, image.slide, *folders], name, ending)
            files.write(path, data)
            written.append((path, image))
            boxes.append((path, label, *(box or ())))
            tally.labels[cell.label] += 1
        tally.images += len(written) > before
    tally.passed_over["no-cell"] = sum(len(image.cells) - len(image.white) for image in material.images)
    if not whole:
        write_rows(out / "boxes.csv", ("image", "label", "left", "top", "right", "bottom"), boxes)
    unknown = names.unknown(list(tally.labels))
    write_laboratory(out, material, written, path=".", boxes="" if whole else "boxes.csv", unknown=unknown)
    return tally


def cut_out(rgb: NDArray[np.uint8], box: Box) -> tuple[NDArray[np.uint8], Box]:
    """Return the square around a cell that shows what the network looks at, and the cell's box in it.

    It lies inside the image, off the cell's middle at the image's edge, as the part does that the network sees.

    Args:
        rgb: Field, (H, W, 3) uint8.
        box: The cell, in pixels of the field.
    """
    height, width = rgb.shape[:2]
    side = min(max(round(_ROOM * box.longer), _LEAST_SIDE), height, width)
    left = min(max(0, round((box.left + box.right - side) / 2)), width - side)
    top = min(max(0, round((box.top + box.bottom - side) / 2)), height - side)
    place = Box(*(round(edge, 3) for edge in box.moved(-left, -top)))
    inside = Box(max(place.left, 0.0), max(place.top, 0.0), min(place.right, side), min(place.bottom, side))
    return rgb[top : top + side, left : left + side], inside


def _files(image: ReviewedImage, data: bytes, *, whole: bool) -> list[_File]:
    """Return the files of an image, one for each cell."""
    files: list[_File] = []
    rgb = None
    for cell in image.white:
        box = box_inside(cell)
        if whole and not cell.added:
            files.append(_File(cell, _missing_ending(image.image, data), data))
        elif box is None:
            files.append(_File(cell))
        else:
            rgb = decode(data).rgb if rgb is None else rgb
            pixels, place = cut_out(rgb, box)
            files.append(_File(cell, f".{cell.key.number}.png", encode_png(pixels), place))
    return files


def _missing_ending(name: str, data: bytes) -> str:
    """Return the ending that training needs and the name lacks."""
    if name.lower().endswith(TRAINED_ENDINGS):
        return ""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            return {"JPEG": ".jpg", "TIFF": ".tif"}.get(str(opened.format), f".{str(opened.format).lower()}")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError("not-an-image", "The file is no image any more.") from error
