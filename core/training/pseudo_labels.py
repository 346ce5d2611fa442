"""Pseudo-labels: what images without labels are taken for, by the running average of the network that learns.

The average looks at an image as it is; where it is sure, the network must say the same of a view whose stain, light
and scale vary (Sohn et al. 2020, FixMatch, arXiv:2001.07685; the average as teacher: Tarvainen and Valpola 2017,
arXiv:1703.01780). So a laboratory's stain is learned from images that nobody has labelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import nn

__all__ = ["pseudo_targets"]

_SURE = 0.8


def pseudo_targets(teacher: nn.Module, batch: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return what the softmax shall be for images without labels.

    Args:
        teacher: The average of the network; it is put into evaluation mode.
        batch: Normalised inputs without random changes, (N, 3, H, W) float32.
        smoothing: Share of a label that is spread over all classes.

    Returns:
        (N, C) float32: smoothed one-hot rows, and rows of zeros, which teach nothing, where the teacher is not sure.

    Example:
        >>> pseudo_targets(average, batch, 0.05).sum(1)
        tensor([1., 0., 1.])
    """
    with torch.no_grad():
        probabilities = teacher.eval()(batch).float().softmax(1)
    confidence, label = probabilities.max(1)
    one_hot = functional.one_hot(label, probabilities.shape[1]).float()
    targets = torch.lerp(one_hot, torch.full_like(one_hot, 1 / one_hot.shape[1]), smoothing)
    return targets * (confidence >= _SURE).unsqueeze(1)
