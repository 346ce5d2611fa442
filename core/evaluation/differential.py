"""The differential count: the share of each class on a slide, with its uncertainty."""

from __future__ import annotations

from typing import NamedTuple

from scipy.special import betaincinv

__all__ = ["FEW_CELLS", "Share", "describe_count", "share"]

FEW_CELLS, _USUAL = 100, 200


class Share(NamedTuple):
    """A percentage and the limits of its 95 % interval, all in percent."""

    percent: float
    low: float
    high: float


def share(count: int, total: int) -> Share:
    """Return a class's share with its exact binomial 95 % interval.

    Clopper and Pearson (1934, doi:10.1093/biomet/26.4.404), what haematology calls Rümke's limits. It
    speaks of counting alone, not of misclassification.

    Args:
        count: Cells of the class.
        total: Classified cells; with 0 nothing is known, and the interval is 0 to 100.
    """
    if total == 0:
        return Share(0.0, 0.0, 100.0)
    low = float(betaincinv(count, total - count + 1, 0.025)) if count > 0 else 0.0
    high = float(betaincinv(count + 1, total - count, 0.975)) if count < total else 1.0
    return Share(100 * count / total, 100 * low, 100 * high)


def describe_count(identified: int) -> str:
    """Say what a number of identified cells is worth, as laboratories see it (CLSI H20: 100 or 200 cells).

    Args:
        identified: Cells that the differential counts.

    Returns:
        A few words; empty where there is nothing to say.

    Example:
        >>> describe_count(60)
        'fewer than 100 identified cells: too few for a differential'
    """
    if identified < FEW_CELLS:
        return f"fewer than {FEW_CELLS} identified cells: too few for a differential"
    return f"at least {_USUAL if identified >= _USUAL else FEW_CELLS} identified cells, a usual count"
