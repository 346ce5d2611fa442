"""Images that look like another one to a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.preprocessing import normalize

from core.evaluation.standardising import Standardiser

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LookAlikes"]


class LookAlikes:
    """Finds what is nearest in the network's features: the cosine of standardised features.

    Args:
        features: Pooled features, (N, K).
        sources: Number of each image's source, (N,).
    """

    def __init__(self, features: NDArray[np.float32], sources: NDArray[np.int64]) -> None:
        self._directions = np.asarray(normalize(Standardiser(features).transform(features)), np.float32)
        self._sources = sources

    def nearest(self, row: int, allowed: NDArray[np.bool_], most: int) -> list[int]:
        """Return the rows of the images that look most like one, nearest first, each of another source.

        Args:
            row: The image; its own source is left out.
            allowed: Images that may be taken, (N,) bool.
            most: Most images to return.
        """
        rows = np.flatnonzero(allowed & (self._sources != self._sources[row]))
        likeness = self._directions[rows] @ self._directions[row]
        ordered = rows[np.argsort(-likeness, kind="stable")]
        _, first = np.unique(self._sources[ordered], return_index=True)
        return ordered[np.sort(first)[:most]].tolist()
