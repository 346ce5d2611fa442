"""Folds that keep the images of one source on one side."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from core.data.class_folders import ClassFolders, Sample

__all__ = ["folds_by_source"]


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
