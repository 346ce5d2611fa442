"""Images that all trials of a node share."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from core.data.image_set import ImageSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from core.data.class_folders import Sample

__all__ = ["SharedImages"]


@dataclass(frozen=True)
class SharedImages:
    """An `ImageSet` as arrays, which Ray hands to every process of a node without a copy.

    Attributes:
        pixels: Pixels (N, H, W, 3) uint8.
        labels: Class indices (N,) int64.
        sources: Index of each image's source (N,) int64.
        domains: Number of the laboratory that each image belongs to (N,) int64; None where there is one.
        shares: How often images of its laboratory are drawn, relative to others (N,) float64; None where there is one.
        samples: File, label and source of each image.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    sources: NDArray[np.int64]
    domains: NDArray[np.int64] | None
    shares: NDArray[np.float64] | None
    samples: tuple[Sample, ...]

    @classmethod
    def of(cls, images: ImageSet, pixels: torch.Tensor) -> SharedImages:
        """Make them of an image set.

        Args:
            images: The image set.
            pixels: Its pixels with the margin for augmentation, or its inputs without.
        """
        domains = None if images.domains is None else images.domains.numpy()
        shares = None if images.shares is None else images.shares.numpy()
        return cls(pixels.numpy(), images.labels.numpy(), images.sources.numpy(), domains, shares, images.samples)

    @property
    def nbytes(self) -> int:
        """Size of the pixels in bytes."""
        return self.pixels.nbytes

    def view(self) -> ImageSet:
        """Return the images as tensors on the same memory, which nobody may write to."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            tensors = [torch.from_numpy(part) for part in (self.pixels, self.labels, self.sources)]
            domains = None if self.domains is None else torch.from_numpy(self.domains)
            shares = None if self.shares is None else torch.from_numpy(self.shares)
        return ImageSet(tensors[0], tensors[1], tensors[2], self.samples, domains=domains, shares=shares)
