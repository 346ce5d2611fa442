"""Telling two runs apart by their embeddings: a classifier that is asked about slides that it has not seen.

The classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv:1610.06545), with whole slides left out, since cells of
one slide look alike: what only tells slides apart is worth nothing on other slides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["held_out_scores", "main_axes"]

_AXES, _FOLDS = 32, 5


def main_axes(first: NDArray[np.float32], second: NDArray[np.float32], seed: int) -> tuple[NDArray[np.float32], ...]:
    """Return the cells of both samples along their main axes, most of the variation first.

    Args:
        first: Embeddings of the first run, (N, K).
        second: Embeddings of the second run, (M, K).
        seed: Seed of the search for the axes.

    Returns:
        Coordinates (N, A) and (M, A), A at most 32.
    """
    pooled = np.concatenate([first, second])
    axes = PCA(min(_AXES, *pooled.shape), svd_solver="randomized", random_state=seed).fit_transform(pooled)
    return axes[: len(first)], axes[len(first) :]


def held_out_scores(
    axes: tuple[NDArray[np.float32], ...], slides: tuple[NDArray[np.int32], NDArray[np.int32]], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Score each cell by a classifier of the two runs that has not seen its slide; higher is more like the second.

    Args:
        axes: Coordinates of the cells of both.
        slides: Numbers of the cells' slides; the same number in both is the same slide.
        seed: Seed of the folds.
    """
    groups = np.concatenate(slides)
    labels = np.repeat([0, 1], [len(axes[0]), len(axes[1])])
    folds = StratifiedGroupKFold(min(_FOLDS, *(len(np.unique(one)) for one in slides)), shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    scores = cross_val_predict(model, np.concatenate(axes), labels, groups=groups, cv=folds, method="decision_function")
    scores = scores.astype(np.float32)
    return scores[: len(axes[0])], scores[len(axes[0]) :]
