"""Choosing temperature and flag thresholds on images that were not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import log_loss

from core.confidence import Confidence, energy

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fit_confidence"]


def fit_confidence(
    logits: NDArray[np.floating], labels: NDArray[np.integer], *, flagged: float = 0.1, strange: float = 0.01, on: str
) -> Confidence:
    """Choose temperature and thresholds on images that were not trained on.

    Args:
        logits: (N, C).
        labels: Class indices (N,).
        flagged: Share of these images that shall be flagged low-confidence.
        strange: Share of these images that shall be flagged out-of-distribution.
        on: Says which images these are.
    """
    classes = list(range(logits.shape[1]))

    def loss(log_temperature: float) -> float:
        probabilities = softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
        return float(log_loss(labels, np.clip(probabilities, 1e-12, 1), labels=classes))

    fitted: Any = minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded")
    temperature = float(np.exp(fitted.x))
    largest = softmax(logits.astype(np.float64) / temperature, axis=1).max(axis=1)
    return Confidence(
        temperature=temperature,
        min_confidence=float(np.quantile(largest, flagged)),
        max_ood=float(np.quantile(energy(logits), 1 - strange)),
        chosen_on=on,
    )
