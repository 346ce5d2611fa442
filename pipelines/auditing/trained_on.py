"""Whether a bundle was trained on the images that it is asked about."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines.auditing.record import SeenInTraining

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from core.data.class_folders import ClassFolders
    from core.model.engine import Usable

__all__ = ["find_seen_in_training"]


def find_seen_in_training(bundle: Usable, parts: Mapping[str, ClassFolders]) -> list[SeenInTraining]:
    """Compare a data set with the training data that a bundle's record names.

    A fingerprint holds names, sizes, labels and sources of all files, so it changes with a single label; the number of
    images of every class is compared as well. That nothing agrees does not prove that no image was seen.

    Args:
        bundle: The bundle.
        parts: Splits of the data set, or laboratories, by name, with the sources that were named for them.
    """
    record = bundle.record.data
    if record is None:
        return []
    trained = [(one.name, one.fingerprint, one.images) for one in record.laboratories]
    trained = trained or [("its training data", record.fingerprint, record.images)]
    found: list[SeenInTraining] = []
    for part, data in parts.items():
        numbered = _numbered(data, bundle.class_names)
        images = _images(data)
        for name, fingerprint, counts in trained:
            exactly = fingerprint in _fingerprints(numbered, name)
            if exactly or images == Counter(counts):
                found.append(SeenInTraining(part=part, laboratory=name, exactly=exactly))
    return found


def _numbered(data: ClassFolders, known: Sequence[str]) -> ClassFolders:
    """Number the classes as training does: the known ones in the bundle's order, then the others by name."""
    others = sorted({data.class_names[sample.label] for sample in data.samples} - set(known))
    order = {name: number for number, name in enumerate([*known, *others])}
    samples = (replace(sample, label=order[data.class_names[sample.label]]) for sample in data.samples)
    return replace(data, samples=tuple(samples))


def _fingerprints(data: ClassFolders, laboratory: str) -> Iterable[str]:
    """Yield the fingerprints that training may have given: with and without sources, alone and beside others."""
    unnamed = replace(data, samples=tuple(replace(sample, source=None) for sample in data.samples))
    for variant in (data, unnamed):
        yield variant.fingerprint
        yield variant.with_prefix(laboratory).fingerprint


def _images(data: ClassFolders) -> Counter[str]:
    """Return the number of images, or marked cells, per class."""
    return Counter(data.class_names[sample.label] for sample in data.samples)
