"""How large a difference between two groups is, in units that do not depend on what was measured, and how sure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm, t

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["cliffs_delta", "cohens_h", "expanded_interval", "sampling_error_of_h"]

_LEVEL = 0.95


def cohens_h(first: Array, second: Array) -> Array:
    """Return the size of the difference of two shares: 2 (arcsin sqrt(second) - arcsin sqrt(first)).

    Cohen 1988, Statistical Power Analysis, chapter 6, calls 0.2 small, 0.5 medium and 0.8 large; from 5 % to 10 % it is
    0.19, and so it is from 40 % to 50 %.

    Args:
        first: Shares from 0 to 1, of any shape.
        second: Shares of the same shape.
    """
    return 2 * (np.arcsin(np.sqrt(second)) - np.arcsin(np.sqrt(first)))


def sampling_error_of_h(*counts: float) -> float:
    """Return the standard error that `cohens_h` has at least, whatever the shares are: that of independent counting.

    Args:
        counts: Number of things that each share is of.
    """
    return float(np.sqrt(sum(1 / count for count in counts)))


def cliffs_delta(first: Array, second: Array) -> Array:
    """Return how often a value of the second group is above one of the first, less how often it is below.

    Cliff 1993 (doi:10.1037/0033-2909.114.3.494), from -1 to 1; twice the area under the ROC curve less one. Values in
    the same bin count as equal.

    Args:
        first: Number of values in each bin, the bins in order, (..., B).
        second: The same of the second group.

    Example:
        >>> cliffs_delta(np.array([2.0, 0.0]), np.array([1.0, 1.0]))
        0.5
    """
    one, other = (group / np.maximum(group.sum(axis=-1, keepdims=True), 1e-300) for group in (first, second))
    below = one.cumsum(axis=-1)
    return ((2 * below - one) * other).sum(axis=-1) - 1


def expanded_interval(values: Array, groups: int) -> tuple[float, float]:
    """Return the 95 % interval of resampled values, widened for few groups.

    The plain percentile interval is too narrow where few groups were resampled; this one takes the percentiles at which
    it is as wide as Student's t would have it (Hesterberg 2015, doi:10.1080/00031305.2015.1089789, section 5.2).

    Args:
        values: Resampled values (R,); those that could not be had are NaN.
        groups: Number of groups that were resampled, at least 2.
    """
    wide = np.sqrt(groups / (groups - 1)) * t.ppf((1 + _LEVEL) / 2, groups - 1)
    tail = float(norm.cdf(-wide))
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)
