"""The steps of training a finder: marked fields, their split by slide, the threshold."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from core.errors import DataError
from core.evaluation.detection import best_threshold, match_field, recall_precision
from core.finding.marked import list_fields, load_fields
from core.finding.record import FinderRecord, FinderTraining
from core.finding.torch_finder import TorchFinder
from core.images.cells import Box
from core.model.bundle import save_bundle
from core.model.card import write_card, write_card_with_finder
from core.model.record import REPLAY
from runtime.progress import Progress, say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from core.data.laboratories import Laboratory
    from core.evaluation.detection import FieldMatch
    from core.finding.marked import MarkedField
    from core.finding.network import FinderNetwork
    from core.model.bundle import Bundle
    from core.training.finder import FinderConfig

__all__ = ["choose_record", "describe", "load_fields_of", "match_fields", "save_with_finder", "split_by_slide"]

_LONGEST = 640
_LOWEST = 0.02


def load_fields_of(laboratories: Sequence[Laboratory], threads: int) -> list[MarkedField]:
    """Decode the marked images of laboratories, with a progress bar.

    Args:
        laboratories: Where the images are.
        threads: Number of threads that decode.

    Raises:
        DataError: A folder or a file of boxes cannot be used, or no image can be read.
    """
    files = [file for laboratory in laboratories for file in list_fields(laboratory)]
    with Progress(len(files), "images decoded") as progress:
        fields, unreadable = load_fields(files, _LONGEST, threads, progress.advance)
    for bad in unreadable:
        say(f"left out: {bad.path}: {bad.message} [{bad.code}]")
    if not any(len(field.boxes) for field in fields):
        raise DataError("no-cells", "No image has a marked white cell; a finder learns nothing from them.")
    return fields


def split_by_slide(
    fields: Sequence[MarkedField], share: float, seed: int
) -> tuple[list[MarkedField], list[MarkedField]]:
    """Divide fields in two, so that no slide is on both sides.

    Args:
        fields: The fields.
        share: Share of each laboratory's slides that are held out.
        seed: Seed of the choice.

    Returns:
        Fields to train on, and fields that are held out.
    """
    rng = np.random.default_rng(seed)
    held_out: set[tuple[str, str]] = set()
    for name in sorted({field.file.laboratory for field in fields}):
        slides = sorted({field.file.slide for field in fields if field.file.laboratory == name})
        count = min(len(slides) - 1, round(share * len(slides)))
        held_out |= {(name, slides[place]) for place in rng.permutation(len(slides))[:count]}
    sides: tuple[list[MarkedField], list[MarkedField]] = ([], [])
    for field in fields:
        sides[(field.file.laboratory, field.file.slide) in held_out].append(field)
    return sides


def describe(training: Sequence[MarkedField], held_out: Sequence[MarkedField]) -> str:
    """Say how many fields and cells there are on both sides."""
    fields, cells = ([len(side), sum(len(field.boxes) for field in side)] for side in (training, held_out))
    return (
        f"training on {fields[0]:,} images with {fields[1]:,} white cells, held out {cells[0]:,} images with"
        f" {cells[1]:,}"
    )


def match_fields(finder: TorchFinder, fields: Sequence[MarkedField], least: float) -> list[FieldMatch]:
    """Look for cells in marked fields.

    Args:
        finder: The finder.
        fields: Fields whose cells were marked.
        least: Score from which on something counts as found.
    """
    return [
        match_field(finder.find(field.pixels, least), [Box(*map(float, box)) for box in field.boxes], field.file.slide)
        for field in fields
    ]


def choose_record(
    network: FinderNetwork, config: FinderConfig, training: Sequence[MarkedField], held_out: Sequence[MarkedField]
) -> FinderRecord:
    """Choose the threshold by F1 on held-out camera fields (`best_threshold`), and measure there.

    Args:
        network: The trained network.
        config: How it was trained.
        training: Fields that it was trained on; the threshold is chosen on them where none was held out.
        held_out: Fields that it was not trained on.
    """
    record = FinderRecord.model_validate({"side": config.side, "widths": network.widths, "blocks": network.blocks})
    learned = FinderTraining(
        laboratories=dict(Counter(field.file.laboratory for field in training)), steps=config.steps, seed=config.seed
    )
    apart = _fully_marked(held_out)
    marked = apart or _fully_marked(training)
    if not marked:
        say(f"warning: no field with marked cells to choose the threshold by; it stays {record.threshold}")
        return record.model_copy(update={"training": learned})
    matches = match_fields(TorchFinder(network, record), marked, _LOWEST)
    threshold = best_threshold(matches)
    if apart:
        recall, precision = recall_precision(matches, threshold)
        measured = {"held_out": sum(match.marked for match in matches), "recall": recall, "precision": precision}
        learned = learned.model_copy(update=measured)
    return record.model_copy(update={"threshold": threshold, "training": learned})


def _fully_marked(fields: Sequence[MarkedField]) -> list[MarkedField]:
    """Return the fields of laboratories whose fields have marked cells, those without any among them included."""
    camera = {field.file.laboratory for field in fields if field.exact and len(field.boxes)}
    return [field for field in fields if field.exact and field.file.laboratory in camera]


def save_with_finder(out: Path, bundle: Bundle, finder: TorchFinder) -> Bundle:
    """Write a bundle with another finder.

    Where images of one cell are cut out by their colour, now as before, what was measured of its classes holds;
    otherwise it is left out.

    Args:
        out: Folder of the new bundle.
        bundle: The bundle that gets the finder, with what it keeps of its training images.
        finder: The finder.

    Raises:
        BundleError: The bundle cannot be written.
    """
    cut_out = finder.record.cuts_out or (bundle.record.finder is not None and bundle.record.finder.cuts_out)
    metrics = None if cut_out else bundle.metrics
    if metrics:  # what its last finder found
        kept_scores = {
            name: evaluation.model_copy(update={"finding": None}) for name, evaluation in metrics.evaluations.items()
        }
        metrics = metrics.model_copy(update={"evaluations": kept_scores})
    kept = bundle.replay.to_bytes() if bundle.replay else b""
    replay = bundle.replay.record(kept) if bundle.replay else None
    record = bundle.record.model_copy(update={"finder": finder.record, "replay": replay, "export": None})
    if metrics:
        card = write_card(out.name, bundle.class_names, record, metrics, bundle.architecture)
    else:
        card = write_card_with_finder(out.name, bundle, finder.record)
    return save_bundle(
        out,
        bundle.network,
        bundle.class_names,
        record,
        metrics,
        card,
        {REPLAY: kept} if kept else None,
        architecture=bundle.architecture,
        finder=finder,
    )
