"""How well white cells are found: recall, precision and average precision against marked boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field
from scipy.optimize import linear_sum_assignment

from core.evaluation.scores import Interval
from core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from core.finding.passes import FoundCell
    from core.images.cells import Box

__all__ = [
    "FieldMatch",
    "Finding",
    "average_precision",
    "best_threshold",
    "match_field",
    "measure_finding",
    "recall_precision",
]

_NEARLY = 0.015
"""F1 that a lower threshold may cost: on another stain a finder is less certain."""

_HALF = 0.5
"""Share of their union that a found box and a marked one must have in common for average precision."""


@dataclass(frozen=True)
class FieldMatch:
    """What was found in one field, beside what was marked.

    Attributes:
        slide: Name of the slide that the field is of.
        marked: Number of marked cells.
        scores: Score of each found cell, (n,), falling.
        hits: Number of the marked box that its middle lies in, (n,), each at most once; -1 where there is none.
        overlaps: The same, for boxes that have half of their union in common.
        labelled: Marked cells of each known class, (C,); empty where nobody classified.
        counted: Cells of each class that the differential counts, (C,).
    """

    slide: str
    marked: int
    scores: NDArray[np.float64]
    hits: NDArray[np.int64]
    overlaps: NDArray[np.int64]
    labelled: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    counted: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


class Finding(Settings):
    """How well the white cells of marked fields are found and counted; intervals resample slides."""

    fields: int = Field(description="images")
    slides: int = Field(description="slides that they are of")
    marked: int = Field(description="marked white cells")
    found: int = Field(description="cells that were found")
    recall: Interval = Field(description="share of the marked cells in whose box the middle of a found one lies")
    precision: Interval = Field(description="share of the found cells whose middle lies in a marked one's box")
    f1: Interval = Field(description="harmonic mean of both")
    average_precision: Interval = Field(description="area under precision by recall, at half of the boxes' union")
    differential_error: Interval | None = Field(
        None,
        description="percentage points that a slide's differential is wrong by, the mean over slides: half of the sum"
        " over classes, against the marked cells of known classes",
    )


def match_field(found: Sequence[FoundCell], marked: Sequence[Box], slide: str = "") -> FieldMatch:
    """Match found cells with marked ones, so that as many as possible have a partner.

    Args:
        found: What the finder gave.
        marked: Boxes of all white cells of the field.
        slide: Name of the slide that the field is of.
    """
    ordered = sorted(found, key=lambda cell: -cell.score)
    shape = (len(ordered), len(marked))
    unions = np.array([_of_union(cell.box, box) for cell in ordered for box in marked]).reshape(shape)
    inside = np.array([box.holds_middle_of(cell.box) for cell in ordered for box in marked], bool).reshape(shape)
    scores = np.array([cell.score for cell in ordered], float)
    return FieldMatch(slide, len(marked), scores, _assigned(inside, unions), _in_order(unions))


def recall_precision(fields: Sequence[FieldMatch], threshold: float = 0.0) -> tuple[float, float]:
    """Return the share of marked cells that are found, and the share of found cells that are marked.

    Args:
        fields: Matches of the fields.
        threshold: Score below which nothing counts as found.
    """
    hits = sum(int((field.hits[field.scores >= threshold] >= 0).sum()) for field in fields)
    found = sum(int((field.scores >= threshold).sum()) for field in fields)
    marked = sum(field.marked for field in fields)
    return hits / marked if marked else 1.0, hits / found if found else 1.0


def measure_finding(fields: Sequence[FieldMatch], *, resamples: int = 1000, seed: int = 0) -> Finding:
    """Measure the finding of cells, with 95 % intervals that resample slides.

    Args:
        fields: Matches of the fields.
        resamples: Number of bootstrap resamples; 0 for no intervals.
        seed: Seed of the resampling.
    """
    names = sorted({one.slide for one in fields})
    by_slide = [[one for one in fields if one.slide == name] for name in names]
    rng = np.random.default_rng(seed)
    draws = [rng.integers(len(names), size=len(names)) for _ in range(resamples if len(names) > 1 else 0)]

    def scored(score: Callable[[Sequence[FieldMatch]], float]) -> Interval:
        value = score(fields)
        if not draws:
            return Interval(value=value)
        values = [score([one for slide in draw for one in by_slide[slide]]) for draw in draws]
        low, high = np.quantile(values, (0.025, 0.975))
        return Interval(value=value, low=float(low), high=float(high))

    return Finding(
        fields=len(fields),
        slides=len(names),
        marked=sum(one.marked for one in fields),
        found=sum(len(one.scores) for one in fields),
        recall=scored(lambda some: recall_precision(some)[0]),
        precision=scored(lambda some: recall_precision(some)[1]),
        f1=scored(_f1),
        average_precision=scored(average_precision),
        differential_error=scored(_differential_error) if any(len(one.labelled) for one in fields) else None,
    )


def best_threshold(fields: Sequence[FieldMatch]) -> float:
    """Return the lowest score from which on F1, of recall and precision, is all but the largest.

    What is missed is lost, and what is found too much can be flagged: so the lowest of nearly equal ones, in steps of
    0.05, since a few hundred cells tell no finer.
    """
    candidates = np.arange(1, 20) / 20
    values = np.array([_f1(fields, threshold) for threshold in candidates])
    return float(candidates[values >= values.max() - _NEARLY][0])


def average_precision(fields: Sequence[FieldMatch]) -> float:
    """Return the area under precision by recall at half of the union (Everingham et al. 2010, every point)."""
    scores = np.concatenate([field.scores for field in fields]) if fields else np.zeros(0)
    hits = np.concatenate([field.overlaps >= 0 for field in fields]) if fields else np.zeros(0, bool)
    marked = sum(field.marked for field in fields)
    if not marked or not len(scores):
        return 0.0
    hits = hits[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_from_here[hits].sum() / marked)


def _f1(fields: Sequence[FieldMatch], threshold: float = 0.0) -> float:
    recall, precision = recall_precision(fields, threshold)
    return 2 * recall * precision / max(1e-9, recall + precision)


def _differential_error(fields: Sequence[FieldMatch]) -> float:
    """Return by how many percentage points the slides' differentials are wrong, on average."""
    errors: list[float] = []
    for slide in sorted({one.slide for one in fields}):
        own = [one for one in fields if one.slide == slide]
        labelled, counted = np.sum([one.labelled for one in own], axis=0), np.sum([one.counted for one in own], axis=0)
        if labelled.sum():
            truth, found = (100 * part / max(1, part.sum()) for part in (labelled, counted))
            errors.append(float(np.abs(truth - found).sum() / 2))
    return float(np.mean(errors)) if errors else 0.0


def _of_union(one: Box, other: Box) -> float:
    """Return what two boxes have in common, as a share of their union."""
    both = one.shared(other)
    return both / max(one.area + other.area - both, 1e-9)


def _assigned(allowed: NDArray[np.bool_], unions: NDArray[np.float64]) -> NDArray[np.int64]:
    """Give as many found cells as possible a marked one of their own; of equal ways, the one that fits best."""
    partners = np.full(len(allowed), -1)
    if allowed.size:
        rows, columns = linear_sum_assignment(np.where(allowed, 1 + unions / 10, 0), maximize=True)
        kept = allowed[rows, columns]
        partners[rows[kept]] = columns[kept]
    return partners


def _in_order(unions: NDArray[np.float64]) -> NDArray[np.int64]:
    """Give each found cell, the most certain first, the marked box that it fits best and that is still free."""
    partners, free = np.full(len(unions), -1), np.ones(unions.shape[1], bool)
    for row, shared in enumerate(unions):
        places = np.where(free, shared, -1.0)
        if places.size and places.max() >= _HALF:
            partners[row] = int(places.argmax())
            free[partners[row]] = False
    return partners
