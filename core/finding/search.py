"""From a picture to one input per white cell: the finder, where the bundle has one, and the preprocessing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core.errors import ImageError
from core.finding.passes import FoundCell, mostly_unseen

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from core.finding.finder import Finder
    from core.images.cells import Box
    from core.images.preprocessing import Prepared, Preprocessing

__all__ = ["CellSearch"]

_SURELY_ONE = 0.75
"""In a picture of one cell, a score of this share of the threshold is enough for the most certain place."""


@dataclass(frozen=True)
class CellSearch:
    """Finds white cells and prepares each for the network.

    Attributes:
        preprocessing: The record of the network.
        finder: The bundle's learned finder; where there is none, the preprocessing finds one cell by its colour.
    """

    preprocessing: Preprocessing
    finder: Finder | None = None

    def prepare(self, rgb: NDArray[np.uint8], marked: Box | None = None) -> Prepared:
        """Prepare a picture's main cell: the most certain one, or the one that the preprocessing finds by its colour.

        Colour comes first where the network has learned from what it found.

        Args:
            rgb: Decoded picture, (H, W, 3) uint8.
            marked: Where the cell is, if that is known.

        Returns:
            The network's input; the whole picture where no cell is found.
        """
        finder = self.finder
        if finder is None or self.preprocessing.cell is None or marked is not None:
            return self.preprocessing.prepare(rgb, marked)
        found = finder.find(rgb, _SURELY_ONE * finder.record.threshold)
        certain = [cell for cell in found if cell.score >= finder.record.threshold]
        if not finder.record.cuts_out:
            prepared = self.preprocessing.prepare(rgb)
            if prepared.found or not found:
                shown = prepared.cell or prepared.box
                return replace(prepared, others=sum(not shown.holds_middle_of(cell.box) for cell in certain))
        elif not found:
            return self.preprocessing.prepare(rgb)
        main = max(found, key=lambda cell: cell.score)
        return replace(self._prepared(rgb, main), others=sum(cell is not main for cell in certain))

    def prepare_every(
        self, rgb: NDArray[np.uint8], *, most: int | None = None, check: Callable[[], object] | None = None
    ) -> list[Prepared]:
        """Prepare every white cell of a picture, in reading order; none where there is none.

        Without a learned finder that is the one cell which the preprocessing finds.

        Args:
            rgb: Decoded picture, (H, W, 3) uint8.
            most: Refuse pictures with more cells than this.
            check: Called between the steps of the search; what it raises stops it.

        Raises:
            ImageError: With code ``too-many-cells``.
        """
        if self.finder is None or self.preprocessing.cell is None:
            one = self.preprocessing.prepare(rgb)
            return [one] if one.found else []
        found = self.finder.find(rgb, check=check)
        if most is not None and len(found) > most:
            raise ImageError(
                "too-many-cells", f"The picture shows {len(found):,} cells, more than {most:,}. Cut it up."
            )
        return [self._prepared(rgb, cell) for cell in found]

    def _prepared(self, rgb: NDArray[np.uint8], cell: FoundCell) -> Prepared:
        hidden = mostly_unseen(cell.box, rgb.shape[1], rgb.shape[0])
        return replace(self.preprocessing.prepare(rgb, cell.box), hidden=hidden, score=cell.score)
