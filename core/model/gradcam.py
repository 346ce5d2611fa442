"""Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): where the network looked.

Where a network ends in global average pooling and one linear layer, the gradient of logit c with respect to the last
feature map A_k is W[c, k] / (h * w) everywhere, and Grad-CAM there is relu(sum_k W[c, k] * A_k) / (h * w): one product,
in the forward pass that classifies (`one_pass_gradcam`). Where it ends in another way, the gradient goes back through
the head alone (`head_gradcam`). `autograd_gradcam` is the general method, for any layer, and the reference that the
other two are tested against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from core.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

__all__ = ["autograd_gradcam", "head_gradcam", "one_pass_gradcam"]


def one_pass_gradcam(feature_map: torch.Tensor, head_weight: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Explain one class per image from what the forward pass already computed.

    Args:
        feature_map: Input of the global average pooling, (N, K, h, w) float32.
        head_weight: Weight of the linear layer that follows the pooling, (C, K).
        classes: Index of the class to explain for each image, (N,) int64.

    Returns:
        Grad-CAM before normalisation, (N, h, w) float32, 0 or more.
    """
    cells = feature_map.shape[2] * feature_map.shape[3]
    return torch.einsum("nk,nkhw->nhw", head_weight[classes], feature_map).relu() / cells


def head_gradcam(
    head: Callable[[torch.Tensor], torch.Tensor], feature_map: torch.Tensor, classes: torch.Tensor
) -> torch.Tensor:
    """Explain one class per image by differentiating the logit with respect to the last feature map.

    Works inside ``torch.inference_mode`` too: the gradient passes through the head alone.

    Args:
        head: Function from the feature map to the logits (N, C).
        feature_map: Last feature map, (N, K, h, w) float32.
        classes: Index of the class to explain for each image, (N,) int64.

    Returns:
        Grad-CAM before normalisation, (N, h, w) float32, 0 or more.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        leaf = feature_map.clone().requires_grad_()
        chosen = head(leaf).gather(1, classes.clone().view(-1, 1)).sum()
        (gradient,) = torch.autograd.grad(chosen, leaf)
        return torch.einsum("nk,nkhw->nhw", gradient.mean(dim=(2, 3)), leaf.detach()).relu()


def autograd_gradcam(network: nn.Module, batch: torch.Tensor, classes: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    """Explain one class per image by differentiating the logit with respect to a layer's output.

    The network's mode, parameters and gradients are left as they were. What happens in place to the layer's output
    after it (ReLU, the sum of a residual block) does not change the result; a layer that the network uses more than
    once counts by its first use.

    Args:
        network: Network that maps (N, 3, H, W) to logits (N, C), in evaluation mode.
        batch: Normalised input, (N, 3, H, W) float32.
        classes: Index of the class to explain for each image, (N,) int64.
        layer: Module inside `network` whose output is (N, K, h, w).

    Returns:
        Grad-CAM before normalisation, (N, h, w) float32, 0 or more.

    Raises:
        SettingsError: With code ``inference-mode`` inside ``torch.inference_mode``, where no gradient exists.
    """
    if torch.is_inference_mode_enabled():
        raise SettingsError("inference-mode", "autograd_gradcam needs gradients; call it outside inference_mode.")
    outputs: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        outputs.append(output)
        return output.clone()  # an operation in place that follows, such as ReLU, changes the copy

    hook = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = network(batch.detach().requires_grad_())
            chosen = logits.gather(1, classes.view(-1, 1)).sum()
            (gradient,) = torch.autograd.grad(chosen, outputs[0])
    finally:
        hook.remove()
    alpha = gradient.mean(dim=(2, 3))
    return torch.einsum("nk,nkhw->nhw", alpha, outputs[0].detach()).relu()
