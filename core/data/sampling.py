"""How often each image is drawn in training: evenly, by class, or by class, data set and source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from core.data.image_set import OUTLIER

if TYPE_CHECKING:
    from core.data.image_set import ImageSet
    from core.training.config import TrainingConfig

__all__ = ["sampling_weights"]


def sampling_weights(images: ImageSet, labels: torch.Tensor, config: TrainingConfig) -> torch.Tensor | None:
    """Return how likely each image is to be drawn.

    Args:
        images: The images to draw from.
        labels: Class indices of the images (N,), `OUTLIER` for outliers.
        config: The training's settings, of which `balance`, `further_share` and `outlier_share` are used.

    Returns:
        (N,) float64 that sums to 1, or None where every image counts the same and is drawn once per pass.
    """
    outliers = labels == OUTLIER
    if config.balance == "none" and images.domains is None and not outliers.any():
        return None
    weights = _balanced(labels, images.sources, config.balance)
    if images.domains is not None:
        weights = _shared(weights, labels, (images.domains > 0).long(), config.further_share)
    known = weights[~outliers].sum()
    share = config.outlier_share if bool(outliers.any()) else 0.0
    weights[~outliers] *= (1 - share) / known
    if share:
        weights[outliers] *= share / weights[outliers].sum()
    return weights


def _balanced(labels: torch.Tensor, sources: torch.Tensor, balance: str) -> torch.Tensor:
    """Weigh classes alike, and with ``source`` the sources of a class alike too."""
    if balance == "none":
        return torch.ones(len(labels), dtype=torch.float64)
    _, place, per_class = labels.unique(return_inverse=True, return_counts=True)
    if balance == "class":
        return 1 / per_class[place].double()
    pairs, pair, per_source = torch.stack((labels, sources), 1).unique(dim=0, return_inverse=True, return_counts=True)
    _, owner, sources_per_class = pairs[:, 0].unique(return_inverse=True, return_counts=True)
    return 1 / (per_source.double() * sources_per_class[owner].double())[pair]


def _shared(weights: torch.Tensor, labels: torch.Tensor, further: torch.Tensor, share: float) -> torch.Tensor:
    """Give the further data sets their share of every class that both have, without changing the class's total."""
    result = weights.clone()
    for label in labels.unique():
        of_class = labels == label
        sides = [of_class & (further == side) for side in (0, 1)]
        if all(bool(side.any()) for side in sides):
            total = weights[of_class].sum()
            for side, part in zip(sides, (1 - share, share), strict=True):
                result[side] *= part * total / weights[side].sum()
    return result
