"""What changed between two runs, or between a run and the training images: a finding for everything compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from core.evaluation.effects import cliffs_delta, cohens_h, expanded_interval, sampling_error_of_h
from pipelines.classification.stains import COLOURS
from pipelines.comparing.record import CHANGED, SAME, UNKNOWN, Finding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipelines.comparing.record import Limits, Verdict

    Array = NDArray[np.float64]

__all__ = ["COLOUR_NAMES", "SHARES", "Comparer", "judge", "mean_colours"]

SHARES = {
    "unlike": ("images", "cells unlike the training images", "cells"),
    "unfamiliar": ("images", "cells of an unfamiliar stain", "cells"),
    "unsure": ("confidence", "cells of low confidence", "cells"),
    "flagged": ("confidence", "flagged", "rows"),
    "empty": ("images", "images without a white cell", "images"),
}
"""Shares: group, name, and what they are of, by the name of what is counted."""

_PARTS, _CHANNELS = ("nucleus", "cytoplasm and red cells", "plasma"), ("red", "green", "blue")
COLOUR_NAMES = tuple(f"{part}, {channel}" for part in _PARTS for channel in _CHANNELS)
"""Names of the nine colours."""

_SURE = 1.96


def judge(low: float, high: float, limit: float) -> Verdict:
    """Say where an interval lies: within the limit on both sides of zero, wholly beyond it, or neither."""
    if low > limit or high < -limit:
        return CHANGED
    return SAME if -limit <= low and high <= limit else UNKNOWN


def mean_colours(sums: Array) -> tuple[Array, Array]:
    """Return means and standard deviations of colours, (..., 9) each, 8-bit levels; NaN where there is no cell.

    Args:
        sums: Numbers of cells, sums and sums of squares, (..., 19).
    """
    count = np.where(sums[..., :1] > 0, sums[..., :1], np.nan)
    mean = sums[..., 1 : 1 + COLOURS] / count
    return mean, np.sqrt(np.maximum(sums[..., 1 + COLOURS :] / count - mean**2, 0))


@dataclass(frozen=True)
class Comparer:
    """Makes findings of totals over resampled slides.

    Attributes:
        first: Totals of the first, (R + 1,) or (R + 1, K) by name, the first row of the slides as they are; or
            constants, where the first is the training images.
        second: Totals of the second.
        limits: What counts as a change.
        slides: Fewest slides of the two.
        paired: Whether both are of the same slides.
        too_few: Why nothing can be said of anything; empty otherwise.
        only_more: Whether a share that is smaller than before counts as the same.
    """

    first: Mapping[str, Array]
    second: Mapping[str, Array]
    limits: Limits
    slides: int
    paired: bool
    too_few: str
    only_more: bool = False

    def share(self, group: str, name: str, count: str, of: str) -> Finding:
        """Compare a share by Cohen's h.

        The interval is at least that of independent counting: a share of which no slide has any resamples to zero.
        """
        shares = [_ratio(side[count], side[of]) for side in (self.first, self.second)]
        counts = [float(side[of][0]) for side in (self.first, self.second)]
        effects = cohens_h(*shares)
        effects = np.maximum(effects, 0) if self.only_more else effects
        least = 0.0 if self.paired or not all(counts) else _SURE * sampling_error_of_h(*counts)
        values = {"first": _number(shares[0][0]), "second": _number(shares[1][0])}
        base: dict[str, Any] = {"group": group, "name": name, "unit": "share", "measure": "Cohen's h", **values}
        return self._finding(base, effects, self.limits.share_effect, least=least)

    def shift(self, group: str, name: str, counted: str, middles: tuple[float, float]) -> Finding:
        """Compare a distribution, counted in bins, by Cliff's delta; the medians are shown."""
        effects = cliffs_delta(self.first[counted], self.second[counted])
        base: dict[str, Any] = {"group": group, "name": name, "unit": "score", "measure": "Cliff's delta"}
        base |= {"first": middles[0], "second": middles[1]}
        return self._finding(base, effects, self.limits.shift_effect)

    def colours(self) -> list[Finding]:
        """Compare the mean of each of the nine colours, in standard deviations of both sides' cells."""
        (one, spread), (other, other_spread) = (mean_colours(side["colours"]) for side in (self.first, self.second))
        scale = np.sqrt((spread[0] ** 2 + other_spread[0] ** 2) / 2)
        effects = (other - one) / np.maximum(scale, 1.0)
        return [
            self._finding(
                {
                    "group": "colours",
                    "name": name,
                    "unit": "levels",
                    "measure": "standardised difference",
                    "first": float(one[0, index]),
                    "second": float(other[0, index]),
                    "first_spread": float(spread[0, index]),
                    "second_spread": float(other_spread[0, index]),
                },
                effects[:, index],
                self.limits.colour_effect,
            )
            for index, name in enumerate(COLOUR_NAMES)
        ]

    def separation(self, counted: str) -> Finding:
        """Say how well the cells of slides that a classifier has not seen are told apart by their embeddings."""
        effects = np.maximum(cliffs_delta(self.first[counted], self.second[counted]), 0)
        base: dict[str, Any] = {
            "group": "embeddings",
            "name": "telling unseen slides apart, AUC (0.5: chance)",
            "unit": "auc",
            "measure": "2 x AUC - 1",
            "first": 0.5,
            "second": (1 + float(effects[0])) / 2,
        }
        return self._finding(base, effects, self.limits.embedding_effect)

    def _finding(self, base: dict[str, Any], effects: Array, limit: float, *, least: float = 0.0) -> Finding:
        """Judge an effect: the first of the values is it, the others are resampled."""
        effect = _number(effects[0])
        why = self.too_few or ("" if effect is not None else "there are none")
        if why or effect is None:
            return Finding(**base, effect=effect, limit=limit, verdict=UNKNOWN, why=why)
        low, high = expanded_interval(effects[1:], self.slides)
        low, high = min(low, effect - least), max(high, effect + least)
        verdict = judge(low, high, limit)
        why = "the interval reaches across the limit" if verdict == UNKNOWN else ""
        return Finding(**base, effect=effect, low=low, high=high, limit=limit, verdict=verdict, why=why)


def _ratio(count: Array, total: Array) -> Array:
    return np.divide(count, total, out=np.full(np.shape(count), np.nan), where=total > 0)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
