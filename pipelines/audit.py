"""Find what makes an evaluation too good to be true: ``python pipelines/audit.py DATA --out AUDIT``.

Views of one microscope field, duplicates, conflicting labels, unreadable files, and what the splits of a
data set share; as tables and as a page with the pairs side by side.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2
import numpy as np
import torch
from pydantic import Field
from pydantic_settings import CliPositionalArg
from sklearn.metrics.cluster import pair_confusion_matrix
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from core.data.class_folders import ClassFolders, Sample, read_splits
from core.data.groups import read_groups, read_linked_groups
from core.errors import DataError
from core.fields.features import Features, find_features
from core.fields.grouping import ViewGroups
from core.files import write_table
from core.images.decoder import decode
from core.images.overlay import encode_jpeg, shrink_to
from core.images.reading import Unreadable, read_safely
from core.settings import Settings
from runtime.command import refuse_existing, run_command
from runtime.pages import render
from runtime.progress import Progress, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Audit", "AuditSettings", "Pair", "audit", "main"]

_THUMBNAIL = 16
_NEAR = 3.0
"""Root-mean-square difference, in 8-bit levels over a 16x16 thumbnail, below which two images are near duplicates."""
_PICTURE = 320
_AT_ONCE = 1024


class AuditSettings(Settings):
    """Look for leaks in a data set (DATA/CLASS/**/IMAGE, or DATA/SPLIT/CLASS/**/IMAGE).

    Finds images that show the same microscope field (rotated, sheared, shifted or mirrored), exact and near
    duplicates, conflicting labels, unreadable files, and what the splits share. Writes groups.csv, which
    train.py and evaluate.py take as --groups, further tables, and index.html.
    """

    data: CliPositionalArg[Path] = Field(description="folder of class folders, or of splits of class folders")
    out: Path = Field(description="folder of the report")
    compare: Path | None = Field(
        None, description="CSV with the columns path and source: compare what is found with it"
    )
    linked_groups: Path | None = Field(
        None, description="CSV with the columns source and same_as, for --compare: sources that show the same cell"
    )
    pictures: int = Field(60, ge=0, le=1000, description="most pairs of each kind that the page shows")
    threads: int | None = Field(None, ge=1, description="threads; otherwise all cores")


@dataclass(frozen=True, slots=True)
class _Entry:
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


class Audit:
    """What was found.

    Attributes:
        entries: The readable images.
        groups: Groups of entries that show one field, by their numbers.
        unreadable: Files that could not be decoded.
        exact: Pairs of images with the same pixels.
        near: Pairs of images that look the same.
    """

    def __init__(self, splits: dict[str, ClassFolders], root: Path, threads: int) -> None:
        self.root = root
        self.class_names = next(iter(splits.values())).class_names
        self.splits = list(splits)
        self.entries: list[_Entry] = []
        self.unreadable: list[Unreadable] = []
        self._views = ViewGroups()
        work = [(split, data, sample) for split, data in splits.items() for sample in data.samples]
        with Progress(len(work), "images") as progress, ThreadPoolExecutor(threads) as pool:
            for block in _blocks(work, 64):
                for result in pool.map(lambda item: self._read(*item), block):
                    self._add(result)
                    progress.advance()
        if not self.entries:
            raise DataError("nothing-readable", f"None of the {len(work)} images under {root} can be read.")
        self.exact = self._exact_duplicates()
        self.near = self._near_duplicates()
        for pair in (*self.exact, *self.near):
            self._views.join(pair.one, pair.other)
        self.groups = self._views.groups()
        self.group_of = {image: number for number, group in enumerate(self.groups) for image in group}

    def _read(self, split: str, data: ClassFolders, sample: Sample) -> Unreadable | tuple[_Entry, Features]:
        return read_safely(sample.path, lambda image: self._look(split, data, sample, decode(image).rgb))

    def _look(self, split: str, data: ClassFolders, sample: Sample, rgb: NDArray[np.uint8]) -> tuple[_Entry, Features]:
        digest = hashlib.sha256(repr(rgb.shape).encode() + rgb.tobytes()).digest()
        thumbnail = cv2.resize(rgb, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
        name = sample.path.relative_to(self.root).as_posix()
        label = data.class_names[sample.label]
        small = np.asarray(thumbnail, np.uint8)
        entry = _Entry(sample.path, name, split, label, sample.source, digest, small)
        return entry, find_features(rgb)

    def _add(self, result: Unreadable | tuple[_Entry, Features]) -> None:
        if isinstance(result, Unreadable):
            self.unreadable.append(result)
            return
        entry, features = result
        self._views.add(len(self.entries), features)
        self.entries.append(entry)

    def _exact_duplicates(self) -> list[Pair]:
        """Return pairs of images with the same pixels, each with the first of its kind."""
        first: dict[bytes, int] = {}
        pairs = [(first.setdefault(entry.digest, number), number) for number, entry in enumerate(self.entries)]
        return [Pair(one, other, "same pixels") for one, other in pairs if one != other]

    def _near_duplicates(self) -> list[Pair]:
        """Return, for each image that looks the same at 16x16 pixels as an earlier one, the pair of the two."""
        copies = {pair.other for pair in self.exact}
        rows = np.array([number for number in range(len(self.entries)) if number not in copies])
        pixels = np.stack([self.entries[row].thumbnail for row in rows]).reshape(len(rows), -1).astype(np.float32)
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
        between = [frozenset((self.entries[pair.one].split, self.entries[pair.other].split)) for pair in pairs]
        often = Counter(between)  # the pair of splits that shares least comes first: it is the surprise
        order = sorted(range(len(pairs)), key=lambda place: (often[between[place]], place))
        return [pairs[place] for place in order]

    def conflicts(self) -> list[Pair]:
        """Return, for every group whose images carry different labels, a pair of images that do."""
        return self._across(lambda entry: entry.label)

    def _across(self, key: Callable[[_Entry], str]) -> list[Pair]:
        """Return pairs of one group with different values of `key`: those that agree directly, and one for the rest."""
        found: dict[tuple[int, frozenset[str]], Pair] = {}
        best: dict[tuple[int, frozenset[str]], int] = {}
        for link in self._views.links:
            values = frozenset((key(self.entries[link.image]), key(self.entries[link.other])))
            where = (self.group_of[link.image], values)
            if len(values) == 2 and link.registration.inliers > best.get(where, 0):
                best[where] = link.registration.inliers
                mirrored = ", mirrored" if link.registration.mirrored else ""
                reason = f"{link.registration.inliers} features agree{mirrored}"
                found[where] = Pair(link.other, link.image, reason)
        for number, group in enumerate(self.groups):
            first: dict[str, int] = {}
            for image in group:
                first.setdefault(key(self.entries[image]), image)
            names = sorted(first)
            for other in names[1:]:
                where = (number, frozenset((names[0], other)))
                found.setdefault(where, Pair(first[names[0]], first[other], "by way of other images of the group"))
        return [found[where] for where in sorted(found, key=lambda item: (item[0], sorted(item[1])))]

    def counts(self) -> list[dict[str, Any]]:
        """Return images and sources per split and class."""
        images = Counter((entry.split, entry.label) for entry in self.entries)
        sources = {(entry.split, entry.label, self.group_of[number]) for number, entry in enumerate(self.entries)}
        per_class = Counter((split, label) for split, label, _ in sources)
        return [
            {"split": split, "class": label, "images": images[split, label], "sources": per_class[split, label]}
            for split in self.splits
            for label in self.class_names
        ]

    def source(self, image: int) -> str:
        """Return the name of the source that an image was put into."""
        return f"field-{self.group_of[image] + 1:05d}"

    def agreement(self) -> dict[str, Any] | None:
        """Compare the groups with named ones, over all pairs of images that have a named source."""
        named = [number for number, entry in enumerate(self.entries) if entry.source]
        if not named:
            return None
        found = [self.group_of[number] for number in named]
        truth = [self.entries[number].source for number in named]
        (apart, merged), (split, together) = (pair_confusion_matrix(truth, found) // 2).tolist()
        return {
            "images": len(found),
            "pairs": apart + merged + split + together,
            "right": (apart + together) / max(1, apart + merged + split + together),
            "same_found": together / max(1, together + split),
            "found_same": together / max(1, together + merged),
        }


def audit(settings: AuditSettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: Where data or options cannot be used.
    """
    refuse_existing(settings.out)
    threads = settings.threads or torch.get_num_threads()
    splits = read_splits(settings.data)
    if settings.compare:
        linked = read_linked_groups(settings.linked_groups) if settings.linked_groups else {}
        linked = {source: same or source for source, same in linked.items()}
        splits = {name: data.with_groups(read_groups(settings.compare), linked) for name, data in splits.items()}
    say(f"splits: {', '.join(splits)}" if len(splits) > 1 else "one set of class folders, not divided into splits")
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the images are the parallel part
    try:
        with threadpool_limits(1):
            result = Audit(splits, settings.data, threads)
    finally:
        cv2.setNumThreads(before)
    settings.out.mkdir(parents=True, exist_ok=True)
    record = _write(result, settings)
    print(json.dumps(record["found"], indent=2))
    say(f"report: {settings.out / 'index.html'}")
    return 0


