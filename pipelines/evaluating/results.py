"""A bundle's predictions of a data set."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from core.evaluation.localisation import Pointing, point
from core.evaluation.scores import Predicted
from core.images.cells import find_white_cell
from core.images.reading import Unreadable, read_safely
from core.model.predictor import Predictor
from runtime.progress import Progress, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from core.data.class_folders import Sample
    from core.images.preprocessing import Prepared
    from core.model.engine import Usable
    from core.model.prediction import Prediction

__all__ = ["Results", "predict"]

_BATCH = 64


@dataclass(frozen=True)
class Results:
    """One bundle's predictions of a data set, row by row.

    Attributes:
        samples: The readable images.
        predictions: What the bundle says of each, without heatmaps.
        pointings: Where each heatmap points; None where there is no heatmap or no white cell.
        unreadable: Files that could not be used.
    """

    samples: tuple[Sample, ...]
    predictions: tuple[Prediction, ...]
    pointings: tuple[Pointing | None, ...]
    unreadable: tuple[Unreadable, ...]

    def select(self, rows: Sequence[int]) -> Results:
        """Return only these rows."""
        return Results(
            tuple(self.samples[row] for row in rows),
            tuple(self.predictions[row] for row in rows),
            tuple(self.pointings[row] for row in rows),
            self.unreadable,
        )

    def divide(self, known: int) -> tuple[Results, Results]:
        """Return the images of the known classes, whose labels are below `known`, and the others."""
        rows = range(len(self.samples))
        return (
            self.select([row for row in rows if self.samples[row].label < known]),
            self.select([row for row in rows if self.samples[row].label >= known]),
        )

    def predicted(self, class_names: tuple[str, ...]) -> Predicted:
        """Return the predictions as arrays."""
        return Predicted.of_samples(
            self.samples,
            class_names,
            np.stack([prediction.probabilities for prediction in self.predictions]),
            ood=np.array([prediction.ood for prediction in self.predictions]),
            flags=[prediction.flag for prediction in self.predictions],
        )


@dataclass(frozen=True, slots=True)
class _Shown:
    """What is retained of a picture until its heatmap is there: its white cell, and its size."""

    cell: NDArray[np.bool_] | None
    height: int
    width: int


def predict(bundle: Usable, samples: Sequence[Sample], *, device: str, threads: int) -> Results:
    """Classify images and see where their heatmaps point, with a progress bar.

    Args:
        bundle: The model.
        samples: Images to classify.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Number of threads that decode.
    """
    predictor = Predictor(bundle, device, threads)
    readable: list[Sample] = []
    predictions: list[Prediction] = []
    pointings: list[Pointing | None] = []
    unreadable: list[Unreadable] = []

    def prepare(sample: Sample) -> tuple[_Shown, Prepared] | Unreadable:
        def see(data: bytes) -> tuple[_Shown, Prepared]:
            picture, prepared = predictor.prepare(data, sample.box)
            cell = find_white_cell(picture.rgb) if sample.box is None else None  # a field shows others, too
            return _Shown(cell, picture.height, picture.width), prepared

        return read_safely(sample.path, see)

    with Progress(len(samples), "images") as progress, ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(samples), _BATCH):
            block = samples[start : start + _BATCH]
            usable: list[tuple[Sample, _Shown, Prepared]] = []
            for sample, result in zip(block, pool.map(prepare, block), strict=True):
                if isinstance(result, Unreadable):
                    unreadable.append(result)
                else:
                    usable.append((sample, *result))
            found = predictor.predict([prepared for _, _, prepared in usable])
            pointings.extend(_point(shown, prediction) for (_, shown, _), prediction in zip(usable, found, strict=True))
            predictions.extend(replace(prediction, cam=None) for prediction in found)
            readable.extend(sample for sample, _, _ in usable)
            progress.advance(len(block))
    for bad in unreadable:
        say(f"left out: {bad.path}: {bad.message} [{bad.code}]")
    return Results(tuple(readable), tuple(predictions), tuple(pointings), tuple(unreadable))


def _point(shown: _Shown, prediction: Prediction) -> Pointing | None:
    if prediction.cam is None:
        return None
    return point(shown.cell, prediction.cam, prediction.box, shown.height, shown.width)
