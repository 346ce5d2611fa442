"""How images are varied in training."""

from __future__ import annotations

from pydantic import Field

from core.settings import Settings

__all__ = ["Augmentation"]


class Augmentation(Settings):
    """Flips, rotation, scale, shift, colour jitter, stain, light, blur and noise; amounts are ranges, drawn per image.

    Stain and light change in optical density, where Beer-Lambert's law makes them linear (Ruifrok and Johnston
    2001; as augmentation: Tellez et al. 2019, doi:10.1016/j.media.2019.101544).
    """

    horizontal_flip: bool = Field(True, description="mirror left-right with probability 0.5")
    vertical_flip: bool = Field(True, description="mirror top-bottom with probability 0.5")
    rotation: float = Field(15.0, ge=0, le=180, description="largest rotation either way, degrees")
    scale: float = Field(0.0, ge=0, lt=1, description="largest zoom either way, as a share")
    shift: float = Field(0.0, ge=0, lt=0.5, description="largest shift, as a share of the input's side")
    brightness: float = Field(0.2, ge=0, lt=1, description="largest change of brightness, as a share")
    contrast: float = Field(0.2, ge=0, lt=1, description="largest change of contrast, as a share")
    saturation: float = Field(0.2, ge=0, lt=1, description="largest change of saturation, as a share")
    hue: float = Field(0.05, ge=0, le=0.5, description="largest turn of hue, in turns")
    density: float = Field(0.0, ge=0, le=2, description="largest change of stain density, as a natural logarithm")
    stain: float = Field(
        0.0, ge=0, le=1, description="largest change of each channel's density, and twice the mixing between channels"
    )
    illumination: float = Field(0.0, ge=0, le=1, description="largest shift of each channel's optical density")
    blur: float = Field(0.0, ge=0, le=3, description="largest Gaussian blur, standard deviation in pixels")
    blur_share: float = Field(0.4, ge=0, le=1, description="share of the views that are blurred")
    noise: float = Field(0.0, ge=0, le=64, description="largest standard deviation of grey noise, in 8-bit levels")
    mild_share: float = Field(
        0.0, ge=0, le=1, description="share of the views whose colours, light, blur and noise change by a third of that"
    )
    margin: float = Field(1.0, ge=1, le=2, description="side that is kept in memory around the input, relative")
