"""What a prediction is worth: temperature, the out-of-distribution score, and the two flags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from core.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LOW_CONFIDENCE", "OUT_OF_DISTRIBUTION", "Confidence", "energy"]

LOW_CONFIDENCE = "low-confidence"
OUT_OF_DISTRIBUTION = "out-of-distribution"


class Confidence(Settings):
    """How logits become probabilities and flags, as the bundle records it."""

    temperature: float = Field(1.0, gt=0, description="logits are divided by it before softmax (Guo et al. 2017)")
    min_confidence: float = Field(0.0, ge=0, le=1, description="below it a cell is flagged low-confidence")
    risk: float = Field(0.0, ge=0, le=1, description="error rate aimed at among cells at or above min_confidence")
    max_ood: float = Field(1e30, description="above it a cell is flagged out-of-distribution")
    chosen_on: str = Field("nothing", description="the images that these numbers were chosen on")

    def flag(self, confidence: float, ood: float, *, found: bool) -> str:
        """Return the flag of one cell; empty where nobody needs to look.

        Args:
            confidence: Largest probability.
            ood: Out-of-distribution score.
            found: False where no white cell was found in the image.
        """
        if not found or ood > self.max_ood:
            return OUT_OF_DISTRIBUTION
        return LOW_CONFIDENCE if confidence < self.min_confidence else ""


def energy(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the energy score (Liu et al. 2020, arXiv:2010.03759) of logits (N, C): (N,), higher is stranger."""
    return -np.logaddexp.reduce(logits.astype(np.float32), axis=1)
