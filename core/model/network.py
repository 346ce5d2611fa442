"""The network: torchvision's ResNet18 with its head replaced."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torchvision.models import ResNet, ResNet18_Weights, resnet18

from core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ARCHITECTURE", "build_network"]

ARCHITECTURE = "resnet18"
"""The architecture, by the name that torchvision and timm share."""


def build_network(num_classes: int, weights: str = "none") -> ResNet:
    """Make ResNet18 with a head for `num_classes` classes.

    Args:
        num_classes: Number of classes, at least 2.
        weights: ``imagenet`` (torchvision's IMAGENET1K_V1, downloaded once and cached by
            torchvision), ``none`` (random), or the path of a ``.safetensors`` or ``.pth`` file with
            torchvision's parameter names. A head of another size in it is not used.

    Raises:
        DataError: With code ``weights-offline`` or ``weights-unusable``.
    """
    network = resnet18(weights=None)
    fresh_head = nn.Linear(network.fc.in_features, num_classes)
    if weights == "imagenet":
        network.load_state_dict(_imagenet())
    network.fc = fresh_head
    if weights not in {"imagenet", "none"}:
        _load_from_file(network, Path(weights))
    return network


def _imagenet() -> Mapping[str, torch.Tensor]:
    try:
        return ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise DataError(
            "weights-offline",
            f"The ImageNet weights could not be downloaded ({error}). Without internet, download"
            f" {ResNet18_Weights.IMAGENET1K_V1.url} elsewhere and give the file with --weights FILE,"
            " or start from random weights with --weights none.",
        ) from error


def _read_file(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, EOFError, KeyError) as error:
        raise DataError("weights-unusable", f"The weights file {path} cannot be read: {error}") from error
    except Exception as error:  # torch raises pickle.UnpicklingError, whose class needs an import of pickle
        raise DataError("weights-unusable", f"The weights file {path} is not a plain state dict: {error}") from error


def _load_from_file(network: ResNet, path: Path) -> None:
    """Load everything, the head too where it fits."""
    state = dict(_read_file(path))
    fresh = network.fc.state_dict(prefix="fc.")
    if any(name not in state or state[name].shape != value.shape for name, value in fresh.items()):
        state.update(fresh)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            "weights-unusable", f"The weights in {path} are not torchvision's ResNet18: {reason}"
        ) from error
