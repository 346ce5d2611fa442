"""How the cells of each slide are stained: what a part of a run says of it beside its rows."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from core.model.confidence import NO_CELL

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from core.model.prediction import Prediction

__all__ = ["COLOURS", "SlideStains", "colour_sums", "unfamiliar_cells"]

COLOURS = 9
"""Numbers that `core.model.familiarity.stain_colours` gives of a cell."""
_UNFAMILIAR, _COLOURS = b"unfamiliar", b"colours"


class SlideStains:
    """Counts the unfamiliar cells of each slide of a part, and adds up their colours, where the bundle knows stains."""

    def __init__(self) -> None:
        self._unfamiliar: Counter[str] = Counter()
        self._sums: dict[str, NDArray[np.float64]] = {}

    def add(self, slide: str, prediction: Prediction) -> None:
        """Count one classified cell; an image without a cell is none."""
        if prediction.flag == NO_CELL:
            return
        self._unfamiliar[slide] += prediction.unfamiliar
        if prediction.colours is not None:
            cell = np.concatenate([[1.0], prediction.colours, np.square(prediction.colours)])
            self._sums[slide] = self._sums.get(slide, np.zeros(len(cell))) + cell

    def attached(self, predictions: pa.Table) -> pa.Table:
        """Return the table with these numbers in its metadata."""
        sums = {slide: values.tolist() for slide, values in self._sums.items()}
        content = {_UNFAMILIAR: json.dumps(+self._unfamiliar), _COLOURS: json.dumps(sums)}
        return predictions.replace_schema_metadata(content)


def unfamiliar_cells(predictions: pa.Table) -> dict[str, int]:
    """Return the number of cells of each slide that are stained unlike the training images, those with any."""
    return json.loads((predictions.schema.metadata or {}).get(_UNFAMILIAR, b"{}"))


def colour_sums(predictions: pa.Table) -> dict[str, NDArray[np.float64]]:
    """Return, for each slide of a part, the number of cells, the sums of their colours, and of the squares of these.

    Returns:
        Arrays (1 + 2 * `COLOURS`,), 8-bit levels; nothing where the bundle knows no stains, or in older parts.
    """
    content = (predictions.schema.metadata or {}).get(_COLOURS, b"{}")
    return {slide: np.asarray(values, np.float64) for slide, values in json.loads(content).items()}
