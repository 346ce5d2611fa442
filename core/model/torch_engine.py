"""The engine in PyTorch: the reference, and the one for GPUs."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from core.errors import SettingsError
from core.images.heatmap import MapGeometry
from core.model.engine import Answers, normalise_maps
from core.model.geometry import find_geometry
from core.model.gradcam import head_gradcam, one_pass_gradcam

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from core.images.preprocessing import Preprocessing

__all__ = ["Outputs", "TorchEngine", "choose_device", "fold_batch_norm", "forward"]


class Outputs(NamedTuple):
    """What one forward pass gives.

    Attributes:
        logits: (N, C) float32.
        feature_map: What the head pools, (N, K, h, w); K = 512 for ResNet18.
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
        origin: Row and column of the input that the first value of the feature map looks at, where that was measured;
            otherwise what the layers' padding says.

    Attributes:
        geometry: The grid of the feature map on the input.
        head_weight: Weight (C, K) of the linear layer that alone follows the pooling; None where the network ends in
            another way.
        device: Device that the pixels are expected on.

    Raises:
        SettingsError: With code ``no-feature-map`` where the network has no last feature map.

    Example:
        >>> engine = TorchEngine(bundle.network, bundle.record.preprocessing, torch.device("cpu"))
        >>> engine(torch.zeros(2, 224, 224, 3, dtype=torch.uint8)).feature_map.shape
        torch.Size([2, 512, 7, 7])
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        device: torch.device,
        origin: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.device = device
        self._preprocessing = preprocessing
        probe = torch.rand(1, 3, preprocessing.height, preprocessing.width, generator=torch.Generator().manual_seed(0))
        folded = fold_batch_norm(network, probe)
        with torch.inference_mode():
            outputs = forward(folded, probe)
        geometry = find_geometry(folded, probe, outputs.feature_map.shape[2:])
        self.geometry = geometry if origin is None else MapGeometry(geometry.stride, *origin)
        self._closed = _ends_in_linear(folded, outputs)
        self._network: nn.Module = folded.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @property
    def head_weight(self) -> torch.Tensor | None:
        """Weight of the linear layer at the end, (C, K)."""
        model: Any = self._network
        return model.get_classifier().weight.detach() if self._closed else None

    def forward(self, pixels: torch.Tensor) -> Outputs:
        """Run the network once.

        Args:
            pixels: What `Preprocessing.prepare` gives, stacked, (N, H, W, 3) uint8, on `device`.
        """
        batch = self._preprocessing.normalise(pixels)
        return forward(self._network, batch.contiguous(memory_format=torch.channels_last))

    def answer(self, pixels: NDArray[np.uint8], *, gradcam: bool) -> Answers:
        """Run the network once (`core.model.engine.Engine`)."""
        with torch.inference_mode():
            outputs = self(torch.from_numpy(pixels).to(self.device))
            logits, features = (part.float().cpu().numpy() for part in (outputs.logits, outputs.features))
            if not gradcam:
                return Answers(logits, features, None)
            maps = self.gradcam(outputs, outputs.logits.argmax(1)).float().cpu().numpy()
        return Answers(logits, features, normalise_maps(maps))

    def gradcam(self, outputs: Outputs, classes: torch.Tensor) -> torch.Tensor:
        """Explain one class per image, from what the forward pass gave.

        Args:
            outputs: What `forward` gave.
            classes: Index of the class to explain for each image, (N,) int64.

        Returns:
            Grad-CAM before normalisation, (N, h, w) float32, 0 or more.
        """
        weight = self.head_weight
        if weight is not None:
            return one_pass_gradcam(outputs.feature_map, weight, classes)
        return head_gradcam(self.head, outputs.feature_map, classes)

    def head(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, C) of a feature map (N, K, h, w)."""
        return _head(self._network, feature_map)


def forward(network: nn.Module, batch: torch.Tensor) -> Outputs:
    """Run a network once and keep what explains its answer.

    Args:
        network: A network of `core.model.network`, on the device of `batch`.
        batch: Normalised input, (N, 3, H, W) float.
    """
    model: Any = network
    feature_map = _spatial(network, model.forward_features(batch))
    return Outputs(_head(network, feature_map), feature_map, feature_map.mean(dim=(2, 3)))


def fold_batch_norm(network: nn.Module, probe: torch.Tensor) -> nn.Module:
    """Return a copy for inference with batch norms folded into the convolutions before them.

    Which convolution's output a batch norm takes is seen in one forward pass. The outputs are the same to float
    rounding; the forward pass is shorter.

    Args:
        network: A network.
        probe: An input, (1, 3, H, W) float32.
    """
    folded = copy.deepcopy(network).cpu().eval()
    convolutions: dict[int, str] = {}
    pairs: dict[str, str] = {}
    outputs: list[torch.Tensor] = []  # held, so that no address is used twice

    def see(name: str, module: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            convolutions[id(output)] = name
            outputs.append(output)
        elif id(given[0]) in convolutions:
            pairs[name] = convolutions[id(given[0])]

    hooks = [
        module.register_forward_hook(partial(see, name))
        for name, module in folded.named_modules()
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
    ]
    with torch.inference_mode():
        expected = folded(probe)
        for hook in hooks:
            hook.remove()
    for norm, convolution in pairs.items():
        before: Any = folded.get_submodule(norm)
        folded.set_submodule(convolution, fuse_conv_bn_eval(folded.get_submodule(convolution), before))  # pyright: ignore[reportArgumentType]
        folded.set_submodule(norm, getattr(before, "act", None) or nn.Identity())
    with torch.inference_mode():
        close = torch.allclose(folded(probe), expected, rtol=1e-3, atol=1e-3)
    return folded if close else copy.deepcopy(network).cpu().eval()


def choose_device(device: str) -> torch.device:
    """Resolve ``auto`` to the GPU where there is one.

    Raises:
        SettingsError: With code ``no-gpu`` or ``no-device``.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError("no-gpu", f"Device {device!r} was asked for, but torch sees no GPU here.")
    try:
        return torch.device(device)
    except RuntimeError:
        raise SettingsError("no-device", f"{device!r} is no device; give auto, cpu, cuda or cuda:N.") from None


