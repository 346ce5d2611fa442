"""Where in the input the values of a network's last feature map look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from core.images.heatmap import MapGeometry, find_peak

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["find_geometry", "measure_origin"]


def find_geometry(network: nn.Module, probe: torch.Tensor, shape: Sequence[int]) -> MapGeometry:
    """Follow the layers that shrink the image through one forward pass.

    Output i of a filter of width k and stride s, padded by p before the first pixel, is centred on its input's pixel
    s * i + (k - 1) / 2 - p (Araujo et al. 2019, doi:10.23915/distill.00021). ResNet's filters are centred, so that the
    sum is 0; padding as TensorFlow does it, and patches as transformers take them, shift the grid. What shrinks in
    another way than by a filter is taken for patches side by side, and filters that do not shrink for centred ones.

    Args:
        network: A network of `core.model.network`, in evaluation mode.
        probe: An input, (1, 3, H, W) float32.
        shape: Height and width of its feature map.

    Example:
        >>> find_geometry(build_network(4).eval(), torch.zeros(1, 3, 128, 128), (4, 4))
        MapGeometry(stride=32, top=0.0, left=0.0)
    """
    levels: dict[tuple[int, int], tuple[int, list[float]]] = {}  # size before, and the widest filter that shrinks it

    def see(module: Any, given: tuple[torch.Tensor, ...], _output: object) -> None:  # noqa: ANN401 - a filter of any kind
        size = (int(given[0].shape[-2]), int(given[0].shape[-1]))
        strides, widths = _pair(module.stride), _pair(module.kernel_size)
        if strides[0] > 1 and widths[0] > levels.get(size, (0, []))[0]:
            pads = [_before(module, axis, size[axis]) for axis in (0, 1)]
            levels[size] = (widths[0], [strides[0], *((widths[axis] - 1) / 2 - pads[axis] for axis in (0, 1))])

    kinds = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
    hooks = [module.register_forward_hook(see) for module in network.modules() if isinstance(module, kinds)]
    model: Any = network
    try:
        with torch.inference_mode():
            model.forward_features(probe)
    finally:
        for hook in hooks:
            hook.remove()
    stride, first = 1, [0.0, 0.0]
    for size in sorted(levels, reverse=True):
        factor, *shifts = levels[size][1]
        first = [place + stride * shift for place, shift in zip(first, shifts, strict=True)]
        stride *= int(factor)
    known = getattr(network, "feature_info", None)
    rest = max(1, (known[-1]["reduction"] if known else round(probe.shape[-2] / shape[0])) // stride)
    first = [place + stride * (rest - 1) / 2 for place in first]
    return MapGeometry(stride * rest, *first)


def measure_origin(maps: NDArray[np.float32], turned: NDArray[np.float32], side: int, stride: int) -> float:
    """Measure where the first row of a network's maps looks, by images and the same images upside down.

    What lies at row r of the input lies at row ``side - 1 - r`` of the input upside down, wherever the layers' padding
    says that the values look: a trained network's values can look elsewhere, by half a stride and more. So the peaks
    p and q of the two maps tell the origin: 2 * origin = side - 1 - stride * (p + q).

    Args:
        maps: Maps of images, (N, h, w), 0 or more; those without evidence do not count.
        turned: Maps of the same images with their rows in reverse, (N, h, w).
        side: Height of the input.
        stride: Rows of the input from one row of the maps to the next.

    Returns:
        Row of the input, the median over the images; not a number where no map has evidence.

    Example:
        >>> left = measure_origin(maps.transpose(0, 2, 1), mirrored.transpose(0, 2, 1), width, stride)
    """
    origins = [
        (side - 1 - stride * (find_peak(one)[0] + find_peak(other)[0])) / 2
        for one, other in zip(maps, turned, strict=True)
        if one.any() and other.any()
    ]
    return float(np.median(origins)) if origins else float("nan")


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _before(module: Any, axis: int, size: int) -> float:  # noqa: ANN401 - a filter of any kind
    """Return the padding before the first pixel; timm's layers that pad as TensorFlow does say ``Same``."""
    if type(module).__name__.endswith("Same"):
        stride, width = _pair(module.stride)[axis], _pair(module.kernel_size)[axis]
        return max((-(-size // stride) - 1) * stride + width - size, 0) // 2
    return 0 if isinstance(module.padding, str) else _pair(module.padding)[axis]
