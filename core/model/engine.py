"""The seam between the network and the rest: a batch in; logits, last feature map and pooled features out.

Another engine needs to give the same three (`Outputs`).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    import torch
    from torchvision.models import ResNet

__all__ = ["Outputs", "fold_batch_norm", "forward"]


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
