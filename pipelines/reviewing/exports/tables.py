"""A reviewed run for other tools: a table of cells, QuPath's GeoJSON, COCO, Label Studio and FiftyOne."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from core.files import replace_file, write_table
from pipelines.reviewing.exports.review import image_path

if TYPE_CHECKING:
    from pathlib import Path

    from core.images.cells import Box
    from pipelines.reviewing.exports.review import ExportedReview
    from pipelines.reviewing.outcome import ReviewedCell

__all__ = ["write_coco", "write_csv", "write_fiftyone", "write_geojson", "write_label_studio"]

_CSV = (
    "slide", "image", "cell", "left", "top", "right", "bottom", "width", "height", "label", "by_model", "confidence",
    "flag", "reviewed", "reviewer", "at", "note", "second", "added", "bundle",
)  # fmt: skip


def write_csv(folder: Path, review: ExportedReview) -> None:
    """Write ``cells.csv``, one row per cell, names and notes exactly as they are.

    A spreadsheet may take a text that begins with ``=`` for a formula; open the file as text there.
    """
    write_table(folder / "cells.csv", _CSV, (_row(cell, review.bundle) for cell in review.cells))


def _row(cell: ReviewedCell, bundle: str) -> list[object]:
    edges = [f"{edge:.1f}" for edge in cell.box] if cell.box else [""] * 4
    answer = [cell.label, cell.by_model, f"{cell.confidence:.4f}", cell.flag]
    said = ["yes" if cell.reviewed else "no", cell.reviewer, cell.at, cell.note, cell.second]
    return [*cell.key, *edges, *cell.size, *answer, *said, "yes" if cell.added else "no", bundle]


def write_geojson(folder: Path, review: ExportedReview) -> None:
    """Write ``<slide>/<image>.geojson`` for QuPath: drag a file onto its image there.

    Each cell is a detection, a rectangle in pixels with its class and the model's confidence
    (qupath.readthedocs.io, Exporting annotations, GeoJSON).
    """
    for slide, image, cells in review.images():
        features = [_feature(cell, cell.box, review) for cell in cells if cell.box and cell.label in review.categories]
        if features:
            content = {"type": "FeatureCollection", "features": features}
            replace_file(folder / f"{image_path(slide, image)}.geojson", json.dumps(content, ensure_ascii=False))


def _feature(cell: ReviewedCell, box: Box, review: ExportedReview) -> dict[str, Any]:
    left, top, right, bottom = (round(float(edge), 1) for edge in box)
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    properties = {
        "objectType": "detection",
        "name": str(cell.key.number),
        "classification": {"name": cell.label, "color": list(review.colour(cell.label))},
        "measurements": {"confidence": round(cell.confidence, 4), "reviewed": int(cell.reviewed)},
    }
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def write_coco(folder: Path, review: ExportedReview) -> None:
    """Write ``coco.json`` (cocodataset.org, Data format, Object detection); ``file_name`` is ``<slide>/<image>``."""
    categories = {label: number for number, label in enumerate(review.categories, start=1)}
    images, annotations = [], []
    for number, (slide, image, cells) in enumerate(review.images(), start=1):
        width, height = cells[0].size
        images.append({"id": number, "file_name": f"{slide}/{image}", "width": width, "height": height})
        for cell in cells:
            if cell.box is None or cell.label not in categories:
                continue
            left, top, right, bottom = (round(float(edge), 1) for edge in cell.box)
            across, down = round(right - left, 1), round(bottom - top, 1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": categories[cell.label],
                    "bbox": [left, top, across, down],
                    "area": round(across * down, 1),
                    "iscrowd": 0,
                    "attributes": {"cell": cell.key.number, "by_model": cell.by_model, "reviewed": cell.reviewed},
                }
            )
    content = {
        "info": {"description": f"Cells of {review.title}, reviewed", "bundle": review.bundle},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": one, "name": name, "supercategory": "cell"} for name, one in categories.items()],
    }
    replace_file(folder / "coco.json", json.dumps(content, ensure_ascii=False))


def write_label_studio(folder: Path, review: ExportedReview) -> None:
    """Write ``tasks.json`` to import and ``config.xml``, the labelling interface that it needs.

    What reviewers said is an annotation, what the model said a prediction. Images are looked for below Label Studio's
    local storage, as ``slides/<slide>/<image>`` (labelstud.io, Import pre-annotated data).
    """
    tasks: list[dict[str, Any]] = []
    for slide, image, cells in review.images():
        boxed = [cell for cell in cells if cell.box]
        task: dict[str, Any] = {
            "data": {"image": f"/data/local-files/?d={quote(f'slides/{slide}/{image}')}", "slide": slide, "name": image}
        }
        said = [_rectangle(cell, cell.box, cell.label) for cell in boxed if cell.box and cell.reviewed]
        model = [_rectangle(cell, cell.box, cell.by_model) for cell in boxed if cell.box and not cell.added]
        task["annotations"] = [{"result": [one for one in said if one]}] if said else []
        score = min((cell.confidence for cell in boxed if not cell.added), default=0.0)
        prediction = {
            "model_version": review.bundle[:16],
            "score": round(score, 4),
            "result": [one for one in model if one],
        }
        tasks.append(task | {"predictions": [prediction] if model else []})
    replace_file(folder / "tasks.json", json.dumps(tasks, ensure_ascii=False))
    labels = "\n".join(
        f"    <Label value={quoteattr(label)} background={quoteattr(review.colours.get(label, '#8a93a0'))}/>"
        for label in review.categories
    )
    interface = (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <RectangleLabels name="cell" toName="image">\n{labels}\n  </RectangleLabels>\n</View>\n'
    )
    replace_file(folder / "config.xml", interface)


def _rectangle(cell: ReviewedCell, box: Box, label: str) -> dict[str, Any] | None:
    """Return a box in percent of the image; None where it is said to be no cell."""
    if label == "no-cell":
        return None
    width, height = cell.size
    value = {
        "x": 100 * float(box.left) / width,
        "y": 100 * float(box.top) / height,
        "width": 100 * float(box.right - box.left) / width,
        "height": 100 * float(box.bottom - box.top) / height,
        "rotation": 0,
        "rectanglelabels": [label],
    }
    return {
        "id": f"cell-{cell.key.number}",
        "type": "rectanglelabels",
        "from_name": "cell",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value,
    }


def write_fiftyone(folder: Path, review: ExportedReview) -> None:
    """Write ``data/`` and ``labels.json``, a ``fiftyone.types.FiftyOneImageDetectionDataset``.

    Boxes are left, top, width and height relative to the image (docs.voxel51.com, FiftyOneImageDetectionDataset).
    """
    labels: dict[str, list[dict[str, Any]]] = {}
    for slide, image, cells in review.images():
        data = review.read(slide, image)
        if data is None:
            continue
        place = PurePosixPath(image_path(slide, image))
        if str(place.with_suffix("")) in labels:  # FiftyOne knows images by their names without endings
            place = place.with_name(f"{place.stem}{place.suffix.replace('.', '-')}{place.suffix}")
        replace_file(folder / "data" / place, data)
        boxed = (cell for cell in cells if cell.box and cell.label in review.categories)
        labels[str(place.with_suffix(""))] = [_detection(cell, cell.box, review) for cell in boxed if cell.box]
    content = {"classes": review.categories, "labels": labels}
    replace_file(folder / "labels.json", json.dumps(content, ensure_ascii=False))


def _detection(cell: ReviewedCell, box: Box, review: ExportedReview) -> dict[str, Any]:
    width, height = cell.size
    edges = (box.left / width, box.top / height, (box.right - box.left) / width, (box.bottom - box.top) / height)
    attributes = {"cell": cell.key.number, "by_model": cell.by_model, "reviewed": cell.reviewed}
    return {
        "label": review.categories.index(cell.label),
        "bounding_box": [round(float(edge), 6) for edge in edges],
        "confidence": round(cell.confidence, 4),
        "attributes": attributes,
    }
