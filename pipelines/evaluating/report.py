"""The report of an evaluation: JSON, tables, pictures and a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.evaluation.plots import confusion_png, ood_png, reliability_png, risk_coverage_png
from core.files import replace_file
from pipelines.evaluating.mistakes import write_mistakes
from pipelines.evaluating.tables import write_predictions, write_scores
from runtime.pages import render

if TYPE_CHECKING:
    from pathlib import Path

    from core.model.engine import Usable
    from pipelines.evaluating.record import EvaluationRecord
    from pipelines.evaluating.results import Results

__all__ = ["write_report"]


def write_report(
    out: Path, record: EvaluationRecord, bundle: Usable, results: Results, data: Path, *, mistakes: int
) -> None:
    """Write the report; ``evaluation.json`` comes last, so that a folder that has one is complete.

    Args:
        out: Folder of the report; it is made.
        record: What was measured.
        bundle: The bundle.
        results: Predictions of all images.
        data: Folder of the images.
        mistakes: Most mistakes to show.
    """
    out.mkdir(parents=True, exist_ok=True)
    unknown = record.unknown.classes if record.unknown else []
    known, others = results.divide(len(bundle.class_names))
    write_predictions(out, results, data, bundle.class_names, unknown)
    write_scores(out, record.evaluation, bundle.class_names)
    evaluation = record.evaluation
    levels = [("Images", evaluation.image), ("Sources", evaluation.source)][: 2 if record.data.grouped else 1]
    (out / "confusion.png").write_bytes(confusion_png(evaluation.image.confusion, bundle.class_names, title="Images"))
    (out / "reliability.png").write_bytes(reliability_png([level for _, level in levels]))
    (out / "risk_coverage.png").write_bytes(risk_coverage_png([level for _, level in levels]))
    if record.unknown:
        scores = {"known": [p.ood for p in known.predictions], "unknown": [p.ood for p in others.predictions]}
        (out / "ood.png").write_bytes(ood_png(scores, bundle.record.confidence.max_ood))
    shown = write_mistakes(out, bundle, known, data, mistakes)
    page = render(
        "pipelines",
        "evaluation.html",
        record=record,
        levels=levels,
        class_names=bundle.class_names,
        confidence=bundle.record.confidence,
        mistakes=shown,
        wrong=sum(
            prediction.label != bundle.class_names[sample.label]
            for sample, prediction in zip(known.samples, known.predictions, strict=True)
        ),
        unreadable=[(str(bad.path), bad.code, bad.message) for bad in results.unreadable],
    )
    (out / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    replace_file(out / "evaluation.json", record.model_dump_json(indent=2) + "\n")
