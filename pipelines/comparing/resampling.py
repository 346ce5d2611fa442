"""Drawing slides anew: cells of one slide are not independent, so a slide is drawn whole (the cluster bootstrap)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["draw_totals", "histograms"]

_AT_ONCE = 50
_BINS = 200


def draw_totals(numbers: Mapping[str, Array], *, resamples: int, seed: int) -> dict[str, Array]:
    """Add up numbers per slide, over the slides as they are and over slides that are drawn with replacement.

    Args:
        numbers: Numbers of each slide, (S,) or (S, K), by name.
        resamples: How often slides are drawn, R.
        seed: Seed of the drawing; two runs of the same slides are drawn in pairs by the same seed.

    Returns:
        Totals, (R + 1,) or (R + 1, K) by name; the first row is of the slides as they are.
    """
    totals: dict[str, list[Array]] = {name: [] for name in numbers}
    for weights in _weights(len(next(iter(numbers.values()))), resamples, seed):
        for name, values in numbers.items():
            totals[name].append(weights @ values)
    return {name: np.concatenate(parts) for name, parts in totals.items()}


def _weights(slides: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield how often each slide counts, (R, S), a few resamples at a time: once, then as it is drawn."""
    rng = np.random.default_rng(seed)
    yield np.ones((1, slides))
    for start in range(0, resamples, _AT_ONCE):
        many = min(_AT_ONCE, resamples - start)
        yield rng.multinomial(slides, np.full(slides, 1 / slides), many).astype(np.float64)


def histograms(
    first: tuple[NDArray[np.int32], NDArray[np.float32]],
    second: tuple[NDArray[np.int32], NDArray[np.float32]],
    slides: tuple[int, int],
) -> tuple[Array, Array]:
    """Count the values of each slide in bins that hold about equally many of all values.

    Args:
        first: Numbers of the slides, and values, of the first run's cells, (N,).
        second: The same of the second run.
        slides: Numbers of slides of the two.

    Returns:
        Counts (S, B) of each run.
    """
    pooled = np.concatenate([first[1], second[1]])
    edges = np.unique(np.quantile(pooled, np.linspace(0, 1, _BINS + 1)[1:-1], method="nearest"))
    bins = len(edges) + 1
    counted = (
        np.bincount(slide * np.int64(bins) + np.searchsorted(edges, values, side="right"), minlength=many * bins)
        for (slide, values), many in zip((first, second), slides, strict=True)
    )
    one, other = (counts.reshape(-1, bins).astype(np.float64) for counts in counted)
    return one, other
