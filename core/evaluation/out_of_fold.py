"""What images are by the others: probabilities of a simple classifier that never saw the image or its field.

A network agrees with the labels that it was trained on, wrong ones included. So its last layer is put aside: of its
pooled features a logistic regression is fitted anew on all folds but one, and asked about the fold that was left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import LogisticRegression

from core.data.folds import folds_by_source
from core.data.sources import number_sources
from core.errors import DataError
from core.evaluation.standardising import Standardiser
from core.training.calibration import fit_confidence

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.data.class_folders import ClassFolders

__all__ = ["OutOfFold", "predict_out_of_fold"]

_STRENGTH = 10.0
"""What the inverse of the penalty on the weights is, divided by the number of features (the squared length of what is
standardised). So strong a penalty learns few wrong labels by heart; what it takes from the sureness of the answers,
the temperature gives back. Chosen on images of which 3 % of the labels had been swapped."""
_MOST_STEPS = 2000


@dataclass(frozen=True)
class OutOfFold:
    """Probabilities of images by classifiers that were fitted without their sources.

    Attributes:
        probabilities: (N, C) float64; a class without images has 0.
        folds: Number of folds.
    """

    probabilities: NDArray[np.float64]
    folds: int


def predict_out_of_fold(data: ClassFolders, features: NDArray[np.float32], folds: int, seed: int = 0) -> OutOfFold:
    """Fit a multinomial logistic regression on all folds but one, and predict that one; in turn for all.

    Every class counts the same, and within a class every source. One temperature for all folds (Guo et al. 2017,
    arXiv:1706.04599) makes the probabilities as sure as they are right.

    Args:
        data: The images and their sources; no source is in two folds. No two samples are equal.
        features: Pooled features of each image, (N, K).
        folds: Number of folds; there are fewer where the scarcest class has fewer sources.
        seed: Seed of the folds.

    Raises:
        DataError: With code ``single-class``, or ``too-few-sources`` where a class cannot be divided.
    """
    labels = np.array([sample.label for sample in data.samples], np.int64)
    if len(np.unique(labels)) < 2:
        names = ", ".join(data.class_names[label] for label in np.unique(labels))
        raise DataError("single-class", f"All readable images are labelled {names}; suspect labels need two classes.")
    row_of = {sample: row for row, sample in enumerate(data.samples)}
    sources = number_sources(data.samples)
    pairs = folds_by_source(data, folds, seed)
    logits = np.full((len(labels), len(data.class_names)), -np.inf)
    for training, held_out in pairs:
        fitted, asked = ([row_of[sample] for sample in side.samples] for side in (training, held_out))
        if missing := set(labels.tolist()) - set(labels[fitted].tolist()):
            raise DataError(
                "too-few-sources",
                f"A fold holds all images of {data.class_names[min(missing)]}, so that nothing is left to learn it"
                " from; add sources of it, or leave the class out.",
            )
        standardiser = Standardiser(features[fitted])
        regression = LogisticRegression(C=_STRENGTH / features.shape[1], max_iter=_MOST_STEPS).fit(
            standardiser.transform(features[fitted]),
            labels[fitted],
            sample_weight=_weights(labels[fitted], sources[fitted]),
        )
        logits[np.ix_(asked, regression.classes_)] = regression.predict_log_proba(
            standardiser.transform(features[asked])
        )
    known = np.unique(labels)
    seen = logits[:, known]
    confidence = fit_confidence(seen, np.searchsorted(known, labels), on="the images themselves, out of fold")
    probabilities = np.zeros_like(logits)
    probabilities[:, known] = confidence.probabilities(seen)
    return OutOfFold(probabilities, len(pairs))


def _weights(labels: NDArray[np.int64], sources: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a weight per image: each class has the same sum, within it each source; the mean source has 1."""
    pairs, members = np.unique(np.stack((labels, sources)), axis=1, return_inverse=True)
    members = members.ravel()
    weights = 1 / np.bincount(members)[members]
    per_class = np.bincount(labels, weights)
    return weights * pairs.shape[1] / np.count_nonzero(per_class) / per_class[labels]
