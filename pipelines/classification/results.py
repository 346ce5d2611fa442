"""What is made from all rows of a run: slides.csv, the report, the final counts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from core.settings import time_stamp
from pipelines.classification.record import RunCounts, RunThroughput
from pipelines.classification.report import Report
from pipelines.classification.summary import Slide, slides_csv, summarise
from runtime.command import FAILED
from runtime.progress import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipelines.classification.journal import Journal
    from pipelines.classification.record import RunRecord, RunSession
    from pipelines.classification.run_folder import ImageList, RunFolder

__all__ = ["conclude", "write_results"]


def write_results(
    run: RunFolder, images: ImageList, journal: Journal, *, cells: int, drawn: bool, started: float
) -> None:
    """Write slides.csv, the report and, last, that the run is finished.

    Args:
        run: Folder of the run, all parts finished.
        images: The complete list of images.
        journal: Journal of the run.
        cells: Number of thumbnails per slide and class.
        drawn: Whether the report says that the images are drawings.
        started: When the command started, as `time.perf_counter` counts.
    """
    before = time.perf_counter()
    class_names = journal.record.bundle.classes
    arguments = journal.record.arguments
    fields = arguments.cells == "all" and arguments.gradcam != "none"
    report = Report(run, class_names, drawn=drawn, fields=fields)
    slides: list[Slide] = []
    coming = summarise(run, class_names, cells, images.top_slide)
    slide = next(coming, None)
    while slide is not None:
        following = next(coming, None)
        report.add(slide, last=following is None)
        slide.drop_cells()
        slides.append(slide)
        slide = following
    run.folder.write("slides.csv", slides_csv(slides, class_names).encode())
    sessions = journal.record.sessions
    final = journal.record.model_copy(
        update={
            "state": "finished",
            "finished": time_stamp(),
            "drawn": drawn,
            "counts": _count(journal.record.counts, slides),
            "throughput": _throughput(sessions, sum(slide.n_images + slide.n_errors for slide in slides)),
        }
    )
    report.finish(final)
    timings = final.timings.model_copy(
        update={
            "classify_s": round(sum(session.seconds for session in sessions), 3),
            "report_s": round(time.perf_counter() - before, 3),
            "total_s": round(time.perf_counter() - started, 3),
        }
    )
    journal.record = final
    journal.write(timings=timings)


def _count(counts: RunCounts, slides: Sequence[Slide]) -> RunCounts:
    """Return the counts with those of the results."""
    return counts.model_copy(
        update={
            "slides": len(slides),
            "images": sum(slide.n_images for slide in slides),
            "empty": sum(slide.n_empty for slide in slides),
            "cells": sum(slide.n for slide in slides),
            "unidentified": sum(slide.n_unidentified for slide in slides),
            "errors": sum(slide.n_errors for slide in slides),
            "flagged": sum(slide.flagged.total() for slide in slides),
        }
    )


def _throughput(sessions: Sequence[RunSession], images: int) -> RunThroughput:
    """Return images per second, with and without the workers' start."""
    seconds = sum(session.seconds for session in sessions)
    working = seconds - sum(session.starting_s for session in sessions)
    return RunThroughput(
        images_per_s=round(images / seconds, 2) if seconds > 0 else None,
        images_per_s_once_started=round(images / working, 2) if working > 0 else None,
    )


def conclude(run: RunFolder, record: RunRecord, max_error_rate: float) -> int:
    """Say what came out of a finished run.

    Returns:
        The exit code: 1 where the share of unreadable files is above `max_error_rate`.
    """
    counts, rate = record.counts, record.throughput.images_per_s
    say(
        f"{counts.cells:,} cells on {counts.slides:,} slides classified, {counts.flagged:,} to look at,"
        f" {counts.errors:,} unreadable files" + (f", {rate:,.1f} images/s" if rate else "")
    )
    say(f"report: {run.folder.show('report/index.html')}")
    share = counts.errors / (counts.images + counts.errors)
    if share <= max_error_rate:
        return 0
    say(f"error: {share:.1%} of the files are unreadable, more than --max-error-rate allows ({max_error_rate:.1%})")
    return FAILED
