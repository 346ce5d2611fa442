"""What a review leaves beside its log: ``slides_reviewed.csv``, and a report to read, print and file."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pipelines.classification.report import COLOURS
from pipelines.classification.sheet import THUMBNAIL, sheet_place
from pipelines.reviewing.agreement import between_reviewers, second_reading
from pipelines.reviewing.cells import NO_CELL, UNIDENTIFIED
from pipelines.reviewing.differential import counted_labels, reviewed_slides, slides_reviewed_csv
from runtime.pages import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipelines.classification.record import RunRecord
    from pipelines.classification.run_folder import RunFolder
    from pipelines.classification.storage import Folder
    from pipelines.reviewing.differential import ReviewedSlide
    from pipelines.reviewing.state import ReviewState

__all__ = ["reviewed_report", "write_outcome"]

_SHOWN = 40


def write_outcome(run: RunFolder, record: RunRecord, state: ReviewState, *, shown: int = _SHOWN) -> None:
    """Write ``review/slides_reviewed.csv`` and ``review/report.html`` into a run, each in one step.

    Args:
        run: Folder of the run.
        record: Its record.
        state: What the review says; nobody may apply entries to it meanwhile.
        shown: Number of changed or noted cells that the report shows of each slide; every number counts all of them.

    Raises:
        StorageError: The folder does not take them.
        OSError: For every other failure of the storage.
    """
    slides, labels = reviewed_slides(state), counted_labels(state)
    table = slides_reviewed_csv(slides, labels, state.cells.class_names)
    page = reviewed_report(state, record, slides, labels, run.folder, shown=shown)
    run.folder.write("review/slides_reviewed.csv", table)
    run.folder.write("review/report.html", page.encode())


def reviewed_report(
    state: ReviewState,
    record: RunRecord,
    slides: Sequence[ReviewedSlide],
    labels: Sequence[str],
    folder: Folder,
    *,
    shown: int = _SHOWN,
) -> str:
    """Return the reviewed report, a page that opens from a run's folder ``review``.

    Args:
        state: What the review says.
        record: Record of the run.
        slides: What the slides come to.
        labels: Labels that differentials count, in order.
        folder: Folder of the run, for its name.
        shown: Number of changed or noted cells that are shown of each slide.
    """
    return render(
        "pipelines",
        "reviewed.html",
        title=folder.name,
        where=folder.shown,
        record=record,
        drawn=record.drawn,
        slides=[(slide, [_for_page(state, row) for row in slide.told[:shown]]) for slide in slides],
        signed=sum(slide.signed is not None for slide in slides),
        reviewers=Counter(entry.reviewer for entry in state.entries).most_common(),
        last=state.entries[-1] if state.entries else None,
        entries=len(state.entries),
        labels=labels,
        class_names=state.cells.class_names,
        colours={name: COLOURS[index % len(COLOURS)] for index, name in enumerate(labels)},
        thumbnail=THUMBNAIL,
        second=second_reading(state),
        pairs=between_reviewers(state),
        call=_call,
        moment=_moment,
    )


def _for_page(state: ReviewState, row: int) -> dict[str, Any]:
    """Return what the report shows of one cell."""
    said, key, of_run = state.state(row), state.key(row), row < len(state.cells)
    by = said.word or next((entry for entry in reversed(said.history) if entry.note), None)
    sheet, left, top = sheet_place(*(int(number) for number in state.cells.place[row])) if of_run else ("", 0, 0)
    return {
        "image": key.image,
        "number": key.number,
        "before": state.by_model(row) if of_run else "",
        "after": said.label,
        "changed": said.label != state.by_model(row),
        "confidence": float(state.cells.confidence[row]) if of_run else None,
        "reviewer": by.reviewer if by else "",
        "at": by.at if by else "",
        "note": said.note,
        "says": list(said.says.items()) if said.contested else [],
        "box": [round(edge) for edge in state.box(row) or ()],
        "sheet": f"../report/thumbnails/{sheet}" if of_run else "",
        "x": -left,
        "y": -top,
    }


def _call(label: str) -> str:
    """Return what a label is called on the page."""
    return {NO_CELL: "No white cell", UNIDENTIFIED: "Unidentified"}.get(label, label.capitalize())


def _moment(at: str) -> str:
    """Return a time of the log or of a record for people: to the second, UTC."""
    return f"{at[:19].replace('T', ' ')} UTC"
