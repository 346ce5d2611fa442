"""A sample of a run's cells that is the same at every call: those whose names have the smallest hashes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

__all__ = ["CellSample", "cell_keys"]


def cell_keys(cells: Iterable[tuple[str, str, int]]) -> NDArray[np.uint64]:
    """Return a hash of each cell's slide, image and number."""
    digests = (
        hashlib.blake2b(f"{slide}\0{image}\0{cell}".encode(), digest_size=8).digest() for slide, image, cell in cells
    )
    return np.frombuffer(b"".join(digests), np.uint64)


class CellSample:
    """Keeps the embeddings of at most so many cells of a run, however many pass by.

    Args:
        most: Most cells to keep.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = np.uint64(np.iinfo(np.uint64).max)
        self._keys: list[NDArray[np.uint64]] = []
        self._slides: list[NDArray[np.int32]] = []
        self._values: list[NDArray[np.float16]] = []

    def add(self, keys: NDArray[np.uint64], slides: NDArray[np.int32], read: Callable[[], NDArray[np.float16]]) -> None:
        """Take those of some cells that belong into the sample.

        Args:
            keys: Hashes of the cells (N,).
            slides: Numbers of their slides (N,).
            read: Gives their embeddings (N, K); it is only called where one is taken.
        """
        chosen = keys <= self._limit
        if not chosen.any():
            return
        self._keys.append(keys[chosen])
        self._slides.append(slides[chosen])
        self._values.append(read()[chosen])
        if sum(map(len, self._keys)) > 2 * self._most:
            self._prune()

    def taken(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the numbers of the slides (M,) and the embeddings (M, K) of the cells, ordered by hash."""
        if not self._keys:
            return np.empty(0, np.int32), np.empty((0, 0), np.float32)
        self._prune()
        return self._slides[0], self._values[0].astype(np.float32)

    def _prune(self) -> None:
        keys = np.concatenate(self._keys)
        order = np.argsort(keys, kind="stable")[: self._most]
        self._keys = [keys[order]]
        self._slides = [np.concatenate(self._slides)[order]]
        self._values = [np.concatenate(self._values)[order]]
        if len(order) == self._most:
            self._limit = self._keys[0][-1]
