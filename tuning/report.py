"""The report of a search: one page that opens from disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.pages import render
from tuning.plots import curves_png, parameter_plots

if TYPE_CHECKING:
    from pathlib import Path

    from tuning.ledger import Ledger

__all__ = ["write_report"]

_PLOTS = {
    "curves.png": "Validation loss and accuracy of every trial",
    "parallel.png": "Parallel coordinates: one line per trial, darker is better (high losses are cut off)",
    "slices.png": "One dot per trial: each parameter against the validation loss",
    "importance.png": "How much of the spread in validation loss each parameter explains (fANOVA)",
}


def write_report(out: Path, ledger: Ledger, record: dict[str, Any]) -> None:
    """Write ``report/index.html``.

    Args:
        out: Folder of the search.
        ledger: Its trials.
        record: The content of ``search.json``.
    """
    trials = ledger.ordered()
    result = record.get("result")
    plots = {"curves.png": curves_png(trials, result["trial"] if result else None)} | parameter_plots(trials)
    page = render(
        "tuning",
        "search.html",
        record=record,
        result=result,
        ranked=_in_order(ledger),
        names=sorted({name for trial in trials for name in trial.values}),
        plots=[(name, _PLOTS[name]) for name in plots],
    )
    folder = out / "report"
    folder.mkdir(exist_ok=True)
    for name, image in plots.items():
        (folder / name).write_bytes(image)
    (folder / "index.html").write_text(page, encoding="utf-8")


def _in_order(ledger: Ledger) -> list[Any]:
    ranked = ledger.ranked()
    return ranked + [trial for trial in ledger.ordered() if trial not in ranked]
