"""Pictures of a comparison, as PNG files in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from core.evaluation.plots import png

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipelines.comparing.record import Finding

__all__ = ["classes_png", "colours_png", "distribution_png", "embeddings_png"]

_SIDES = ("#8a94a6", "#5b3f8f")
_MOST_SLIDES = 40


def classes_png(findings: Sequence[Finding], names: tuple[str, str]) -> bytes:
    """Draw the share of each class in both runs."""
    figure = Figure(figsize=(4.6, 1.4 + 0.6 * len(findings)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(findings))
    for side, (name, colour) in enumerate(zip(names, _SIDES, strict=True)):
        shares = [100 * ((finding.first, finding.second)[side] or 0) for finding in findings]
        bars = axes.barh(places + 0.38 * side - 0.19, shares, 0.36, color=colour, label=name)
        axes.bar_label(bars, fmt="%.1f %%", padding=3, fontsize=8, color="#5d6878")
    axes.set_yticks(places, [finding.name for finding in findings])
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set(xlabel="Share of the identified cells (%)")
    axes.grid(alpha=0.25, axis="x")
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    return png(figure)


def distribution_png(
    first: NDArray[np.float32], second: NDArray[np.float32], names: tuple[str, str], what: str
) -> bytes:
    """Draw how the values of both runs' cells are distributed."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.subplots()
    low, high = np.quantile(np.concatenate([first, second]), [0.001, 0.999])
    bins = np.linspace(low, max(high, low + 1e-6), 41)
    for values, name, colour in zip((first, second), names, _SIDES, strict=True):
        counts, _ = np.histogram(values, bins)
        axes.stairs(100 * counts / max(1, len(values)), bins, fill=True, color=colour, alpha=0.3)
        axes.stairs(100 * counts / max(1, len(values)), bins, color=colour, linewidth=1.6, label=name)
    axes.set(xlabel=what, ylabel="Cells (%)")
    axes.grid(alpha=0.25)
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    return png(figure)


def colours_png(sides: Sequence[tuple[str, NDArray[np.float64]]]) -> bytes:
    """Draw the mean colours of each slide: plasma above, then cytoplasm and red cells, the nucleus below.

    Args:
        sides: Name, and the colours of slides (S, 9) in 8-bit levels; of many slides some are shown, evenly chosen.
    """
    figure = Figure(figsize=(9.4, 1.2 + 1.35 * len(sides)), layout="constrained")
    for axes, (name, colours) in zip(np.atleast_1d(figure.subplots(len(sides))), sides, strict=True):
        shown = np.unique(np.linspace(0, len(colours) - 1, _MOST_SLIDES).round().astype(int))
        parts = colours[shown].reshape(-1, 3, 3)[:, ::-1].transpose(1, 0, 2)
        axes.imshow(np.clip(parts, 0, 255).astype(np.uint8), aspect="auto", interpolation="nearest")
        axes.set_yticks(range(3), ["plasma", "cytoplasm,\nred cells", "nucleus"], fontsize=11)
        axes.set_xticks(np.arange(0.5, len(shown) - 1), [""] * (len(shown) - 1))
        axes.tick_params(length=0)
        axes.grid(axis="x", color="white", linewidth=2)
        axes.spines[:].set_visible(False)
        some = f", {len(shown)} of {len(colours):,}" if len(shown) < len(colours) else ""
        axes.set_title(f"{name}{some}", fontsize=13, loc="left")
    return png(figure)


def embeddings_png(axes_of: tuple[NDArray[np.float32], ...], names: tuple[str, str]) -> bytes:
    """Draw the cells of both samples along the two main axes of their embeddings."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for cells, name, colour in zip(axes_of, names, _SIDES, strict=True):
        axes.scatter(cells[:1500, 0], cells[:1500, 1], 7, color=colour, alpha=0.45, linewidths=0, label=name)
    axes.set(xlabel="First main axis", ylabel="Second main axis")
    axes.grid(alpha=0.25)
    legend = figure.legend(frameon=False, loc="outside upper center", ncols=2, markerscale=2)
    for handle in legend.legend_handles:
        handle.set_alpha(1)  # pyright: ignore[reportOptionalMemberAccess]
    return png(figure)
