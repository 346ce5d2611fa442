"""The learned finder of white cells: a picture in, boxes out."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from core.finding.network import BLOCKS, WIDTHS, FinderNetwork
from core.finding.passes import GRANULARITY, FoundCell, merged, passes, reading_order, without_platelets
from core.model.engine import fold_batch_norm
from core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

__all__ = ["FINDER", "Finder", "FinderRecord", "FinderTraining", "normalise"]

FINDER = "finder.safetensors"
"""Name of the file in a bundle."""

_Width = Annotated[int, Field(ge=1, le=512)]
_Count = Annotated[int, Field(ge=0, le=16)]


class FinderTraining(Settings):
    """The images that a finder learned from."""

    laboratories: dict[str, int] = Field(description="images of each laboratory")
    steps: int = Field(description="training steps")
    seed: int = Field(description="seed of weights and views")
    held_out: int = Field(0, description="marked cells of slides that were held out")
    recall: float = Field(0.0, description="share of them that are found")
    precision: float = Field(0.0, description="share of what is found on those slides that is a marked cell")


class FinderRecord(Settings):
    """What a bundle says of its finder."""

    version: Literal[1] = Field(1, description="version of this record")
    side: int = Field(256, ge=64, le=1024, description="longer side of the input in pixels")
    widths: tuple[_Width, _Width, _Width, _Width, _Width] = Field(
        WIDTHS, description="channels of the network's stages"
    )
    blocks: tuple[_Count, _Count, _Count, _Count] = Field(BLOCKS, description="blocks of the stages after the stem")
    threshold: float = Field(0.4, gt=0, lt=1, description="score from which on something counts as a cell")
    cuts_out: bool = Field(
        False, description="whether it also cuts out the cell of images of one cell, as it did when the network learned"
    )
    sha256: str = Field("", description="SHA-256 of finder.safetensors")
    training: FinderTraining | None = Field(None, description="what it learned from; none where that is not known")

    def build_network(self) -> FinderNetwork:
        """Return a network of this record's shape, with random weights."""
        return FinderNetwork(self.widths, self.blocks)


class Finder:
    """Finds the white cells of pictures.

    Args:
        network: In evaluation mode; a copy of it runs, with its batch norms folded.
        record: Input size and threshold.
        device: Device to run on.

    Attributes:
        network: The network as it was given.
        record: Input size and threshold.

    Example:
        >>> finder = Finder(FinderNetwork(), FinderRecord())
        >>> [cell.box for cell in finder.find(picture.rgb)]
        [Box(left=212.0, top=84.5, right=391.2, bottom=260.1)]
    """

    def __init__(self, network: FinderNetwork, record: FinderRecord, device: torch.device | str = "cpu") -> None:
        self.network, self.record = network, record
        self._device = torch.device(device)

    @cached_property
    def _folded(self) -> nn.Module:
        """What runs: a copy of the network with its batch norms folded, made when a picture comes."""
        probe = torch.rand(1, 3, GRANULARITY * 2, GRANULARITY * 2, generator=torch.Generator().manual_seed(0))
        folded: nn.Module = fold_batch_norm(self.network, probe)
        return folded.to(self._device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def cutting_out(self) -> Finder:
        """Return the same finder for a network that learns from what it cuts out."""
        return Finder(self.network, self.record.model_copy(update={"cuts_out": True}), self._device)

    def on(self, device: torch.device | str) -> Finder:
        """Return the same finder on a device."""
        return self if torch.device(device) == self._device else Finder(self.network, self.record, device)

    def find(
        self, rgb: NDArray[np.uint8], least: float | None = None, check: Callable[[], object] | None = None
    ) -> list[FoundCell]:
        """Find every white cell, in reading order; safe to call from several threads.

        Memory is bounded whatever the picture's size: of a large one, one tile at a time is looked at.

        Args:
            rgb: The picture, (H, W, 3) uint8.
            least: Score from which on something counts as a cell, instead of the record's.
            check: Called before each look at a part of the picture; what it raises stops the search.
        """
        least = self.record.threshold if least is None else least
        found: list[FoundCell] = []
        with torch.inference_mode():
            for look in passes(rgb.shape[1], rgb.shape[0], self.record.side):
                if check is not None:
                    check()
                pixels = torch.from_numpy(look.pixels(rgb))[None].to(self._device)
                output = self._folded(normalise(pixels))[0]
                found += look.cells(output.float().cpu().numpy(), least)
        return reading_order(without_platelets(merged(found), rgb.shape[1], rgb.shape[0]))


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Turn (N, H, W, 3) uint8, or (N, 3, H, W) float in [0, 255], into the network's input, (N, 3, H, W) float32."""
    pixels = pixels if pixels.is_floating_point() else pixels.permute(0, 3, 1, 2).float()
    return (pixels / 127.5 - 1).contiguous(memory_format=torch.channels_last)
