"""Labels that are probably wrong, by confident learning (Northcutt, Jiang and Chuang 2021, arXiv:1911.00068).

An image counts for a class where its probability of it reaches what images of that class have in the mean. Where the
class so found is not the label, the label is suspect. The numbers of images by label and found class, the confident
joint, also say how many labels of each kind are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SuspectSource", "Suspects", "by_source", "calibrate_joint", "class_thresholds", "find_suspects"]


@dataclass(frozen=True)
class Suspects:
    """Images whose label is suspect, the most suspect first.

    Attributes:
        rows: Their rows, (M,) int64.
        suggested: The class that each is found to be, (M,) int64.
        margins: Probability of that class less that of the label, above 0, (M,) float64.
        joint: Images by label (row) and class that they are found to be (column), (C, C) int64: the confident joint.
            Images that are not sure enough of any class are in no cell of it.
    """

    rows: NDArray[np.int64]
    suggested: NDArray[np.int64]
    margins: NDArray[np.float64]
    joint: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of suspect labels."""
        return len(self.rows)


@dataclass(frozen=True)
class SuspectSource:
    """Suspect images of one source that have the same label.

    Attributes:
        places: Places in `Suspects`, the most suspect first.
        suggested: The class that most speaks for.
        images: Number of images of the source with this label, suspect or not.
        margin: Mean probability of the suggested class less that of the label, over all of them.
    """

    places: tuple[int, ...]
    suggested: int
    images: int
    margin: float


def class_thresholds(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean probability of each class over the images that are labelled so, (C,).

    Args:
        probabilities: Out-of-fold probabilities, (N, C).
        labels: Class indices, (N,).

    Returns:
        The thresholds; infinite for a class without images, for which nothing can count.
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    own = np.bincount(labels, probabilities[np.arange(len(labels)), labels], minlength=probabilities.shape[1])
    return np.divide(own, counts, out=np.full(len(counts), np.inf), where=counts > 0)


def find_suspects(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> Suspects:
    """Find the images that are in a cell of the confident joint beside its diagonal.

    Of several classes whose thresholds are reached the most probable one is taken. An image whose own label is at
    least as probable is not suspect, though the joint counts it.

    Args:
        probabilities: Out-of-fold probabilities, (N, C).
        labels: Class indices, (N,).

    Example:
        >>> find_suspects(np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.9, 0.1]]), np.array([0, 0, 1, 1])).rows
        array([3])
    """
    classes = probabilities.shape[1]
    reached = np.where(probabilities >= class_thresholds(probabilities, labels), probabilities, -1.0)
    found = reached.argmax(axis=1)
    sure = reached.max(axis=1) >= 0
    every = np.arange(len(labels))
    margins = probabilities[every, found] - probabilities[every, labels]
    rows = np.flatnonzero(sure & (margins > 0))
    rows = rows[np.argsort(-margins[rows], kind="stable")]
    joint = np.bincount(labels[sure] * classes + found[sure], minlength=classes**2).reshape(classes, classes)
    return Suspects(rows, found[rows], margins[rows], joint)


def calibrate_joint(joint: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how many images of each label (row) are of each class (column), (C, C).

    Every row of the confident joint is scaled to the number of images with that label, so that those which were not
    sure of any class are divided like the others; a label none of whose images are sure keeps them.

    Args:
        joint: The confident joint, (C, C).
        labels: Class indices, (N,).
    """
    rows = np.where(joint.sum(axis=1, keepdims=True) > 0, joint, np.eye(len(joint)))
    return rows / rows.sum(axis=1, keepdims=True) * np.bincount(labels, minlength=len(joint))[:, None]


def by_source(
    suspects: Suspects, probabilities: NDArray[np.float64], labels: NDArray[np.int64], sources: NDArray[np.int64]
) -> list[SuspectSource]:
    """Put suspect images of one source and label together, the most suspect source first.

    Views of one field are right or wrong together, so the mean over all its views with that label says more than the
    view that says most.

    Args:
        suspects: What `find_suspects` gave.
        probabilities: Out-of-fold probabilities, (N, C).
        labels: Class indices, (N,).
        sources: Number of each image's source, (N,).
    """
    images: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(sources.tolist(), labels.tolist(), strict=True)):
        images.setdefault(key, []).append(row)
    places: dict[tuple[int, int], list[int]] = {}
    for place, row in enumerate(suspects.rows.tolist()):
        places.setdefault((int(sources[row]), int(labels[row])), []).append(place)
    found: list[SuspectSource] = []
    for key, members in places.items():
        suggestions = np.unique(suspects.suggested[members])
        mean = probabilities[suspects.rows[members]].mean(axis=0)
        suggested = int(suggestions[mean[suggestions].argmax()])
        overall = probabilities[images[key]].mean(axis=0)
        margin = float(overall[suggested] - overall[key[1]])
        found.append(SuspectSource(tuple(members), suggested, len(images[key]), margin))
    return sorted(found, key=lambda source: (-source.margin, source.places))
