"""Cells that look alike to the network: nearest neighbours among the features that a run stored."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.classification.run_folder import RunFolder
    from pipelines.reviewing.cells import RunCells

__all__ = ["Alike"]

_PARTS_IN_MEMORY = 512


class Alike:
    """Finds the cells whose features point in the direction of a cell's (cosine similarity).

    Args:
        run: Folder of the run, which has embeddings.
        cells: Its cells.
    """

    def __init__(self, run: RunFolder, cells: RunCells) -> None:
        self._run, self._cells = run, cells
        self._directions = lru_cache(_PARTS_IN_MEMORY)(self._read)

    def nearest(self, row: int, most: int) -> list[int]:
        """Return the rows of the most alike cells, the cell itself first; nothing where it has no features.

        Args:
            row: Row of the cell.
            most: Number of cells.
        """
        part, place = (int(number) for number in self._cells.place[row])
        wanted = self._directions(part)[place].astype(np.float32)
        if not wanted.any():
            return []
        alike = np.full(len(self._cells), -2.0, np.float32)
        parts = self._cells.place[:, 0]
        for number in np.unique(parts):
            directions = self._directions(int(number))
            values = directions.astype(np.float32) @ wanted
            alike[parts == number] = np.where(directions.any(axis=1), values, -2.0)
        best = np.argsort(-alike, kind="stable")[:most]
        return [row, *(int(one) for one in best if one != row and alike[one] > -2)][:most]

    def _read(self, part: int) -> NDArray[np.float16]:
        """Return a part's features brought to length 1, (N, K); zeros where a row has none."""
        features = np.nan_to_num(self._run.read_embeddings(part).astype(np.float32))
        length = np.linalg.norm(features, axis=1, keepdims=True)
        return (features / np.where(length > 0, length, 1)).astype(np.float16)
