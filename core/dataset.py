"""Labelled images in class folders: listing them, splitting them by source, loading them once."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold
from torchvision.datasets.folder import find_classes, make_dataset

from core.decoder import decode
from core.errors import DataError, ImageError
from core.preprocessing import Preprocessing, crop_with_margin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "EXTENSIONS",
    "ClassFolders",
    "ImageSet",
    "Sample",
    "Unreadable",
    "load_images",
    "read_class_folders",
    "read_groups",
    "read_linked_groups",
    "split_by_source",
]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
"""File name endings that a class folder is searched for, in lower case."""

_RESERVED = {"", "accuracy", "macro avg", "weighted avg", "flagged", "errors"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image file; `source` names the microscope field it comes from, None if unknown."""

    path: Path
    label: int
    source: str | None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An image file of a data set that could not be decoded, and why."""

    path: Path
    code: str
    message: str


@dataclass(frozen=True)
class ClassFolders:
    """A data set on disk: ``root/<CLASS>/**/<image>``, classes in alphabetical order."""

    root: Path
    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, sizes, labels and sources: the data set's identity in a bundle."""
        digest = hashlib.sha256()
        for sample in self.samples:
            name = sample.path.relative_to(self.root).as_posix()
            line = f"{name}\0{sample.path.stat().st_size}\0{sample.label}\0{sample.source}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def counts(self) -> dict[str, int]:
        """Images per class."""
        found = Counter(sample.label for sample in self.samples)
        return {name: found[index] for index, name in enumerate(self.class_names)}

    def source_counts(self) -> dict[str, int]:
        """Different sources per class."""
        pairs = {(sample.label, sample.source) for sample in self.samples if sample.source is not None}
        found = Counter(label for label, _ in pairs)
        return {name: found[index] for index, name in enumerate(self.class_names)}

    def with_groups(self, groups: Mapping[str, str], linked: Mapping[str, str] | None = None) -> ClassFolders:
        """Name each image's source.

        Args:
            groups: Path to source. A path is looked up relative to `root`, then with one more folder
                of `root` in front at a time.
            linked: Source to the source it stands for, for sources that show the same cell.
        """
        linked = linked or {}
        samples = tuple(replace(sample, source=self._source(sample.path, groups, linked)) for sample in self.samples)
        if not any(sample.source for sample in samples):
            raise DataError("groups-mismatch", f"No path in the groups file names an image under {self.root}.")
        return replace(self, samples=samples)

    def _source(self, path: Path, groups: Mapping[str, str], linked: Mapping[str, str]) -> str | None:
        depth = len(path.relative_to(self.root).parts)
        parts = path.absolute().parts
        for length in range(depth, len(parts)):
            source = groups.get("/".join(parts[-length:]))
            if source is not None:
                return linked.get(source, source) or None
        return None


def read_class_folders(root: Path, class_names: Sequence[str] | None = None) -> ClassFolders:
    """List the images under ``root/<CLASS>/``.

    Args:
        root: Folder with one sub-folder per class.
        class_names: Classes in the order of their indices; by default the sub-folders, sorted.

    Raises:
        DataError: With code ``not-found``, ``no-classes``, ``unknown-class`` or ``empty-class``.
    """
    if not root.is_dir():
        raise DataError("not-found", f"The data folder {root} does not exist.")
    try:
        found, _ = find_classes(str(root))
    except FileNotFoundError:
        raise DataError("no-classes", f"{root} has no sub-folders; it needs one per class.") from None
    found = [name for name in found if not name.startswith(".")]
    names = tuple(class_names or found)
    if odd := [name for name in names if not _usable(name)]:
        raise DataError(
            "bad-class-name",
            f"{odd[0]!a} cannot be the name of a class: it needs 1 to 64 letters, digits, spaces, '-' or '_',"
            " and must not be one that tables use (accuracy, macro avg, weighted avg, flagged, errors).",
        )
    if unknown := sorted(set(found) - set(names)):
        raise DataError("unknown-class", f"{root} has folders that are no known class: {', '.join(unknown)}.")
    if len(names) < 2:
        raise DataError("no-classes", f"{root} has {len(names)} class folder; at least 2 are needed.")
    try:
        index = {name: position for position, name in enumerate(names) if name in found}
        listed = make_dataset(str(root), index, extensions=EXTENSIONS)
    except FileNotFoundError as error:
        hint = " Give the folder that holds the classes themselves." if (root / "TRAIN").is_dir() else ""
        raise DataError("empty-class", f"{str(error).split(' Supported')[0]}{hint}") from None
    return ClassFolders(root, names, tuple(Sample(Path(path), label, None) for path, label in listed))


def _usable(name: str) -> bool:
    plain = all(letter.isalnum() or letter in " -_" for letter in name)
    return plain and len(name.encode("utf-8", "replace")) <= 64 and name.lower() not in _RESERVED


def read_groups(file: Path) -> dict[str, str]:
    """Read a CSV with the columns ``path`` and ``source``; an empty source means unknown.

    Raises:
        DataError: With code ``groups-unreadable``.
    """
    return {path.replace("\\", "/"): source for path, source in _read_pairs(file, "path", "source").items()}


