"""Findings in words: on the terminal and on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.comparing.record import CHANGED, UNKNOWN

if TYPE_CHECKING:
    from pipelines.comparing.record import ComparisonRecord, Finding, Side

__all__ = ["finding_line", "show_effect", "show_value", "side_names", "summary_line"]

_MEASURES = {
    "Cohen's h": "h",
    "Cliff's delta": "delta",
    "standardised difference": "standard deviations",
    "2 x AUC - 1": "2 x AUC - 1",
}


def side_names(first: Side, second: Side) -> tuple[str, str]:
    """Return short names of both sides: the last part of where they are, unless that is the same."""
    names = [side.where.rstrip("/").rpartition("/")[2] for side in (first, second)]
    if first.kind == "training":
        return "training images", names[1]
    return (names[0], names[1]) if names[0] != names[1] else ("first run", "second run")


def show_value(finding: Finding, value: float | None) -> str:
    """Write a share, a score, a level or an area under the ROC curve."""
    if value is None:
        return "none"
    if finding.unit == "share":
        return f"{100 * value:.1f} %"
    return f"{value:.0f}" if finding.unit == "levels" else f"{value:.2f}"


def show_effect(finding: Finding) -> str:
    """Write the size of a difference, with its interval where there is one."""
    if finding.effect is None:
        return ""
    if finding.low is None or finding.high is None:
        return _signed(finding.effect)
    return f"{_signed(finding.effect)} ({_signed(finding.low)} to {_signed(finding.high)})"


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # no -0.00


def finding_line(finding: Finding) -> str:
    """Write a finding as one line.

    Example:
        >>> finding_line(finding)
        'changed     nucleus, green: 101 -> 64, -2.71 (-3.02 to -2.40) standard deviations'
    """
    values = f"{show_value(finding, finding.first)} -> {show_value(finding, finding.second)}"
    effect = f", {show_effect(finding)} {_MEASURES[finding.measure]}" if finding.effect is not None else ""
    why = f" [{finding.why}]" if finding.why and finding.low is None else ""
    name = f"colour of {finding.name}" if finding.group == "colours" else finding.name
    return f"{finding.verdict:10}  {name}: {values}{effect}{why}"


def summary_line(record: ComparisonRecord) -> str:
    """Say in a sentence what came out."""
    changed, unclear = (len(record.with_verdict(verdict)) for verdict in (CHANGED, UNKNOWN))
    ending = f"; of {unclear} nothing can be said" if unclear else ""
    return f"{len(record.findings)} things compared, {changed or 'none'} changed{ending}"
