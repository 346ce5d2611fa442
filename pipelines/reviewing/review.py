"""What reviewers may do, each step checked against the log and saved before it is answered."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.errors import LeukorayError
from pipelines.classification.report import COLOURS
from pipelines.reviewing.cells import NO_CELL, CellKey
from pipelines.reviewing.log import LABELLING, Entry
from pipelines.reviewing.state import FIRST, SECOND, ReviewState, labels_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from core.images.cells import Box
    from pipelines.reviewing.cells import RunCells
    from pipelines.reviewing.log import Action, ReviewLog

__all__ = ["Asked", "ConflictError", "RefusedError", "Review"]

_NOTHING = {FIRST: NO_CELL, SECOND: ""}
"""What a cell was before anybody said anything of it and the model had not seen it either."""


class RefusedError(LeukorayError):
    """Something that a reviewer may not do; nothing was saved."""


class ConflictError(LeukorayError):
    """Somebody else was quicker; nothing was saved.

    Attributes:
        rows: Cells that it is about.
    """

    def __init__(self, code: str, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(code, message)
        self.rows = tuple(rows)


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks, and what they knew.

    Attributes:
        reviewer: Name.
        request: What the caller calls the action; the same again is saved once.
        seen: Number of the newest entry that the caller has seen.
        reading: 1, or 2 for a blind second reading.
    """

    reviewer: str
    request: str
    seen: int
    reading: int = FIRST


