"""GeoJSON as QuPath reads and writes it: one file per image, one object per cell."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from core.settings import Settings
from pipelines.reviewing.exports.colours import Colour, label_colours
from pipelines.reviewing.exports.files import Files
from pipelines.reviewing.exports.images import box_inside
from pipelines.reviewing.exports.material import Tally
from pipelines.reviewing.exports.places import Places

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from core.images.cells import Box
    from pipelines.reviewing.exports.images import ReviewedImage
    from pipelines.reviewing.exports.material import Material
    from pipelines.reviewing.outcome import ReviewedCell

__all__ = ["FeatureCollection", "write_geojson"]


class Polygon(Settings):
    """A closed outline (RFC 7946, section 3.1.6)."""

    type: Literal["Polygon"] = "Polygon"
    coordinates: list[list[tuple[float, float]]] = Field(
        description="rings of x and y in pixels, the last as the first"
    )


class Classification(Settings):
    """Class of a QuPath object."""

    name: str
    color: Colour


class Properties(Settings):
    """What QuPath keeps of an object."""

    objectType: Literal["annotation", "detection"]  # noqa: N815 - QuPath's own name
    name: str = Field(description="number of the cell in its image")
    classification: Classification
    measurements: dict[str, float] = Field(description="numbers, by name")
    metadata: dict[str, str] = Field(description="texts, by name")


class Feature(Settings):
    """One cell."""

    type: Literal["Feature"] = "Feature"
    id: str = Field(description="UUID, the same in every export of the run")
    geometry: Polygon
    properties: Properties


class FeatureCollection(Settings):
    """One image."""

    type: Literal["FeatureCollection"] = "FeatureCollection"
    features: list[Feature]


def write_geojson(material: Material, out: Path) -> Tally:
    """Write ``<slide>/<image>.geojson``, in pixels of the upright image.

    What a person has said something of is an annotation, which people edit in QuPath; what only the model has found
    is a detection. Measurements are the model's confidence; metadata names slide, image, the model's class, the flag
    and the reviewer. QuPath opens the files by dropping them on an open image.

    Args:
        material: What is exported.
        out: Folder of the export.
    """
    colours, places, files, tally = label_colours(material.labels), Places(), Files(out), Tally()
    for image in material.images:
        tally.passed_over["no-cell"] += len(image.cells) - len(image.white)
        features: list[Feature] = []
        for cell in image.white:
            box = box_inside(cell)
            if box is None:
                tally.leave_out_without_box(image, cell)
                continue
            features.append(_feature(image, cell, box, colours, f"{material.bundle}/{material.record.started}"))
            tally.labels[cell.label] += 1
        *folders, name = image.image.split("/")
        content = FeatureCollection(features=features).model_dump_json()
        files.write(places.place([image.slide, *folders], name, ".geojson"), content.encode())
        tally.images += 1
    return tally


def _feature(image: ReviewedImage, cell: ReviewedCell, box: Box, colours: Mapping[str, Colour], run: str) -> Feature:
    corners = [(box.left, box.top), (box.right, box.top), (box.right, box.bottom), (box.left, box.bottom)]
    texts = {
        "slide": image.slide,
        "image": image.image,
        "by_model": cell.by_model,
        "flag": cell.flag,
        "reviewer": cell.reviewer,
        "note": cell.note,
    }
    return Feature(
        id=str(uuid.uuid5(uuid.NAMESPACE_URL, "\0".join((run, *map(str, cell.key))))),
        geometry=Polygon(coordinates=[[*corners, corners[0]]]),
        properties=Properties(
            objectType="annotation" if cell.reviewed else "detection",
            name=str(cell.key.number),
            classification=Classification(name=cell.label, color=colours[cell.label]),
            measurements={} if cell.added else {"confidence": round(cell.confidence, 6)},
            metadata={name: text for name, text in texts.items() if text},
        ),
    )
