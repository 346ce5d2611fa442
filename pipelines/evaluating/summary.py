"""The figures of an evaluation that matter, as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from core.evaluation.record import NotebookSplit
    from core.evaluation.scores import Interval, Level
    from pipelines.evaluating.record import EvaluationRecord

__all__ = ["summarise"]


def summarise(record: EvaluationRecord, class_names: Sequence[str]) -> Iterator[str]:
    """Return the lines of the summary.

    Args:
        record: What was measured.
        class_names: Classes that the bundle knows.
    """
    if record.notebook:
        yield from _notebook(record.notebook)
    yield from _level("image", record.evaluation.image, class_names)
    if record.data.grouped:
        yield from _level("source", record.evaluation.source, class_names)
    heatmaps = record.heatmaps
    if heatmaps.n:
        yield (
            f"heatmap's peak on the cell: {heatmaps.hit:.3f} of {heatmaps.n:,}"
            f" (chance {heatmaps.chance:.3f}, in the crop {heatmaps.chance_in_crop:.3f};"
            f" centre of the image {heatmaps.centre:.3f}, of the crop {heatmaps.centre_of_crop:.3f})"
        )
    if unknown := record.unknown:
        yield f"unknown types ({', '.join(unknown.classes)}), AUROC: {_interval(unknown.auroc)}"
    if finding := record.finding:
        yield f"white cells in {finding.fields:,} fields of {finding.slides:,} slides, {finding.marked:,} marked"
        for name in ("recall", "precision", "f1", "average_precision"):
            yield f"  {name.replace('_', ' '):20} {_interval(getattr(finding, name))}"
        if finding.differential_error:
            yield f"  differential wrong by {_interval(finding.differential_error)} percentage points"
    if comparison := record.comparison:
        yield (
            f"against the second bundle, by source: accuracy {_interval(comparison.source_accuracy)},"
            f" only one right: {comparison.only_first_right} against {comparison.only_second_right},"
            f" p = {comparison.p_value:.3f}"
        )


def _notebook(notebook: NotebookSplit) -> Iterator[str]:
    yield f"notebook's protocol: {notebook.test_images:,} images, loss {notebook.evaluation.image.loss.value:.4f}"
    yield notebook.report
    shared = (
        f"{notebook.sources_also_in_validation} of its {notebook.sources} sources are also in its validation images"
        if notebook.sources
        else "sources were not named, and a random split shares them"
    )
    yield f"warning: {shared}; its images are not independent. The figures below are the ones to believe.\n"


def _level(name: str, level: Level, class_names: Sequence[str]) -> Iterator[str]:
    yield f"{name}-level, n = {level.n:,}"
    scores = {
        "accuracy": level.accuracy,
        "balanced accuracy": level.balanced_accuracy,
        "macro f1": level.macro_f1,
        "loss": level.loss,
        "ece": level.ece,
        "errors caught": level.errors_caught,
    }
    for score, interval in scores.items():
        yield f"  {score:20} {_interval(interval)}"
    for label in class_names:
        yield f"  F1 {label.lower():17} {_interval(level.per_class[label].f1)}"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "no errors"
    text = f"{interval.value:.4f}"
    return text if interval.low is None else f"{text} [{interval.low:.4f}, {interval.high:.4f}]"
