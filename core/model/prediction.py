"""What is predicted for one image; a module of its own, so that code that only passes it on needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from core.images.cells import Box
    from core.images.heatmap import Heatmap

__all__ = ["Prediction"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the network says about one image.

    Attributes:
        label: Name of the most probable class.
        confidence: Probability of that class.
        probabilities: Probability of each class, (C,) float32.
        ood: Out-of-distribution score, higher is less like the training data.
        flag: Empty, ``low-confidence``, ``out-of-distribution``, ``no-cell`` or ``several-cells``.
        box: The part of the image that was classified, in pixels of the image.
        cam: Grad-CAM of `label` within `box`; None where it was not asked for.
        unfamiliar: Whether the image is stained unlike the training images; one alone says little.
        cell: The white cell itself, in pixels of the image; None where none was found.
        colours: The nine colours of what the network saw (`core.model.familiarity.stain_colours`), (9,) float64; None
            where the bundle knows no stains.
        features: Spatial mean of the network's last feature map, (K,) float16; None where it was not asked for.
    """

    label: str
    confidence: float
    probabilities: NDArray[np.float32]
    ood: float
    flag: str
    box: Box
    cam: Heatmap | None
    unfamiliar: bool = False
    cell: Box | None = None
    colours: NDArray[np.float64] | None = None
    features: NDArray[np.float16] | None = None

    @property
    def has_evidence(self) -> bool:
        """Whether there is a heatmap and it shows anything that speaks for `label`."""
        return self.cam is not None and self.cam.has_evidence
