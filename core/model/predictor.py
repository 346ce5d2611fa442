"""The one predictor: a Ray Data actor and a Serve replica are thin shells around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from core.errors import SettingsError
from core.finding.search import CellSearch
from core.images.heatmap import Heatmap
from core.images.reading import prepare_cells, prepare_image
from core.model.confidence import energy
from core.model.engine import TorchEngine
from core.model.gradcam import normalise_maps
from core.model.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from core.images.cells import Box
    from core.images.decoder import Picture
    from core.images.preprocessing import Prepared
    from core.model.bundle import Bundle
    from core.model.engine import Outputs

__all__ = ["Predictor", "cell_search", "choose_device"]


class Predictor:
    """Classifies images with one bundle on one device.

    Args:
        bundle: The model.
        device: Device to run on: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        SettingsError: With code ``no-gpu`` where a GPU is asked for and there is none.

    Example:
        >>> predictor = Predictor(load_bundle(Path("models/demo")), "cpu")
        >>> picture, prepared = predictor.prepare(Path("cell.jpg").read_bytes())
        >>> predictor.predict([prepared])[0].label
        'NEUTROPHIL'
    """

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        self.bundle = bundle
        self.device = choose_device(device)
        record = bundle.record
        self._engine = TorchEngine(bundle.network, record.preprocessing, self.device, record.heatmap_origin)
        self.cells = cell_search(bundle, self.device)

    def prepare(self, data: bytes, marked: Box | None = None) -> tuple[Picture, Prepared]:
        """Decode one file and cut out the network's input for its main cell; safe to call from several threads.

        Args:
            data: The whole file.
            marked: Where the cell is, if that is known.

        Raises:
            ImageError: The file cannot be used.
        """
        return prepare_image(data, self.cells, marked=marked)

    def prepare_every(self, data: bytes) -> tuple[Picture, list[Prepared]]:
        """Decode one file and cut out an input for each white cell; safe to call from several threads.

        Args:
            data: The whole file.

        Raises:
            ImageError: The file cannot be used.
        """
        return prepare_cells(data, self.cells)

    def predict(self, images: Sequence[Prepared], *, gradcam: bool = True) -> list[Prediction]:
        """Classify a batch in one forward pass.

        Args:
            images: What `prepare` gave; may be empty.
            gradcam: Whether each prediction carries its map.
        """
        if not images:
            return []
        pixels = torch.from_numpy(np.stack([image.pixels for image in images])).to(self.device)
        with torch.inference_mode():
            outputs = self._engine(pixels)
            classes = outputs.logits.argmax(1)
            cams = self._gradcam(outputs, classes) if gradcam else [None] * len(images)
        logits = outputs.logits.float().cpu().numpy()
        probabilities = self.bundle.record.confidence.probabilities(logits).astype(np.float32)
        return [self._describe(*row) for row in zip(probabilities, energy(logits), images, cams, strict=True)]

    def predict_in_batches(
        self, images: Sequence[Prepared], size: int, *, gradcam: bool = True
    ) -> Iterator[Prediction]:
        """Classify any number of cells, in order.

        Args:
            images: What `prepare_every` gave, of one picture or of several.
            size: Most cells in one forward pass.
            gradcam: Whether each prediction carries its map.
        """
        for start in range(0, len(images), size):
            yield from self.predict(images[start : start + size], gradcam=gradcam)

    def _gradcam(self, outputs: Outputs, classes: torch.Tensor) -> list[Heatmap]:
        maps = normalise_maps(self._engine.gradcam(outputs, classes)).float().cpu().numpy()
        preprocessing = self.bundle.record.preprocessing
        return [Heatmap(one, preprocessing.height, preprocessing.width, self._engine.geometry) for one in maps]

    def _describe(
        self, probabilities: NDArray[np.float32], ood: np.float32, image: Prepared, cam: Heatmap | None
    ) -> Prediction:
        best = int(probabilities.argmax())
        largest = float(probabilities[best])
        record = self.bundle.record
        flag = record.confidence.flag(largest, float(ood), found=image.found, hidden=image.hidden, others=image.others)
        strange = record.familiarity is not None and record.familiarity.unfamiliar(image.pixels)
        label = self.bundle.class_names[best]
        return Prediction(label, largest, probabilities, float(ood), flag, image.box, cam, strange, image.cell)


def cell_search(bundle: Bundle, device: torch.device | str = "cpu") -> CellSearch:
    """Return what finds and prepares the cells for a bundle's network.

    Args:
        bundle: The model.
        device: Device that a learned finder runs on.
    """
    return CellSearch(bundle.record.preprocessing, bundle.finder.on(device) if bundle.finder else None)


def choose_device(device: str) -> torch.device:
    """Resolve ``auto`` to the GPU where there is one.

    Raises:
        SettingsError: With code ``no-gpu`` or ``no-device``.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError("no-gpu", f"Device {device!r} was asked for, but torch sees no GPU here.")
    try:
        return torch.device(device)
    except RuntimeError:
        raise SettingsError("no-device", f"{device!r} is no device; give auto, cpu, cuda or cuda:N.") from None
