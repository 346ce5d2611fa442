"""The reviewed differential of each slide, beside the model's, and what a review changed to get there."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.evaluation.differential import FEW_CELLS, Share, describe_count, share
from pipelines.reviewing.cells import NO_CELL, UNIDENTIFIED
from pipelines.reviewing.state import labels_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipelines.reviewing.log import Entry
    from pipelines.reviewing.state import CellState, ReviewState

__all__ = ["Differential", "ReviewedSlide", "counted_labels", "reviewed_slides", "slides_reviewed_csv"]

_NOT_COUNTED = frozenset({UNIDENTIFIED, NO_CELL})


@dataclass(frozen=True)
class Differential:
    """What the cells of a slide come to, as the model or as the reviewers have them.

    Attributes:
        counts: Identified cells of each label.
        n_unidentified: White cells that are none of the labels, which no share counts.
    """

    counts: Counter[str]
    n_unidentified: int

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Differential:
        """Take apart the counts of all labels; what is no white cell is dropped."""
        identified = Counter({name: count for name, count in counts.items() if count and name not in _NOT_COUNTED})
        return cls(identified, counts.get(UNIDENTIFIED, 0))

    @property
    def n(self) -> int:
        """White cells."""
        return self.n_identified + self.n_unidentified

    @property
    def n_identified(self) -> int:
        """Cells that the shares are of."""
        return self.counts.total()

    @property
    def worth(self) -> str:
        """What so many identified cells are worth, in a few words."""
        return describe_count(self.n_identified)

    @property
    def suffices(self) -> bool:
        """Whether so many cells are identified that a laboratory would take the differential."""
        return self.n_identified >= FEW_CELLS

    def share(self, label: str) -> Share:
        """Share of a label among the identified cells, in percent."""
        return share(self.counts[label], self.n_identified)


@dataclass
class ReviewedSlide:
    """One slide after a review. The model's cells plus `added` less `removed` are the reviewed ones.

    Attributes:
        name: Name of the slide.
        reviewed: The differential as reviewed.
        by_model: The model's.
        changes: Cells whose label is not the model's, by the model's label and the reviewed one.
        confirmed: Cells of which a person said what the model says.
        said: Cells of which a person said anything.
        contested: Cells of which two reviewers' last words differ.
        told: Rows of the review whose label is not the model's, or that have a note; changes of a kind together.
        history: Sign-offs and reopenings, oldest first.
        signed: The sign-off that holds; None where there is none, or it was reopened.
    """

    name: str
    reviewed: Differential
    by_model: Differential
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)
    confirmed: int = 0
    said: int = 0
    contested: int = 0
    told: list[int] = field(default_factory=list)
    history: list[Entry] = field(default_factory=list)
    signed: Entry | None = None

    @property
    def added(self) -> int:
        """Cells that count now where the model had none."""
        return sum(count for (before, _), count in self.changes.items() if before == NO_CELL)

    @property
    def removed(self) -> int:
        """Cells of the model that are no white cells."""
        return sum(count for (_, after), count in self.changes.items() if after == NO_CELL)

    @property
    def changed(self) -> int:
        """Cells that the model had too, under another label."""
        return self.changes.total() - self.added - self.removed


def counted_labels(state: ReviewState) -> tuple[str, ...]:
    """Return the labels that differentials count, in order: the bundle's classes, then what reviewers used besides."""
    used = {name for slide in state.slides for name, count in slide.counts.items() if count}
    return tuple(name for name in labels_of(state.cells.class_names, sorted(used)) if name not in _NOT_COUNTED)


def reviewed_slides(state: ReviewState) -> list[ReviewedSlide]:
    """Return what every slide comes to, in order; the work grows with the log, not with the run.

    Args:
        state: What the review says; nobody may apply entries to it meanwhile.
    """
    slides = [
        ReviewedSlide(name, Differential.of(slide.counts), Differential.of(slide.by_model), signed=slide.signed)
        for name, slide in zip(state.cells.slides, state.slides, strict=True)
    ]
    told: dict[int, list[tuple[str, str, int]]] = defaultdict(list)
    for row, said in state.touched.items():
        model = state.by_model(row)
        if row >= len(state.cells) and said.label == NO_CELL:  # added and taken away again
            continue
        number = state.slide_of(row)
        _count(slides[number], said, model)
        if said.label != model or said.note:
            told[number].append((model, said.label, row))
    for number, rows in told.items():
        kinds = slides[number].changes
        rows.sort(key=lambda one: (-kinds[one[:2]], one))
        slides[number].told = [row for _, _, row in rows]
    for entry in state.entries:
        if entry.action in {"sign", "reopen"}:
            slides[state.cells.slide_numbers[entry.slide]].history.append(entry)
    return slides


def _count(slide: ReviewedSlide, said: CellState, model: str) -> None:
    """Count one cell that somebody said something of."""
    if said.label != model:
        slide.changes[model, said.label] += 1
    elif said.says:
        slide.confirmed += 1
    slide.said += bool(said.says)
    slide.contested += said.contested


def slides_reviewed_csv(slides: Iterable[ReviewedSlide], labels: Sequence[str], class_names: Sequence[str]) -> bytes:
    """Return ``slides_reviewed.csv``: one row per slide; percentages and their 95 % limits with two decimals.

    Args:
        slides: What the slides come to.
        labels: Labels that differentials count, in order.
        class_names: Class names of the bundle, in order: those of which there is a percentage of the model's.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = ("changed", "confirmed", "added", "removed", "unidentified")
    writer.writerow(
        [
            "slide",
            "n",
            "n_identified",
            *(f"n_{name}" for name in labels),
            *(f"pct_{name}" for name in labels),
            *(f"pct_{name}_{end}" for name in labels for end in ("low", "high")),
            *(f"model_pct_{name}" for name in class_names),
            *(f"n_{name}" for name in numbers),
            "signed_by",
            "signed_at",
            "note",
        ]
    )
    for slide in slides:
        reviewed, signed = slide.reviewed, slide.signed
        shares = [reviewed.share(name) for name in labels]
        writer.writerow(
            [
                slide.name,
                reviewed.n,
                reviewed.n_identified,
                *(reviewed.counts[name] for name in labels),
                *(f"{part.percent:.2f}" for part in shares),
                *(f"{value:.2f}" for part in shares for value in (part.low, part.high)),
                *(f"{slide.by_model.share(name).percent:.2f}" for name in class_names),
                slide.changed,
                slide.confirmed,
                slide.added,
                slide.removed,
                reviewed.n_unidentified,
                *((signed.reviewer, signed.at, signed.note) if signed else ("", "", "")),
            ]
        )
    return text.getvalue().encode()
