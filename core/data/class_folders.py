"""Labelled images in class folders: listing them, naming their sources."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torchvision.datasets.folder import find_classes, make_dataset

from core.data.groups import read_groups, read_linked_groups
from core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from core.images.cells import Box

__all__ = [
    "EXTENSIONS",
    "ClassFolders",
    "Sample",
    "check_class_names",
    "class_folder_names",
    "read_class_folders",
    "read_splits",
]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
"""File name endings that a class folder is searched for, in lower case."""

_SPLIT = re.compile(r"(train|test|val|valid|validation|dev|eval|holdout|fold)(?![a-z])", re.IGNORECASE)
_RESERVED = {"accuracy", "macro avg", "weighted avg", "flagged", "errors"}
_ALLOWED = " -_.,+&()"
_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled cell.

    Attributes:
        path: Image file.
        label: Index of its class.
        source: Name of the microscope field, or slide, that it comes from; None if unknown.
        box: Where it is in the image, in pixels; None where the image is of this cell.
    """

    path: Path
    label: int
    source: str | None
    box: Box | None = None


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
            line += f"{sample.box}\n" if sample.box else ""
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

    def with_prefix(self, prefix: str) -> ClassFolders:
        """Put a name in front of every source, so that sources of two data sets cannot be taken for one.

        Where no source is named, each image is one.
        """
        named = any(sample.source for sample in self.samples)

        def source(place: int, sample: Sample) -> str | None:
            own = sample.source if named else f"{sample.path.relative_to(self.root).as_posix()} {place}"
            return None if own is None else f"{prefix}/{own}"

        samples = (replace(sample, source=source(place, sample)) for place, sample in enumerate(self.samples))
        return replace(self, samples=tuple(samples))

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


def class_folder_names(root: Path) -> list[str]:
    """Return the names of the class folders of a data set, sorted.

    Raises:
        DataError: With code ``not-found`` or ``no-classes``.
    """
    if not root.is_dir():
        raise DataError("not-found", f"The data folder {root} does not exist.")
    try:
        found, _ = find_classes(str(root))
    except FileNotFoundError:
        raise DataError("no-classes", f"{root} has no sub-folders; it needs one per class.") from None
    return [name for name in found if not name.startswith(".")]


def check_class_names(names: Sequence[str]) -> None:
    """Refuse names of classes that tables or pages could not hold, and doubles.

    Raises:
        DataError: With code ``bad-class-name`` or ``double-class``.
    """
    for name in names:
        if problem := _problem(name):
            raise DataError("bad-class-name", f"{name!r} cannot be the name of a class: {problem}.")
    if len(set(names)) < len(names):
        raise DataError("double-class", f"A class is named twice: {', '.join(names)}.")


def read_class_folders(
    root: Path, class_names: Sequence[str] | None = None, ignored: Sequence[str] = ()
) -> ClassFolders:
    """List the images under ``root/<CLASS>/``.

    Args:
        root: Folder with one sub-folder per class.
        class_names: Classes in the order of their indices; by default the sub-folders, sorted.
        ignored: Sub-folders that are left out.

    Raises:
        DataError: With code ``not-found``, ``no-classes``, ``unknown-class`` or ``empty-class``, or with a code of
            `check_class_names`.
    """
    found = [name for name in class_folder_names(root) if name not in ignored]
    names = tuple(class_names or found)
    check_class_names(names)
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
        DataError: With the codes of `read_class_folders`.
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


def _problem(name: str) -> str:
    """Say what is wrong with the name of a class; empty where nothing is."""
    if name.lower() in _RESERVED:
        return "tables use this word for something else; rename the folder"
    if len(name.encode("utf-8", "replace")) > _LONGEST_NAME:
        return f"it has more than {_LONGEST_NAME} bytes; shorten the folder's name"
    if odd := sorted({letter for letter in name if not _allowed(letter)}):
        named = ", ".join(unicodedata.name(letter, f"U+{ord(letter):04X}").lower() for letter in odd)
        return f"it has {named}; use letters, digits, spaces and {' '.join(_ALLOWED.strip())}"
    if name != name.strip() or not any(map(str.isalnum, name)):
        return "it needs a letter or a digit, and no space at its ends"
    return ""


def _allowed(letter: str) -> bool:
    """Whether a class's name may hold a character; marks are what macOS writes umlauts with."""
    return letter.isalnum() or letter in _ALLOWED or unicodedata.category(letter).startswith("M")
