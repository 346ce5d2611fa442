"""Looking at every image of a data set: views of one field, duplicates, conflicting labels, unreadable files."""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from sklearn.metrics.cluster import pair_confusion_matrix
from sklearn.neighbors import NearestNeighbors

from core.errors import DataError
from core.fields.features import Features, find_features
from core.fields.grouping import ViewGroups
from core.images.decoder import decode
from core.images.reading import Unreadable, read_safely
from pipelines.auditing.record import Agreement, ClassCounts
from runtime.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from core.data.class_folders import ClassFolders, Sample

__all__ = ["AuditedImage", "Findings", "Pair"]

_THUMBNAIL = 16
_NEAR = 3.0
"""Root-mean-square difference, in 8-bit levels over a 16x16 thumbnail, below which two images are near duplicates."""
_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class AuditedImage:
    """One readable image: where it is, and what is kept of it."""

    path: Path
    name: str
    split: str
    label: str
    source: str | None
    digest: bytes
    thumbnail: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images that a person should look at, by their numbers, and why."""

    one: int
    other: int
    reason: str


class Findings:
    """What a look at every image of a data set found.

    Args:
        splits: Splits of the data set, or laboratories, by name; one that is not divided is named "".
        threads: Number of threads that decode and look for features.
        root: Folder of the data set, which names of images are relative to; none: each name begins with that of its
            laboratory.

    Attributes:
        images: Readable images.
        groups: Groups of images that show one field, by their numbers.
        unreadable: Names of files that could not be decoded, and why.
        exact: Pairs of images with the same pixels.
        near: Pairs of images that look the same.

    Raises:
        DataError: With code ``nothing-readable``.
    """

    def __init__(self, splits: dict[str, ClassFolders], threads: int, root: Path | None = None) -> None:
        self._root = root
        self.class_names = next(iter(splits.values())).class_names
        self.splits = list(splits)
        self.images: list[AuditedImage] = []
        self.unreadable: list[tuple[str, Unreadable]] = []
        self._views = ViewGroups()
        work = [(split, data, sample) for split, data in splits.items() for sample in _per_file(data.samples)]
        with Progress(len(work), "images") as progress, ThreadPoolExecutor(threads) as pool:
            for block in _blocks(work, 64):
                for result in pool.map(lambda item: self._read(*item), block):
                    self._add(*result)
                    progress.advance()
        if not self.images:
            raise DataError("nothing-readable", f"None of the {len(work)} images can be read.")
        self.exact = self._exact_duplicates()
        self.near = self._near_duplicates()
        for pair in (*self.exact, *self.near):
            self._views.join(pair.one, pair.other)
        self.groups = self._views.groups()
        self.group_of = {image: number for number, group in enumerate(self.groups) for image in group}

    @property
    def parts_are(self) -> str:
        """What the splits are called: splits, or laboratories."""
        return "splits" if self._root else "laboratories"

    def _read(
        self, split: str, data: ClassFolders, sample: Sample
    ) -> tuple[str, Unreadable | tuple[AuditedImage, Features]]:
        inside = sample.path.relative_to(self._root or data.root).as_posix()
        name = inside if self._root else f"{split}/{inside}"
        return name, read_safely(sample.path, lambda image: self._look(name, split, data, sample, decode(image).rgb))

    def _look(
        self, name: str, split: str, data: ClassFolders, sample: Sample, rgb: NDArray[np.uint8]
    ) -> tuple[AuditedImage, Features]:
        digest = hashlib.sha256(repr(rgb.shape).encode() + rgb.tobytes()).digest()
        thumbnail = cv2.resize(rgb, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
        label = data.class_names[sample.label]
        small = np.asarray(thumbnail, np.uint8)
        entry = AuditedImage(sample.path, name, split, label, sample.source, digest, small)
        return entry, find_features(rgb)

    def _add(self, name: str, result: Unreadable | tuple[AuditedImage, Features]) -> None:
        if isinstance(result, Unreadable):
            self.unreadable.append((name, result))
            return
        entry, features = result
        self._views.add(len(self.images), features)
        self.images.append(entry)

    def _exact_duplicates(self) -> list[Pair]:
        """Return pairs of images with the same pixels, each with the first of its kind."""
        first: dict[bytes, int] = {}
        pairs = [(first.setdefault(entry.digest, number), number) for number, entry in enumerate(self.images)]
        return [Pair(one, other, "same pixels") for one, other in pairs if one != other]

    def _near_duplicates(self) -> list[Pair]:
        """Return, for each image that looks the same at 16x16 pixels as an earlier one, the pair of the two."""
        copies = {pair.other for pair in self.exact}
        rows = np.array([number for number in range(len(self.images)) if number not in copies])
        pixels = np.stack([self.images[row].thumbnail for row in rows]).reshape(len(rows), -1).astype(np.float32)
        neighbours = NearestNeighbors(radius=_NEAR * pixels.shape[1] ** 0.5, algorithm="brute").fit(pixels)
        pairs: list[Pair] = []
        for start in range(0, len(rows), _AT_ONCE):
            found = neighbours.radius_neighbors(pixels[start : start + _AT_ONCE], return_distance=False)
            first = [int(others.min()) for others in found]
            pairs += [
                Pair(int(rows[earliest]), int(rows[start + place]), "look the same")
                for place, earliest in enumerate(first)
                if earliest < start + place
            ]
        return pairs

    def shared(self) -> list[Pair]:
        """Return, for every group that reaches over several splits, a pair of images across them."""
        pairs = self._across(lambda entry: entry.split)
        between = [frozenset((self.images[pair.one].split, self.images[pair.other].split)) for pair in pairs]
        often = Counter(between)  # the pair of splits that shares least comes first: it is the surprise
        order = sorted(range(len(pairs)), key=lambda place: (often[between[place]], place))
        return [pairs[place] for place in order]

    def conflicts(self) -> list[Pair]:
        """Return, for every group whose images carry different labels, a pair of images that do."""
        return self._across(lambda entry: entry.label)

    def _across(self, key: Callable[[AuditedImage], str]) -> list[Pair]:
        """Return pairs of one group with different values of `key`: those that agree directly, and one for the rest."""
        found: dict[tuple[int, frozenset[str]], Pair] = {}
        best: dict[tuple[int, frozenset[str]], int] = {}
        for link in self._views.links:
            values = frozenset((key(self.images[link.image]), key(self.images[link.other])))
            where = (self.group_of[link.image], values)
            if len(values) == 2 and link.registration.inliers > best.get(where, 0):
                best[where] = link.registration.inliers
                mirrored = ", mirrored" if link.registration.mirrored else ""
                reason = f"{link.registration.inliers} features agree{mirrored}"
                found[where] = Pair(link.other, link.image, reason)
        for number, group in enumerate(self.groups):
            first: dict[str, int] = {}
            for image in group:
                first.setdefault(key(self.images[image]), image)
            names = sorted(first)
            for other in names[1:]:
                where = (number, frozenset((names[0], other)))
                found.setdefault(where, Pair(first[names[0]], first[other], "by way of other images of the group"))
        return [found[where] for where in sorted(found, key=lambda item: (item[0], sorted(item[1])))]

    def counts(self) -> list[ClassCounts]:
        """Return the numbers of images and sources per split and class."""
        images = Counter((entry.split, entry.label) for entry in self.images)
        sources = {(entry.split, entry.label, self.group_of[number]) for number, entry in enumerate(self.images)}
        per_class = Counter((split, label) for split, label, _ in sources)
        return [
            ClassCounts(split=split, label=label, images=images[split, label], sources=per_class[split, label])
            for split in self.splits
            for label in self.class_names
        ]

    def source(self, image: int) -> str:
        """Return the name of the source that an image was put into."""
        return f"field-{self.group_of[image] + 1:05d}"

    def agreement(self) -> Agreement | None:
        """Compare the groups with named ones, over all pairs of images that have a named source."""
        named = [number for number, entry in enumerate(self.images) if entry.source]
        if not named:
            return None
        found = [self.group_of[number] for number in named]
        truth = [self.images[number].source for number in named]
        (apart, merged), (split, together) = (pair_confusion_matrix(truth, found) // 2).tolist()
        return Agreement(
            images=len(found),
            pairs=apart + merged + split + together,
            right=(apart + together) / max(1, apart + merged + split + together),
            same_found=together / max(1, together + split),
            found_same=together / max(1, together + merged),
        )


def _per_file(samples: Sequence[Sample]) -> list[Sample]:
    """Keep one sample per file: the first cell of a field in which several are marked."""
    return list({sample.path: sample for sample in reversed(samples)}.values())[::-1]


def _blocks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while block := list(islice(iterator, size)):
        yield block
