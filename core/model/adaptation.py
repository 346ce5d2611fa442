"""Adapting a network to unlabelled images of another laboratory: its batch norms' statistics, and nothing else.

A batch norm holds mean and variance of what the training images gave; another stain or camera gives others. Taking
them from the laboratory's own images recovers much of what is lost (Schneider et al. 2020, arXiv:2006.16971; for white
blood cells Tsutsui et al. 2023, arXiv:2303.01777). The old ones are mixed in, so that a few images, or images of one
type alone, do not take the network away from what it knows.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from core.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from core.images.preprocessing import Preprocessing

__all__ = ["adapt_statistics", "even_batches"]

_BATCH = 64


def adapt_statistics(network: nn.Module, batches: Iterable[torch.Tensor], share: float) -> nn.Module:
    """Return a copy whose batch norms have seen other images.

    Args:
        network: A network of `core.model.network`.
        batches: Normalised inputs, (N, 3, H, W) float32, of at least two images in all.
        share: Weight of the new statistics, from 0 (as before) to 1 (the new ones alone).

    Raises:
        SettingsError: With code ``no-batch-norm`` where the network has none.

    Example:
        >>> adapted = adapt_statistics(bundle.network, [preprocessing.normalise(pixels)], 0.5)
    """
    adapted = copy.deepcopy(network).eval()
    norms = [module for module in adapted.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        raise SettingsError("no-batch-norm", f"{type(network).__name__} has no batch norms that could be adapted.")
    before = [(_statistics(norm), norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    with torch.inference_mode():
        for batch in batches:
            adapted(batch)
    for norm, (old, momentum) in zip(norms, before, strict=True):
        seen = _statistics(norm)
        norm.load_state_dict(
            old | {name: old[name].lerp(seen[name], share) for name in ("running_mean", "running_var")}
        )
        norm.momentum = momentum
    return adapted.eval()


def even_batches(pixels: torch.Tensor, preprocessing: Preprocessing) -> Iterator[torch.Tensor]:
    """Yield inputs for `adapt_statistics` in batches of nearly one size: the statistics are the mean over batches.

    Args:
        pixels: What `Preprocessing.prepare` gives, stacked, (N, H, W, 3) uint8.
        preprocessing: The record that they were prepared with.
    """
    yield from map(preprocessing.normalise, pixels.tensor_split(math.ceil(len(pixels) / _BATCH)))


def _statistics(norm: nn.BatchNorm2d) -> dict[str, torch.Tensor]:
    """Return a copy of what the norm holds."""
    return {name: value.clone() for name, value in norm.state_dict().items()}