class Review:
    """The review of one run, for any number of threads; other processes may write into the same log.

    Args:
        cells: Rows of the run.
        log: Its log.
        further: Labels beside the bundle's classes that a cell may be given.

    Attributes:
        state: What the review says now, as far as the log was read.
        labels: Every label that a cell may be given, in order.
    """

    def __init__(self, cells: RunCells, log: ReviewLog, further: Iterable[str] = ()) -> None:
        self._log, self._lock = log, threading.RLock()
        self.state = ReviewState(cells)
        self.catch_up()
        said = (state.label for state in self.state.touched.values())
        self.labels = labels_of(cells.class_names, (*further, *sorted(set(said))))

    @property
    def colours(self) -> dict[str, str]:
        """The colour of each label that is a class, as in the run's report."""
        return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(self.labels[:-2])}

    def catch_up(self) -> ReviewState:
        """Read what others have saved meanwhile; return what the review says now."""
        with self._lock:
            self.state.apply(self._log.read_after(self.state.last))
            return self.state

    @contextmanager
    def held(self) -> Generator[ReviewState]:
        """Let nobody of this process change what the review says while the block runs; other processes' is read."""
        with self._lock:
            yield self.catch_up()

    def label(self, asked: Asked, rows: Sequence[int], label: str) -> list[Entry]:
        """Say what cells are; saying what they are already confirms it.

        Raises:
            RefusedError: With code ``no-such-cell``, ``no-such-label`` or ``signed``.
            ConflictError: With code ``changed-meanwhile`` where another reviewer changed one of them.
            NotSavedError: The database did not take it.
        """

        def entries() -> list[Entry]:
            self._check_label(label)
            self.check_rows(rows)
            self._check_open(asked, {self.state.slide_of(row) for row in rows})
            self._check_seen(asked, rows)
            return [self._about(asked, row, after=label) for row in dict.fromkeys(rows)]

        return self._save(asked, entries)

    def add(self, asked: Asked, slide: int, image: str, box: Box, label: str) -> list[Entry]:
        """Add a cell that the finder missed.

        Args:
            asked: Who asks.
            slide: Index of the slide.
            image: Path of the image, relative to the slide.
            box: Where the cell is, in pixels of the upright image.
            label: What it is.

        Raises:
            RefusedError: With code ``no-such-label``, ``no-such-image``, ``bad-box``, ``blind`` or ``signed``.
            NotSavedError: The database did not take it.
        """

        def entries() -> list[Entry]:
            self._check_label(label)
            self.check_slide(slide)
            if asked.reading == SECOND:
                raise RefusedError("blind", "A blind reading judges the cells that are there; it adds none.")
            self._check_open(asked, {slide})
            name = self.state.cells.slides[slide]
            self._check_box(name, image, box)
            number = self.state.next_number(name, image)
            edges = {edge: float(value) for edge, value in box._asdict().items()}
            return [_entry(asked, "add", CellKey(name, image, number), after=label, **edges)]

        return self._save(asked, entries)

    def note(self, asked: Asked, row: int, note: str) -> list[Entry]:
        """Write something down about a cell.

        Raises:
            RefusedError: With code ``no-such-cell`` or ``signed``.
            NotSavedError: The database did not take it.
        """

        def entries() -> list[Entry]:
            self.check_rows([row])
            self._check_open(asked, {self.state.slide_of(row)})
            now = self._now(asked, row)
            return [self._about(asked, row, "note", after=now, note=note)]

        return self._save(asked, entries)

    def undo(self, asked: Asked) -> list[Entry]:
        """Take back the reviewer's newest action that changed cells and is not taken back yet.

        Raises:
            RefusedError: With code ``nothing-to-undo`` or ``signed``.
            ConflictError: With code ``changed-meanwhile`` where another reviewer changed one of the cells since.
            NotSavedError: The database did not take it.
        """

        def entries() -> list[Entry]:
            undone = self._newest_action(asked)
            before = {self.state.row(entry.key): entry.before or _NOTHING[entry.reading] for entry in undone}
            rows = [row for row in before if row is not None]
            self._check_open(asked, {self.state.slide_of(row) for row in rows})
            self._check_seen(asked, rows, undone[-1].number)
            request = undone[0].request
            return [self._about(asked, row, "undo", after=before[row], undoes=request) for row in rows]

        return self._save(asked, entries)

    def sign(self, asked: Asked, slide: int, note: str) -> list[Entry]:
        """Sign a slide off; its cells cannot be changed until it is reopened.

        Raises:
            RefusedError: With code ``no-such-slide``, ``blind`` or ``signed``.
            ConflictError: With code ``changed-meanwhile`` where another reviewer changed the slide since it was seen.
            NotSavedError: The database did not take it.
        """

        def entries() -> list[Entry]:
            self.check_slide(slide)
            if asked.reading == SECOND:
                raise RefusedError("blind", "A blind reading is compared with the first one; it signs nothing.")
            self._check_open(asked, {slide})
            name = self.state.cells.slides[slide]
            others = self._reviewers_after(asked.seen, name) - {asked.reviewer}
            if others:
                who = " and ".join(sorted(others))
                raise ConflictError("changed-meanwhile", f"{who} changed this slide meanwhile; look again, then sign.")
            return [_entry(asked, "sign", CellKey(name, "", 0), note=note)]

        return self._save(asked, entries)

    def reopen(self, asked: Asked, slide: int, note: str) -> list[Entry]:
        """Open a slide again that was signed off.

        Raises:
            RefusedError: With code ``no-such-slide``, ``not-signed`` or ``no-reason``.
            NotSavedError: The database did not take it.
        """

        def entries() -> list[Entry]:
            self.check_slide(slide)
            if self.state.slides[slide].signed is None:
                raise RefusedError("not-signed", "This slide is not signed off.")
            if not note.strip():
                raise RefusedError("no-reason", "Say why the slide is opened again.")
            return [_entry(asked, "reopen", CellKey(self.state.cells.slides[slide], "", 0), note=note)]

        return self._save(asked, entries)

    def _save(self, asked: Asked, make: Callable[[], list[Entry]]) -> list[Entry]:
        """Read what others saved, check, save; an action that was saved already is not saved again."""
        with self._lock:
            with self._log.writing() as writer:
                self.state.apply(writer.read_after(self.state.last))
                known = self.state.actions.get(asked.request)
                entries = known or writer.add(make())
            if not known:
                self.state.apply(entries)
            return entries

    def _about(self, asked: Asked, row: int, action: Action = "label", **about: str) -> Entry:
        return _entry(asked, action, self.state.key(row), before=self._now(asked, row), **about)

    def _now(self, asked: Asked, row: int) -> str:
        """What a cell is now, in the reading that it is about."""
        return self.state.label(row) if asked.reading == FIRST else self.state.state(row).second

    def _reviewers_after(self, number: int, slide: str) -> set[str]:
        """Return who said something of a slide's cells after an entry."""
        later = (entry for entry in self.state.entries[number:] if entry.slide == slide)
        return {entry.reviewer for entry in later if entry.reading == FIRST}

    def _newest_action(self, asked: Asked) -> list[Entry]:
        for request, entries in reversed(self.state.actions.items()):
            first = entries[0]
            mine = first.reviewer == asked.reviewer and first.reading == asked.reading
            if mine and first.action in {"label", "add"} and request not in self.state.undone:
                return entries
        raise RefusedError("nothing-to-undo", "There is nothing of yours to take back.")

    def _changed_after(self, asked: Asked, row: int, number: int) -> str:
        """Return who else changed a cell after an entry; empty where nobody did."""
        for entry in reversed(self.state.state(row).history):
            if entry.number <= number:
                break
            if (
                entry.reviewer != asked.reviewer
                and entry.reading == asked.reading
                and self._counts_after(entry, number)
            ):
                return entry.reviewer
        return ""

    def _counts_after(self, entry: Entry, number: int) -> bool:
        """Whether an entry changed what there was; not what was taken back again since."""
        if entry.undoes:
            return self.state.actions[entry.undoes][-1].number <= number
        return entry.action in LABELLING and entry.request not in self.state.undone

    def _check_seen(self, asked: Asked, rows: Sequence[int], seen: int | None = None) -> None:
        """Refuse to overrule what another reviewer said, unless it was seen."""
        since = asked.seen if seen is None else seen
        others = {row: who for row in rows if (who := self._changed_after(asked, row, since))}
        if others:
            who, cells = " and ".join(sorted(set(others.values()))), _cells(len(others))
            raise ConflictError(
                "changed-meanwhile", f"{who} changed {cells} meanwhile; look, and say it again.", list(others)
            )

    def _check_label(self, label: str) -> None:
        if label not in self.labels:
            raise RefusedError("no-such-label", f"{label[:80]!r} is none of {', '.join(self.labels)}.")

    def check_rows(self, rows: Sequence[int]) -> None:
        """Refuse rows that are none of the review's, and none at all.

        Raises:
            RefusedError: With code ``no-such-cell``.
        """
        if not rows or not all(0 <= row < len(self.state) for row in rows):
            raise RefusedError("no-such-cell", f"Cells are numbered from 0 to {len(self.state) - 1}.")

    def check_slide(self, slide: int) -> None:
        """Refuse an index that is no slide's.

        Raises:
            RefusedError: With code ``no-such-slide``.
        """
        if not 0 <= slide < len(self.state.slides):
            raise RefusedError("no-such-slide", f"Slides are numbered from 0 to {len(self.state.slides) - 1}.")

    def _check_box(self, slide: str, image: str, box: Box) -> None:
        size = self.state.cells.sizes.get((slide, image))
        if size is None:
            raise RefusedError("no-such-image", "The run has no such image.")
        if not (0 <= box.left < box.right <= size[0] and 0 <= box.top < box.bottom <= size[1]):
            raise RefusedError("bad-box", f"The box is not inside the image, which has {size[0]} x {size[1]} pixels.")

    def _check_open(self, asked: Asked, slides: Iterable[int]) -> None:
        """Refuse to change what is signed off; a blind reading changes nothing."""
        for slide in slides if asked.reading == FIRST else ():
            signed = self.state.slides[slide].signed
            if signed:
                name = self.state.cells.slides[slide]
                raise RefusedError("signed", f"{name} was signed off by {signed.reviewer}; open it again first.")


def _entry(asked: Asked, action: Action, key: CellKey, **about: Any) -> Entry:  # noqa: ANN401 - fields of an entry
    whose = {"request": asked.request, "at": "", "reviewer": asked.reviewer, "reading": asked.reading}
    return Entry(number=0, **whose, action=action, slide=key.slide, image=key.image, cell=key.number, **about)


def _cells(count: int) -> str:
    return "this cell" if count == 1 else f"{count} of these cells"
