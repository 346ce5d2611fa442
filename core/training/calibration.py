"""Choosing temperature and flag thresholds on images that were not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold

from core.model.confidence import Confidence, energy

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Answers", "cross_fit_confidence", "fit_confidence", "fit_confidence_away"]

_MOST_FLAGGED = 0.25
"""Largest share of the images that is flagged low-confidence, whatever the risk aimed at."""
_AWAY_FLAGGED = 0.2
"""Share of a left-out laboratory's cells that is flagged."""
_AWAY_UNLIKE = 0.05
"""Share of a left-out laboratory's cells that is flagged out-of-distribution."""
_FEWEST_SOURCES = 4
"""Sources that the scarcest class needs, so that each half of a cross-fit has two of them."""


def fit_confidence(
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    domains: NDArray[np.integer] | None = None,
    risk: float = 0.05,
    ood_share: float = 0.01,
    on: str,
) -> Confidence:
    """Choose temperature and thresholds on images that were not trained on.

    Args:
        logits: What the network gives, (N, C).
        labels: Class indices (N,).
        domains: Number of each image's laboratory (N,), where there are several: each then counts the same.
        risk: Error rate aimed at among the images that are not flagged low-confidence (selective
            classification, Geifman and El-Yaniv 2017, arXiv:1705.08500); at most a quarter is flagged.
        ood_share: Share of these images that is flagged out-of-distribution.
        on: Words that say which images these are.

    Example:
        >>> confidence = fit_confidence(logits, labels, on="312 images, held out of training by source")
        >>> probabilities = confidence.probabilities(logits)
    """
    if domains is not None:
        rows = _evened(domains)
        logits, labels = logits[rows], labels[rows]
    temperature = _temperature(logits, labels)
    probabilities = _divided_by(temperature).probabilities(logits)
    return Confidence(
        temperature=temperature,
        min_confidence=_threshold(probabilities.max(axis=1), probabilities.argmax(axis=1) != labels, risk),
        risk=risk,
        max_ood=float(np.quantile(energy(logits), 1 - ood_share)),
        chosen_on=on,
    )


class Answers(NamedTuple):
    """What networks said of images of known classes that they were not trained on.

    Attributes:
        logits: (N, C).
        labels: Class indices (N,).
        domains: Number of each image's laboratory (N,).
    """

    logits: NDArray[np.floating]
    labels: NDArray[np.integer]
    domains: NDArray[np.integer]

    def select(self, rows: NDArray[np.bool_]) -> Answers:
        """Return some of them, by a mask (N,)."""
        return Answers(self.logits[rows], self.labels[rows], self.domains[rows])


def fit_confidence_away(home: Answers, away: Answers, *, on: str) -> Confidence:
    """Choose temperature and thresholds for laboratories that the network does not know.

    A fifth of a left-out laboratory's cells is flagged: the twentieth that is least like the training images, and
    the least certain of the rest. The temperature fits known and left-out laboratories, each counted the same.

    Args:
        home: Answers to held-out images of laboratories that were trained on.
        away: Answers to laboratories by networks that never saw them.
        on: Words that say which images these are.
    """
    rows = _evened(away.domains)
    both = _evened(np.concatenate([home.domains, away.domains + home.domains.max() + 1]))
    logits = np.concatenate([home.logits, away.logits])[both]
    labels = np.concatenate([home.labels, away.labels])[both]
    temperature = _temperature(logits, labels)
    confident = _divided_by(temperature).probabilities(away.logits[rows]).max(axis=1)
    unlike = energy(away.logits[rows])
    max_ood = float(np.quantile(unlike, 1 - _AWAY_UNLIKE))
    rest = confident[unlike <= max_ood]
    return Confidence(
        temperature=temperature,
        min_confidence=float(np.quantile(rest, (_AWAY_FLAGGED - _AWAY_UNLIKE) / (1 - _AWAY_UNLIKE))),
        risk=0.0,
        max_ood=max_ood,
        chosen_on=on,
    )


def cross_fit_confidence(
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    sources: NDArray[np.integer],
    *,
    domains: NDArray[np.integer] | None = None,
    risk: float = 0.05,
) -> list[tuple[NDArray[np.int64], Confidence]]:
    """Choose temperature and thresholds for each half of the sources on the other half.

    What is measured with them is not what chose them, so that calibration error, loss and flags are not too good.

    Args:
        logits: What the network gives, (N, C).
        labels: Class indices (N,).
        sources: Number of each image's source (N,).
        domains: Number of each image's laboratory (N,), as in `fit_confidence`.
        risk: Error rate aimed at, as in `fit_confidence`.

    Returns:
        Two pairs: rows of one half, and what was chosen on the other. Empty where a class has fewer than four
        sources, too few for two halves.
    """
    fewest = min(len(np.unique(sources[labels == label])) for label in np.unique(labels))
    if fewest < _FEWEST_SOURCES:
        return []
    halves = StratifiedGroupKFold(2, shuffle=True, random_state=0).split(logits, labels, sources)
    return [
        (
            rows,
            fit_confidence(
                logits[others],
                labels[others],
                domains=None if domains is None else domains[others],
                risk=risk,
                on="the other half of the sources",
            ),
        )
        for others, rows in halves
    ]


def _evened(domains: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return rows in which every laboratory stands as often as the largest: the others' are repeated."""
    parts = [np.flatnonzero(domains == domain) for domain in np.unique(domains)]
    most = max(map(len, parts))
    return np.concatenate([np.resize(part, most) for part in parts])


def _temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the temperature with the smallest log loss."""
    classes = list(range(logits.shape[1]))

    def loss(log_temperature: float) -> float:
        probabilities = _divided_by(float(np.exp(log_temperature))).probabilities(logits)
        return float(log_loss(labels, np.clip(probabilities, 1e-12, 1), labels=classes))

    fitted: Any = minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded")
    return float(np.exp(fitted.x))


def _divided_by(temperature: float) -> Confidence:
    return Confidence.model_validate({"temperature": temperature})


def _threshold(confident: NDArray[np.float64], wrong: NDArray[np.bool_], risk: float) -> float:
    """Return the smallest confidence from which on the error rate is at most `risk`."""
    order = np.argsort(-confident, kind="stable")
    rates = wrong[order].cumsum() / np.arange(1, len(order) + 1)
    fitting = np.flatnonzero(rates <= risk)
    fewest = round((1 - _MOST_FLAGGED) * len(order))
    last = max(int(fitting[-1]) if len(fitting) else 0, fewest - 1, 0)
    return float(confident[order[last]])
