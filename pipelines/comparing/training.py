"""A run beside what its bundle records of the images that it was trained on.

A bundle keeps no training image. What it does keep: the colours of each laboratory, the limit beyond which one training
image in twenty lies, and how many images that were held out of training are flagged.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.errors import SettingsError
from core.model.confidence import LOW_CONFIDENCE, OUT_OF_DISTRIBUTION
from core.model.familiarity import SHARE_WITHIN
from core.model.record import CONFIG, BundleFolder, read_bundle
from pipelines.comparing.measures import SHARES, Comparer, mean_colours
from pipelines.comparing.record import Side
from pipelines.comparing.resampling import draw_totals
from pipelines.comparing.runs import RunComparison, too_few

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from core.model.familiarity import Stain
    from pipelines.classification.record import RunRecord
    from pipelines.comparing.reading import RunData
    from pipelines.comparing.record import Finding, Limits

    Array = NDArray[np.float64]

__all__ = ["TRAINING", "compare_with_training", "is_bundle", "open_reference", "stain_sums", "training_side"]

TRAINING = "training"
"""What stands for the training images of the run's own bundle."""


def is_bundle(place: str) -> bool:
    """Whether a place on the command line means training images: the word for them, or a folder of a bundle."""
    return place == TRAINING or ("://" not in place and (Path(place) / CONFIG).is_file())


def open_reference(place: str, record: RunRecord) -> BundleFolder:
    """Read the bundle that a run is compared with.

    Args:
        place: Folder of the bundle, or `TRAINING`.
        record: Record of the run.

    Raises:
        BundleError: There is none, or it is damaged.
        SettingsError: With code ``other-bundle`` where the run was made with another one, or ``nothing-recorded`` where
            the bundle says nothing of its training images.
    """
    bundle = read_bundle(Path(record.bundle.path if place == TRAINING else place))
    if bundle.id != record.bundle.id:
        raise SettingsError(
            "other-bundle",
            f"The run was made with the bundle {record.bundle.id[:12]}, and {bundle.folder} is {bundle.id[:12]};"
            " give the bundle that it was made with.",
        )
    if bundle.record.familiarity is None and bundle.metrics() is None:
        raise SettingsError(
            "nothing-recorded", f"The bundle {bundle.folder} records neither colours nor metrics of training images."
        )
    return bundle


def training_side(bundle: BundleFolder) -> Side:
    """Return what the record says of the training images."""
    return Side(kind="training", where=str(bundle.folder), bundle=bundle.id, classes=bundle.class_names)


def compare_with_training(
    bundle: BundleFolder, run: RunData, limits: Limits, *, resamples: int, seed: int
) -> RunComparison:
    """Compare a run with its bundle's training images, as far as the bundle records them.

    Args:
        bundle: The bundle.
        run: The run.
        limits: What counts as a change.
        resamples: How often the run's slides are drawn.
        seed: Seed of the drawing.
    """
    few = too_few(limits, run)
    numbers = dict(run.counts) | {"colours": run.colours}
    totals = draw_totals(numbers, resamples=resamples, seed=seed)
    constants, notes = _constants(bundle, totals)
    comparer = Comparer(constants, totals, limits, run.n_slides, paired=False, too_few=few, only_more=True)
    findings: list[Finding] = []
    for count in ("unlike", "unfamiliar", "unsure"):
        if count in constants:
            group, name, of = SHARES[count]
            findings.append(comparer.share(group, name, count, of))
    if "colours" in constants:
        findings += comparer.colours()
    laboratories = [
        (f"Training images of {stain.laboratory}", np.asarray(stain.mean)[None])
        for stain in (bundle.record.familiarity.stains if bundle.record.familiarity else ())
    ]
    return RunComparison(findings, notes, paired=False, laboratories=laboratories)


def stain_sums(stain: Stain) -> Array:
    """Return the colours of a laboratory as those of one cell: number, means, and means of the squares, (19,)."""
    mean = np.asarray(stain.mean)
    return np.concatenate([[1.0], mean, mean**2 + stain.variances])


def _constants(bundle: BundleFolder, totals: dict[str, Array]) -> tuple[dict[str, Array], list[str]]:
    """Return what is recorded, in the form of a run's totals, and what must be said of it."""
    notes: list[str] = []
    notes.append(
        "A bundle keeps no training image: shares of classes (training images are chosen by class), confidence,"
        " out-of-distribution scores, flags for other reasons and embeddings cannot be compared with them."
    )
    constants: dict[str, Array] = {}
    known, metrics, data = bundle.record.familiarity, bundle.metrics(), bundle.record.data
    count = metrics.validation.sources if metrics else data.training_images if data else totals["cells"][0]
    constants["cells"] = np.full(len(totals["cells"]), float(count))
    if known:
        constants["unfamiliar"] = (1 - SHARE_WITHIN) * constants["cells"]
        if totals["colours"][0, 0]:
            nearest = _nearest(known.stains, totals["colours"][0])
            constants["colours"] = np.tile(stain_sums(nearest), (len(totals["cells"]), 1))
            notes.append(
                f"Colours are compared with those of the laboratory {nearest.laboratory}, the nearest of"
                f" {len(known.stains)}. One training image in twenty is unfamiliar by the limit's making."
            )
    if metrics:
        for name, flag in (("unlike", OUT_OF_DISTRIBUTION), ("unsure", LOW_CONFIDENCE)):
            constants[name] = metrics.validation.flags.get(f"share_flagged_{flag}", 0.0) * constants["cells"]
        notes.append(
            f"Flags are compared with those of {metrics.validation.image.n:,} images of"
            f" {metrics.validation.sources:,} sources that were held out of training; their classes are mixed in other"
            " shares than a slide's."
        )
    notes.append("Of these shares only a larger one counts as a change.")
    return constants, notes


def _nearest(stains: Sequence[Stain], sums: Array) -> Stain:
    """Return the laboratory whose mean colours are nearest to a run's, by its own spread."""
    mean, _ = mean_colours(sums)
    return min(stains, key=lambda stain: stain.distances(mean[None])[0])
