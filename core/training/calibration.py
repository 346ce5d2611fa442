"""Choosing temperature and flag thresholds on images that were not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import log_loss

from core.model.confidence import Confidence, energy

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fit_confidence"]

_LARGEST_SHARE = 0.25
"""Of the images; more than this is never flagged low-confidence, whatever the risk aimed at."""


def fit_confidence(
    logits: NDArray[np.floating], labels: NDArray[np.integer], *, risk: float = 0.05, strange: float = 0.01, on: str
) -> Confidence:
    """Choose temperature and thresholds on images that were not trained on.

    Args:
        logits: (N, C).
        labels: Class indices (N,).
        risk: Error rate aimed at among the images that are not flagged low-confidence (selective
            classification, Geifman and El-Yaniv 2017, arXiv:1705.08500); at most a quarter is flagged.
        strange: Share of these images that shall be flagged out-of-distribution.
        on: Says which images these are.
    """
    classes = list(range(logits.shape[1]))

    def loss(log_temperature: float) -> float:
        probabilities = softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
        return float(log_loss(labels, np.clip(probabilities, 1e-12, 1), labels=classes))

    fitted: Any = minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded")
    temperature = float(np.exp(fitted.x))
    probabilities = softmax(logits.astype(np.float64) / temperature, axis=1)
    kept = _kept(probabilities.max(axis=1), probabilities.argmax(axis=1) != labels, risk)
    return Confidence(
        temperature=temperature,
        min_confidence=kept,
        risk=risk,
        max_ood=float(np.quantile(energy(logits), 1 - strange)),
        chosen_on=on,
    )


def _kept(confident: NDArray[np.float64], wrong: NDArray[np.bool_], risk: float) -> float:
    """Return the smallest confidence from which on the error rate is at most `risk`."""
    order = np.argsort(-confident, kind="stable")
    rates = wrong[order].cumsum() / np.arange(1, len(order) + 1)
    fitting = np.flatnonzero(rates <= risk)
    fewest = round((1 - _LARGEST_SHARE) * len(order))
    last = max(int(fitting[-1]) if len(fitting) else 0, fewest - 1, 0)
    return float(confident[order[last]])
