"""Two runs side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.comparing.embeddings import held_out_scores, main_axes
from pipelines.comparing.measures import SHARES, Comparer
from pipelines.comparing.resampling import draw_totals, histograms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipelines.comparing.reading import RunData
    from pipelines.comparing.record import Finding, Limits

__all__ = ["RunComparison", "compare_runs", "too_few"]


@dataclass(frozen=True)
class RunComparison:
    """What came out.

    Attributes:
        findings: Everything that was compared.
        notes: What a reader must know.
        paired: Whether both runs are of the same slides.
        axes: Both samples of embeddings along their main axes; None where they were not compared.
        laboratories: Name and mean colours (1, 9) of each laboratory of the training images, where they are compared.
    """

    findings: list[Finding]
    notes: list[str]
    paired: bool
    axes: tuple[NDArray[np.float32], ...] | None = None
    laboratories: Sequence[tuple[str, NDArray[np.float64]]] = ()


def compare_runs(first: RunData, second: RunData, limits: Limits, *, resamples: int, seed: int) -> RunComparison:
    """Compare two runs.

    Args:
        first: What was before.
        second: What is now.
        limits: What counts as a change.
        resamples: How often slides are drawn.
        seed: Seed of everything that is drawn.
    """
    runs = (first, second)
    paired = first.slides == second.slides and first.record.arguments.slides == second.record.arguments.slides
    few = too_few(limits, *runs)
    slides = (len(first.slides), len(second.slides))
    numbers = [dict(run.counts) | {"colours": run.colours} for run in runs]
    bins = {"confidence": histograms(*((run.slide, run.confidence) for run in runs), slides)}
    same_scores = first.classifier == second.classifier
    if same_scores:
        bins["ood"] = histograms(*((run.slide, run.ood) for run in runs), slides)
    axes = None
    if first.sample and second.sample and same_scores and not few:
        axes = main_axes(first.sample[1], second.sample[1], seed)
        groups = (first.sample[0], second.sample[0] + (0 if paired else np.int32(slides[0])))
        scores = held_out_scores(axes, groups, seed)
        bins["scores"] = histograms((first.sample[0], scores[0]), (second.sample[0], scores[1]), slides)
    for name, counted in bins.items():
        for side, values in zip(numbers, counted, strict=True):
            side[name] = values
    seeds = (seed, seed if paired else seed + 1)
    totals = [draw_totals(side, resamples=resamples, seed=own) for side, own in zip(numbers, seeds, strict=True)]
    comparer = Comparer(*totals, limits, min(run.n_slides for run in runs), paired, few)
    return RunComparison(_findings(comparer, first, second), _notes(first, second, few, paired=paired), paired, axes)


def too_few(limits: Limits, *runs: RunData) -> str:
    """Say why nothing can be said of runs; return an empty text where there is enough of each."""
    slides, cells = min(run.n_slides for run in runs), min(len(run.slide) for run in runs)
    if slides < limits.fewest_slides:
        return f"{slides:,} slide{'s' * (slides > 1)} with cells, fewer than {limits.fewest_slides}"
    return f"{cells:,} cells, fewer than {limits.fewest_cells}" if cells < limits.fewest_cells else ""


def _findings(comparer: Comparer, first: RunData, second: RunData) -> list[Finding]:
    records = first.record.bundle, second.record.bundle
    shared = [name for name in records[0].classes if name in records[1].classes]
    findings = [
        comparer.share("classes", name.capitalize().replace("_", " "), f"class {name}", "identified") for name in shared
    ]
    findings.append(
        comparer.shift("confidence", "confidence", "confidence", _medians(first.confidence, second.confidence))
    )
    knows = all(record.stains != 0 for record in records)
    findings += [
        comparer.share(group, name, count, of)
        for count, (group, name, of) in SHARES.items()
        if count != "unfamiliar" or knows
    ]
    if "ood" in comparer.first:
        findings.append(comparer.shift("images", "out-of-distribution score", "ood", _medians(first.ood, second.ood)))
    if _colours_compare(first, second):
        findings += comparer.colours()
    if "scores" in comparer.first:
        findings.append(comparer.separation("scores"))
    return findings


def _medians(first: NDArray[np.float32], second: NDArray[np.float32]) -> tuple[float, float]:
    return float(np.median(first)), float(np.median(second))


def _colours_compare(first: RunData, second: RunData) -> bool:
    same = first.record.bundle.preprocessing == second.record.bundle.preprocessing
    return same and bool(first.colours[:, 0].any() and second.colours[:, 0].any())


def _notes(first: RunData, second: RunData, few: str, *, paired: bool) -> list[str]:
    notes: list[str] = []
    one, other = first.record, second.record
    if first.classifier != second.classifier:
        notes.append(
            "The runs were made with different bundles: what differs in classes, confidence and flags may be the"
            " bundles' doing. Out-of-distribution scores and embeddings are each bundle's own, and are not compared."
        )
    notes += _class_notes(one.bundle.classes, other.bundle.classes)
    if one.arguments.cells != other.arguments.cells:
        notes.append(
            f"One run took one cell of each image, the other all (--cells {one.arguments.cells} and"
            f" {other.arguments.cells}): shares of flagged cells and of images without a cell are not of the same."
        )
    if 0 in {one.bundle.stains, other.bundle.stains}:
        notes.append("A bundle that records no stains made one of the runs: colours and unfamiliar cells are left out.")
    elif one.bundle.preprocessing != other.bundle.preprocessing:
        notes.append("The bundles prepare cells in different ways, so that their colours are not compared.")
    elif not _colours_compare(first, second):
        notes.append("One of the runs was made before runs kept colours: they are left out.")
    if first.sample is None or second.sample is None:
        notes.append("Embeddings are compared where both runs have them (classify --embeddings).")
    elif few and first.classifier == second.classifier:
        notes.append(f"Embeddings are not compared: {few}.")
    if paired:
        notes.append("Both runs are of the same slides, which are drawn in pairs.")
    return notes


def _class_notes(one: tuple[str, ...], other: tuple[str, ...]) -> list[str]:
    """Say which classes only one of the bundles knows."""
    only = [", ".join(name for name in names if name not in others) for names, others in ((one, other), (other, one))]
    if not any(only):
        return []
    parts = [
        f"only the {side} run knows {names}" for side, names in zip(("first", "second"), only, strict=True) if names
    ]
    shared = "the others are compared" if set(one) & set(other) else "no class is in both, so none is compared"
    return [f"The classes differ: {'; '.join(parts)}; {shared}. Shares shift where a class is missing."]
