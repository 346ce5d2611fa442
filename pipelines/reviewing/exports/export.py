"""Writing one export: all of it, or nothing."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Literal

from core.errors import DataError
from pipelines.reviewing.exports.laboratory import write_boxes, write_folders
from pipelines.reviewing.exports.review import ExportedReview, of_complete_images
from pipelines.reviewing.exports.tables import write_coco, write_csv, write_fiftyone, write_geojson, write_label_studio
from pipelines.reviewing.outcome import reviewed_cells
from runtime.command import FAILED, refuse_existing
from runtime.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipelines.classification.record import RunRecord
    from pipelines.reviewing.outcome import Which
    from pipelines.reviewing.review import Review
    from pipelines.reviewing.sources import SourceImages

__all__ = ["ExportKind", "export", "write_export"]

ExportKind = Literal["folders", "boxes", "csv", "geojson", "coco", "label-studio", "fiftyone"]

_WRITERS: dict[str, Callable[[Path, ExportedReview], None]] = {
    "folders": write_folders,
    "boxes": write_boxes,
    "csv": write_csv,
    "geojson": write_geojson,
    "coco": write_coco,
    "label-studio": write_label_studio,
    "fiftyone": write_fiftyone,
}


def export(kind: ExportKind, review: ExportedReview, out: Path) -> None:
    """Write a folder that is new or empty; a kill leaves it as it was.

    Args:
        kind: The format.
        review: What is written.
        out: The folder.

    Raises:
        SettingsError: With code ``out-exists``.
        DataError: With code ``nothing-reviewed`` where there is no cell, ``no-boxes`` where the format needs boxes and
            no cell has one, or ``no-images`` where no image can be read.
    """
    refuse_existing(out)
    if not review.cells:
        raise DataError("nothing-reviewed", "Nobody has said anything of any cell yet; review some, or use --only all.")
    if kind not in {"folders", "csv"} and not review.boxed:
        raise DataError("no-boxes", f"No cell has a box, which {kind} needs.")
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        unfinished.mkdir(parents=True)
        _WRITERS[kind](unfinished, review)
        if review.skipped and not review.taken:
            raise DataError(
                "no-images", f"No image can be read ({review.skipped[0][1]}); --slides says where they are."
            )
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_export(
    kind: ExportKind, review: Review, sources: SourceImages, record: RunRecord, out: Path, which: Which
) -> int:
    """Write an export of a review, say what was written, and return the exit code: 1 where an image was left out.

    Args:
        kind: The format.
        review: The review.
        sources: Its images.
        record: Record of the run.
        out: New folder.
        which: The cells that are written.

    Raises:
        LeukorayError: See `export`.
    """
    cells = sorted(reviewed_cells(review.state), key=lambda cell: cell.key)
    if which == "reviewed":
        cells = of_complete_images(cells) if kind == "boxes" else [cell for cell in cells if cell.reviewed]
    content = ExportedReview(
        title=out.name,
        bundle=record.bundle.id,
        class_names=record.bundle.classes,
        labels=review.labels,
        colours=review.colours,
        cells=cells,
        fields=record.arguments.cells == "all",
        sources=sources,
    )
    export(kind, content, out)
    say(f"{kind}: {out}")
    for image, reason in content.skipped[:10]:
        say(f"left out: {image} ({reason})")
    if content.skipped:
        say(f"error: images that could not be read and are left out: {len(content.skipped):,}")
    return FAILED if content.skipped else 0
