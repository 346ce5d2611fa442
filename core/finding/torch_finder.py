"""The finder in PyTorch, the reference."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch

from core.finding.finder import Finder
from core.finding.passes import GRANULARITY
from core.model.torch_engine import fold_batch_norm

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from core.finding.network import FinderNetwork
    from core.finding.record import FinderRecord

__all__ = ["TorchFinder", "normalise"]


class TorchFinder(Finder):
    """Finds the white cells of pictures.

    Args:
        network: In evaluation mode; a copy of it runs, with its batch norms folded.
        record: Input size and threshold.
        device: Device to run on.

    Attributes:
        network: The network as it was given.

    Example:
        >>> finder = TorchFinder(FinderNetwork(), FinderRecord())
        >>> [cell.box for cell in finder.find(picture.rgb)]
        [Box(left=212.0, top=84.5, right=391.2, bottom=260.1)]
    """

    def __init__(self, network: FinderNetwork, record: FinderRecord, device: torch.device | str = "cpu") -> None:
        super().__init__(record)
        self.network = network
        self._device = torch.device(device)

    @cached_property
    def folded(self) -> nn.Module:
        """What runs: a copy of the network with its batch norms folded, made when a picture comes."""
        probe = torch.rand(1, 3, GRANULARITY * 2, GRANULARITY * 2, generator=torch.Generator().manual_seed(0))
        folded: nn.Module = fold_batch_norm(self.network, probe)
        return folded.to(self._device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def answer(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network once."""
        with torch.inference_mode():
            output = self.folded(normalise(torch.from_numpy(pixels)[None].to(self._device)))[0]
        return output.float().cpu().numpy()

    def cutting_out(self) -> TorchFinder:
        """Return the same finder for a network that learns from what it cuts out."""
        return TorchFinder(self.network, self.record.model_copy(update={"cuts_out": True}), self._device)

    def on(self, device: torch.device | str) -> TorchFinder:
        """Return the same finder on a device."""
        return self if torch.device(device) == self._device else TorchFinder(self.network, self.record, device)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Turn (N, H, W, 3) uint8, or (N, 3, H, W) float in [0, 255], into the network's input, (N, 3, H, W) float32."""
    pixels = pixels if pixels.is_floating_point() else pixels.permute(0, 3, 1, 2).float()
    return (pixels / 127.5 - 1).contiguous(memory_format=torch.channels_last)
