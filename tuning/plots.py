"""Plots of a search, as PNG files in memory: learning curves, and Optuna's plots of the parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from matplotlib.figure import Figure

from core.evaluation.plots import png
from tuning.quiet import quiet_optuna

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuning.trials import TrialRecord

__all__ = ["curves_png", "parameter_plots"]

_FEWEST = 4
"""Trials below which nothing can be said of a parameter."""

_BEST, _FIRST, _OTHER = "#5b3f8f", "#c98a1b", "#b8bfca"


def curves_png(records: Sequence[TrialRecord], best: int | None) -> bytes:
    """Draw validation loss and accuracy of every trial per epoch; the recipe's own and the best stand out.

    Args:
        records: The trials.
        best: Number of the best trial, if there is one.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for record in sorted(records, key=lambda record: (record.number == best, record.number == 0)):
            named = {0: ("recipe, best", _BEST)} if best == 0 else {best: ("best", _BEST), 0: ("recipe", _FIRST)}
            label, colour = named.get(record.number, ("", _OTHER))
            x = [epoch["epoch"] for epoch in record.epochs]
            y = [epoch[f"validation_{name}"] for epoch in record.epochs]
            width = 2.2 if label else 1
            label = f"trial {record.number} ({label})" if label else None
            axes.plot(x, y, color=colour, linewidth=width, label=label, marker="o", markersize=3)
        if name == "loss":
            axes.set_ylim(0, _ceiling(records))
        axes.set(xlabel="Epoch", ylabel=f"Validation {name}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        if records:
            axes.legend(frameon=False)
    return png(figure)


def _ceiling(records: Sequence[TrialRecord]) -> float:
    """Return where the loss axis ends: single high values shall not flatten the rest."""
    losses = [epoch["validation_loss"] for record in records for epoch in record.epochs]
    return 1.1 * float(np.quantile(losses, 0.9)) if losses else 1.0


def parameter_plots(records: Sequence[TrialRecord]) -> dict[str, bytes]:
    """Draw what Optuna draws of a study: parallel coordinates, a slice per parameter, importances (fANOVA).

    Args:
        records: The trials; those without weights that can be used are left out.

    Returns:
        PNG files by name; none where there are too few trials.
    """
    usable = [record for record in records if record.usable]
    if len(usable) < _FEWEST:
        return {}
    with quiet_optuna():
        return _draw(usable)


def _draw(usable: Sequence[TrialRecord]) -> dict[str, bytes]:
    from matplotlib import pyplot as plt  # noqa: PLC0415 - global state, only where it is needed
    from optuna.visualization import matplotlib as draw  # noqa: PLC0415

    study = _study(usable)
    names = sorted({name for record in usable for name in record.values})
    varied = [name for name in names if len({str(record.values[name]) for record in usable}) > 1]
    plots: dict[str, bytes] = {}
    with plt.rc_context():
        plots["parallel.png"] = _drawn(draw.plot_parallel_coordinate(study, params=varied), (10, 4.2))
        plots["slices.png"] = _drawn(draw.plot_slice(study, params=varied), (3.1 * max(2, len(varied)), 3.4))
        if len(varied) > 1:
            plots["importance.png"] = _drawn(draw.plot_param_importances(study, params=varied), (7, 3.2))
    return plots


def _study(records: Sequence[TrialRecord]) -> optuna.Study:
    study = optuna.create_study(direction="minimize")
    columns = {name: [record.values[name] for record in records] for name in records[0].values}
    distributions = {name: _distribution(values) for name, values in columns.items()}
    scores = [record.score or 0.0 for record in records]
    highest = 3 * float(np.median(scores))  # a few failures shall not flatten the rest
    for record, score in zip(records, scores, strict=True):
        trial = optuna.trial.create_trial(params=record.values, distributions=distributions, value=min(score, highest))
        study.add_trial(trial)
    return study


def _distribution(values: Sequence[Any]) -> optuna.distributions.BaseDistribution:
    """Return the range that was tried; logarithmic where it spans more than a factor of twenty."""
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return optuna.distributions.CategoricalDistribution(sorted(set(values), key=str))
    low, high = min(values), max(values)
    log = low > 0 and math.log(high / low) > math.log(20)
    if all(isinstance(value, int) for value in values):
        return optuna.distributions.IntDistribution(low, high, log=log)
    return optuna.distributions.FloatDistribution(low, high, log=log)


def _drawn(axes: Any, size: tuple[float, float]) -> bytes:  # noqa: ANN401 - one Axes or an array of them
    """Turn what Optuna drew into a PNG file, in our words and sizes."""
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure = np.ravel(axes)[0].figure
    for part in figure.axes:
        for place in ("left", "center", "right"):
            part.set_title("", loc=place)
        part.set_facecolor("white")
        part.grid(visible=False)
        if (legend := part.get_legend()) is not None:
            legend.remove()
        for axis in (part.xaxis, part.yaxis):
            axis.label.set_text(_words(axis.label.get_text()))
            labels = [label.get_text() for label in axis.get_ticklabels()]
            if any("_" in label or "Objective" in label for label in labels):
                axis.set_ticks(axis.get_ticklocs(), [_words(label) for label in labels])
    figure.suptitle("")
    figure.set_size_inches(*size)
    image = png(figure, tight=True)
    plt.close(figure)
    return image


def _words(text: str) -> str:
    return text.replace("Objective Value", "Validation loss").replace("Hyperparameter", "Parameter").replace("_", " ")
