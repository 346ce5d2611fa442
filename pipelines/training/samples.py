"""Sample pictures of a new bundle: original, heatmap and overlay of some of its validation images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from core.images.overlay import encode_jpeg, panel
from core.model.predictor import Predictor

if TYPE_CHECKING:
    from pathlib import Path

    from core.model.bundle import Bundle
    from core.training.run import TrainingRun

__all__ = ["write_samples"]


def write_samples(folder: Path, bundle: Bundle, run: TrainingRun, rows: list[int], count: int) -> None:
    """Write sample pictures, spread over the classes.

    Args:
        folder: Folder of the pictures; it is made.
        bundle: The new bundle.
        run: Images and labels.
        rows: Rows of the run's images to choose from.
        count: Most pictures to write; 0 writes nothing.
    """
    if not count:
        return
    predictor = Predictor(bundle, "cpu")
    order = sorted(rows, key=lambda row: int(run.images.labels[row]))
    places = np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)
    folder.mkdir()
    for number, place in enumerate(places):
        sample = run.images.samples[order[place]]
        picture, prepared = predictor.prepare(sample.path.read_bytes(), sample.box)
        (prediction,) = predictor.predict([prepared])
        if prediction.cam is not None:
            label = bundle.class_names[int(run.images.labels[order[place]])]
            three = encode_jpeg(panel(picture.rgb, prediction.cam, prediction.box))
            (folder / f"{number:02d}-{label}-as-{prediction.label}.jpg").write_bytes(three)
