"""Sorting images into groups that show one microscope field, where nobody wrote the groups down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from core.fields.features import Features, Registration, mirrored, register

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Link", "ViewGroups"]

_STRONGEST = 60
_ALIKE = 0.8
_CANDIDATES = 5
_FEWEST_VOTES = 2
_CLOSE = 40
"""An image that agrees with its group in fewer features than this shows another side of the field: it becomes
another representative of the group, for later images to be compared with."""


@dataclass(frozen=True, slots=True)
class Link:
    """Two images that were found to show one field, by their numbers, and how they agree."""

    image: int
    other: int
    registration: Registration


@dataclass
class ViewGroups:
    """Groups images as they come; each is compared with the few representatives that its features point at.

    A group has one or more representatives, images whose features stay in memory: about 100 KB for each field. The
    time per image grows with their number.
    """

    links: list[Link] = field(default_factory=list)
    _sets: DisjointSet = field(default_factory=DisjointSet)
    _representatives: list[tuple[int, NDArray[np.float32], NDArray[np.float16]]] = field(default_factory=list)
    _index: NDArray[np.float32] = field(default_factory=lambda: np.zeros((4096, 128), np.float32))
    _owners: NDArray[np.int64] = field(default_factory=lambda: np.zeros(4096, np.int64))
    _used: int = 0

    def add(self, image: int, features: Features) -> None:
        """Put one image into its group, or into a new one.

        Args:
            image: Number of the image, which was not added before.
            features: What `find_features` found in it.
        """
        self._sets.add(image)
        closest = 0
        for position in self._candidates(features):
            other, points, descriptors = self._representatives[position]
            if self._sets.connected(image, other) and closest >= _CLOSE:
                continue
            registration = register(features, Features(points, descriptors.astype(np.float32)))
            if registration.same_field:
                self.links.append(Link(image, other, registration))
                self._sets.merge(image, other)
                closest = max(closest, registration.inliers)
        if closest < _CLOSE:
            self._represent(image, features)

    def join(self, image: int, other: int) -> None:
        """Put two images into one group for a reason that their features need not show."""
        self._sets.merge(image, other)

    def groups(self) -> list[list[int]]:
        """Return the groups, each sorted, ordered by their first image."""
        return sorted(sorted(int(image) for image in subset) for subset in self._sets.subsets())

    def _candidates(self, features: Features) -> list[int]:
        """Return the representatives, by place, that most of the strongest features resemble, the likeliest first."""
        if not self._used or not len(features):
            return []
        strongest = Features(features.points[:_STRONGEST], features.descriptors[:_STRONGEST])
        asked = np.concatenate((strongest.descriptors, mirrored(strongest).descriptors))
        likeness = asked @ self._index[: self._used].T
        best = likeness.argmax(axis=1)
        alike = likeness[np.arange(len(asked)), best] > _ALIKE
        votes = np.bincount(self._owners[best[alike]], minlength=len(self._representatives))
        order = np.argsort(-votes, kind="stable")[:_CANDIDATES]
        return [int(position) for position in order if votes[position] >= _FEWEST_VOTES]

    def _represent(self, image: int, features: Features) -> None:
        strongest = features.descriptors[:_STRONGEST]
        needed = self._used + len(strongest)
        if needed > len(self._index):
            self._index = np.concatenate((self._index, np.zeros((needed, 128), np.float32)))
            self._owners = np.concatenate((self._owners, np.zeros(needed, np.int64)))
        self._index[self._used : needed] = strongest
        self._owners[self._used : needed] = len(self._representatives)
        self._used = needed
        self._representatives.append((image, features.points, features.descriptors.astype(np.float16)))