def read_linked_groups(file: Path) -> dict[str, str]:
    """Read a CSV with the columns ``source`` and ``same_as``: sources that stay on one side of a split.

    A source whose ``same_as`` is empty is left out of every grouped split.

    Raises:
        DataError: With code ``groups-unreadable``.
    """
    return _read_pairs(file, "source", "same_as")


def _read_pairs(file: Path, key: str, value: str) -> dict[str, str]:
    """Read two columns of a CSV, of Excel's too; a missing value is empty."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            pairs = [(row[key], row[value] or "") for row in csv.DictReader(stream)]
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            "groups-unreadable", f"{file} is not a CSV with the columns {key} and {value} ({error!r})."
        ) from error
    if any(name is None for name, _ in pairs):
        raise DataError("groups-unreadable", f"{file} has a row without {key}.")
    return dict(pairs)


def split_by_source(data: ClassFolders, share: float, seed: int) -> tuple[ClassFolders, ClassFolders]:
    """Split into training and validation so that no source is on both sides, stratified by class.

    Where sources are named, images without one are left out of both sides, since they could show a
    field of the other side. Where none are, every image counts as its own source.

    Args:
        data: The data set.
        share: About this share of the images goes to validation, in (0, 0.5].
        seed: Of the shuffle.

    Raises:
        DataError: With code ``too-few-sources``.
    """
    grouped = any(sample.source for sample in data.samples)
    samples = [sample for sample in data.samples if sample.source or not grouped]
    groups = [sample.source or str(position) for position, sample in enumerate(samples)]
    folds = round(1 / share)
    labels = np.array([sample.label for sample in samples])
    if missing := [name for index, name in enumerate(data.class_names) if index not in set(labels.tolist())]:
        raise DataError("too-few-sources", f"No image of {', '.join(missing)} has a source; the split would lose it.")
    scarcest = min(len({g for g, y in zip(groups, labels, strict=True) if y == label}) for label in set(labels))
    if scarcest < 2:
        raise DataError("too-few-sources", "A class has a single source; it cannot be split into two sides.")
    splitter = StratifiedGroupKFold(min(folds, scarcest), shuffle=True, random_state=seed)
    train, validation = next(iter(splitter.split(np.zeros(len(samples)), labels, groups)))
    return tuple(replace(data, samples=tuple(samples[i] for i in side)) for side in (train, validation))  # type: ignore[return-value]


@dataclass(frozen=True)
class ImageSet:
    """Labelled images in memory.

    Attributes:
        pixels: (N, H, W, 3) uint8.
        labels: Class indices (N,) int64, or one-hot (N, C).
        sources: Index of each image's source, (N,) int64; images without one have their own.
        samples: Where each image came from.
        unreadable: Files that were left out.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    sources: torch.Tensor
    samples: tuple[Sample, ...]
    unreadable: tuple[Unreadable, ...] = ()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)


def load_images(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    *,
    margin: float = 1.0,
    workers: int = 2,
    on_image: Callable[[], object] | None = None,
) -> ImageSet:
    """Decode and prepare images once, into one array.

    Args:
        samples: What to load.
        preprocessing: The record the network will be used with.
        margin: Room around the input for augmentation, relative to the input's side.
        workers: Threads.
        on_image: Called after each image, for a progress bar.

    Raises:
        DataError: With code ``nothing-readable``.
    """

    def load(sample: Sample) -> np.ndarray | Unreadable:
        try:
            rgb = decode(sample.path.read_bytes()).rgb
        except ImageError as error:
            return Unreadable(sample.path, error.code, error.message)
        except OSError as error:
            return Unreadable(sample.path, "unreadable", f"The file cannot be read ({error.strerror}).")
        if margin > 1:
            return crop_with_margin(rgb, preprocessing, margin)[0]
        return preprocessing.prepare(rgb).pixels

    side = (round(preprocessing.height * margin), round(preprocessing.width * margin))
    pixels = np.empty((len(samples), *side, 3), np.uint8)
    kept: list[Sample] = []
    unreadable: list[Unreadable] = []
    with ThreadPoolExecutor(workers) as pool:
        for sample, result in zip(samples, pool.map(load, samples), strict=True):
            if isinstance(result, Unreadable):
                unreadable.append(result)
            else:
                pixels[len(kept)] = result
                kept.append(sample)
            if on_image:
                on_image()
    if not kept:
        raise DataError("nothing-readable", f"None of the {len(samples)} images can be read.")
    labels = torch.tensor([sample.label for sample in kept])
    return ImageSet(
        torch.from_numpy(pixels[: len(kept)]), labels, _source_indices(kept), tuple(kept), tuple(unreadable)
    )


def _source_indices(samples: Iterable[Sample]) -> torch.Tensor:
    known: dict[str, int] = {}
    names = (sample.source or f"\0{position}" for position, sample in enumerate(samples))
    return torch.tensor([known.setdefault(name, len(known)) for name in names])
