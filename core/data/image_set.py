"""Labelled images in memory: decoded and prepared once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from core.data.sources import number_sources
from core.errors import DataError
from core.images.preprocessing import Prepared, crop_with_margin
from core.images.reading import Unreadable, prepare_image, read_safely

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from core.data.class_folders import Sample
    from core.finding.search import CellSearch

__all__ = ["OUTLIER", "ImageSet", "join_images", "load_images"]

OUTLIER = -1
"""Label of an image that shows none of the classes."""


@dataclass(frozen=True)
class ImageSet:
    """Labelled images in memory.

    Attributes:
        pixels: (N, H, W, 3) uint8, with room around the input for augmentation where that was asked for.
        labels: Class indices (N,) int64, `OUTLIER` for images of no class.
        sources: Index of each image's source, (N,) int64; images without one have their own.
        samples: Where each image came from.
        unreadable: Files that were left out.
        domains: Number of the laboratory that each image belongs to (N,) int64; missing where there is one.
        shares: How often images of its laboratory are drawn, relative to others (N,) float64; missing where there is
            one.
        prepared: The network's input before normalisation (N, h, w, 3) uint8; missing where `pixels` is that.
        found: Whether the white cell was found, (N,) bool; missing where nobody looked.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    sources: torch.Tensor
    samples: tuple[Sample, ...]
    unreadable: tuple[Unreadable, ...] = ()
    domains: torch.Tensor | None = None
    shares: torch.Tensor | None = None
    prepared: torch.Tensor | None = None
    found: torch.Tensor | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    @property
    def inputs(self) -> torch.Tensor:
        """Exactly what `Preprocessing.prepare` gives, (N, h, w, 3) uint8."""
        return self.pixels if self.prepared is None else self.prepared

    def select(self, rows: Sequence[int]) -> ImageSet:
        """Return a copy of some of the images."""
        chosen = torch.tensor(rows, dtype=torch.long)
        return ImageSet(
            self.pixels[chosen],
            self.labels[chosen],
            self.sources[chosen],
            tuple(self.samples[row] for row in rows),
            domains=None if self.domains is None else self.domains[chosen],
            shares=None if self.shares is None else self.shares[chosen],
            prepared=None if self.prepared is None else self.prepared[chosen],
            found=None if self.found is None else self.found[chosen],
        )


def load_images(
    samples: Sequence[Sample],
    cells: CellSearch,
    *,
    margin: float = 1.0,
    workers: int = 2,
    on_image: Callable[[], object] | None = None,
) -> ImageSet:
    """Decode and prepare images once, into one array.

    Args:
        samples: The images to load.
        cells: What finds and prepares the cells, as it will be used with the network.
        margin: Room around the input for augmentation, relative to the input's side.
        workers: Number of threads that decode.
        on_image: Called after each image, for a progress bar.

    Raises:
        DataError: With code ``nothing-readable``.

    Example:
        >>> images = load_images(data.samples, CellSearch(bundle.record.preprocessing))
        >>> images.pixels.shape
        torch.Size([9957, 224, 224, 3])
    """

    def load(sample: Sample) -> tuple[Prepared, np.ndarray] | Unreadable:
        def prepare(data: bytes) -> tuple[Prepared, np.ndarray]:
            picture, plain = prepare_image(data, cells, marked=sample.box)
            if margin == 1:
                return plain, plain.pixels
            return plain, crop_with_margin(picture.rgb, cells.preprocessing, margin, plain)

        return read_safely(sample.path, prepare)

    height, width = cells.preprocessing.size
    side = (round(height * margin), round(width * margin))
    inputs = np.empty((len(samples), height, width, 3), np.uint8)
    pixels = np.empty((len(samples), *side, 3), np.uint8) if margin > 1 else inputs
    found = torch.zeros(len(samples), dtype=torch.bool)
    readable: list[Sample] = []
    unreadable: list[Unreadable] = []
    with ThreadPoolExecutor(workers) as pool:
        for sample, result in zip(samples, pool.map(load, samples), strict=True):
            if isinstance(result, Unreadable):
                unreadable.append(result)
            else:
                prepared, pixels[len(readable)] = result
                inputs[len(readable)], found[len(readable)] = prepared.pixels, prepared.found
                readable.append(sample)
            if on_image:
                on_image()
    if not readable:
        raise DataError("nothing-readable", f"None of the {len(samples)} images can be read.")
    labels = torch.tensor([sample.label for sample in readable])
    return ImageSet(
        torch.from_numpy(pixels[: len(readable)]),
        labels,
        torch.from_numpy(number_sources(readable)),
        tuple(readable),
        tuple(unreadable),
        prepared=torch.from_numpy(inputs[: len(readable)]) if margin > 1 else None,
        found=found[: len(readable)],
    )


def join_images(sets: Sequence[ImageSet], shares: Sequence[float]) -> ImageSet:
    """Put the images of several laboratories together; each becomes a domain, and their sources stay apart.

    Args:
        sets: Images of one size, by laboratory.
        shares: How often each laboratory's images are drawn, relative to the others'.
    """
    offsets = np.cumsum([0, *(int(part.sources.max()) + 1 for part in sets)])
    return ImageSet(
        torch.cat([part.pixels for part in sets]),
        torch.cat([part.labels for part in sets]),
        torch.cat([part.sources + int(offset) for part, offset in zip(sets, offsets, strict=False)]),
        tuple(sample for part in sets for sample in part.samples),
        tuple(unreadable for part in sets for unreadable in part.unreadable),
        torch.cat([torch.full((len(part),), number) for number, part in enumerate(sets)]),
        torch.cat([torch.full((len(part),), share).double() for share, part in zip(shares, sets, strict=True)]),
        torch.cat([part.inputs for part in sets]) if any(part.prepared is not None for part in sets) else None,
        torch.cat([torch.ones(len(part), dtype=torch.bool) if part.found is None else part.found for part in sets]),
    )
