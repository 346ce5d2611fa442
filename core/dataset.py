"""Labelled images in class folders: listing them, splitting them by source, loading them once."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field
from sklearn.model_selection import StratifiedGroupKFold
from torchvision.datasets.folder import find_classes, make_dataset

from core.decoder import decode
from core.errors import DataError, ImageError
from core.preprocessing import Prepared, Preprocessing, crop_with_margin
from core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from core.decoder import Picture

__all__ = [
    "EXTENSIONS",
    "OUTLIER",
    "ClassFolders",
    "ImageSet",
    "Sample",
    "SourceSettings",
    "Unreadable",
    "folds_by_source",
    "join_images",
    "load_images",
    "read_class_folders",
    "read_groups",
    "read_linked_groups",
    "read_picture",
    "read_splits",
]

OUTLIER = -1
"""Label of an image that shows none of the classes."""

EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
"""File name endings that a class folder is searched for, in lower case."""

_SPLIT = re.compile(r"(train|test|val|valid|validation|dev|eval|holdout|fold)(?![a-z])", re.IGNORECASE)
_RESERVED = {"", "accuracy", "macro avg", "weighted avg", "flagged", "errors"}


class SourceSettings(Settings):
    """The options of `ClassFolders.with_sources`."""

    groups: str | None = Field(
        None,
        description="which images show the same field or slide (a source), kept together in every split, without"
        " which results look too good: a CSV with the columns path (within DATA) and source; or a folder level,"
        " folder:1; or what a regular expression, in quotes, finds in the file name, 'name:^S[0-9]+'",
    )
    linked_groups: Path | None = Field(
        None, description="CSV with the columns source and same_as: sources to be taken as one"
    )


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

    def half(self, side: Literal["even", "odd"]) -> ClassFolders:
        """Keep every other image of each class, in the order of their paths."""
        seen: Counter[int] = Counter()
        kept: list[Sample] = []
        for sample in sorted(self.samples, key=lambda sample: sample.path):
            if seen[sample.label] % 2 == (side == "odd"):
                kept.append(sample)
            seen[sample.label] += 1
        return replace(self, samples=tuple(kept))

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
            raise DataError("groups-mismatch", f"The groups name the source of no image under {self.root}.")
        return replace(self, samples=samples)

    def with_sources(self, rule: str, linked_groups: Path | None = None) -> ClassFolders:
        """Name each image's source by a rule.

        Args:
            rule: A CSV file with the columns ``path`` and ``source``; ``folder:N``, the N-th folder under
                the class folder; or ``name:PATTERN``, what the regular expression (its first group, where it
                has one) finds in the file name.
            linked_groups: A file for `read_linked_groups`.

        Raises:
            DataError: With code ``groups-unreadable``, ``groups-mismatch`` or ``bad-groups``.
        """
        linked = read_linked_groups(linked_groups) if linked_groups else None
        kind, _, value = rule.partition(":")
        if kind == "folder":
            if not value.isdecimal() or int(value) < 1:
                raise DataError("bad-groups", f"{rule!r} does not name a folder level; give folder:1 or deeper.")
            return self.with_groups(self._by(lambda parts: "/".join(parts[1:-1][: int(value)])), linked)
        if kind == "name":
            try:
                pattern = re.compile(value)
            except re.error as error:
                raise DataError("bad-groups", f"{value!r} is not a regular expression ({error}).") from None
            return self.with_groups(self._by(lambda parts: _found(pattern, parts[-1])), linked)
        return self.with_groups(read_groups(Path(rule)), linked)

    def _by(self, name: Callable[[tuple[str, ...]], str]) -> dict[str, str]:
        paths = (sample.path.relative_to(self.root) for sample in self.samples)
        return {path.as_posix(): name(path.parts) for path in paths}

    def _source(self, path: Path, groups: Mapping[str, str], linked: Mapping[str, str]) -> str | None:
        depth = len(path.relative_to(self.root).parts)
        parts = path.absolute().parts
        for length in range(depth, len(parts)):
            source = groups.get("/".join(parts[-length:]))
            if source is not None:
                return linked.get(source, source) or None
        return None


def _found(pattern: re.Pattern[str], name: str) -> str:
    match = pattern.search(name)
    return (match.group(1) if pattern.groups else match.group(0)) or "" if match else ""


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
    if len(set(names)) < len(names):
        raise DataError("double-class", f"A class is named twice: {', '.join(names)}.")
    if unknown := sorted(set(found) - set(names)):
        raise DataError("unknown-class", f"{root} has folders that are no known class: {', '.join(unknown)}.")
    if len(names) < 2:
        raise DataError("no-classes", f"{root} has {len(names)} class folder; at least 2 are needed.")
    try:
        index = {name: position for position, name in enumerate(names) if name in found}
        if not index:
            raise DataError("no-classes", f"{root} holds none of the folders {', '.join(names)}.")
        listed = make_dataset(str(root), index, extensions=EXTENSIONS)
    except FileNotFoundError as error:
        hint = " Give the folder that holds the classes themselves." if (root / "TRAIN").is_dir() else ""
        raise DataError("empty-class", f"{str(error).split(' Supported')[0]}{hint}") from None
    return ClassFolders(root, names, tuple(Sample(Path(path), label, None) for path, label in listed))


def read_splits(root: Path) -> dict[str, ClassFolders]:
    """List a data set that is divided into splits, ``root/<SPLIT>/<CLASS>/``, or is one, ``root/<CLASS>/``.

    Args:
        root: The folder. Where one of its sub-folders is called like a split (train, test, validation, ...,
            in any case, with anything after it), they all are splits.

    Returns:
        The splits by name, all with the same classes; a data set that is not divided is named "".

    Raises:
        DataError: As `read_class_folders` does.
    """
    if not root.is_dir():
        raise DataError("not-found", f"The data folder {root} does not exist.")
    folders = _folders(root)
    if not any(_SPLIT.match(folder.name) for folder in folders):
        return {"": read_class_folders(root)}
    names = sorted({entry.name for folder in folders for entry in _folders(folder)})
    return {folder.name: read_class_folders(folder, names) for folder in folders}


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _usable(name: str) -> bool:
    plain = all(letter.isalnum() or letter in " -_" for letter in name)
    return plain and len(name.encode("utf-8", "replace")) <= 64 and name.lower() not in _RESERVED


def read_groups(file: Path) -> dict[str, str]:
    """Read a CSV with the columns ``path`` and ``source``; an empty source means unknown.

    Raises:
        DataError: With code ``groups-unreadable``.
    """
    pairs = _read_pairs(file, "path", "source")
    return {path.replace("\\", "/"): source for path, source in pairs.items()} | pairs


def read_linked_groups(file: Path) -> dict[str, str]:
    """Read a CSV with the columns ``source`` and ``same_as``: sources that stay on one side of a split.

    A source whose ``same_as`` is empty is left out of every grouped split; chains are followed to their end.

    Raises:
        DataError: With code ``groups-unreadable``.
    """
    pairs = _read_pairs(file, "source", "same_as")
    return {source: _last(source, pairs) for source in pairs}


def _last(source: str, pairs: Mapping[str, str]) -> str:
    """Follow a source to the one that it stands for in the end."""
    seen = {source}
    while pairs.get(source):
        source = pairs[source]
        if source in seen:
            raise DataError("groups-unreadable", f"The linked groups lead from {source} back to itself.")
        seen.add(source)
    return pairs.get(source, source)


def _read_pairs(file: Path, key: str, value: str) -> dict[str, str]:
    """Read two columns of a CSV, of Excel's too; a missing value is empty."""
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            pairs = [(row[key], row[value] or "") for row in csv.DictReader(stream)]
    except (OSError, KeyError, csv.Error) as error:
        raise DataError(
            "groups-unreadable", f"{file} is not a CSV with the columns {key} and {value} ({error!r})."
        ) from error
    if any(name is None for name, _ in pairs):
        raise DataError("groups-unreadable", f"{file} has a row without {key}.")
    return dict(pairs)


