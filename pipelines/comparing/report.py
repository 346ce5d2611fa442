"""The report of a comparison: JSON, pictures and a page that opens from disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from core.files import replace_file
from pipelines.comparing.measures import mean_colours
from pipelines.comparing.plots import classes_png, colours_png, distribution_png, embeddings_png
from pipelines.comparing.text import show_effect, show_value, side_names, summary_line
from runtime.pages import render

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipelines.comparing.reading import RunData
    from pipelines.comparing.record import ComparisonRecord, Finding
    from pipelines.comparing.runs import RunComparison

__all__ = ["write_report"]

_GROUPS = {
    "classes": "Classes, shares of the identified cells",
    "confidence": "Confidence and flags",
    "images": "Familiarity of the images",
    "colours": "Colours of the prepared cells, mean 8-bit levels",
    "embeddings": "Embeddings",
}
_SHOWN_LIMITS = 3
"""How many limits from zero the drawing of an interval reaches."""


def write_report(
    out: Path, record: ComparisonRecord, compared: RunComparison, first: RunData | None, second: RunData
) -> None:
    """Write the report; ``compare.json`` comes last, so that a folder that has one is complete.

    Args:
        out: Folder of the report; it is made.
        record: What came out.
        compared: The same, with what is drawn.
        first: The first run; None where training images stand in its place.
        second: The second run.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = side_names(record.first, record.second)
    pictures = _pictures(record.findings, compared, first, second, names)
    for name, (content, _) in pictures.items():
        (out / name).write_bytes(content)
    page = render(
        "pipelines",
        "comparison.html",
        record=record,
        names=names,
        summary=summary_line(record),
        groups=[(title, [one for one in record.findings if one.group == group]) for group, title in _GROUPS.items()],
        pictures=[(name, said) for name, (_, said) in pictures.items()],
        show_value=show_value,
        show_effect=show_effect,
        place=_place,
    )
    (out / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    replace_file(out / "compare.json", record.model_dump_json(indent=2) + "\n")


def _place(finding: Finding, value: float) -> float:
    """Return where a size stands in the drawing of its interval, in percent from the left."""
    return 50 + 48 * float(np.clip(value / finding.limit / _SHOWN_LIMITS, -1, 1))


def _pictures(
    findings: Sequence[Finding], compared: RunComparison, first: RunData | None, second: RunData, names: tuple[str, str]
) -> dict[str, tuple[bytes, str]]:
    """Return the pictures by file name, each with what it shows."""
    pictures: dict[str, tuple[bytes, str]] = {}
    classes = [finding for finding in findings if finding.group == "classes"]
    if classes:
        pictures["classes.png"] = classes_png(classes, names), "Shares of the classes"
    if first:
        drawn = distribution_png(first.confidence, second.confidence, names, "Confidence")
        pictures["confidence.png"] = drawn, "Confidence of the cells"
        if any(finding.measure == "Cliff's delta" and finding.group == "images" for finding in findings):
            drawn = distribution_png(first.ood, second.ood, names, "Out-of-distribution score")
            pictures["ood.png"] = drawn, "Out-of-distribution scores of the cells"
    if compared.axes:
        pictures["embeddings.png"] = embeddings_png(compared.axes, names), "Embeddings along their two main axes"
    if any(finding.group == "colours" for finding in findings):
        sides = [(f"Slides of {name}", run) for name, run in zip(names, (first, second), strict=True) if run]
        drawn = colours_png([*compared.laboratories, *((name, _slide_colours(run)) for name, run in sides)])
        pictures["colours.png"] = drawn, "Mean colours of the cells, slide by slide"
    return pictures


def _slide_colours(run: RunData) -> NDArray[np.float64]:
    """Return the mean colours of each slide that has cells, (S, 9)."""
    return mean_colours(run.colours[run.colours[:, 0] > 0])[0]
