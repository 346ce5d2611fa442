"""The seam between the network and the rest: pixels in; logits, pooled features and heatmaps out.

An engine runs one network on one device. `core.model.torch_engine.TorchEngine` is the reference;
`core.model.exported.OpenVinoEngine` is the fast one on CPUs. Nothing here needs either library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.finding.search import CellSearch
    from core.images.heatmap import MapGeometry
    from core.model.metrics import BundleMetrics
    from core.model.record import BundleRecord

__all__ = ["Answers", "Engine", "Usable", "normalise_maps"]


class Answers(NamedTuple):
    """What a network says of a batch.

    Attributes:
        logits: (N, C) float32.
        features: Spatial mean of the last feature map, (N, K) float32.
        maps: Grad-CAM of each image's most probable class, (N, h, w) float32 in [0, 1]; None where not asked for.
    """

    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    maps: NDArray[np.float32] | None


class Engine(Protocol):
    """Runs a network."""

    @property
    def geometry(self) -> MapGeometry:
        """The grid of the maps on the input."""
        ...

    def answer(self, pixels: NDArray[np.uint8], *, gradcam: bool) -> Answers:
        """Run the network once.

        Args:
            pixels: What `Preprocessing.prepare` gives, stacked, (N, H, W, 3) uint8, N at least 1.
            gradcam: Whether the maps are wanted.
        """
        ...


class Usable(Protocol):
    """A bundle that an engine can run: `core.model.bundle.Bundle`, or `core.model.exported.ExportedBundle`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        ...

    @property
    def record(self) -> BundleRecord:
        """Preprocessing, confidence and provenance."""
        ...

    @property
    def id(self) -> str:
        """The bundle's identity, the same for every engine."""
        ...

    @property
    def engine_name(self) -> Literal["torch", "openvino"]:
        """What runs it."""
        ...

    @property
    def metrics(self) -> BundleMetrics | None:
        """The evaluations that belong to the weights, if there are any."""
        ...

    def engine(self, device: str = "auto", threads: int | None = None) -> Engine:
        """Return what runs the network on a device, with so many threads, or as many as the library chooses."""
        ...

    def cell_search(self, device: str = "cpu") -> CellSearch:
        """Return what finds and prepares the cells for the network."""
        ...


def normalise_maps(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each map (N, h, w), 0 or more, to a maximum of 1; an all-zero map, no evidence, stays zero."""
    largest = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, largest, out=np.zeros_like(maps), where=largest > 0)