def folds_by_source(data: ClassFolders, folds: int, seed: int) -> list[tuple[ClassFolders, ClassFolders]]:
    """Divide into folds so that no source is in two of them, stratified by class.

    Where sources are named, images without one are left out of every fold, since they could show a
    field of another. Where none are, every image counts as its own source.

    Args:
        data: The data set.
        folds: How many, 2 or more; fewer where the scarcest class has fewer sources.
        seed: Of the shuffle.

    Returns:
        Per fold, what to train on and what to validate on.

    Raises:
        DataError: With code ``too-few-sources``.
    """
    grouped = any(sample.source for sample in data.samples)
    samples = [sample for sample in data.samples if sample.source or not grouped]
    groups = [sample.source or str(position) for position, sample in enumerate(samples)]
    labels = np.array([sample.label for sample in samples])
    lost = {sample.label for sample in data.samples} - set(labels.tolist())
    if missing := [name for index, name in enumerate(data.class_names) if index in lost]:
        raise DataError("too-few-sources", f"No image of {', '.join(missing)} has a source; the split would lose it.")
    scarcest = min(len({g for g, y in zip(groups, labels, strict=True) if y == label}) for label in set(labels))
    if scarcest < 2:
        raise DataError("too-few-sources", "A class has a single source; it cannot be split into two sides.")
    splitter = StratifiedGroupKFold(min(folds, scarcest), shuffle=True, random_state=seed)
    sides = splitter.split(np.zeros(len(samples)), labels, groups)
    return [(_pick(data, samples, train), _pick(data, samples, validation)) for train, validation in sides]


def _pick(data: ClassFolders, samples: Sequence[Sample], rows: Iterable[int]) -> ClassFolders:
    return replace(data, samples=tuple(samples[row] for row in rows))


