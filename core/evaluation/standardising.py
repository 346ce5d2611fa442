"""Pooled features on one scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.preprocessing import StandardScaler

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Standardiser"]

_FURTHEST = 3.0


class Standardiser:
    """Gives every feature mean 0 and deviation 1, and moves what is further than 3 deviations away to there.

    Some features of a network are zero but for one image in hundreds. Without that bound the one image would be dozens
    of deviations away from the others, and its neighbours in just this feature would be judged by nothing else.

    Args:
        features: Pooled features that say what mean and deviation are, (N, K).
    """

    def __init__(self, features: NDArray[np.float32]) -> None:
        self._scaler = StandardScaler().fit(features)

    def transform(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return standardised features, (M, K) float32.

        Args:
            features: Pooled features, (M, K).
        """
        scaled = np.asarray(self._scaler.transform(features), np.float32)
        return np.clip(scaled, -_FURTHEST, _FURTHEST, out=scaled)
