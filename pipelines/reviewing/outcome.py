"""The cells of a run as they are after a review: what the reviewed differential and every export are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipelines.reviewing.cells import FLAGS, NO_CELL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.images.cells import Box
    from pipelines.reviewing.cells import CellKey
    from pipelines.reviewing.state import ReviewState

__all__ = ["ReviewedCell", "Which", "reviewed_cells"]

Which = Literal["reviewed", "all"]


@dataclass(frozen=True, slots=True)
class ReviewedCell:
    """One cell after a review.

    Attributes:
        key: Slide, image and number in the image.
        box: Where it is, in pixels of the upright image; None where no box is known.
        size: Width and height of the image, in pixels.
        label: What it is now: a class, ``unidentified`` or ``no-cell``.
        by_model: What the model said; ``no-cell`` where a reviewer added it.
        confidence: The model's; 0 where it gave none.
        flag: The model's.
        reviewed: Whether a person said so, or signed its slide off.
        reviewer: Who said something last; empty where nobody did.
        at: When, ISO 8601, UTC; empty where nobody did.
        note: What a reviewer wrote down about it.
        second: What a blind second reading says; empty where there is none.
        added: Whether a reviewer added it.
    """

    key: CellKey
    box: Box | None
    size: tuple[int, int]
    label: str
    by_model: str
    confidence: float
    flag: str
    reviewed: bool
    reviewer: str
    at: str
    note: str
    second: str
    added: bool


def reviewed_cells(state: ReviewState, which: Which = "all") -> Iterator[ReviewedCell]:
    """Yield the cells of a review, those of the run first, then those that reviewers added.

    Args:
        state: What the review says.
        which: ``reviewed`` for those that a person has said something of, or whose slide is signed off.
    """
    cells = state.cells
    for row in range(len(state)):
        key, of_run, said = state.key(row), row < len(cells), state.state(row)
        reviewed = bool(said.says) or state.slides[state.slide_of(row)].signed is not None
        if (which == "reviewed" and not reviewed) or (not of_run and said.label == NO_CELL):
            continue
        yield ReviewedCell(
            key=key,
            box=state.box(row),
            size=cells.sizes[key.slide, key.image],
            label=said.label,
            by_model=state.by_model(row),
            confidence=float(cells.confidence[row]) if of_run else 0.0,
            flag=FLAGS[cells.flag[row]] if of_run else "",
            reviewed=reviewed,
            reviewer=said.reviewer,
            at=said.history[-1].at if said.last else "",
            note=said.note,
            second=said.second,
            added=not of_run,
        )
