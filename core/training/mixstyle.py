"""MixStyle: features of one image take on the statistics of another one's, so that a network trusts no single stain.

Zhou et al. 2021, arXiv:2104.02008. Mean and deviation of every channel, over the places of a feature map, carry stain
and light; in half of the training batches the early stages' are mixed between the images of the batch.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from core.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import nn

__all__ = ["mixed_styles"]

_LARGEST_REDUCTION = 4
"""Stages whose maps are at most so many times smaller than the input are mixed."""
_PROBABILITY = 0.5
_SMALLEST = 1e-5


@contextmanager
def mixed_styles(network: nn.Module, strength: float, generator: torch.Generator) -> Generator[None]:
    """Mix the styles of the images of each batch, for as long as the context lasts and the network trains.

    Args:
        network: A network of `core.model.network`.
        strength: Both parameters of the beta distribution that says how much; 0 mixes nothing.
        generator: CPU generator of the draws.

    Raises:
        SettingsError: With code ``no-early-stages`` where the network names no stage that could be mixed.

    Example:
        >>> with mixed_styles(network, 0.2, torch.Generator().manual_seed(0)):
        ...     loss = cross_entropy(network(batch), labels)
    """
    stages = _early_stages(network) if strength else []
    draws = _Draws(strength, generator)
    hooks = [stage.register_forward_hook(draws.mix) for stage in stages]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Draws:
    """The draws of one context."""

    def __init__(self, strength: float, generator: torch.Generator) -> None:
        self._strength, self._generator = strength, generator

    def mix(self, stage: nn.Module, _inputs: object, maps: torch.Tensor) -> torch.Tensor:
        """Give each image a share of another one's statistics, or leave the batch as it is.

        Args:
            stage: The stage that gave the maps.
            maps: (N, K, h, w) float.
        """
        if not stage.training or float(torch.rand(1, generator=self._generator)) < _PROBABILITY:
            return maps
        order = torch.randperm(len(maps), generator=self._generator).to(maps.device)
        share = self._shares(len(maps)).to(maps.device, maps.dtype).view(-1, 1, 1, 1)
        mean = maps.mean((2, 3), keepdim=True)
        deviation = maps.std((2, 3), keepdim=True) + _SMALLEST
        mixed_mean = torch.lerp(mean[order], mean, share)
        mixed_deviation = torch.lerp(deviation[order], deviation, share)
        return (maps - mean) * (mixed_deviation / deviation) + mixed_mean

    def _shares(self, count: int) -> torch.Tensor:
        """Draw how much of its own statistics each image keeps, (count,) float64."""
        seed = int(torch.randint(2**31, (1,), generator=self._generator))
        return torch.from_numpy(np.random.default_rng(seed).beta(self._strength, self._strength, count))


def _early_stages(network: nn.Module) -> list[nn.Module]:
    model: Any = network
    names = [
        str(stage["module"]) for stage in getattr(model, "feature_info", []) if stage["reduction"] <= _LARGEST_REDUCTION
    ]
    modules = dict(network.named_modules())
    if not names:
        raise SettingsError(
            "no-early-stages", f"{type(network).__name__} has no early stages whose styles could be mixed."
        )
    return [modules[name] for name in names]
