"""Inner features of training images, kept in the bundle, so that training can go on without forgetting them.

What a network has learned fades where it is trained on other images alone. Showing features of the old ones again, at a
layer below which nothing changes, and asking for the answers that they had, keeps it (latent replay: Pellegrini et al.
2020, arXiv:1912.01100; the answers: Buzzega et al. 2020, arXiv:2004.07211). No image is stored.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from core.errors import BundleError
from core.model.record import REPLAY, ReplayRecord

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import nn

__all__ = ["Replay", "inner_layer", "record_replay"]

_LEVELS = 255
_TENSORS = ("features", "low", "step", "logits", "labels")


@dataclass(frozen=True)
class Replay:
    """Features of training images at an inner layer, and the network's answers to them.

    Attributes:
        layer: Name of the module whose output they are.
        features: (N, K, h, w) uint8, each channel on its own scale.
        low: Value of level 0 of each channel, (K,) float32.
        step: Distance of two levels of each channel, (K,) float32.
        logits: What the network gave, (N, C) float32.
        labels: Class indices (N,) int64; negative where the image is of no class.
    """

    layer: str
    features: torch.Tensor
    low: torch.Tensor
    step: torch.Tensor
    logits: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.features)

    def values(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the features of some images, (M, K, h, w) float32."""
        return self.features[rows].float() * self.step.view(-1, 1, 1) + self.low.view(-1, 1, 1)

    def joined(self, other: Replay) -> Replay:
        """Return these and the other's, on one scale.

        Args:
            other: Features of the same layer of the same lower part of a network.
        """
        rows = [torch.arange(len(part)) for part in (self, other)]
        values = torch.cat([self.values(rows[0]), other.values(rows[1])])
        logits, labels = torch.cat((self.logits, other.logits)), torch.cat((self.labels, other.labels))
        return Replay(self.layer, *_quantised(values), logits, labels)

    def to_bytes(self) -> bytes:
        """Return the content of the bundle's file, safetensors."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        metadata = {"format": "pt", "replay": json.dumps({"layer": self.layer})}
        return save({name: value.contiguous() for name, value in tensors.items()}, metadata=metadata)

    def record(self, content: bytes) -> ReplayRecord:
        """Return what the bundle says of them.

        Args:
            content: What `to_bytes` gave.
        """
        return ReplayRecord(layer=self.layer, images=len(self), sha256=hashlib.sha256(content).hexdigest())

    @classmethod
    def load(cls, folder: Path, record: ReplayRecord) -> Replay:
        """Read and check the file of a bundle.

        Args:
            folder: Folder of the bundle.
            record: What the bundle says of it.

        Raises:
            BundleError: With code ``bundle-damaged``.
        """
        path = folder / REPLAY
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() != record.sha256:
                raise BundleError("bundle-damaged", f"{path} is not the file that the bundle was written with.")
            with safe_open(path, framework="pt") as file:
                layer = json.loads(file.metadata()["replay"])["layer"]
                return cls(str(layer), *(file.get_tensor(name) for name in _TENSORS))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise BundleError("bundle-damaged", f"{path} cannot be read ({error}).") from error


def inner_layer(network: nn.Module) -> str | None:
    """Return the name of the last stage before the map is halved for the last time; None where there is none.

    Args:
        network: A network of `core.model.network`.

    Example:
        >>> inner_layer(build_network(4))
        'layer3'
    """
    stages: list[dict[str, Any]] = list(getattr(network, "feature_info", None) or [])
    names = {name for name, _ in network.named_modules()}
    before = [stage for stage in stages if stage["reduction"] < stages[-1]["reduction"] and stage["module"] in names]
    return str(before[-1]["module"]) if before else None


def record_replay(network: nn.Module, batches: Iterable[torch.Tensor], labels: torch.Tensor) -> Replay | None:
    """Pass images through a network and keep what its inner layer and its head give.

    Args:
        network: A network of `core.model.network`; it is put into evaluation mode.
        batches: Normalised inputs, (N, 3, H, W) float32.
        labels: Class indices of all of them, (N,) int64; negative for images of no class.

    Returns:
        The features; None where the network has no inner layer that gives maps.
    """
    layer = inner_layer(network)
    if layer is None:
        return None
    seen: list[torch.Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(lambda _module, _given, out: seen.append(out.cpu()))
    try:
        with torch.inference_mode():
            logits = [network.eval()(batch).float().cpu() for batch in batches]
    finally:
        hook.remove()
    if seen[0].ndim != 4:
        return None
    return Replay(layer, *_quantised(torch.cat(seen).float()), torch.cat(logits), labels)


def _quantised(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return levels (N, K, h, w) uint8, and each channel's value of level 0 and distance of levels."""
    low, high = values.amin((0, 2, 3)), values.amax((0, 2, 3))
    step = ((high - low) / _LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
    levels = (values - low.view(-1, 1, 1)) / step.view(-1, 1, 1)
    return levels.round_().to(torch.uint8), low, step
