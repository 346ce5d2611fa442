"""The seam between the network and the rest: pixels in; logits, last feature map and pooled features out.

`TorchEngine` is the reference. Another engine has the same attributes and gives the same three (`Outputs`).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from torchvision.models import ResNet

    from core.images.preprocessing import Preprocessing

__all__ = ["STRIDE", "Outputs", "TorchEngine", "fold_batch_norm", "forward"]

STRIDE = 32
"""Input pixels from one value of ResNet18's last feature map to the next: the size is halved five times."""


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


class TorchEngine(nn.Module):
    """A network for inference in PyTorch, from pixels on.

    Args:
        network: In evaluation mode; a copy of it is used, with its batch norms folded.
        preprocessing: The record that the network was trained with.
        device: Device to run on.

    Attributes:
        stride: Input pixels from one value of the feature map to the next.
        device: Device that the pixels are expected on.

    Example:
        >>> engine = TorchEngine(bundle.network, bundle.record.preprocessing, torch.device("cpu"))
        >>> engine(torch.zeros(2, 224, 224, 3, dtype=torch.uint8)).feature_map.shape
        torch.Size([2, 512, 7, 7])
    """

    def __init__(self, network: ResNet, preprocessing: Preprocessing, device: torch.device) -> None:
        super().__init__()
        self.stride, self.device = STRIDE, device
        self._preprocessing = preprocessing
        self._network: ResNet = fold_batch_norm(network).to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @property
    def head_weight(self) -> torch.Tensor:
        """Weight of the linear layer at the end, (C, K)."""
        return self._network.fc.weight.detach()

    def forward(self, pixels: torch.Tensor) -> Outputs:
        """Run the network once.

        Args:
            pixels: What `Preprocessing.prepare` gives, stacked, (N, H, W, 3) uint8, on `device`.
        """
        batch = self._preprocessing.normalise(pixels)
        return forward(self._network, batch.contiguous(memory_format=torch.channels_last))


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
