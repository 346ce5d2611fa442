"""The cells of a finished run, held in memory as columns: what a review begins from and never changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import DataError, SettingsError
from core.images.cells import Box
from core.model.confidence import LOW_CONFIDENCE, NO_CELL, OUT_OF_DISTRIBUTION, SEVERAL_CELLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipelines.classification.record import RunRecord
    from pipelines.classification.run_folder import RunFolder

__all__ = ["FLAGS", "NO_CELL", "UNIDENTIFIED", "CellKey", "RunCells", "read_cells"]

UNIDENTIFIED = "unidentified"
"""Label of a cell that is none of the known classes; `NO_CELL` is the label of what is no white cell at all."""

FLAGS = ("", LOW_CONFIDENCE, OUT_OF_DISTRIBUTION, NO_CELL, SEVERAL_CELLS)

_NUMBERS = ("left", "top", "right", "bottom")


class CellKey(NamedTuple):
    """What names a cell for good: slide, image, and its number in the image (0: an image without a cell)."""

    slide: str
    image: str
    number: int


@dataclass(frozen=True)
class RunCells:
    """One row per cell, and per image without any, in the order of the run's parts.

    Attributes:
        class_names: Class names of the bundle, in order.
        slides: Names of the slides, in order.
        slide: Slide of each row, an index, (N,) int32.
        image: Path of the image relative to its slide, N strings.
        number: Number of the cell in its image, (N,) int32; 0 where none was found.
        boxes: Left, top, right, bottom in pixels of the upright image, (N, 4) float32; NaN where there is none.
        label: Class by the model, an index, (N,) int16; -1 where it gave none.
        confidence: Its probability, (N,) float32; 0 where it gave none.
        probabilities: Those of all classes, (N, C) float32.
        flag: Index into `FLAGS`, (N,) int8.
        ood: Out-of-distribution score, (N,) float32.
        gradcam: Path of the overlay relative to the run, or null, N strings.
        size: Width and height of the image in pixels, (N, 2) int32.
        place: Number of the part and row in it, (N, 2) int32.
    """

    class_names: tuple[str, ...]
    slides: tuple[str, ...]
    slide: NDArray[np.int32]
    image: pa.Array
    number: NDArray[np.int32]
    boxes: NDArray[np.float32]
    label: NDArray[np.int16]
    confidence: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    flag: NDArray[np.int8]
    ood: NDArray[np.float32]
    gradcam: pa.Array
    size: NDArray[np.int32]
    place: NDArray[np.int32]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.slide)

    def key(self, row: int) -> CellKey:
        """Return what names the cell of a row."""
        return CellKey(self.slides[self.slide[row]], self.image[row].as_py(), int(self.number[row]))

    def box(self, row: int) -> Box | None:
        """Return the box of a cell, where it has one."""
        edges = self.boxes[row]
        return None if np.isnan(edges).any() else Box(*(float(edge) for edge in edges))

    @cached_property
    def rows(self) -> dict[CellKey, int]:
        """The row of each cell."""
        names = zip(self.slide.tolist(), self.image.to_pylist(), self.number.tolist(), strict=True)
        return {CellKey(self.slides[slide], image, number): row for row, (slide, image, number) in enumerate(names)}

    @cached_property
    def largest_numbers(self) -> dict[tuple[str, str], int]:
        """The largest number of a cell in each image, by slide and image."""
        largest: dict[tuple[str, str], int] = {}
        for slide, image, number in self.rows:
            largest[slide, image] = max(number, largest.get((slide, image), 0))
        return largest

    @cached_property
    def sizes(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Width and height of each image in pixels, by slide and image."""
        sizes = self.size.tolist()
        return {(key.slide, key.image): tuple(sizes[row]) for key, row in self.rows.items()}

    @cached_property
    def slide_numbers(self) -> dict[str, int]:
        """The index of each slide."""
        return {name: index for index, name in enumerate(self.slides)}

    @cached_property
    def labels(self) -> list[str]:
        """What the model says of each row: a class, `UNIDENTIFIED` or `NO_CELL`."""
        names = np.array([*self.class_names, ""], dtype=object)[self.label]
        names[self.flag == FLAGS.index(OUT_OF_DISTRIBUTION)] = UNIDENTIFIED
        names[(self.flag == FLAGS.index(NO_CELL)) | (names == "")] = NO_CELL
        return names.tolist()