def _write(result: Audit, settings: AuditSettings) -> dict[str, Any]:
    out, entries = settings.out, result.entries
    kinds = {
        "shared": result.shared() if len(result.splits) > 1 else [],
        "conflicts": result.conflicts(),
        "exact": result.exact,
        "near": result.near,
    }
    counts = result.counts()
    write_table(
        out / "groups.csv",
        ("path", "source", "split", "class"),
        ((entry.name, result.source(number), entry.split, entry.label) for number, entry in enumerate(entries)),
    )
    write_table(
        out / "pairs.csv",
        ("kind", "one", "other", "one_class", "other_class", "reason"),
        (
            (kind, entries[p.one].name, entries[p.other].name, entries[p.one].label, entries[p.other].label, p.reason)
            for kind, pairs in kinds.items()
            for p in pairs
        ),
    )
    write_table(out / "counts.csv", ("split", "class", "images", "sources"), (row.values() for row in counts))
    write_table(
        out / "unreadable.csv",
        ("path", "code", "message"),
        ((u.path.relative_to(result.root).as_posix(), u.code, u.message) for u in result.unreadable),
    )
    record = {
        "data": str(settings.data),
        "found": {
            "images": len(entries),
            "sources": len(result.groups),
            "sources_in_several_splits": len({result.group_of[p.one] for p in kinds["shared"]}),
            "sources_with_conflicting_labels": len({result.group_of[p.one] for p in kinds["conflicts"]}),
            "exact_duplicates": len(kinds["exact"]),
            "near_duplicates": len(kinds["near"]),
            "unreadable": len(result.unreadable),
            "agreement": result.agreement(),
        },
        "counts": counts,
    }
    (out / "audit.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    shown = {kind: _pictures(result, pairs[: settings.pictures], out, kind) for kind, pairs in kinds.items()}
    page = render(
        "pipelines",
        "audit.html",
        record=record,
        kinds=kinds,
        shown=shown,
        unreadable=[(u.path.relative_to(result.root).as_posix(), u.code, u.message) for u in result.unreadable],
        splits=result.splits,
        class_names=result.class_names,
    )
    (out / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    return record


def _pictures(result: Audit, pairs: Sequence[Pair], out: Path, kind: str) -> list[dict[str, Any]]:
    """Write each pair side by side; return what the page says of it."""
    shown: list[dict[str, Any]] = []
    (out / "pairs").mkdir(exist_ok=True)
    for number, pair in enumerate(pairs):
        sides = [_fit(decode(result.entries[image].path.read_bytes()).rgb) for image in (pair.one, pair.other)]
        name = f"pairs/{kind}-{number:04d}.jpg"
        (out / name).write_bytes(encode_jpeg(np.hstack(sides)))
        shown.append(
            {
                "picture": name,
                "one": result.entries[pair.one],
                "other": result.entries[pair.other],
                "source": result.source(pair.one),
                "reason": pair.reason,
            }
        )
    return shown


def _fit(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shrink or enlarge an image to a frame of 320x240, keeping its shape."""
    small, _ = shrink_to(rgb, _PICTURE)
    frame = np.full((_PICTURE * 3 // 4, _PICTURE, 3), 255, np.uint8)
    factor = min(frame.shape[0] / small.shape[0], frame.shape[1] / small.shape[1])
    size = (max(1, int(small.shape[1] * factor)), max(1, int(small.shape[0] * factor)))
    part = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_AREA), np.uint8)
    frame[: part.shape[0], : part.shape[1]] = part
    return frame


def _blocks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while block := list(islice(iterator, size)):
        yield block


def main() -> int:
    """Entry point of the command."""
    return run_command(AuditSettings, audit)


if __name__ == "__main__":
    sys.exit(main())
