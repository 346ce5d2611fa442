"""The tables of an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.files import write_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from core.evaluation.scores import Evaluation, Interval
    from pipelines.evaluating.results import Results

__all__ = ["write_predictions", "write_scores"]

_SCORES = ("loss", "accuracy", "balanced_accuracy", "macro_f1", "ece", "aurc", "errors_caught")


def write_predictions(
    out: Path, results: Results, data: Path, class_names: Sequence[str], unknown: Sequence[str]
) -> None:
    """Write ``predictions.csv``, one row per readable image.

    Args:
        out: Folder of the report.
        results: Predictions of all images.
        data: Folder of the images; paths are relative to it.
        class_names: Classes that the bundle knows.
        unknown: Classes of the other images, in the order of their labels.
    """
    names = (*class_names, *unknown)
    write_table(
        out / "predictions.csv",
        ("path", "source", "label", "predicted", "confidence", *(f"p_{name}" for name in class_names), "ood", "flag"),
        (
            (
                sample.path.relative_to(data).as_posix(),
                sample.source or "",
                names[sample.label],
                prediction.label,
                f"{prediction.confidence:.6f}",
                *(f"{value:.6f}" for value in prediction.probabilities),
                f"{prediction.ood:.5f}",
                prediction.flag,
            )
            for sample, prediction in zip(results.samples, results.predictions, strict=True)
        ),
    )


def write_scores(out: Path, evaluation: Evaluation, class_names: Sequence[str]) -> None:
    """Write ``scores.csv``, ``confusion.csv``, ``reliability.csv`` and ``risk_coverage.csv``.

    Args:
        out: Folder of the report.
        evaluation: Scores of images and of sources.
        class_names: Classes that the bundle knows.
    """
    levels = (("image", evaluation.image), ("source", evaluation.source))
    rows: list[tuple[str, str, str, Interval | None]] = [
        (level, "", score, getattr(result, score)) for level, result in levels for score in _SCORES
    ]
    rows += [
        (level, name, score, getattr(parts, score))
        for level, result in levels
        for name, parts in result.per_class.items()
        for score in ("precision", "recall", "f1")
    ]
    write_table(
        out / "scores.csv",
        ("level", "class", "score", "value", "low", "high"),
        ((level, name, score, *_numbers(interval)) for level, name, score, interval in rows if interval),
    )
    write_table(
        out / "confusion.csv",
        ("level", "labelled", *class_names),
        (
            (level, name, *row)
            for level, result in levels
            for name, row in zip(class_names, result.confusion, strict=True)
        ),
    )
    write_table(
        out / "reliability.csv",
        ("level", "from", "to", "count", "confidence", "accuracy"),
        (
            (level, part.low, part.high, part.count, part.confidence, part.accuracy)
            for level, result in levels
            for part in result.reliability
        ),
    )
    write_table(
        out / "risk_coverage.csv",
        ("level", "coverage", "risk"),
        ((level, part.coverage, part.risk) for level, result in levels for part in result.risk_coverage),
    )


def _numbers(interval: Interval) -> tuple[object, ...]:
    return tuple("" if number is None else f"{number:.6f}" for number in (interval.value, interval.low, interval.high))
