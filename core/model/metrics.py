"""The content of a bundle's ``metrics.json``: what its weights are worth, as far as it was measured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.evaluation.record import RecordedEvaluation
from core.evaluation.scores import Evaluation
from core.settings import Settings

__all__ = ["BundleMetrics", "EpochRecord"]


class EpochRecord(Settings):
    """One epoch of training, or its mean over the folds."""

    epoch: int = Field(ge=1, description="number of the epoch, from 1")
    train_loss: float = Field(description="mean loss of the training images, augmented and smoothed, nats")
    train_accuracy: float = Field(description="share of the training images classified as labelled")
    learning_rate: float = Field(description="learning rate at its start")
    validation_loss: float | None = Field(default=None, description="mean cross-entropy of the watched images, nats")
    validation_accuracy: float | None = Field(default=None, description="share of them classified as labelled")
    seconds: float = Field(description="duration, validation included, s")


class BundleMetrics(Settings):
    """The evaluations that belong to a bundle's weights."""

    validation: Evaluation = Field(description="on images that were held out of training")
    validation_further: Evaluation | None = Field(
        default=None, description="the same on further data sets, in bundles of older versions"
    )
    laboratories: dict[str, Evaluation] = Field(
        default={}, description="the same images by laboratory, where there are several"
    )
    away: dict[str, Evaluation] = Field(
        default={}, description="each laboratory by a network that never saw it, thresholds by the others left out"
    )
    calibration: Literal["same-images", "cross-fitted", "other-sources"] = Field(
        "same-images",
        description="which images chose the temperature and the thresholds behind the two: the measured ones; for each"
        " half of the sources the other half; or images of other sources",
    )
    history: list[EpochRecord] = Field(default=[], description="training, epoch by epoch")
    evaluations: dict[str, RecordedEvaluation] = Field(default={}, description="later evaluations, by name")
