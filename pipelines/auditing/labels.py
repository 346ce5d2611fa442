"""Judging the labels of a data set by a bundle's features."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from core.data.class_folders import ClassFolders
from core.data.sources import number_sources
from core.evaluation.look_alikes import LookAlikes
from core.evaluation.out_of_fold import predict_out_of_fold
from core.evaluation.scores import Predicted
from core.evaluation.suspects import Suspects, SuspectSource, by_source, find_suspects
from core.images.reading import Unreadable, read_safely
from pipelines.auditing.trained_on import find_seen_in_training
from runtime.progress import Progress, say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from core.data.class_folders import Sample
    from core.images.cells import Box
    from core.images.preprocessing import Prepared
    from core.model.engine import Usable
    from core.model.predictor import Predictor
    from pipelines.auditing.findings import Findings
    from pipelines.auditing.record import SeenInTraining

__all__ = ["JudgedLabels", "judge_labels"]

_BATCH = 64


@dataclass(frozen=True)
class JudgedLabels:
    """Labelled cells, what they are out of fold, and which labels are suspect.

    Attributes:
        data: The cells; each one's source is what was kept on one side of every fold.
        images: Number in `Findings` of the image that each is in.
        seen: The part of its image that the network saw of each.
        features: Pooled features, (N, K) float32.
        probabilities: Out-of-fold probabilities, (N, C) float64.
        folds: Number of folds.
        bundle: The bundle whose features they are.
        seen_in_training: Parts of the data that the bundle was trained on.
        views: Number of the field that each is a view of, (N,); a marked cell of a field is one of its own.
        grouped: Whether sources were named.
    """

    data: ClassFolders
    images: tuple[int, ...]
    seen: tuple[Box, ...]
    features: NDArray[np.float32]
    probabilities: NDArray[np.float64]
    folds: int
    bundle: Usable
    seen_in_training: list[SeenInTraining]
    views: NDArray[np.int64]
    grouped: bool

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each cell, (N,)."""
        return np.array([sample.label for sample in self.data.samples], np.int64)

    @cached_property
    def suspects(self) -> Suspects:
        """Cells whose label is suspect."""
        return find_suspects(self.probabilities, self.labels)

    @cached_property
    def sources(self) -> list[SuspectSource]:
        """The same, those of one field and label together, the most suspect first."""
        return by_source(self.suspects, self.probabilities, self.labels, self.views)

    @property
    def predicted(self) -> Predicted:
        """The probabilities beside the labels; sources are what the folds kept together."""
        count = len(self.labels)
        return Predicted(
            probabilities=self.probabilities,
            labels=self.labels,
            sources=number_sources(self.data.samples),
            class_names=self.data.class_names,
            named=np.ones(count, bool),
            flags=("",) * count,
            ood=np.zeros(count),
        )

    @cached_property
    def _look_alikes(self) -> LookAlikes:
        return LookAlikes(self.features, number_sources(self.data.samples))

    def look_alikes(self, row: int, label: int, most: int) -> list[int]:
        """Return the cells of a class that look most like one, of other sources and with labels that are not suspect.

        Args:
            row: The cell.
            label: Index of the class.
            most: Most cells to return.
        """
        allowed = self.labels == label
        allowed[self.suspects.rows] = False
        return self._look_alikes.nearest(row, allowed, most)


def judge_labels(
    findings: Findings, named: Mapping[str, ClassFolders], predictor: Predictor, *, folds: int, threads: int
) -> JudgedLabels:
    """Judge each labelled cell by the cells of other sources.

    Args:
        findings: What was found; the views of one field are kept on one side of every fold.
        named: The splits or laboratories; where sources are named in them, they are kept together too.
        predictor: What finds and prepares the cells, and gives their features.
        folds: Number of folds.
        threads: Number of threads that decode.

    Raises:
        DataError: With code ``single-class`` or ``too-few-sources``.
    """
    data, images = _readable_cells(findings, named)
    kept, seen, features = _features(data.samples, predictor, threads)
    data = replace(data, samples=tuple(data.samples[row] for row in kept))
    images = tuple(images[row] for row in kept)
    grouped = any(sample.source for part in named.values() for sample in part.samples)
    say(f"judging {len(kept):,} labels in {folds} folds")
    result = predict_out_of_fold(data, features, folds)
    views = number_sources(
        replace(sample, source=None if sample.box else findings.source(image))
        for sample, image in zip(data.samples, images, strict=True)
    )
    return JudgedLabels(
        data=data,
        images=images,
        seen=seen,
        features=features,
        probabilities=result.probabilities,
        folds=result.folds,
        bundle=predictor.bundle,
        seen_in_training=find_seen_in_training(predictor.bundle, named),
        views=views,
        grouped=grouped,
    )


def _readable_cells(findings: Findings, named: Mapping[str, ClassFolders]) -> tuple[ClassFolders, tuple[int, ...]]:
    """Return the labelled cells of all splits in readable images, with joined sources, and the number of each image."""
    number_of = {entry.path: number for number, entry in enumerate(findings.images)}
    apart = findings.parts_are == "laboratories"  # two of them may use one name for different sources
    joined = DisjointSet(f"field {group}" for group in range(len(findings.groups)))
    cells: list[Sample] = []
    for part, data in named.items():
        for sample in dict.fromkeys(data.samples):  # a cell that is marked twice counts once
            if sample.path not in number_of:
                continue
            field = f"field {findings.group_of[number_of[sample.path]]}"
            if sample.source:
                source = f"source {part}/{sample.source}" if apart else f"source {sample.source}"
                joined.add(source)
                joined.merge(field, source)
            cells.append(replace(sample, source=field))
    cells = [replace(cell, source=joined[cell.source]) for cell in cells]
    first = next(iter(named.values()))
    return ClassFolders(first.root, first.class_names, tuple(cells)), tuple(number_of[cell.path] for cell in cells)


def _features(
    samples: Sequence[Sample], predictor: Predictor, threads: int
) -> tuple[list[int], tuple[Box, ...], NDArray[np.float32]]:
    """Return the rows that could be read, the part of the image that the network saw of each, and their features."""
    rows: list[int] = []
    seen: list[Box] = []
    parts: list[NDArray[np.float32]] = []

    def prepare(path: Path, marked: Box | None) -> Prepared | Unreadable:
        return read_safely(path, lambda data: predictor.prepare(data, marked)[1])

    with Progress(len(samples), "cells") as progress, ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(samples), _BATCH):
            block = samples[start : start + _BATCH]
            prepared = [
                (row, one)
                for row, one in enumerate(pool.map(lambda cell: prepare(cell.path, cell.box), block), start)
                if not isinstance(one, Unreadable)
            ]
            if prepared:
                parts.append(predictor.features([one for _, one in prepared]))
            rows += [row for row, _ in prepared]
            seen += [one.box for _, one in prepared]
            progress.advance(len(block))
    return rows, tuple(seen), np.concatenate(parts)