@dataclass(frozen=True)
class ImageSet:
    """Labelled images in memory.

    Attributes:
        pixels: (N, H, W, 3) uint8, with room around the input for augmentation where that was asked for.
        labels: Class indices (N,) int64, `OUTLIER` for images of no class; or one-hot (N, C).
        sources: Index of each image's source, (N,) int64; images without one have their own.
        samples: Where each image came from.
        unreadable: Files that were left out.
        domains: Number of the data set that each image belongs to (N,) int64; missing where there is one.
        prepared: The network's input before normalisation (N, h, w, 3) uint8; missing where `pixels` is that.
        found: Whether the white cell was found, (N,) bool; missing where nobody looked.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    sources: torch.Tensor
    samples: tuple[Sample, ...]
    unreadable: tuple[Unreadable, ...] = ()
    domains: torch.Tensor | None = None
    prepared: torch.Tensor | None = None
    found: torch.Tensor | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    @property
    def inputs(self) -> torch.Tensor:
        """Exactly what `Preprocessing.prepare` gives, (N, h, w, 3) uint8."""
        return self.pixels if self.prepared is None else self.prepared

    def select(self, rows: Sequence[int]) -> ImageSet:
        """Return a copy of some of the images."""
        chosen = torch.tensor(rows, dtype=torch.long)
        return ImageSet(
            self.pixels[chosen],
            self.labels[chosen],
            self.sources[chosen],
            tuple(self.samples[row] for row in rows),
            domains=None if self.domains is None else self.domains[chosen],
            prepared=None if self.prepared is None else self.prepared[chosen],
            found=None if self.found is None else self.found[chosen],
        )


def read_picture(path: Path) -> Picture | Unreadable:
    """Decode a file, or say why it cannot be."""
    try:
        return decode(path.read_bytes())
    except ImageError as error:
        return Unreadable(path, error.code, error.message)
    except OSError as error:
        return Unreadable(path, "unreadable", f"The file cannot be read ({error.strerror}).")


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

    def load(sample: Sample) -> tuple[Prepared, np.ndarray] | Unreadable:
        picture = read_picture(sample.path)
        if isinstance(picture, Unreadable):
            return picture
        plain = preprocessing.prepare(picture.rgb)
        return plain, crop_with_margin(picture.rgb, preprocessing, margin, plain.box) if margin > 1 else plain.pixels

    side = (round(preprocessing.height * margin), round(preprocessing.width * margin))
    inputs = np.empty((len(samples), preprocessing.height, preprocessing.width, 3), np.uint8)
    pixels = np.empty((len(samples), *side, 3), np.uint8) if margin > 1 else inputs
    found = torch.zeros(len(samples), dtype=torch.bool)
    kept: list[Sample] = []
    unreadable: list[Unreadable] = []
    with ThreadPoolExecutor(workers) as pool:
        for sample, result in zip(samples, pool.map(load, samples), strict=True):
            if isinstance(result, Unreadable):
                unreadable.append(result)
            else:
                prepared, pixels[len(kept)] = result
                inputs[len(kept)], found[len(kept)] = prepared.pixels, prepared.found
                kept.append(sample)
            if on_image:
                on_image()
    if not kept:
        raise DataError("nothing-readable", f"None of the {len(samples)} images can be read.")
    labels = torch.tensor([sample.label for sample in kept])
    return ImageSet(
        torch.from_numpy(pixels[: len(kept)]),
        labels,
        _source_indices(kept),
        tuple(kept),
        tuple(unreadable),
        prepared=torch.from_numpy(inputs[: len(kept)]) if margin > 1 else None,
        found=found[: len(kept)],
    )


def join_images(sets: Sequence[ImageSet]) -> ImageSet:
    """Put several data sets together; each becomes a domain, and their sources stay apart.

    Args:
        sets: With images of one size and labels as class indices.
    """
    offsets = np.cumsum([0, *(int(part.sources.max()) + 1 for part in sets)])
    return ImageSet(
        torch.cat([part.pixels for part in sets]),
        torch.cat([part.labels for part in sets]),
        torch.cat([part.sources + int(offset) for part, offset in zip(sets, offsets, strict=False)]),
        tuple(sample for part in sets for sample in part.samples),
        tuple(unreadable for part in sets for unreadable in part.unreadable),
        torch.cat([torch.full((len(part),), number) for number, part in enumerate(sets)]),
        torch.cat([part.inputs for part in sets]) if any(part.prepared is not None for part in sets) else None,
        torch.cat([torch.ones(len(part), dtype=torch.bool) if part.found is None else part.found for part in sets]),
    )


def _source_indices(samples: Iterable[Sample]) -> torch.Tensor:
    known: dict[str, int] = {}
    names = (sample.source or f"\0{position}" for position, sample in enumerate(samples))
    return torch.tensor([known.setdefault(name, len(known)) for name in names])
