"""How often each image is drawn in training: evenly, by class, or by class, laboratory and source."""

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
        config: The training's settings, of which `balance` and `outlier_share` are used.

    Returns:
        (N,) float64 that sums to 1, or None where every image counts the same and is drawn once per pass.
    """
    outliers = labels == OUTLIER
    if config.balance == "none" and images.domains is None and not outliers.any():
        return None
    weights = _balanced(labels, images.sources, config.balance)
    if images.domains is not None:
        shares = torch.ones(len(labels)) if images.shares is None else images.shares
        weights = _shared(weights, labels, images.domains, shares)
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


def _shared(weights: torch.Tensor, labels: torch.Tensor, domains: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Divide every class among the laboratories that have it by their shares, without changing the class's total."""
    result = weights.clone()
    for label in labels.unique():
        of_class = labels == label
        parts = [of_class & (domains == domain) for domain in domains[of_class].unique()]
        total, wanted = weights[of_class].sum(), sum(float(shares[part][0]) for part in parts)
        for part in parts:
            result[part] *= float(shares[part][0]) / wanted * total / weights[part].sum()
    return result
