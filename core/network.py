"""The network: torchvision's ResNet18 with its head replaced, seen through one seam.

The rest of core asks a network for three things only: logits, the last feature map, and the pooled
features (`Outputs`). Another engine needs to give the same three.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import ResNet, ResNet18_Weights, resnet18

from core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ARCHITECTURE", "Outputs", "build_network", "fold_batch_norm", "forward"]

ARCHITECTURE = "resnet18"
"""The architecture, by the name that torchvision and timm share."""


class Outputs(NamedTuple):
    """What one forward pass gives.

    Attributes:
        logits: (N, C) float32.
        feature_map: Output of ``layer4``, (N, K, h, w), K = 512 for ResNet18.
        features: Its spatial mean, (N, K).
    """

    logits: torch.Tensor
    feature_map: torch.Tensor
    features: torch.Tensor


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


def forward(network: ResNet, batch: torch.Tensor) -> Outputs:
    """Run ResNet18 once and keep what explains its answer.

    Args:
        network: The network, on the device of `batch`.
        batch: Normalised input, (N, 3, H, W) float.
    """
    x = network.maxpool(network.relu(network.bn1(network.conv1(batch))))
    x = network.layer4(network.layer3(network.layer2(network.layer1(x))))
    features = x.mean(dim=(2, 3))
    return Outputs(network.fc(features), x, features)


def fold_batch_norm(network: ResNet) -> ResNet:
    """Return a copy for inference with every batch norm folded into the convolution before it.

    The outputs are the same to float rounding; the forward pass is shorter.
    """
    folded: Any = copy.deepcopy(network).eval()  # Any: torch's modules do not say what their attributes are
    folded.conv1, folded.bn1 = fuse_conv_bn_eval(folded.conv1, folded.bn1), nn.Identity()
    for layer in (folded.layer1, folded.layer2, folded.layer3, folded.layer4):
        for block in layer:
            block.conv1, block.bn1 = fuse_conv_bn_eval(block.conv1, block.bn1), nn.Identity()
            block.conv2, block.bn2 = fuse_conv_bn_eval(block.conv2, block.bn2), nn.Identity()
            if block.downsample is not None:
                block.downsample = nn.Sequential(fuse_conv_bn_eval(*block.downsample))
    return folded


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
