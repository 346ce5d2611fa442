"""A finished run, written without classifying: drawn fields, a row for each of their cells, made-up answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from core.images.drawings import CLASS_NAMES, draw_field
from core.images.overlay import encode_jpeg
from pipelines.classification.record import RunArguments, RunBundle, RunRecord
from pipelines.classification.run_folder import (
    ERRORS_SCHEMA,
    ImageList,
    RunFolder,
    embeddings_schema,
    predictions_schema,
)
from pipelines.classification.sheet import ThumbnailSheets, sheet_name
from pipelines.classification.slides import Entry
from pipelines.classification.storage import open_folder
from pipelines.reviewing.cells import RunCells, read_cells
from pipelines.reviewing.desk import run_identity
from pipelines.reviewing.log import ReviewLog, local_database
from pipelines.reviewing.review import Review

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["BUNDLE", "FinishedRun", "write_run"]

BUNDLE = "b" * 64
FEATURES = 8
_PER_IMAGE, _PART = 4, 64
_FLAGS = ("", "", "", "low-confidence", "", "out-of-distribution", "", "")


@dataclass(frozen=True)
class FinishedRun:
    """A run on disk, and its slides."""

    folder: RunFolder
    record: RunRecord
    slides: Path

    @property
    def path(self) -> str:
        return self.folder.folder.path

    def cells(self) -> RunCells:
        return read_cells(self.folder, self.record)

    def log(self, database: str | None = None) -> ReviewLog:
        from pathlib import Path

        address = database or local_database(Path(self.path) / "review")
        return ReviewLog(address, run_identity(self.record), BUNDLE)

    def review(self, further: Sequence[str] = (), database: str | None = None) -> Review:
        return Review(self.cells(), self.log(database), further)


def write_run(
    root: Path, cells: int = 40, slides: Sequence[str] = ("first", "second", "third"), *, drawn: bool = True
) -> FinishedRun:
    """Write ``root/slides`` and ``root/run``: four cells to an image, all images alike; one image without any.

    Args:
        root: Folder for both.
        cells: Number of cells.
        slides: Names of the slides, which get the images in turn.
        drawn: Whether the slides' images are there too.
    """
    rng = np.random.default_rng(3)
    rgb = np.concatenate([draw_field(kind, rng) for kind in CLASS_NAMES], axis=1)
    height, width = rgb.shape[:2]
    picture = encode_jpeg(rgb)
    run = RunFolder(open_folder(str(root / "run")))
    entries, rows = [], []
    for number in range(-(-cells // _PER_IMAGE) + 1):
        slide, image = slides[number % len(slides)], f"field {number:05d}.jpg"
        path = root / "slides" / slide / image
        if drawn:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture)
        entries.append(Entry(slide, image, bytes(path)))
        base = {"slide": slide, "image": image, "width": width, "height": height, "bytes": len(picture)}
        base["bundle"] = BUNDLE
        of_image = min(_PER_IMAGE, cells - number * _PER_IMAGE)
        if of_image <= 0:
            rows.append([base | {"cell": 0, "flag": "no-cell"}])
            continue
        rows.append([base | _cell(place, width / _PER_IMAGE, height, rng, len(rows)) for place in range(of_image)])
    parts = [slice(start, start + _PART) for start in range(0, len(entries), _PART)]
    for part, chosen in enumerate(parts):
        table = [row for image in rows[chosen] for row in image]
        run.write_list_part(part, entries[chosen])
        _write_sheets(run, part, len(table), rgb)
        run.write_part(
            part,
            pa.Table.from_pylist(table, schema=predictions_schema(CLASS_NAMES)),
            pa.Table.from_pylist([], schema=ERRORS_SCHEMA),
            pa.Table.from_pylist([_with_features(row, rng) for row in table], schema=embeddings_schema(FEATURES)),
        )
    run.complete_list(ImageList(parts=len(parts), images=len(entries), ignored=0, top_slide="slides", listing_s=0.1))
    arguments = RunArguments(
        slides=str(root / "slides"), cells="all", gradcam="none", colour_map="jet", batch_size=32, limit=None,
        part_size=None,
    )  # fmt: skip
    bundle = RunBundle(path="models/made-up", id=BUNDLE, classes=CLASS_NAMES)
    record = RunRecord.begin(arguments, bundle).model_copy(update={"state": "finished"})
    run.write_record(record)
    return FinishedRun(run, record, root / "slides")


def _with_features(row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Return a row of ``embeddings``: cells of a class lie in one direction; what is no cell has none."""
    if not row["cell"]:
        return row | {"embedding": None}
    direction = 4.0 * (np.arange(FEATURES) == CLASS_NAMES.index(row["label"]))
    return row | {"embedding": (direction + rng.normal(0, 0.1, FEATURES)).astype(np.float16)}


def _cell(place: int, side: float, height: int, rng: np.random.Generator, number: int) -> dict[str, Any]:
    shares = rng.dirichlet(np.full(len(CLASS_NAMES), 0.4))
    label = int(shares.argmax())
    return {
        "cell": place + 1,
        "left": (place + 0.2) * side,
        "top": 0.2 * height,
        "right": (place + 0.8) * side,
        "bottom": 0.8 * height,
        "label": CLASS_NAMES[label],
        "confidence": float(shares[label]),
        **{f"p_{name}": float(share) for name, share in zip(CLASS_NAMES, shares, strict=True)},
        "ood": -4.0,
        "flag": _FLAGS[(_PER_IMAGE * number + place) % len(_FLAGS)],
        "gradcam": None,
    }


def _write_sheets(run: RunFolder, part: int, count: int, rgb: np.ndarray) -> None:
    sheets = ThumbnailSheets()
    for _ in range(count):
        sheets.add(rgb)
    for number, data in enumerate(sheets.encoded()):
        run.folder.write(f"report/thumbnails/{sheet_name(part, number)}", data)
