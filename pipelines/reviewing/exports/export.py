"""Making an export: it is there when it is complete, or not at all."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from core.errors import DataError, SettingsError
from pipelines.classification.slides import no_such_slides
from pipelines.reviewing.exports.boxes import write_boxes
from pipelines.reviewing.exports.coco import write_coco
from pipelines.reviewing.exports.fiftyone import write_fiftyone
from pipelines.reviewing.exports.folders import write_folders
from pipelines.reviewing.exports.geojson import write_geojson
from pipelines.reviewing.exports.images import reviewed_images
from pipelines.reviewing.exports.label_studio import served_address, write_label_studio
from pipelines.reviewing.exports.material import LeftOut, Material, Tally
from pipelines.reviewing.exports.table import write_table_of_cells
from pipelines.reviewing.exports.tables import write_rows
from pipelines.reviewing.sources import SourceImages
from runtime.command import refuse_existing

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    from pipelines.classification.record import RunRecord
    from pipelines.classification.run_folder import RunFolder
    from pipelines.classification.storage import Folder
    from pipelines.reviewing.outcome import Which
    from pipelines.reviewing.state import ReviewState

__all__ = ["KINDS", "Exported", "Kind", "export"]

Kind = Literal["folders", "boxes", "csv", "geojson", "coco", "label-studio", "fiftyone"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What can be made: class folders and boxes for training; a table; files of QuPath, COCO, Label Studio, FiftyOne."""

_NEED_IMAGES = frozenset({"folders", "boxes", "fiftyone"})


@dataclass(frozen=True)
class Exported:
    """What an export has, and what it has not.

    Attributes:
        kind: Kind of export.
        images: Images in it, or that it speaks of.
        labels: Cells in it, by label; of boxes, ``NO-CELL`` for what is marked as none.
        left_out: What was to be in it and could not be; also in its ``left_out.csv``.
        passed_over: What does not belong into an export of this kind, by reason.
    """

    kind: Kind
    images: int
    labels: Mapping[str, int]
    left_out: tuple[LeftOut, ...]
    passed_over: Mapping[str, int]

    @property
    def cells(self) -> int:
        """Number of cells in it."""
        return sum(self.labels.values())


def export(
    kind: Kind,
    state: ReviewState,
    run: RunFolder,
    record: RunRecord,
    source: Folder,
    out: Path,
    *,
    which: Which = "reviewed",
    threads: int = 2,
    image_prefix: str | None = None,
    on_image: Callable[[], object] | None = None,
) -> Exported:
    """Write what a review says into a new folder.

    The same review gives the same bytes. Everything is written under a temporary name beside `out`, which is renamed at
    the end: `out` is complete, or it is not there. Where images cannot be read, the rest is exported, and
    ``left_out.csv`` in it lists what is missing; where nothing could be exported, there is no `out`.

    Args:
        kind: What to make, one of `KINDS`; see the function of each for what is in it.
        state: What the review says. It must not change meanwhile.
        run: Folder of the run, whose list of images has the names of the files.
        record: Record of the run.
        source: Folder of slides; only ``folders``, ``boxes`` and ``fiftyone`` read images from it.
        out: Folder that does not exist, or is empty.
        which: ``reviewed`` for cells that a person has said something of, or whose slide is signed off; ``all`` for
            the model's own word where nobody has said anything.
        threads: Number of threads that read and decode.
        image_prefix: What Label Studio is to find before an image's path, such as ``https://images.lab/slides/``.
        on_image: Called after each image that was read.

    Returns:
        What is in it; a command should fail where anything is `left_out`.

    Raises:
        SettingsError: With code ``out-exists`` or ``out-is-disk``.
        DataError: With code ``nothing-to-export``, ``nothing-exported`` or, where the slides are gone, ``not-found``.
        StorageError: The storage of the images fails.

    Example:
        >>> export("folders", review.state, run, record, open_folder("SLIDES"), Path("reviewed")).labels["MONOCYTE"]
        17
    """
    refuse_existing(out)
    if out.is_mount():
        raise SettingsError("out-is-disk", f"{out} is a disk of its own; give a new folder on it.")
    images = reviewed_images(state, which)
    if not images:
        raise DataError(
            "nothing-to-export",
            "Nobody has reviewed a cell of this run yet; review some, or export all with --only all.",
        )
    if kind in _NEED_IMAGES and not source.has_content():
        raise no_such_slides(source)
    material = Material(images, record, source, SourceImages(run, source), threads, on_image)
    with _staged(out) as unfinished:
        tally = _write(kind, material, unfinished, which, image_prefix)
        if tally.left_out:
            write_rows(unfinished / "left_out.csv", LeftOut._fields, tally.left_out)
        if not tally.images:
            raise _nothing(tally)
    return Exported(kind, tally.images, dict(+tally.labels), tuple(tally.left_out), dict(+tally.passed_over))


def _write(kind: Kind, material: Material, out: Path, which: Which, image_prefix: str | None) -> Tally:
    scheme = "" if material.source.local else material.source.location.base.partition("://")[0]
    writers: dict[Kind, Callable[[Material, Path], Tally]] = {
        "folders": write_folders,
        "boxes": partial(write_boxes, which=which),
        "csv": write_table_of_cells,
        "geojson": write_geojson,
        "coco": write_coco,
        "label-studio": partial(
            write_label_studio, address=partial(served_address, scheme, material.source.path, image_prefix)
        ),
        "fiftyone": write_fiftyone,
    }
    return writers[kind](material, out)


@contextmanager
def _staged(out: Path) -> Generator[Path]:
    """Give a new folder beside `out` to write to; when the block ends well, it is `out`."""
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    unfinished.mkdir()
    try:
        yield unfinished
        unfinished.replace(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _nothing(tally: Tally) -> DataError:
    """Return the error that says why nothing is in an export."""
    if tally.left_out:
        first = tally.left_out[0]
        return DataError("nothing-exported", f"None of the images can be used; {first.image}: {first.message}")
    if tally.passed_over["incomplete-image"]:
        return DataError(
            "nothing-exported",
            "No image has all its cells reviewed; review whole images, export folders, or all with --only all.",
        )
    return DataError("nothing-exported", "What was reviewed are no white cells, so there is nothing for this export.")
