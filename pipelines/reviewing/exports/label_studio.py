"""Tasks for Label Studio: what the model says as predictions, what reviewers say as annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from urllib.parse import quote
from xml.etree import ElementTree as ET

from pydantic import Field, TypeAdapter

from core.errors import ImageError
from core.settings import Settings
from pipelines.reviewing.cells import NO_CELL
from pipelines.reviewing.exports.colours import label_colours
from pipelines.reviewing.exports.images import box_inside
from pipelines.reviewing.exports.material import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from pipelines.reviewing.exports.images import ReviewedImage
    from pipelines.reviewing.exports.material import Material
    from pipelines.reviewing.outcome import ReviewedCell

__all__ = ["TASKS", "Task", "served_address", "write_label_studio"]

_LABELS, _IMAGE = "label", "image"
"""What the two tags of the labelling configuration are called."""


class Rectangle(Settings):
    """A rectangle in percent of the image."""

    x: float = Field(ge=0, le=100)
    y: float = Field(ge=0, le=100)
    width: float = Field(ge=0, le=100)
    height: float = Field(ge=0, le=100)
    rotation: Literal[0] = 0
    rectanglelabels: tuple[str]


class Meta(Settings):
    """What a person reads beside a region."""

    text: list[str]


class Region(Settings):
    """One cell."""

    id: str
    type: Literal["rectanglelabels"] = "rectanglelabels"
    from_name: str = _LABELS
    to_name: str = _IMAGE
    original_width: int
    original_height: int
    image_rotation: Literal[0] = 0
    value: Rectangle
    score: float | None = Field(None, description="the model's confidence")
    meta: Meta | None = None


class Prediction(Settings):
    """What the model says of an image."""

    model_version: str
    score: float | None = Field(description="its least confidence, by which tasks can be ordered")
    result: list[Region]


class Annotation(Settings):
    """What people say of an image."""

    result: list[Region]


class TaskData(Settings):
    """What a task is about."""

    image: str = Field(description="address of the image")
    slide: str
    name: str


class Task(Settings):
    """One image."""

    data: TaskData
    predictions: list[Prediction]
    annotations: list[Annotation]


TASKS = TypeAdapter(list[Task])
"""The content of ``tasks.json``."""


def write_label_studio(material: Material, out: Path, address: Callable[[bytes], str]) -> Tally:
    """Write ``tasks.json``, to be imported, and ``config.xml``, the project's labelling configuration.

    The prediction of a task has every cell that the model found; its annotation has what reviewers said, so that an
    image of which nobody said anything is still to do. A cell that reviewers found to be none is in the prediction
    only, and one that they added in the annotation only; notes are the text of a region.

    Args:
        material: What is exported.
        out: Folder of the export.
        address: Given an image's path relative to the folder of slides, returns where Label Studio finds it.
    """
    tally = Tally()
    tasks: list[Task] = []
    for image in material.images:
        try:
            where = address(material.name(image))
        except ImageError as error:
            tally.leave_out(image, error)
            continue
        tasks.append(_task(image, where, material.bundle))
        tally.passed_over["no-cell"] += len(image.cells) - len(image.white)
        for cell in image.white:
            if box_inside(cell) is None:
                tally.leave_out_without_box(image, cell)
            else:
                tally.labels[cell.label] += 1
    (out / "config.xml").write_text(_configuration(material.labels), encoding="utf-8")
    (out / "tasks.json").write_bytes(TASKS.dump_json(tasks, exclude_none=True))
    tally.images = len(tasks)
    return tally


def served_address(scheme: str, folder: str, prefix: str | None, name: bytes) -> str:
    """Return where Label Studio finds an image.

    Args:
        scheme: Scheme of the object store that the folder of slides is in; empty for a disk.
        folder: Path of the folder of slides in it.
        prefix: What stands before the image's path, where it was given.
        name: Path of the image, relative to the folder of slides.

    Returns:
        An address below the prefix. Otherwise, for a disk, of Label Studio's own file service, whose document root
        (``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT``) is to be the folder of slides; and the object's own URI, which
        Label Studio signs, for an object store.
    """
    if prefix is not None:
        return prefix + quote(name)
    if scheme:
        return f"{scheme}://{folder}/{name.decode()}"
    return f"/data/local-files/?d={quote(name)}"


def _task(image: ReviewedImage, where: str, bundle: str) -> Task:
    found = [cell for cell in image.cells if cell.by_model != NO_CELL]
    predicted = _regions(found, lambda cell: cell.by_model, of_model=True)
    said = _regions((cell for cell in image.white if cell.reviewed), lambda cell: cell.label)
    scores = [region.score for region in predicted if region.score is not None]
    prediction = Prediction(model_version=bundle[:12], score=min(scores, default=None), result=predicted)
    reviewed = any(cell.reviewed for cell in image.cells)
    return Task(
        data=TaskData(image=where, slide=image.slide, name=image.image),
        predictions=[prediction] if predicted else [],
        annotations=[Annotation(result=said)] if reviewed else [],
    )


def _regions(
    cells: Iterable[ReviewedCell], label: Callable[[ReviewedCell], str], *, of_model: bool = False
) -> list[Region]:
    regions: list[Region] = []
    for cell in cells:
        box = box_inside(cell)
        if box is None:
            continue
        width, height = cell.size
        regions.append(
            Region(
                id=f"cell-{cell.key.number}",
                original_width=width,
                original_height=height,
                value=Rectangle(
                    x=_percent(box.left, width),
                    y=_percent(box.top, height),
                    width=_percent(box.right - box.left, width),
                    height=_percent(box.bottom - box.top, height),
                    rectanglelabels=(label(cell),),
                ),
                score=min(1.0, round(cell.confidence, 6)) if of_model else None,
                meta=Meta(text=[cell.note]) if cell.note and not of_model else None,
            )
        )
    return regions


def _percent(pixels: float, whole: int) -> float:
    return round(100 * pixels / whole, 6)


def _configuration(labels: Sequence[str]) -> str:
    """Return the labelling configuration: an image and a rectangle tool with every label."""
    view = ET.Element("View")
    ET.SubElement(view, "Image", name=_IMAGE, value="$image", zoom="true", zoomControl="true")
    tool = ET.SubElement(view, "RectangleLabels", name=_LABELS, toName=_IMAGE)
    for label, (red, green, blue) in label_colours(labels).items():
        ET.SubElement(tool, "Label", value=label, background=f"#{red:02x}{green:02x}{blue:02x}")
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"
