"""How well a bundle finds and counts the white cells of marked fields."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from core.evaluation.detection import Finding, match_field, measure_finding
from core.finding.marked import list_fields
from core.finding.passes import FoundCell
from core.images.reading import Unreadable, read_safely
from core.model.confidence import UNIDENTIFIED
from core.model.predictor import Predictor
from runtime.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from core.data.class_folders import ClassFolders
    from core.data.laboratories import Laboratory
    from core.evaluation.detection import FieldMatch
    from core.finding.marked import MarkedFile
    from core.images.preprocessing import Prepared
    from core.model.engine import Usable

__all__ = ["measure_fields"]

_AT_ONCE = 16
_BATCH = 64


def measure_fields(
    bundle: Usable, laboratory: Laboratory, data: ClassFolders, *, device: str, threads: int, resamples: int, seed: int
) -> Finding | None:
    """Find and classify every cell of a laboratory's fields, and compare with the marked ones.

    Args:
        bundle: The bundle.
        laboratory: Where the fields are.
        data: Their marked cells, known classes first.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Number of threads that decode and find.
        resamples: Number of bootstrap resamples; 0 for no intervals.
        seed: Seed of the resampling.

    Returns:
        The scores; None where the bundle has no learned finder, or the laboratory's images are of one cell each.
    """
    if bundle.record.finder is None or laboratory.boxes is None:
        return None
    predictor, classes = Predictor(bundle, device, threads), bundle.class_names
    labelled = Counter((sample.path, sample.label) for sample in data.samples)
    files = list_fields(laboratory)
    matches: list[FieldMatch] = []

    def prepare(file: MarkedFile) -> list[Prepared] | Unreadable:
        return read_safely(file.path, lambda content: predictor.prepare_every(content)[1])

    with Progress(len(files), "fields searched") as progress, ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(files), _AT_ONCE):
            block = files[start : start + _AT_ONCE]
            for file, cells in zip(block, pool.map(prepare, block), strict=True):
                if not isinstance(cells, Unreadable):
                    truth = _counts(labelled, file.path, len(classes))
                    matches.append(_match(predictor, file, cells, truth))
            progress.advance(len(block))
    return measure_finding(matches, resamples=resamples, seed=seed) if matches else None


def _counts(labelled: Counter[tuple[Path, int]], path: Path, classes: int) -> np.ndarray:
    return np.array([labelled[path, label] for label in range(classes)])


def _match(predictor: Predictor, file: MarkedFile, cells: list[Prepared], truth: np.ndarray) -> FieldMatch:
    found = [FoundCell(cell.cell, cell.score) for cell in cells if cell.cell is not None and cell.score is not None]
    predictions = predictor.predict_in_batches(cells, _BATCH, gradcam=False)
    identified = Counter(one.label for one in predictions if one.flag not in UNIDENTIFIED)
    counted = np.array([identified[name] for name in predictor.bundle.class_names])
    return replace(match_field(found, file.boxes or (), file.slide), labelled=truth, counted=counted)
