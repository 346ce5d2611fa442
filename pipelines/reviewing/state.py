"""What a review says now: the model's rows with everything applied that stands in the log."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipelines.reviewing.cells import NO_CELL, UNIDENTIFIED, CellKey
from pipelines.reviewing.log import LABELLING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from core.images.cells import Box
    from pipelines.reviewing.cells import RunCells
    from pipelines.reviewing.log import Entry

__all__ = ["FIRST", "SECOND", "CellState", "ReviewState", "SlideState", "labels_of"]

FIRST, SECOND = 1, 2
"""The open reading, which corrects the model, and the blind one, which is only compared with it."""


def labels_of(class_names: Sequence[str], further: Iterable[str] = ()) -> tuple[str, ...]:
    """Return every label that a cell may be given, in order: the bundle's classes, further ones, and the two others."""
    names = dict.fromkeys((*class_names, *further, UNIDENTIFIED, NO_CELL))
    return (*(name for name in names if name not in {UNIDENTIFIED, NO_CELL}), UNIDENTIFIED, NO_CELL)


@dataclass(slots=True)
class CellState:
    """What people have said of one cell.

    Attributes:
        label: What it is now.
        last: Number of the newest entry about it; 0 where nobody has said anything.
        reviewer: The person whose entry that is.
        says: What each reviewer said last.
        note: Newest note.
        second: What the blind reading says; empty where it has not come to it.
        second_last: Number of the blind reading's newest entry about it.
        history: All entries about it, in order.
    """

    label: str
    last: int = 0
    reviewer: str = ""
    says: dict[str, str] = field(default_factory=dict)
    note: str = ""
    second: str = ""
    second_last: int = 0
    history: list[Entry] = field(default_factory=list)

    @property
    def contested(self) -> bool:
        """Whether two reviewers' last words differ."""
        return len(set(self.says.values())) > 1

    @property
    def word(self) -> Entry | None:
        """The newest entry that gave the label and still holds; None where the label is the model's."""
        entries = (entry for entry in reversed(self.history) if entry.reading == FIRST and entry.after == self.label)
        spoken = (entry for entry in entries if entry.action in {"label", "add"})
        return next((entry for entry in spoken if self.says.get(entry.reviewer) == self.label), None)


@dataclass(slots=True)
class SlideState:
    """What a slide's cells come to.

    Attributes:
        counts: Cells of each label, as reviewed.
        by_model: The same as the model has them.
        changed: Cells whose label is not the model's.
        said: Cells that a person has said something of, or the model's label confirmed.
        signed: The sign-off, where there is one and it was not reopened.
    """

    counts: Counter[str] = field(default_factory=Counter)
    by_model: Counter[str] = field(default_factory=Counter)
    changed: int = 0
    said: int = 0
    signed: Entry | None = None


