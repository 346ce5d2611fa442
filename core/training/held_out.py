"""What networks said of images that they were not trained on: measured, and what thresholds are chosen by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.evaluation.scores import Evaluation, Predicted, evaluate
from core.model.confidence import energy
from core.model.metrics import BundleMetrics, EpochRecord
from core.training.calibration import Answers, cross_fit_confidence, fit_confidence, fit_confidence_away

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.model.confidence import Confidence
    from core.training.run import TrainingRun

__all__ = ["HeldOut", "choose_away", "choose_confidence", "measure", "predicted"]


@dataclass(frozen=True)
class HeldOut:
    """What networks said of images that they were not trained on.

    Attributes:
        rows: Rows of the run's images.
        logits: What the networks gave, (N, C) float32.
        history: Training and validation per epoch.
        epochs: Number of epochs that the retained weights were trained for.
        trained_on: Number of images that the bundle's weights were trained on.
        left_out: Number of images that took no part.
        how: Words that say how the images were held out.
    """

    rows: list[int]
    logits: NDArray[np.float32]
    history: list[dict[str, float]]
    epochs: int
    trained_on: int
    left_out: int
    how: str = "held out of training"


def predicted(run: TrainingRun, held_out: HeldOut, chosen: NDArray[np.bool_], confidence: Confidence) -> Predicted:
    """Set predictions beside labels.

    Args:
        run: The run with the images.
        held_out: Predictions of images that were not trained on.
        chosen: Images to take, (N,) bool; they are of known classes.
        confidence: How logits become probabilities and flags.
    """
    return _predicted(run, held_out, np.flatnonzero(chosen), [(np.arange(int(chosen.sum())), confidence)])


def _cross_fitted(run: TrainingRun, held_out: HeldOut, chosen: NDArray[np.bool_]) -> Predicted | None:
    """Set predictions beside labels, with temperature and thresholds chosen on other sources.

    Args:
        run: The run with the images.
        held_out: Predictions of images that were not trained on.
        chosen: Images to take, (N,) bool; they are of known classes.

    Returns:
        The predictions; None where a class has too few sources for two halves.
    """
    rows = np.asarray(held_out.rows)[chosen]
    halves = cross_fit_confidence(
        held_out.logits[chosen],
        run.images.labels.numpy()[rows],
        run.images.sources.numpy()[rows],
        domains=run.domains(rows),
        risk=run.settings.risk,
    )
    return _predicted(run, held_out, np.flatnonzero(chosen), halves) if halves else None


def _predicted(
    run: TrainingRun, held_out: HeldOut, chosen: NDArray[np.int64], parts: list[tuple[NDArray[np.int64], Confidence]]
) -> Predicted:
    """Set predictions beside labels; each part of the chosen ones has its own confidence."""
    rows, logits = np.asarray(held_out.rows)[chosen], held_out.logits[chosen]
    found = np.ones(len(rows), bool) if run.images.found is None else run.images.found.numpy()[rows]
    probabilities, ood = np.empty(logits.shape, np.float64), energy(logits)
    flags = [""] * len(rows)
    for members, confidence in parts:
        probabilities[members] = confidence.probabilities(logits[members])
        for place in members:
            largest, is_found = float(probabilities[place].max()), bool(found[place])
            flags[place] = confidence.flag(largest, float(ood[place]), found=is_found)
    samples = [run.images.samples[row] for row in rows]
    return Predicted.of_samples(samples, run.data.class_names, probabilities, ood=ood, flags=flags)


def choose_confidence(run: TrainingRun, held_out: HeldOut, *, other: bool) -> Confidence:
    """Choose temperature and thresholds; `other` says that the scores are measured on other sources."""
    answers = _answers(run, held_out)
    how = "held out of training, of other sources than the measured ones" if other else held_out.how
    on = f"{len(answers.labels)} images, {how}{' by source' if run.data.grouped and not other else ''}"
    on += ", each laboratory's counted the same" if run.images.domains is not None else ""
    return fit_confidence(answers.logits, answers.labels, domains=answers.domains, risk=run.settings.risk, on=on)


def choose_away(run: TrainingRun, held_out: HeldOut, away: HeldOut) -> tuple[Confidence, dict[str, Evaluation]]:
    """Choose temperature and thresholds on laboratories left out; measure each with what the others chose."""
    home = _answers(run, held_out)
    answers = _answers(run, away)
    known = run.known(away.rows)
    measured: dict[str, Evaluation] = {}
    for number, laboratory in enumerate(run.data.laboratories):
        own = answers.domains == number
        if own.any() and not own.all():
            confidence = fit_confidence_away(home, answers.select(~own), on="the other laboratories")
            chosen = known.copy()
            chosen[known] = own
            measured[laboratory.name] = evaluate(predicted(run, away, chosen, confidence))
    on = f"{len(answers.labels)} images of laboratories that were left out of training, each counted the same"
    return fit_confidence_away(home, answers, on=on), measured


def _answers(run: TrainingRun, held_out: HeldOut) -> Answers:
    known = run.known(held_out.rows)
    rows = np.asarray(held_out.rows)[known]
    domains = run.domains(rows)
    domains = np.zeros(len(rows), np.int64) if domains is None else domains
    return Answers(held_out.logits[known], run.images.labels.numpy()[rows], domains)


def measure(run: TrainingRun, held_out: HeldOut, confidence: Confidence, *, other: bool) -> BundleMetrics:
    """Measure; where the measured images chose the confidence too, each half of the sources gets the other's."""
    known = run.known(held_out.rows)
    crossed = None if other else _cross_fitted(run, held_out, known)
    found = crossed or predicted(run, held_out, known, confidence)
    return BundleMetrics(
        validation=evaluate(found),
        laboratories=_by_laboratory(run, np.asarray(held_out.rows)[known], found),
        calibration="other-sources" if other else "cross-fitted" if crossed else "same-images",
        history=[EpochRecord.model_validate(epoch) for epoch in held_out.history],
    )


def _by_laboratory(run: TrainingRun, rows: NDArray[np.int64], predicted: Predicted) -> dict[str, Evaluation]:
    """Measure each laboratory's images by themselves, where there are several with images of two classes."""
    domains, labels = run.domains(rows), run.images.labels.numpy()[rows]
    if domains is None:
        return {}
    parts = {laboratory.name: domains == number for number, laboratory in enumerate(run.data.laboratories)}
    return {name: evaluate(predicted.select(part)) for name, part in parts.items() if len(np.unique(labels[part])) > 1}