def read_cells(run: RunFolder, record: RunRecord) -> RunCells:
    """Read all rows of a run, part by part.

    Args:
        run: Folder of the run.
        record: Its record.

    Raises:
        SettingsError: With code ``run-unfinished``.
        DataError: With code ``no-cells`` where no row is there, or ``run-damaged`` where a part cannot be read.
    """
    if record.state != "finished":
        raise SettingsError(
            "run-unfinished", f"The run in {run.folder.shown} is not finished; finish it with classify.py --resume."
        )
    names = record.bundle.classes
    parts = [_read_part(run, name, names, number) for number, name in run.part_files("predictions")]
    if not sum(len(part.number) for part in parts):
        raise DataError("no-cells", f"The run in {run.folder.shown} has no readable image, so there is nothing to see.")
    return _joined(parts, names)


class _Part(NamedTuple):
    """The columns of one part; of slides by name."""

    slide: pa.Array
    image: pa.Array
    number: NDArray[np.int32]
    boxes: NDArray[np.float32]
    label: NDArray[np.int16]
    confidence: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    flag: NDArray[np.int8]
    ood: NDArray[np.float32]
    gradcam: pa.Array
    size: NDArray[np.int32]
    place: NDArray[np.int32]

    @classmethod
    def of(cls, table: pa.Table, class_names: Sequence[str], part: int) -> _Part:
        def numbers(name: str, kind: type[np.generic], empty: float) -> NDArray[np.generic]:
            return pc.fill_null(table.column(name).combine_chunks(), empty).to_numpy(zero_copy_only=False).astype(kind)

        def places(name: str, values: Sequence[str]) -> NDArray[np.int64]:
            found = pc.index_in(table.column(name).combine_chunks(), value_set=pa.array(values))
            return pc.fill_null(found, -1).to_numpy(zero_copy_only=False)

        def stacked(columns: Sequence[str], kind: type[np.generic], empty: float) -> NDArray[np.generic]:
            return np.stack([numbers(name, kind, empty) for name in columns], axis=1)

        rows = np.arange(table.num_rows)
        return cls(
            slide=_strings(table, "slide"),
            image=_strings(table, "image"),
            number=numbers("cell", np.int32, 0),
            boxes=stacked(_NUMBERS, np.float32, float("nan")),
            label=places("label", class_names).astype(np.int16),
            confidence=numbers("confidence", np.float32, 0.0),
            probabilities=stacked([f"p_{name}" for name in class_names], np.float32, 0.0),
            flag=places("flag", FLAGS).clip(0).astype(np.int8),
            ood=numbers("ood", np.float32, 0.0),
            gradcam=_strings(table, "gradcam"),
            size=stacked(("width", "height"), np.int32, 0),
            place=np.stack([np.full_like(rows, part), rows], axis=1).astype(np.int32),
        )


def _read_part(run: RunFolder, name: str, class_names: Sequence[str], number: int) -> _Part:
    try:
        return _Part.of(run.read_table(name), class_names, number)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise DataError("run-damaged", f"{run.folder.show(name)} cannot be read ({error}).") from error


def _strings(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).cast(pa.large_string()).combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def _joined(parts: Sequence[_Part], class_names: tuple[str, ...]) -> RunCells:
    slide = pa.concat_arrays([part.slide for part in parts])
    slides = sorted(pc.unique(slide).to_pylist())
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in _Part._fields
        if isinstance(getattr(parts[0], name), np.ndarray)
    }
    return RunCells(
        class_names=class_names,
        slides=tuple(slides),
        slide=pc.index_in(slide, value_set=pa.array(slides, pa.large_string())).to_numpy().astype(np.int32),
        image=pa.concat_arrays([part.image for part in parts]),
        gradcam=pa.concat_arrays([part.gradcam for part in parts]),
        **columns,
    )
