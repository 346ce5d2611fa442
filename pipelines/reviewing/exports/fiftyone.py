"""A data set on disk that FiftyOne imports as ``fiftyone.types.FiftyOneImageDetectionDataset``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from core.errors import ImageError
from core.settings import Settings
from pipelines.reviewing.exports.files import Files
from pipelines.reviewing.exports.images import box_inside
from pipelines.reviewing.exports.material import Tally
from pipelines.reviewing.exports.places import Places

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.reviewing.exports.images import ReviewedImage
    from pipelines.reviewing.exports.material import Material
    from pipelines.reviewing.outcome import ReviewedCell

__all__ = ["FiftyOneLabels", "write_fiftyone"]


class FiftyOneAttributes(Settings):
    """What becomes an attribute of each detection."""

    slide: str
    image: str
    cell: int
    by_model: str
    flag: str
    reviewed: bool
    reviewer: str
    note: str


class FiftyOneDetection(Settings):
    """One cell."""

    label: int = Field(ge=0, description="place of its label in `classes`")
    bounding_box: tuple[float, float, float, float] = Field(
        description="left, top, width and height, relative to the image's"
    )
    confidence: float | None = Field(description="the model's, where it said the same")
    attributes: FiftyOneAttributes


class FiftyOneLabels(Settings):
    """The content of ``labels.json``."""

    classes: list[str]
    labels: dict[str, list[FiftyOneDetection]] = Field(description="cells of each image, by its name without ending")


def write_fiftyone(material: Material, out: Path) -> Tally:
    """Write ``data/<number>-<image>``, byte for byte, and, last, ``labels.json``.

    Images are numbered since FiftyOne knows them by their name without its ending; slide and image are attributes of
    each detection.

    Args:
        material: What is exported.
        out: Folder of the export.
    """
    tally, places, files = Tally(), Places(), Files(out / "data")
    numbers = {label: number for number, label in enumerate(material.labels)}
    labels: dict[str, list[FiftyOneDetection]] = {}
    for image, data in material.read_each(material.images, lambda _, data: data):
        if isinstance(data, ImageError):
            tally.leave_out(image, data)
            continue
        name = places.place([], f"{len(labels) + 1:06d}-{image.image.rpartition('/')[2]}")
        files.write(name, data)
        tally.passed_over["no-cell"] += len(image.cells) - len(image.white)
        detections: list[FiftyOneDetection] = []
        for cell in image.white:
            detection = _detection(image, cell, numbers[cell.label])
            if detection is None:
                tally.leave_out_without_box(image, cell)
            else:
                detections.append(detection)
                tally.labels[cell.label] += 1
        labels[name.rpartition(".")[0] or name] = detections
    content = FiftyOneLabels(classes=list(numbers), labels=labels)
    (out / "labels.json").write_text(content.model_dump_json(), encoding="utf-8")
    tally.images = len(labels)
    return tally


def _detection(image: ReviewedImage, cell: ReviewedCell, label: int) -> FiftyOneDetection | None:
    box = box_inside(cell)
    if box is None:
        return None
    width, height = image.size
    edges = (box.left / width, box.top / height, (box.right - box.left) / width, (box.bottom - box.top) / height)
    left, top, wide, high = (round(edge, 8) for edge in edges)
    return FiftyOneDetection(
        label=label,
        bounding_box=(left, top, wide, high),
        confidence=round(cell.confidence, 6) if cell.label == cell.by_model else None,
        attributes=FiftyOneAttributes(
            slide=image.slide,
            image=image.image,
            cell=cell.key.number,
            by_model=cell.by_model,
            flag=cell.flag,
            reviewed=cell.reviewed,
            reviewer=cell.reviewer,
            note=cell.note,
        ),
    )
