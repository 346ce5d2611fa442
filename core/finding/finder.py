"""The learned finder of white cells: a picture in, boxes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from core.finding.passes import FoundCell, merged, passes, reading_order, without_platelets

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from core.finding.record import FinderRecord

__all__ = ["Finder"]


class Finder(ABC):
    """Finds the white cells of pictures, whatever runs its network.

    Args:
        record: Input size and threshold.

    Attributes:
        record: Input size and threshold.
    """

    def __init__(self, record: FinderRecord) -> None:
        self.record = record

    @abstractmethod
    def answer(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network once; safe to call from several threads.

        Args:
            pixels: What `Pass.pixels` gives, (H, W, 3) uint8.

        Returns:
            (5, H / 4, W / 4) float32, as `FinderNetwork.forward` describes it.
        """

    def find(
        self, rgb: NDArray[np.uint8], least: float | None = None, check: Callable[[], object] | None = None
    ) -> list[FoundCell]:
        """Find every white cell, in reading order; safe to call from several threads.

        Memory is bounded whatever the picture's size: of a large one, one tile at a time is looked at.

        Args:
            rgb: The picture, (H, W, 3) uint8.
            least: Score from which on something counts as a cell, instead of the record's.
            check: Called before each look at a part of the picture; what it raises stops the search.
        """
        least = self.record.threshold if least is None else least
        found: list[FoundCell] = []
        for look in passes(rgb.shape[1], rgb.shape[0], self.record.side):
            if check is not None:
                check()
            found += look.cells(self.answer(look.pixels(rgb)), least)
        return reading_order(without_platelets(merged(found), rgb.shape[1], rgb.shape[0]))
