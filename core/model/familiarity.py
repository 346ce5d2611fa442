"""Whether images are stained and lit like those of a laboratory that the network was trained on.

A network says little of a stain that it never saw: it answers as surely as at home. The colours of the input say more.
Of each input nine numbers are taken: mean red, green and blue of its darkest tenth (the nucleus), of the next three
tenths (cytoplasm and red cells) and of the rest (plasma). Each laboratory is a normal distribution of them; the
Mahalanobis distance to the nearest one tells its own images from those of another laboratory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from pydantic import Field

from core.images.light import not_margin
from core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["SHARE_WITHIN", "Familiarity", "Stain", "fit_familiarity", "stain_colours"]

_SIDE = 32
_DARKEST, _NEXT = 0.1, 0.4
"""Shares of the pixels, from the darkest on, at which nucleus and cytoplasm end."""
_NOISE = 4.0
"""Variance in squared 8-bit levels that every colour may have."""
SHARE_WITHIN = 0.95
"""Share of the training images that lie within the limit."""
_FEWEST = 20


class Stain(Settings):
    """The colours of one laboratory."""

    laboratory: str = Field(description="name of the laboratory")
    mean: tuple[float, ...] = Field(min_length=9, max_length=9, description="mean of the nine colours, 8-bit levels")
    precision: tuple[tuple[float, ...], ...] = Field(
        min_length=9, max_length=9, description="inverse of their covariance"
    )

    @property
    def variances(self) -> NDArray[np.float64]:
        """Variance of each colour, (9,), squared 8-bit levels."""
        return np.maximum(np.diag(np.linalg.inv(np.asarray(self.precision))) - _NOISE, 0)

    def distances(self, colours: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the squared Mahalanobis distance of colours (N, 9) to those of the laboratory, (N,)."""
        apart = colours - np.asarray(self.mean)
        return np.einsum("ni,ij,nj->n", apart, np.asarray(self.precision), apart)


class Familiarity(Settings):
    """The stains that a bundle was trained on, and how far from them an image may be."""

    stains: tuple[Stain, ...] = Field(min_length=1, description="one per laboratory")
    limit: float = Field(gt=0, description="squared Mahalanobis distance that most training images are within")

    def unfamiliar(self, colours: NDArray[np.float64]) -> bool:
        """Whether one input is stained unlike the training images; one in twenty of those is.

        Args:
            colours: What `stain_colours` gives of it, (9,), 8-bit levels.
        """
        return bool(_distances(colours[None], self.stains)[0] > self.limit)


def fit_familiarity(
    images: Mapping[str, Sequence[NDArray[np.uint8]] | NDArray[np.uint8]], known: Familiarity | None = None
) -> Familiarity | None:
    """Learn what the inputs of each laboratory look like.

    Args:
        images: Inputs (H, W, 3) uint8 by name of the laboratory.
        known: What was learned before, of other laboratories; it is kept.

    Returns:
        The stains; None where no laboratory has enough images to tell.
    """
    colours = {
        name: np.stack([stain_colours(one) for one in part]) for name, part in images.items() if len(part) >= _FEWEST
    }
    if not colours:
        return known
    stains = tuple(_stain(name, part) for name, part in colours.items()) + (known.stains if known else ())
    distances = _distances(np.concatenate(list(colours.values())), stains)
    limit = float(np.quantile(distances, SHARE_WITHIN))
    return Familiarity(stains=stains, limit=max(limit, known.limit) if known else limit)


def stain_colours(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the nine colours of one input, (9,), 8-bit levels.

    Args:
        pixels: What `Preprocessing.prepare` gives, (H, W, 3) uint8.
    """
    picture = np.asarray(cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.uint8)
    small = picture.astype(np.float64).reshape(-1, 3)
    shown = small[not_margin(picture).ravel()]
    shown = small if len(shown) < _SIDE else shown
    shown = shown[np.argsort(shown.sum(axis=1), kind="stable")]
    parts = np.split(shown, [round(share * len(shown)) for share in (_DARKEST, _NEXT)])
    return np.concatenate([part.mean(axis=0) for part in parts])


def _stain(name: str, colours: NDArray[np.float64]) -> Stain:
    covariance = np.cov(colours.T) + _NOISE * np.eye(colours.shape[1])
    precision = np.linalg.inv(covariance)
    rows = tuple(tuple(float(f"{value:.6g}") for value in row) for row in precision)
    return Stain(laboratory=name, mean=tuple(float(value) for value in colours.mean(axis=0).round(3)), precision=rows)


def _distances(colours: NDArray[np.float64], stains: Sequence[Stain]) -> NDArray[np.float64]:
    """Return the squared Mahalanobis distance of each (N, 9) to its nearest stain, (N,)."""
    return np.min([stain.distances(colours) for stain in stains], axis=0)
