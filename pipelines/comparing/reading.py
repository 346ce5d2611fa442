"""What a finished run says of its slides, read part by part: a few numbers per slide, two per cell, and a sample."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import DataError, SettingsError
from core.model.confidence import LOW_CONFIDENCE, OUT_OF_DISTRIBUTION
from pipelines.classification.run_folder import RunFolder
from pipelines.classification.stains import COLOURS, colour_sums, unfamiliar_cells
from pipelines.classification.storage import open_folder
from pipelines.comparing.record import Side
from pipelines.comparing.sample import CellSample, cell_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.classification.record import RunRecord

__all__ = ["RunData", "open_finished", "read_run"]

_COLUMNS = ["slide", "image", "cell", "label", "confidence", "ood", "flag"]
_COUNTS = ("rows", "flagged", "images", "empty", "cells", "unsure", "unlike", "identified")


@dataclass(frozen=True)
class RunData:
    """A run as far as it is compared.

    Attributes:
        where: The run, for people.
        record: Its record.
        slides: Names of its slides, sorted.
        counts: Numbers of each slide (S,) by what is counted: ``rows``, ``flagged`` rows, ``images``, ``empty``
            images, ``cells``; cells flagged ``unsure`` (low confidence) or ``unlike`` the training images, and
            ``identified``; ``unfamiliar`` cells; ``class NAME``, identified cells of a class.
        colours: Number of cells, sums and sums of squares of their colours, (S, 1 + 2 * `COLOURS`).
        slide: Number of each cell's slide (N,) int32.
        confidence: Confidence of each cell (N,) float32.
        ood: Out-of-distribution score of each cell (N,) float32.
        sample: Slides (M,) and embeddings (M, K) of a sample of the cells; None where the run has none.
    """

    where: str
    record: RunRecord
    slides: list[str]
    counts: dict[str, NDArray[np.float64]]
    colours: NDArray[np.float64]
    slide: NDArray[np.int32]
    confidence: NDArray[np.float32]
    ood: NDArray[np.float32]
    sample: tuple[NDArray[np.int32], NDArray[np.float32]] | None

    @property
    def classifier(self) -> str:
        """Identity of the bundle that classified."""
        return (self.record.adapted or self.record.bundle).id

    @property
    def n_slides(self) -> int:
        """Slides with a white cell."""
        return int((self.counts["cells"] > 0).sum())

    def side(self) -> Side:
        """Return what the record says of it."""
        return Side(
            kind="run",
            where=self.where,
            bundle=self.classifier,
            classes=self.record.bundle.classes,
            slides=self.n_slides,
            cells=len(self.slide),
            embeddings=len(self.sample[0]) if self.sample else 0,
        )


def open_finished(location: str) -> tuple[RunFolder, RunRecord]:
    """Open a finished run.

    Args:
        location: Path or URI of the run.

    Raises:
        DataError: With code ``no-run`` where there is none, ``no-cells`` where no white cell was found.
        SettingsError: With code ``run-unfinished`` or ``run-damaged``.
    """
    run = RunFolder(open_folder(location))
    where = run.folder.shown
    if not run.exists:
        raise DataError("no-run", f"There is no run at {where}: it has no run.json.")
    record = run.read_record()
    if record.state != "finished":
        raise SettingsError(
            "run-unfinished",
            f"The run at {where} is not finished (it is {record.state}); finish it with classify and --resume.",
        )
    if not record.counts.cells:
        raise DataError("no-cells", f"The run at {where} found no white cell, so there is nothing to compare.")
    missing = record.counts.parts - len(run.finished_parts())
    if missing:
        raise _damaged(where, f"{missing:,} of its {record.counts.parts:,} parts are missing")
    return run, record


def read_run(run: RunFolder, record: RunRecord, most_embeddings: int) -> RunData:
    """Read a run once, part by part.

    Args:
        run: Folder of a finished run.
        record: Its record.
        most_embeddings: Cells of which embeddings are sampled; 0: none.

    Raises:
        SettingsError: With code ``run-damaged``.
    """
    where = run.folder.shown
    reader = _Reader(run, record, most_embeddings)
    for part, name in run.part_files("predictions"):
        _add(reader, part, name)
    data = reader.finish()
    if len(data.slide) != record.counts.cells:
        raise _damaged(where, f"its parts hold {len(data.slide):,} cells, and run.json says {record.counts.cells:,}")
    return data


def _add(reader: _Reader, part: int, name: str) -> None:
    try:
        reader.add(part, name)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise _damaged(reader.where, f"{name} cannot be read: {' '.join(str(error).split())[:200]}") from error


def _damaged(where: str, what: str) -> SettingsError:
    return SettingsError("run-damaged", f"The run at {where} is damaged: {what}. Classify the slides again.")


class _Reader:
    """Adds up the parts of a run."""

    def __init__(self, run: RunFolder, record: RunRecord, most_embeddings: int) -> None:
        self.where = run.folder.shown
        self._run, self._record = run, record
        self._classes = record.bundle.classes
        names = (*_COUNTS, "unfamiliar", *(f"class {name}" for name in self._classes))
        self._number: dict[str, int] = {}
        self._counts: dict[str, dict[int, float]] = {name: defaultdict(float) for name in names}
        self._colours: dict[int, NDArray[np.float64]] = {}
        self._cells: dict[str, list[NDArray[Any]]] = {"slide": [], "confidence": [], "ood": []}
        self._sample = CellSample(most_embeddings) if record.arguments.embeddings and most_embeddings else None

    def add(self, part: int, file: str) -> None:
        """Add one part."""
        table = self._run.read_table(file).select(_COLUMNS)
        slides = table.column("slide").combine_chunks().dictionary_encode()
        numbers = [self._number.setdefault(name, len(self._number)) for name in slides.dictionary.to_pylist()]
        slide = np.asarray(numbers, np.int32)[slides.indices.to_numpy()]
        cell = table.column("cell").to_numpy()
        flag = {name: _is(table, "flag", name) for name in ("", LOW_CONFIDENCE, OUT_OF_DISTRIBUTION)}
        label = pc.fill_null(pc.index_in(table.column("label"), pa.array(self._classes)), -1).to_numpy()
        is_cell, unlike = cell > 0, flag[OUT_OF_DISTRIBUTION]
        identified = is_cell & ~unlike
        chosen = (np.ones(len(cell), bool), ~flag[""], cell <= 1, cell == 0, is_cell)
        chosen = (*chosen, is_cell & flag[LOW_CONFIDENCE], is_cell & unlike, identified)
        for name, rows in zip(_COUNTS, chosen, strict=True):
            self._count(name, slide[rows])
        for index, name in enumerate(self._classes):
            self._count(f"class {name}", slide[identified & (label == index)])
        for name, count in unfamiliar_cells(table).items():
            self._counts["unfamiliar"][self._number[name]] += count
        for name, sums in colour_sums(table).items():
            number = self._number[name]
            self._colours[number] = self._colours.get(number, np.zeros(1 + 2 * COLOURS)) + sums
        self._cells["slide"].append(slide[is_cell])
        for name in ("confidence", "ood"):
            self._cells[name].append(table.column(name).to_numpy()[is_cell].astype(np.float32))
        if self._sample:
            rows = table.filter(pa.array(is_cell)).select(["slide", "image", "cell"]).to_pydict()
            self._sample.add(
                cell_keys(zip(*rows.values(), strict=True)),
                slide[is_cell],
                lambda: self._embeddings(part, len(table))[is_cell],
            )

    def _count(self, name: str, slides: NDArray[np.int32]) -> None:
        for number, count in zip(*np.unique(slides, return_counts=True), strict=True):
            self._counts[name][int(number)] += int(count)

    def _embeddings(self, part: int, rows: int) -> NDArray[np.float16]:
        values = self._run.read_embeddings(part)
        if len(values) != rows:
            raise ValueError(f"embeddings/ has {len(values):,} rows where predictions/ has {rows:,}")
        return values

    def finish(self) -> RunData:
        """Return what was read, slides in the order of their names."""
        names = sorted(self._number)
        old = [self._number[name] for name in names]
        new = np.empty(len(names), np.int32)
        new[old] = np.arange(len(names), dtype=np.int32)
        nothing = np.zeros(1 + 2 * COLOURS)
        taken = self._sample.taken() if self._sample else None
        joined = {name: np.concatenate(parts) for name, parts in self._cells.items()}
        return RunData(
            where=self.where,
            record=self._record,
            slides=names,
            counts={
                name: np.array([counts.get(number, 0.0) for number in old]) for name, counts in self._counts.items()
            },
            colours=np.stack([self._colours.get(number, nothing) for number in old]),
            slide=new[joined["slide"]],
            confidence=joined["confidence"],
            ood=joined["ood"],
            sample=(new[taken[0]], taken[1]) if taken and len(taken[0]) else None,
        )


def _is(table: pa.Table, column: str, value: str) -> NDArray[np.bool_]:
    return pc.equal(table.column(column), value).to_numpy()
