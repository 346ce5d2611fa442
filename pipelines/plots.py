"""Plots of a training run, as PNG files in memory."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["confusion_png", "curves_png"]


def confusion_png(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> bytes:
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
    axes.set(xlabel="Predicted", ylabel="Labelled", title="Validation images")
    axes.tick_params(axis="x", rotation=30)
    return _png(figure)


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
    return _png(figure)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()