def _spatial(network: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Bring what ``forward_features`` gave into the form (N, K, h, w)."""
    model: Any = network
    if features.ndim == 4:
        return features.permute(0, 3, 1, 2) if getattr(model, "output_fmt", "") == "NHWC" else features
    if features.ndim == 3 and hasattr(model, "patch_embed"):
        height, width = model.patch_embed.grid_size
        patches = features[:, getattr(model, "num_prefix_tokens", 0) :]
        return patches.transpose(1, 2).unflatten(2, (height, width))
    raise SettingsError(
        "no-feature-map", f"{type(network).__name__} has no last feature map to explain its answers by."
    )


def _head(network: nn.Module, feature_map: torch.Tensor) -> torch.Tensor:
    """Return the logits (N, C) of a feature map as `_spatial` gives it."""
    model: Any = network
    if getattr(model, "output_fmt", "") == "NHWC":
        return model.forward_head(feature_map.permute(0, 2, 3, 1))
    if hasattr(model, "num_prefix_tokens"):
        tokens = feature_map.flatten(2).transpose(1, 2)
        prefix = tokens.new_zeros(len(tokens), model.num_prefix_tokens, tokens.shape[2])  # the mean leaves them out
        return model.forward_head(torch.cat((prefix, tokens), 1))
    return model.forward_head(feature_map)


def _ends_in_linear(network: nn.Module, outputs: Outputs) -> bool:
    """Whether nothing but a mean and one linear layer follows the feature map."""
    model: Any = network
    last = model.get_classifier()
    if not isinstance(last, nn.Linear) or last.in_features != outputs.features.shape[1]:
        return False
    with torch.inference_mode():
        return torch.allclose(last(outputs.features), outputs.logits, rtol=1e-3, atol=1e-4)
