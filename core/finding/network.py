"""The finder's network: where the middles of white cells are, and how far their edges.

A small fully convolutional network in the manner of CenterNet (Zhou et al. 2019, arXiv:1904.07850) with the four
distances of FCOS (Tian et al. 2019, arXiv:1904.01355): for every fourth pixel a score, and how far the box reaches to
the left, up, right and down from there.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import Conv2dNormActivation

from core.finding.record import BLOCKS, WIDTHS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FinderNetwork"]

_RARE = -4.0
"""Logit that scores begin with: hardly any place is the middle of a cell."""


class FinderNetwork(nn.Module):
    """A network of depthwise convolutions with a way back up, about 0.13 million parameters.

    Args:
        widths: Channels after the stem and after each halving of the map.
        blocks: Blocks that add to their input after each halving.

    Attributes:
        widths: Channels after the stem and after each halving.
        blocks: Blocks that add to their input after each halving.

    Example:
        >>> FinderNetwork()(torch.zeros(1, 3, 192, 256)).shape
        torch.Size([1, 5, 48, 64])
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, blocks: Sequence[int] = BLOCKS) -> None:
        super().__init__()
        self.widths, self.blocks = tuple(widths), tuple(blocks)
        self.stem = Conv2dNormActivation(3, widths[0], 3, stride=2)
        pairs = list(itertools.pairwise(widths))
        self.stages = nn.ModuleList(
            nn.Sequential(_separable(given, wide, 2), *(_separable(wide, wide) for _ in range(further)))
            for (given, wide), further in zip(pairs, self.blocks, strict=True)
        )
        self.up = nn.ModuleList(nn.Conv2d(wide, given, 1) for given, wide in pairs[1:])
        self.join = nn.ModuleList(_separable(given, given) for given, _ in pairs[1:])
        self.head = nn.Sequential(_separable(widths[1], widths[1]), nn.Conv2d(widths[1], 5, 1))
        bias = self.head[-1].bias
        if isinstance(bias, torch.Tensor):
            nn.init.zeros_(bias)
            nn.init.constant_(bias[:1], _RARE)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Look for cells.

        Args:
            batch: (N, 3, H, W) float32, H and W multiples of `core.finding.passes.GRANULARITY`.

        Returns:
            (N, 5, H / 4, W / 4): the logit of being the middle of a cell, and the logarithms of the distances to the
            left, upper, right and lower edge of its box, in units of 4 pixels (`core.finding.passes.STRIDE`).
        """
        maps: list[torch.Tensor] = []
        values = self.stem(batch)
        for stage in self.stages:
            values = stage(values)
            maps.append(values)
        for up, join, beside in zip(reversed(self.up), reversed(self.join), reversed(maps[:-1]), strict=True):
            values = join(beside + functional.interpolate(up(values), scale_factor=2.0, mode="nearest"))
        return self.head(values)


def _separable(given: int, wide: int, stride: int = 1) -> nn.Module:
    """Return a depthwise convolution and one that mixes channels; with the input added where the shapes allow."""
    layers = nn.Sequential(
        Conv2dNormActivation(given, given, 5 if stride == 1 else 3, stride=stride, groups=given, activation_layer=None),
        Conv2dNormActivation(given, wide, 1),
    )
    return _Residual(layers) if stride == 1 and given == wide else layers


class _Residual(nn.Module):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values + self.layers(values)