class ReviewState:
    """Folds the log over the model's rows, entry by entry.

    A cell is known by its row: first those of the run, then those that reviewers added, in the log's order.

    Args:
        cells: Rows of the run.
    """

    def __init__(self, cells: RunCells) -> None:
        self.cells = cells
        self.entries: list[Entry] = []
        self.added: list[tuple[CellKey, Box]] = []
        self.slides = [SlideState() for _ in cells.slides]
        self.touched: dict[int, CellState] = {}
        self.actions: dict[str, list[Entry]] = defaultdict(list)
        self.undone: set[str] = set()
        self._added_rows: dict[CellKey, int] = {}
        for slide, label in zip(cells.slide.tolist(), cells.labels, strict=True):
            self.slides[slide].by_model[label] += 1
        for slide in self.slides:
            slide.counts.update(slide.by_model)

    def __len__(self) -> int:
        """Return the number of rows, those of added cells included."""
        return len(self.cells) + len(self.added)

    @property
    def last(self) -> int:
        """Number of the newest entry; they are numbered 1, 2, ..."""
        return len(self.entries)

    def key(self, row: int) -> CellKey:
        """Return what names the cell of a row."""
        return self.cells.key(row) if row < len(self.cells) else self.added[row - len(self.cells)][0]

    def row(self, key: CellKey) -> int | None:
        """Return the row of a cell; None where there is none of that name."""
        row = self.cells.rows.get(key)
        return self._added_rows.get(key) if row is None else row

    def box(self, row: int) -> Box | None:
        """Return the box of a cell, where it has one."""
        return self.cells.box(row) if row < len(self.cells) else self.added[row - len(self.cells)][1]

    def slide_of(self, row: int) -> int:
        """Return the index of the slide of a row."""
        if row < len(self.cells):
            return int(self.cells.slide[row])
        return self.cells.slide_numbers[self.key(row).slide]

    def by_model(self, row: int) -> str:
        """Return what the model says of a row: nothing that is a cell, where a reviewer added it."""
        return self.cells.labels[row] if row < len(self.cells) else NO_CELL

    def label(self, row: int) -> str:
        """Return what a row is now."""
        state = self.touched.get(row)
        return state.label if state else self.by_model(row)

    def state(self, row: int) -> CellState:
        """Return what people have said of a row."""
        return self.touched.get(row) or CellState(self.by_model(row))

    def next_number(self, slide: str, image: str) -> int:
        """Return a number for a cell that is added to an image."""
        added = max((key.number for key, _ in self.added if key[:2] == (slide, image)), default=0)
        return 1 + max(self.cells.largest_numbers.get((slide, image), 0), added)

    def apply(self, entries: Iterable[Entry]) -> list[int]:
        """Apply entries that were saved, in order; return the rows that changed."""
        rows: dict[int, None] = {}
        for entry in entries:
            row = self._apply(entry)
            if row is not None:
                rows[row] = None
            self.entries.append(entry)
        return list(rows)

    def _apply(self, entry: Entry) -> int | None:
        self.actions[entry.request].append(entry)
        if entry.undoes:
            self.undone.add(entry.undoes)
        slide = self.slides[self.cells.slide_numbers[entry.slide]]
        if entry.action == "sign":
            slide.signed = entry
        elif entry.action == "reopen":
            slide.signed = None
        else:
            return self._apply_to_cell(entry, slide)
        return None

    def _apply_to_cell(self, entry: Entry, slide: SlideState) -> int | None:
        if entry.action == "add" and entry.box is not None:
            self._added_rows[entry.key] = len(self)
            self.added.append((entry.key, entry.box))
        row = self.row(entry.key)
        if row is None:
            return None
        state = self.touched.setdefault(row, CellState(self.by_model(row)))
        if entry.reading == SECOND:
            state.second, state.second_last = entry.after, entry.number
        else:
            if entry.action in LABELLING:
                self._relabel(row, state, entry, slide)
            state.note = entry.note or state.note
            state.last, state.reviewer = entry.number, entry.reviewer
        state.history.append(entry)
        return row

    def _relabel(self, row: int, state: CellState, entry: Entry, slide: SlideState) -> None:
        model, said = self.by_model(row), bool(state.says)
        self._count(row, slide, state.label, -1)
        self._count(row, slide, entry.after, 1)
        slide.changed += (entry.after != model) - (state.label != model)
        state.says.pop(entry.reviewer, None)
        word = entry.after if entry.action != "undo" else self._word(state, entry.reviewer)
        if word:
            state.says[entry.reviewer] = word
        slide.said += bool(state.says) - said
        state.label = entry.after

    def _count(self, row: int, slide: SlideState, label: str, by: int) -> None:
        """Count a cell; one that a reviewer added and took away again is as if it had never been there."""
        if row < len(self.cells) or label != NO_CELL:
            slide.counts[label] += by

    def _word(self, state: CellState, reviewer: str) -> str:
        """Return a reviewer's last word on a cell that was not taken back; empty where there is none."""
        words = (
            entry.after
            for entry in reversed(state.history)
            if entry.reviewer == reviewer and entry.reading == FIRST and entry.action in {"label", "add"}
            if entry.request not in self.undone
        )
        return next(words, "")
