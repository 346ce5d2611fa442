"""What a bundle says of its finder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from core.settings import Settings

__all__ = ["BLOCKS", "FINDER", "WIDTHS", "FinderRecord", "FinderTraining"]

FINDER = "finder.safetensors"
"""Name of the file in a bundle."""

WIDTHS = (16, 24, 64, 96, 128)
"""Channels after the stem and after each halving of the map."""

BLOCKS = (0, 1, 2, 2)
"""Blocks after each halving."""

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
