"""The report of a search: one page that opens from disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.files import replace_file
from runtime.pages import render
from tuning.plots import curves_png, parameter_plots

if TYPE_CHECKING:
    from pathlib import Path

    from tuning.record import SearchRecord
    from tuning.trials import Trials

__all__ = ["REPORT", "write_report"]

REPORT = "report/index.html"
_PLOTS = {
    "curves.png": "Validation loss and accuracy of every trial",
    "parallel.png": "Parallel coordinates: one line per trial, darker is better (high losses are cut off)",
    "slices.png": "One dot per trial: each parameter against the validation loss",
    "importance.png": "How much of the spread in validation loss each parameter explains (fANOVA)",
}


def write_report(out: Path, trials: Trials, record: SearchRecord, experiment: str) -> None:
    """Write ``report/index.html``.

    Args:
        out: Folder of the search.
        trials: Its trials.
        record: Its record.
        experiment: Folder of Ray Tune's experiment, a path or a URI, which TensorBoard reads.
    """
    best = record.result.trial if record.result else None
    plots = {"curves.png": curves_png(trials.records, best)} | parameter_plots(trials.records)
    ranked = trials.ranked
    page = render(
        "tuning",
        "search.html",
        record=record,
        result=record.result,
        ranked=ranked + [trial for trial in trials.records if trial not in ranked],
        names=trials.names,
        plots=[(name, _PLOTS[name]) for name in plots],
        experiment=experiment,
    )
    for name, image in plots.items():
        replace_file((out / REPORT).with_name(name), image)
    replace_file(out / REPORT, page)
