"""Plots of a training run, as PNG files in memory."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from core.evaluation.scores import Level

__all__ = ["confusion_png", "curves_png", "ood_png", "png", "reliability_png", "risk_coverage_png"]

_LEVELS = (("images", "#5b3f8f"), ("sources", "#c98a1b"))


def confusion_png(
    confusion: Sequence[Sequence[int]], class_names: Sequence[str], title: str = "Validation images"
) -> bytes:
    """Draw a confusion matrix: rows are labelled classes, columns predicted ones; colours are row shares."""
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(1.6 + 1.1 * len(class_names), 1.2 + 1.0 * len(class_names)), layout="constrained")
    axes = figure.subplots()
    names = [name.capitalize() for name in class_names]
    display = ConfusionMatrixDisplay(shares, display_labels=names)
    display.plot(ax=axes, cmap="Purples", colorbar=False, include_values=False)
    display.im_.set_clim(0, 1)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{counts[row, column]:,}\n{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=10)
    axes.set(xlabel="Predicted", ylabel="Labelled", title=title)
    axes.tick_params(axis="x", rotation=30)
    return png(figure)


def curves_png(history: Sequence[Mapping[str, float]]) -> bytes:
    """Draw loss and accuracy per epoch, training and validation."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(epochs, [row[f"train_{name}"] for row in history], label="training", color="#8a94a6", marker="o")
        axes.plot(
            epochs, [row[f"validation_{name}"] for row in history], label="validation", color="#5b3f8f", marker="o"
        )
        axes.set(xlabel="Epoch", ylabel=name.capitalize())
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    return png(figure)


def reliability_png(levels: Sequence[Level]) -> bytes:
    """Draw accuracy against confidence, per bin, of images and, where given, sources; dots grow with their number."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color="#8a94a6", linewidth=1, linestyle="--", label="perfectly calibrated")
    for level, (name, colour) in zip(levels, _LEVELS, strict=False):
        x, y = [part.confidence for part in level.reliability], [part.accuracy for part in level.reliability]
        sizes = [12 + 260 * part.count / level.n for part in level.reliability]
        axes.plot(x, y, color=colour, linewidth=1, alpha=0.5)
        axes.scatter(x, y, sizes, color=colour, alpha=0.8, label=f"{name}, ECE {level.ece.value:.3f}")
    axes.set(xlabel="Mean confidence", ylabel="Accuracy", xlim=(0.2, 1.03), ylim=(-0.03, 1.06))
    axes.grid(alpha=0.25)
    for handle in axes.legend(frameon=False, loc="lower right").legend_handles[1:]:
        handle.set_sizes([40])  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    return png(figure)


def risk_coverage_png(levels: Sequence[Level]) -> bytes:
    """Draw the error rate of what is left when the least confident are given to a person."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for level, (name, colour) in zip(levels, _LEVELS, strict=False):
        coverage = [100 * part.coverage for part in level.risk_coverage]
        axes.plot(coverage, [100 * part.risk for part in level.risk_coverage], color=colour, label=name)
    axes.axvline(90, color="#8a94a6", linewidth=1, linestyle="--")
    axes.annotate(
        "10 % flagged",
        (89, 0.03),
        xycoords=("data", "axes fraction"),
        ha="right",
        va="bottom",
        color="#5d6878",
        rotation=90,
    )
    axes.set(xlabel="Share left, most confident first (%)", ylabel="Errors among them (%)", xlim=(0, 101))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="upper left")
    return png(figure)


def ood_png(scores: Mapping[str, Sequence[float]], threshold: float) -> bytes:
    """Draw the out-of-distribution scores of known and unknown images, and the threshold of the flag."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    bins = np.histogram_bin_edges(np.concatenate([np.asarray(values) for values in scores.values()]), 40)
    for (name, values), colour in zip(scores.items(), ("#5b3f8f", "#c2553f"), strict=True):
        weights = np.full(len(values), 100 / max(1, len(values)))
        axes.hist(values, bins.tolist(), weights=weights, color=colour, alpha=0.6, label=f"{name} ({len(values):,})")
    if bins[0] <= threshold <= bins[-1]:
        axes.axvline(threshold, color="#1d2430", linewidth=1, linestyle="--", label="flagged beyond")
    axes.set(xlabel="Out-of-distribution score", ylabel="Images (%)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return png(figure)


def png(figure: Figure, *, tight: bool = False) -> bytes:
    """Return the figure as a PNG file, as small as its content where `tight`."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, bbox_inches="tight" if tight else None)
    return stream.getvalue()
