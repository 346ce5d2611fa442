"""Folds that keep the images of one source on one side."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from core.data.class_folders import ClassFolders, Sample

__all__ = ["fitting_folds", "folds_by_source", "most_folds"]

_NEAR = 0.01
_FINEST = 20


def folds_by_source(
    data: ClassFolders, folds: int, seed: int, *, exactly: bool = False
) -> list[tuple[ClassFolders, ClassFolders]]:
    """Divide a data set into folds so that no source is in two of them, stratified by class.

    Where sources are named, images without one are left out of every fold, since they could show a
    field of another. Where none are, every image counts as its own source.

    Args:
        data: Data set to divide.
        folds: Number of folds, 2 or more; there are fewer where the scarcest class has fewer sources (`most_folds`).
        seed: Seed of the shuffle.
        exactly: Give as many folds as were asked for, of which some hold out nothing of a class with fewer sources.

    Returns:
        Per fold, what to train on and what to validate on.

    Raises:
        DataError: With code ``too-few-sources``; it names the class.
    """
    samples, groups = _with_sources(data)
    most = min(folds, _largest(samples), len(set(groups))) if exactly else min(folds, most_folds(data))
    if most < 2:
        return [(_pick(data, samples, range(len(samples))), _pick(data, samples, ()))] * folds
    splitter = StratifiedGroupKFold(most, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a class has fewer images than there are folds
        sides = list(splitter.split(np.zeros(len(samples)), [sample.label for sample in samples], groups))
    pairs = [(_pick(data, samples, train), _pick(data, samples, validation)) for train, validation in sides]
    nothing = (_pick(data, samples, range(len(samples))), _pick(data, samples, ()))
    return pairs + [nothing] * (folds - most if exactly else 0)


def _largest(samples: Sequence[Sample]) -> int:
    """Return the number of images of the commonest class."""
    return max(Counter(sample.label for sample in samples).values(), default=0)


def most_folds(data: ClassFolders) -> int:
    """Return into how many folds a data set can be divided: the number of sources of its scarcest class.

    Raises:
        DataError: With code ``too-few-sources`` where a class has no source, or one alone; it names the class.
    """
    samples, groups = _with_sources(data)
    sources: dict[int, set[str]] = {sample.label: set() for sample in data.samples}
    for sample, group in zip(samples, groups, strict=True):
        sources[sample.label].add(group)
    if missing := [data.class_names[label] for label, found in sorted(sources.items()) if not found]:
        raise DataError(
            "too-few-sources",
            f"No image of {', '.join(missing)} has a source, so every split would lose it; name its sources, or leave"
            " the class out.",
        )
    label, scarcest = min(sources.items(), key=lambda item: (len(item[1]), item[0]))
    if len(scarcest) < 2:
        what = "source" if any(sample.source for sample in data.samples) else "image"
        raise DataError(
            "too-few-sources",
            f"The class {data.class_names[label]} has a single {what}, which cannot be divided into training and"
            f" validation; add another {what} of it, or leave the class out.",
        )
    return len(scarcest)


def fitting_folds(share: float, most: int) -> tuple[int, int]:
    """Choose how many of how many folds come closest to a share of the images.

    Args:
        share: Share wanted, between 0 and 1.
        most: Most folds that the data allow, 2 or more.

    Returns:
        How many folds to take together, and how many there are; the fewest folds that come within a hundredth of
        `share`, else the closest that `most` allows.

    Example:
        >>> fitting_folds(0.4, most=50)
        (2, 5)
    """
    pairs = [(taken, count) for count in range(2, min(most, _FINEST) + 1) for taken in range(1, count)]
    near = [(taken, count) for taken, count in pairs if abs(taken / count - share) <= _NEAR]
    return near[0] if near else min(pairs, key=lambda pair: abs(pair[0] / pair[1] - share))


def _with_sources(data: ClassFolders) -> tuple[list[Sample], list[str]]:
    """Return the images that can be divided, and the name of each one's source."""
    grouped = any(sample.source for sample in data.samples)
    samples = [sample for sample in data.samples if sample.source or not grouped]
    return samples, [sample.source or str(position) for position, sample in enumerate(samples)]


def _pick(data: ClassFolders, samples: Sequence[Sample], rows: Iterable[int]) -> ClassFolders:
    return replace(data, samples=tuple(samples[row] for row in rows))
