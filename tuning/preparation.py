"""What the driver of a search holds: the images that were held out, and what it hands to the trials."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core.errors import DataError, SettingsError
from runtime.progress import say
from tuning.experiment import grace_period
from tuning.record import Images
from tuning.shared_images import SharedImages
from tuning.trial import TrialData

if TYPE_CHECKING:
    from core.training.config import TrainingConfig
    from core.training.run import TrainingRun
    from runtime.cluster import WorkerPlan
    from tuning.settings import SearchSettings
    from tuning.space import Space

__all__ = ["Prepared", "check_options"]


@dataclass(frozen=True)
class Prepared:
    """A search's images, divided.

    Attributes:
        run: Training run with the images that are held out of every trial, and no others.
        space: Search space.
        train: Images that trials are trained on.
        watched: Images that trials are compared on after every epoch.
        choosing: Rows of the run's images whose sources the best trial is chosen on.
        measuring: Rows of the run's images that the best trial is measured on.
        trained_on: Number of images that trials are trained on.
        left_out: Number of images of the main data set that take no part.
    """

    run: TrainingRun
    space: Space
    train: SharedImages
    watched: SharedImages
    choosing: list[int]
    measuring: list[int]
    trained_on: int
    left_out: int

    @classmethod
    def of(cls, run: TrainingRun, space: Space) -> Prepared:
        """Split by source, and give the training images' memory back once they are shared.

        Args:
            run: Training run with all images.
            space: Search space.

        Raises:
            DataError: With code ``too-few-sources``.
        """
        training, held_out = run.split()
        choosing, measuring = _halves(run, held_out)
        train, watched = run.images.select(training), run.watched(choosing)
        position = {row: place for place, row in enumerate(held_out)}
        prepared = cls(
            run.with_only(held_out),
            space,
            SharedImages.of(train, train.pixels),
            SharedImages.of(watched, watched.inputs),
            [position[row] for row in choosing],
            [position[row] for row in measuring],
            len(training),
            run.left_out(training + held_out),
        )
        prepared.announce()
        return prepared

    @property
    def nested(self) -> bool:
        """Whether the best trial is measured on other sources than it is chosen on."""
        return self.choosing != self.measuring

    @property
    def shared_bytes(self) -> int:
        """Size in bytes of what goes into Ray's object store."""
        return self.train.nbytes + self.watched.nbytes

    @property
    def counts(self) -> Images:
        """How the images were divided, for the record."""
        return Images(
            training=self.trained_on,
            held_out=len(self.run.images),
            watched=len(self.watched.labels),
            measured=len(self.measuring),
            nested=self.nested,
        )

    def announce(self) -> None:
        """Say how the images were divided."""
        counts = self.counts
        say(
            f"training on {counts.training:,} images; {counts.held_out:,} held out: trials are compared on"
            f" {counts.watched:,} of them, the best is measured on {counts.measured:,}"
        )
        if not self.nested:
            say("warning: too few sources to measure the best trial on others than it is chosen on")

    def for_trials(self, settings: SearchSettings, plan: WorkerPlan) -> TrialData:
        """Put together what every trial gets."""
        return TrialData(
            recipe=self.run.recipe,
            class_names=self.run.data.class_names,
            train=self.train,
            validation=self.watched,
            starts={
                architecture: {name: value.numpy() for name, value in start.items()}
                for architecture, start in self.run.starts.items()
            },
            device=plan.device,
            threads=plan.threads,
            origin=f"weights {settings.weights}, recipe {settings.recipe}, search",
        )


def _halves(run: TrainingRun, held_out: list[int]) -> tuple[list[int], list[int]]:
    """Divide the rows in two by source and class; both are all of them where a class has a single source."""
    chosen = {run.images.samples[row] for row in held_out}
    sets = tuple(
        replace(data, samples=tuple(sample for sample in data.samples if sample in chosen)) for data in run.data.sets
    )
    halves = replace(run.data, sets=sets)
    try:
        measuring, choosing = halves.folds(run.images, 2, run.settings.seed)[0]
    except DataError as error:
        if error.code != "too-few-sources":
            raise
        return held_out, held_out
    return choosing, measuring


def check_options(settings: SearchSettings, space: Space, config: TrainingConfig) -> None:
    """Refuse options that contradict each other, before any image is read; warn of those that rarely make sense.

    Raises:
        SettingsError: With code ``bad-space`` or ``no-mlflow``.
    """
    if (settings.search == "grid") != space.is_grid:
        raise SettingsError("bad-space", "--search grid and settings with grid_search in --space go together.")
    if settings.search == "tpe" and space.has_normal:
        raise SettingsError("bad-space", "TPE proposes no normally distributed values; give --search random.")
    if settings.mlflow and importlib.util.find_spec("mlflow") is None:
        raise SettingsError("no-mlflow", "MLflow is not installed here: pip install mlflow, or leave --mlflow away.")
    if settings.stopping == "asha" and (grace := grace_period(settings, config, space)) >= config.epochs:
        say(f"warning: no trial can be stopped early, since {config.epochs} epochs are not more than {grace}")
    if settings.stopping == "asha" and config.schedule == "one-cycle":
        say("warning: one-cycle schedules end low and start high; stopping early misjudges them (--stopping none)")
