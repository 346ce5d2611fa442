"""What a prediction is worth: its probabilities, its out-of-distribution score, and its flag."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from core.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "LOW_CONFIDENCE",
    "NO_CELL",
    "OUT_OF_DISTRIBUTION",
    "SEVERAL_CELLS",
    "UNIDENTIFIED",
    "Confidence",
    "energy",
]

LOW_CONFIDENCE = "low-confidence"
OUT_OF_DISTRIBUTION = "out-of-distribution"
NO_CELL = "no-cell"
SEVERAL_CELLS = "several-cells"

UNIDENTIFIED = frozenset({OUT_OF_DISTRIBUTION, NO_CELL})
"""Flags of what does not count in a differential."""


class Confidence(Settings):
    """How logits become probabilities and flags, as the bundle records it."""

    temperature: float = Field(1.0, gt=0, description="logits are divided by it before softmax (Guo et al. 2017)")
    min_confidence: float = Field(0.0, ge=0, le=1, description="below it a cell is flagged low-confidence")
    risk: float = Field(0.0, ge=0, le=1, description="error rate aimed at among cells at or above min_confidence")
    max_ood: float = Field(1e30, description="above it a cell is flagged out-of-distribution")
    chosen_on: str = Field("nothing", description="the images that these numbers were chosen on")

    def probabilities(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Turn logits into probabilities: a softmax of the logits divided by the temperature, in float64.

        Args:
            logits: What the network gives, (N, C), or (C,) for one image.

        Returns:
            Probabilities of the same shape, which sum to 1 along the last axis.

        Example:
            >>> Confidence(temperature=2.0).probabilities(np.array([[0.0, 2.0 * np.log(3.0)]]))
            array([[0.25, 0.75]])
        """
        scaled = logits.astype(np.float64) / self.temperature
        weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)

    def flag(self, confidence: float, ood: float, *, found: bool, hidden: bool = False, others: int = 0) -> str:
        """Return the flag of one cell, the gravest of several; empty where nobody needs to look.

        Args:
            confidence: Largest probability.
            ood: Out-of-distribution score.
            found: False where no white cell was found in the image.
            hidden: Whether the image's edge hides more than half of the cell.
            others: Number of further cells in the image that were left out.
        """
        if not found:
            return NO_CELL
        if ood > self.max_ood:
            return OUT_OF_DISTRIBUTION
        if hidden or confidence < self.min_confidence:
            return LOW_CONFIDENCE
        return SEVERAL_CELLS if others else ""

    def flags(self, logits: NDArray[np.floating]) -> list[str]:
        """Return the flag of each of several cells that were found, whole and alone.

        Args:
            logits: What the network gives, (N, C).
        """
        largest, ood = self.probabilities(logits).max(axis=1), energy(logits)
        return [self.flag(float(one), float(score), found=True) for one, score in zip(largest, ood, strict=True)]


def energy(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the energy score of logits (Liu et al. 2020, arXiv:2010.03759).

    Args:
        logits: What the network gives, (N, C).

    Returns:
        One score per image, (N,) float32; higher is less like the training data.
    """
    return -np.logaddexp.reduce(logits.astype(np.float32), axis=1)
