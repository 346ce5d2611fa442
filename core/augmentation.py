"""Random views of a batch, drawn on the device that holds it."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch.nn import functional

from core.settings import Settings

__all__ = ["Augmentation"]

_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


class Augmentation(Settings):
    """Flips, rotation, scale, shift and colour jitter; each amount is a range drawn per image."""

    horizontal_flip: bool = Field(True, description="mirror left-right with probability 0.5")
    vertical_flip: bool = Field(True, description="mirror top-bottom with probability 0.5")
    rotation: float = Field(15.0, ge=0, le=180, description="largest rotation either way, degrees")
    scale: float = Field(0.0, ge=0, lt=1, description="largest zoom either way, as a share")
    shift: float = Field(0.0, ge=0, lt=0.5, description="largest shift, as a share of the input's side")
    brightness: float = Field(0.2, ge=0, lt=1, description="largest change of brightness, as a share")
    contrast: float = Field(0.2, ge=0, lt=1, description="largest change of contrast, as a share")
    saturation: float = Field(0.2, ge=0, lt=1, description="largest change of saturation, as a share")
    hue: float = Field(0.05, ge=0, le=0.5, description="largest turn of hue, in turns")
    margin: float = Field(1.0, ge=1, le=2, description="side that is kept in memory around the input, relative")

    def apply(self, pixels: torch.Tensor, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
        """Draw one view of each image.

        Args:
            pixels: (N, H, W, 3) uint8, `margin` times larger than the input.
            height: Height of the network's input.
            width: Width of the network's input.
            generator: CPU generator; the same state gives the same views on every device.

        Returns:
            (N, 3, height, width) float32 in [0, 255].
        """
        images = pixels.permute(0, 3, 1, 2).float()
        views = self._warp(images, height, width, generator)
        return self._jitter(views, generator).clamp_(0, 255)

    def _warp(self, images: torch.Tensor, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
        count = len(images)
        angle = _uniform(count, math.radians(self.rotation), generator)
        zoom = 1 + _uniform(count, self.scale, generator)
        flip_x = _sign(count, generator, active=self.horizontal_flip)
        flip_y = _sign(count, generator, active=self.vertical_flip)
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        aspect = height / width
        matrix = torch.stack(
            (
                torch.stack((cos * flip_x, -sin * aspect * flip_y, 2 * _uniform(count, self.shift, generator)), 1),
                torch.stack((sin / aspect * flip_x, cos * flip_y, 2 * _uniform(count, self.shift, generator)), 1),
            ),
            1,
        )
        matrix[:, 0] *= width / images.shape[3]
        matrix[:, 1] *= height / images.shape[2]
        grid = functional.affine_grid(matrix, [count, 3, height, width], align_corners=False)
        return functional.grid_sample(
            images, grid.to(images.device), mode="bilinear", padding_mode="reflection", align_corners=False
        )

    def _jitter(self, views: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        count = len(views)
        matrix = _colour_matrices(
            1 + _uniform(count, self.saturation, generator),
            2 * math.pi * _uniform(count, self.hue, generator),
        ).to(views.device)
        views = torch.einsum("nij,njhw->nihw", matrix, views)
        contrast = (1 + _uniform(count, self.contrast, generator)).to(views.device).view(-1, 1, 1, 1)
        brightness = (1 + _uniform(count, self.brightness, generator)).to(views.device).view(-1, 1, 1, 1)
        mean = views.mean(dim=(1, 2, 3), keepdim=True)
        return ((views - mean) * contrast + mean) * brightness


def _uniform(count: int, largest: float, generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(count, generator=generator) * 2 - 1) * largest


def _sign(count: int, generator: torch.Generator, *, active: bool) -> torch.Tensor:
    draw = torch.rand(count, generator=generator)
    return torch.where(draw < 0.5, -1.0, 1.0) if active else torch.ones(count)


def _colour_matrices(saturation: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Scale and rotate chroma in YIQ; returns RGB-to-RGB matrices (N, 3, 3)."""
    to_yiq = torch.tensor(_YIQ)
    zero = torch.zeros_like(turn)
    cos, sin = torch.cos(turn) * saturation, torch.sin(turn) * saturation
    rows = (
        torch.stack((zero + 1, zero, zero), 1),
        torch.stack((zero, cos, -sin), 1),
        torch.stack((zero, sin, cos), 1),
    )
    return torch.linalg.inv(to_yiq) @ torch.stack(rows, 1) @ to_yiq
