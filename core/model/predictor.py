"""The one predictor: a Ray Data actor and a Serve replica are thin shells around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from core.images.heatmap import Heatmap
from core.images.reading import prepare_cells, prepare_image
from core.model.confidence import energy
from core.model.familiarity import stain_colours
from core.model.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from core.images.cells import Box
    from core.images.decoder import Picture
    from core.images.preprocessing import Prepared
    from core.model.engine import Usable

__all__ = ["Predictor"]


class Predictor:
    """Classifies images with one bundle on one device.

    Args:
        bundle: A bundle, for whatever engine.
        device: Device to run on: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Number of threads that compute; None: as many as the engine's library chooses.

    Attributes:
        bundle: The bundle.
        cells: What finds and prepares the cells.

    Raises:
        SettingsError: With code ``no-gpu`` where a GPU is asked for and there is none.

    Example:
        >>> predictor = Predictor(load_bundle(Path("models/demo")), "cpu")
        >>> picture, prepared = predictor.prepare(Path("cell.jpg").read_bytes())
        >>> predictor.predict([prepared])[0].label
        'NEUTROPHIL'
    """

    def __init__(self, bundle: Usable, device: str = "auto", threads: int | None = None) -> None:
        self.bundle = bundle
        self._engine = bundle.engine(device, threads)
        self.cells = bundle.cell_search(device)

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

    def count_features(self) -> int:
        """Return how many features a prediction carries, as the network answers a blank input."""
        blank = np.zeros((1, *self.bundle.record.preprocessing.size, 3), np.uint8)
        return self._engine.answer(blank, gradcam=False).features.shape[1]

    def predict(self, images: Sequence[Prepared], *, gradcam: bool = True, features: bool = False) -> list[Prediction]:
        """Classify a batch in one forward pass.

        Args:
            images: What `prepare` gave; may be empty.
            gradcam: Whether each prediction carries its map.
            features: Whether each prediction carries the network's features.
        """
        if not images:
            return []
        answers = self._engine.answer(np.stack([image.pixels for image in images]), gradcam=gradcam)
        cams = [None] * len(images) if answers.maps is None else [self._heatmap(one) for one in answers.maps]
        probabilities = self.bundle.record.confidence.probabilities(answers.logits).astype(np.float32)
        kept = answers.features.astype(np.float16) if features else [None] * len(images)
        rows = zip(probabilities, energy(answers.logits), images, cams, kept, strict=True)
        return [self._describe(*row) for row in rows]

    def features(self, images: Sequence[Prepared]) -> NDArray[np.float32]:
        """Return the pooled features of a batch, (N, K), what the network's last layer sees.

        Args:
            images: What `prepare` gave, one or more.
        """
        return self._engine.answer(np.stack([image.pixels for image in images]), gradcam=False).features

    def predict_in_batches(
        self, images: Sequence[Prepared], size: int, *, gradcam: bool = True, features: bool = False
    ) -> Iterator[Prediction]:
        """Classify any number of cells, in order.

        Args:
            images: What `prepare_every` gave, of one picture or of several.
            size: Most cells in one forward pass.
            gradcam: Whether each prediction carries its map.
            features: Whether each prediction carries the network's features.
        """
        for start in range(0, len(images), size):
            yield from self.predict(images[start : start + size], gradcam=gradcam, features=features)

    def _heatmap(self, values: NDArray[np.float32]) -> Heatmap:
        preprocessing = self.bundle.record.preprocessing
        return Heatmap(values, preprocessing.height, preprocessing.width, self._engine.geometry)

    def _describe(
        self,
        probabilities: NDArray[np.float32],
        ood: np.float32,
        image: Prepared,
        cam: Heatmap | None,
        features: NDArray[np.float16] | None,
    ) -> Prediction:
        best = int(probabilities.argmax())
        largest = float(probabilities[best])
        record = self.bundle.record
        flag = record.confidence.flag(largest, float(ood), found=image.found, hidden=image.hidden, others=image.others)
        known = record.familiarity
        colours = stain_colours(image.pixels) if known else None
        strange = known is not None and colours is not None and known.unfamiliar(colours)
        label = self.bundle.class_names[best]
        numbers = largest, probabilities, float(ood)
        return Prediction(label, *numbers, flag, image.box, cam, strange, image.cell, colours, features)
