"""What an evaluation measures beside the scores: heatmaps, unknown types, the notebook's protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import classification_report
from sklearn.model_selection import train_test_split

from core.errors import DataError
from core.evaluation.record import Heatmaps, NotebookSplit, UnknownTypes
from core.evaluation.scores import evaluate, separation
from core.model.confidence import OUT_OF_DISTRIBUTION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.evaluation.localisation import Pointing
    from core.evaluation.scores import Predicted
    from pipelines.evaluating.results import Results

__all__ = ["measure_heatmaps", "measure_notebook_split", "measure_unknown_types"]


def measure_heatmaps(pointings: Sequence[Pointing | None]) -> Heatmaps:
    """Return the share of heatmaps whose peak lies on the cell, and what chance and centre would reach.

    Args:
        pointings: Where each heatmap points; None where there is none.
    """
    found = [pointing for pointing in pointings if pointing]
    return Heatmaps(
        n=len(found),
        hit=_mean([pointing.hit for pointing in found]),
        chance=_mean([pointing.chance for pointing in found]),
        chance_in_crop=_mean([pointing.chance_in_crop for pointing in found]),
        centre=_mean([pointing.centre for pointing in found]),
        centre_of_crop=_mean([pointing.centre_of_crop for pointing in found]),
    )


def measure_unknown_types(
    known: Predicted, unknown: Predicted, *, classes: list[str], outliers: Sequence[str], resamples: int, seed: int
) -> UnknownTypes:
    """Measure how images of no known class are told from the known ones.

    Args:
        known: Predictions of images of known classes.
        unknown: Predictions of the others.
        classes: Class folders of the others.
        outliers: Class folders that the bundle was taught as outliers.
        resamples: Number of bootstrap resamples; 0 for no intervals.
        seed: Seed of the resampling.
    """
    sources = np.r_[known.sources, unknown.sources]
    largest = (-known.probabilities.max(axis=1), -unknown.probabilities.max(axis=1))
    return UnknownTypes(
        classes=classes,
        n=len(unknown.labels),
        taught=[name for name in classes if name in outliers],
        auroc=separation(known.ood, unknown.ood, sources, resamples=resamples, seed=seed),
        auroc_max_softmax=separation(*largest, sources, resamples=resamples, seed=seed),
        flagged=_mean([flag != "" for flag in unknown.flags]),
        flagged_out_of_distribution=_mean([flag == OUT_OF_DISTRIBUTION for flag in unknown.flags]),
        known_flagged_out_of_distribution=_mean([flag == OUT_OF_DISTRIBUTION for flag in known.flags]),
    )


def measure_notebook_split(
    results: Results, class_names: tuple[str, ...], *, resamples: int, seed: int
) -> NotebookSplit:
    """Measure on 70 % of the images, as the notebook did, and say what the split shares.

    Args:
        results: Predictions of images of known classes.
        class_names: Names of these classes.
        resamples: Number of bootstrap resamples; 0 for no intervals.
        seed: Seed of the split and of the resampling.

    Raises:
        DataError: With code ``too-few-images``.
    """
    labels = [sample.label for sample in results.samples]
    rows = list(range(len(labels)))
    try:
        sides: list[list[int]] = train_test_split(rows, test_size=0.3, stratify=labels, random_state=seed)
    except ValueError as error:
        raise DataError("too-few-images", f"The notebook's 30/70 split needs more images ({error}).") from None
    test, validation = sides
    part = results.select(test).predicted(class_names)
    sources = {results.samples[row].source for row in test} - {None}
    report: Any = classification_report(
        part.labels,
        part.probabilities.argmax(axis=1),
        labels=list(range(len(class_names))),
        target_names=list(class_names),
        digits=4,
        zero_division=0.0,  # pyright: ignore[reportArgumentType]
    )
    return NotebookSplit(
        validation_images=len(validation),
        test_images=len(test),
        seed=seed,
        sources=len(sources),
        sources_also_in_validation=len(sources & {results.samples[row].source for row in validation}),
        evaluation=evaluate(part, resamples=resamples, seed=seed),
        report=str(report),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
