"""What the page is told, as JSON: the run, its cells, what changed; a blind reader is told nothing of the others."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipelines.reviewing.agreement import second_reading
from pipelines.reviewing.alike import Alike
from pipelines.reviewing.cells import FLAGS
from pipelines.reviewing.report import write_outcome
from pipelines.reviewing.review import RefusedError
from pipelines.reviewing.state import SECOND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from pipelines.classification.record import RunRecord
    from pipelines.classification.run_folder import RunFolder
    from pipelines.reviewing.log import Entry
    from pipelines.reviewing.pictures import Pictures
    from pipelines.reviewing.review import Review
    from pipelines.reviewing.state import SlideState

__all__ = ["Desk"]


class Desk:
    """One reading of a run, as the page sees it.

    Args:
        review: The review.
        run: Folder of the run.
        record: Its record.
        pictures: Pictures of its cells.
        reading: 1, or 2 for a blind second reading.
        reviewer: Name that every action is given; empty where the page asks for one.

    Attributes:
        review: The review.
        reading: 1, or 2 for a blind second reading.
        reviewer: Name that every action is given; empty where the page asks for one.
    """

    def __init__(
        self, review: Review, run: RunFolder, record: RunRecord, pictures: Pictures, reading: int, reviewer: str
    ) -> None:
        self.review, self.reading, self.reviewer = review, reading, reviewer
        self._run, self._record, self._pictures = run, record, pictures
        embeddings = run.folder.exists("embeddings") and not self.blind
        self._alike = Alike(run, review.state.cells) if embeddings else None

    @property
    def blind(self) -> bool:
        """Whether nothing of the model and of the first reading may be told."""
        return self.reading == SECOND

    def describe(self) -> dict[str, Any]:
        """Return what is reviewed: the labels, the slides and what they come to."""
        state, labels = self.review.catch_up(), self.review.labels
        cells, arguments = state.cells, self._record.arguments
        return {
            "title": self._run.folder.name,
            "id": run_identity(self._record)[:16],
            "bundle": self._record.bundle.id,
            "classes": list(cells.class_names),
            "labels": list(labels),
            "colours": self.review.colours,
            "flags": list(FLAGS),
            "reading": self.reading,
            "reviewer": self.reviewer,
            "fields": arguments.cells == "all",
            "heatmaps": arguments.gradcam != "none" and not self.blind,
            "embeddings": self._alike is not None,
            "last": state.last,
            "slides": {index: self._slide(index) for index in range(len(cells.slides))},
        }

    def cells(self, slide: int | None) -> dict[str, Any]:
        """Return the cells of a slide, or of all, as columns.

        Raises:
            RefusedError: With code ``no-such-slide``.
        """
        cells = self.review.state.cells
        if slide is not None:
            self.review.check_slide(slide)
        chosen = np.flatnonzero(cells.slide == slide) if slide is not None else np.arange(len(cells))
        if self.blind:
            chosen = _shuffled(chosen)
        images, of_row = _numbered(cells.image.take(chosen).to_pylist())
        columns = {
            "row": chosen.tolist(),
            "slide": cells.slide[chosen].tolist(),
            "images": images,
            "image": of_row,
            "number": cells.number[chosen].tolist(),
            "size": cells.size[chosen].tolist(),
            "box": [
                None if np.isnan(box[0]) else [round(edge, 1) for edge in box] for box in cells.boxes[chosen].tolist()
            ],
        }
        if not self.blind:
            numbers = {name: number for number, name in enumerate(self.review.labels)}
            labels = cells.labels
            columns |= {
                "label": [numbers[labels[row]] for row in chosen.tolist()],
                "flag": cells.flag[chosen].tolist(),
                "probabilities": np.round(cells.probabilities[chosen].astype(np.float64), 4).tolist(),
            }
        with self.review.held() as state:  # nobody may add a cell while they are gone through
            said = [row for row in state.touched if slide in {None, state.slide_of(row)}]
            added = [row for row in range(len(cells), len(state)) if slide in {None, state.slide_of(row)}]
            return {"columns": columns, "last": state.last, "cells": self._said({*said, *added})}

    def changes(self, after: int) -> dict[str, Any]:
        """Return what changed since an entry of the log: cells, and the slides that they are of."""
        state = self.review.catch_up()
        entries = [entry for entry in state.entries[after:] if entry.reading == self.reading]
        rows = {row for entry in entries if (row := state.row(entry.key)) is not None}
        slides = {state.cells.slide_numbers[entry.slide] for entry in entries}
        return {
            "last": state.last,
            "cells": self._said(rows),
            "slides": {index: self._slide(index) for index in sorted(slides)},
        }

    def history(self, row: int) -> list[dict[str, Any]]:
        """Return what was said of a cell in this reading, oldest first.

        Raises:
            RefusedError: With code ``no-such-cell``.
        """
        self.review.check_rows([row])
        entries = self.review.catch_up().state(row).history
        return [asdict(entry) for entry in entries if entry.reading == self.reading]

    def alike(self, row: int, most: int) -> list[int]:
        """Return the cells whose features are nearest to a cell's, nearest first.

        Raises:
            RefusedError: With code ``no-such-cell`` or ``no-embeddings``.
        """
        self.review.check_rows([row])
        if self._alike is None:
            raise RefusedError("no-embeddings", "The run has no embeddings; classify with --embeddings.")
        return self._alike.nearest(row, most) if row < len(self.review.state.cells) else []

    def agreement(self) -> dict[str, Any]:
        """Return on how many cells the blind reading agrees with the first one; nothing where there is none."""
        with self.review.held() as state:
            second = None if self.blind else second_reading(state)
        if second is None:
            return {}
        kappa = second.all.kappa
        return {"cells": second.all.n, "same": second.all.observed.percent, "kappa": kappa.value if kappa else None}

    def write_outcome(self) -> None:
        """Write the reviewed differential and the report beside the log."""
        with self.review.held() as state:
            write_outcome(self._run, self._record, state)

    def picture(self, kind: Literal["cell", "field", "heatmap"], row: int, side: int = 0) -> bytes:
        """Return a picture of a cell as a JPEG.

        Raises:
            RefusedError: With code ``no-such-cell``, or ``blind`` where it would tell what the model thinks.
            DataError: With code ``no-picture``.
        """
        self.review.check_rows([row])
        if kind == "heatmap":
            if self.blind:
                raise RefusedError("blind", "A blind reading does not see where the network looked.")
            return self._pictures.heatmap(row)
        return self._pictures.field(row) if kind == "field" else self._pictures.cell(row, side)

    def _slide(self, index: int) -> dict[str, Any]:
        """Return what a slide comes to."""
        state, name = self.review.state, self.review.state.cells.slides[index]
        slide = state.slides[index]
        if self.blind:
            return {"name": name, "rows": sum(slide.by_model.values()), "signed": None}
        return {
            "name": name,
            "rows": sum(slide.counts.values()),
            "signed": _signature(slide.signed),
            **self._counts(slide),
        }

    def _counts(self, slide: SlideState) -> dict[str, Any]:
        labels = self.review.labels
        return {
            "counts": [slide.counts[name] for name in labels],
            "by_model": [slide.by_model[name] for name in labels],
            "changed": slide.changed,
            "said": slide.said,
        }

    def _said(self, rows: Iterable[int]) -> list[dict[str, Any]]:
        """Return what is said of some cells now."""
        state, labels = self.review.state, self.review.labels
        numbers = {name: number for number, name in enumerate(labels)}
        told: list[dict[str, Any]] = []
        for row in sorted(rows):
            said, added = state.state(row), row >= len(state.cells)
            if self.blind:
                if not added:
                    told.append({"row": row, "label": numbers.get(said.second, -1), "said": bool(said.second)})
                continue
            one: dict[str, Any] = {
                "row": row,
                "label": numbers[said.label],
                "said": bool(said.says),
                "reviewer": said.reviewer,
                "contested": said.contested,
                "note": said.note,
            }
            told.append(one | (self._added(row) if added else {}))
        return told

    def _added(self, row: int) -> dict[str, Any]:
        """Return what an added cell has in the place of columns."""
        state, key, box = self.review.state, self.review.state.key(row), self.review.state.box(row)
        where = {"slide": state.slide_of(row), "image": key.image, "number": key.number, "box": list(box or ())}
        return where | {"size": list(state.cells.sizes[key.slide, key.image])}


def run_identity(record: RunRecord) -> str:
    """Return what a run is called in a database: a hash of what it was asked for, and when."""
    content = f"{record.arguments.model_dump_json()}{record.bundle.id}{record.started}"
    return hashlib.sha256(content.encode()).hexdigest()


def _signature(signed: Entry | None) -> dict[str, str] | None:
    return {"reviewer": signed.reviewer, "at": signed.at, "note": signed.note} if signed else None


def _shuffled(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Put rows into an order that says nothing, always the same one."""
    return np.random.default_rng(SECOND).permutation(rows)


def _numbered(names: list[str]) -> tuple[list[str], list[int]]:
    """Return the names, each once, and the place of each among them."""
    numbers: dict[str, int] = {}
    places = [numbers.setdefault(name, len(numbers)) for name in names]
    return list(numbers), places
