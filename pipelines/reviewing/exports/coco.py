"""COCO's format for detection, in one file (cocodataset.org/#format-data)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from core.errors import ImageError
from core.settings import Settings
from pipelines.classification.slides import printable
from pipelines.reviewing.exports.images import box_inside
from pipelines.reviewing.exports.material import Tally

if TYPE_CHECKING:
    from pathlib import Path

    from core.images.cells import Box
    from pipelines.reviewing.exports.material import Material
    from pipelines.reviewing.outcome import ReviewedCell

__all__ = ["CocoFile", "write_coco"]


class CocoInfo(Settings):
    """What the file is."""

    description: str
    version: str = Field(description="bundle that made the run's rows")


class CocoImage(Settings):
    """One image."""

    id: int
    file_name: str = Field(description="path relative to the folder of slides")
    width: int
    height: int


class CocoAttributes(Settings):
    """What COCO has no field for."""

    cell: int = Field(description="number of the cell in its image")
    reviewed: bool
    by_model: str
    confidence: float
    reviewer: str


class CocoAnnotation(Settings):
    """One cell."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float] = Field(description="left, top, width and height in pixels")
    area: float = Field(description="square pixels")
    iscrowd: Literal[0] = 0
    attributes: CocoAttributes


class CocoCategory(Settings):
    """One label."""

    id: int
    name: str
    supercategory: str = "white blood cell"


class CocoFile(Settings):
    """The content of ``coco.json``."""

    info: CocoInfo
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


def write_coco(material: Material, out: Path) -> Tally:
    r"""Write ``coco.json``: images, boxes and categories, all numbered from 1, in pixels of the upright image.

    Images are named by their path relative to the folder of slides, so that this is the folder to give as the root.
    A byte of a name that is no UTF-8 stands as ``\xNN``. Images without a cell are listed, without an annotation.

    Args:
        material: What is exported.
        out: Folder of the export.
    """
    tally = Tally()
    numbers = {label: number for number, label in enumerate(material.labels, start=1)}
    images: list[CocoImage] = []
    annotations: list[CocoAnnotation] = []
    for image in material.images:
        try:
            name = printable(material.name(image))
        except ImageError as error:
            tally.leave_out(image, error)
            continue
        width, height = image.size
        images.append(CocoImage(id=len(images) + 1, file_name=name, width=width, height=height))
        tally.passed_over["no-cell"] += len(image.cells) - len(image.white)
        for cell in image.white:
            box = box_inside(cell)
            if box is None:
                tally.leave_out_without_box(image, cell)
                continue
            annotations.append(_annotation(cell, box, len(annotations) + 1, len(images), numbers[cell.label]))
            tally.labels[cell.label] += 1
    content = CocoFile(
        info=CocoInfo(description="White blood cells, reviewed in Leukoray", version=material.bundle),
        images=images,
        annotations=annotations,
        categories=[CocoCategory(id=number, name=label) for label, number in numbers.items()],
    )
    (out / "coco.json").write_text(content.model_dump_json(), encoding="utf-8")
    tally.images = len(images)
    return tally


def _annotation(cell: ReviewedCell, box: Box, number: int, image: int, category: int) -> CocoAnnotation:
    width, height = round(box.right - box.left, 3), round(box.bottom - box.top, 3)
    return CocoAnnotation(
        id=number,
        image_id=image,
        category_id=category,
        bbox=(box.left, box.top, width, height),
        area=round(width * height, 3),
        attributes=CocoAttributes(
            cell=cell.key.number,
            reviewed=cell.reviewed,
            by_model=cell.by_model,
            confidence=round(cell.confidence, 6),
            reviewer=cell.reviewer,
        ),
    )
