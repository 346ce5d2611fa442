"""Training the networks of a run: one with a validation set, or one per fold and one on everything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from core.model.bundle import round_weights
from core.training.held_out import HeldOut
from runtime.progress import Progress, say

if TYPE_CHECKING:
    from torch import nn

    from core.training.run import TrainingRun
    from core.training.trainer import Epoch, Trainer
    from pipelines.training.work_folder import WorkFolder

__all__ = ["Networks", "Trained"]


@dataclass(frozen=True)
class Trained:
    """What training gave.

    Attributes:
        network: Network of the bundle; its weights are rounded.
        held_out: Predictions of images that were not trained on.
        facts: What the bundle records of how they were held out, by the names of `TrainingRecord`.
    """

    network: nn.Module
    held_out: HeldOut
    facts: dict[str, Any]


class Networks:
    """The networks of a run, with checkpoints.

    Args:
        run: Images, recipe and starting weights.
        work: Folder of the checkpoints.
        resume: Whether to continue from the checkpoints that are there.
    """

    def __init__(self, run: TrainingRun, work: WorkFolder, *, resume: bool) -> None:
        self._run, self._work, self._resume = run, work, resume

    def with_validation(self) -> Trained:
        """Train once, with one validation set."""
        training, validation = self._run.split()
        share, asked = len(validation) / (len(training) + len(validation)), self._run.settings.validation_share
        say(
            f"training on {len(training):,} images, validation on {len(validation):,} ({share:.0%} of them"
            + ("" if f"{share:.0%}" == f"{asked:.0%}" else f"; {asked:.0%} was asked for")
            + ")"
        )
        trainer = self._trainer("checkpoint", training, validation)
        held_out = self._held_out(trainer, training, validation)
        return Trained(trainer.network, held_out, {"validation_share": share, "validation_share_asked": asked})

    def with_folds(self, asked: int) -> Trained:
        """Train once per fold for the metrics, and once on everything for the weights.

        Args:
            asked: Number of folds; there are fewer where the scarcest class has fewer sources.
        """
        run = self._run
        folds = run.data.folds(run.images, asked, run.settings.seed)
        if len(folds) < asked:
            say(f"warning: {len(folds)} folds instead of {asked}: the scarcest class has no more sources")
        parts: list[HeldOut] = []
        for number, (training, validation) in enumerate(folds, start=1):
            say(f"fold {number} of {len(folds)}: training on {len(training):,} images, not on {len(validation):,}")
            parts.append(self._held_out(self._trainer(f"fold-{number}", training, validation), training, validation))
        rows = {row for sides in folds for side in sides for row in side}
        epochs = round(np.mean([part.epochs for part in parts]))
        say(f"final network: training on {len(rows):,} images")
        final = self._trainer("final", sorted(rows), None, epochs)
        self._fit(final)
        round_weights(final.network)
        return Trained(final.network, _join(parts, epochs), {"folds": len(folds), "folds_asked": asked})

    def away(self, names: list[str]) -> HeldOut:
        """Train once without each of some laboratories, and classify its images by the network that never saw them.

        Args:
            names: Names of the laboratories.
        """
        parts: list[HeldOut] = []
        for name, (training, rows) in self._run.without_each(names).items():
            say(f"without {name}: training on {len(training):,} images, measuring on {len(rows):,}")
            trainer = self._trainer(f"without-{len(parts) + 1}", training, None)
            parts.append(self._held_out(trainer, training, rows))
        return _join(parts, parts[0].epochs)

    def _trainer(
        self, name: str, training: list[int], validation: list[int] | None, epochs: int | None = None
    ) -> Trainer:
        checkpoint = self._work.checkpoint(name)
        return self._run.trainer(training, validation, checkpoint=checkpoint, name=name, epochs=epochs)

    def _held_out(self, trainer: Trainer, training: list[int], validation: list[int]) -> HeldOut:
        """Train, and classify what was held out with the weights as a bundle stores them."""
        self._fit(trainer)
        round_weights(trainer.network)
        progress = trainer.progress
        return HeldOut(
            rows=validation,
            logits=self._run.logits(trainer.network, validation),
            history=progress.history,
            epochs=progress.best_epoch if trainer.config.keep == "best" else progress.epoch,
            trained_on=len(training),
            left_out=self._run.left_out(training + validation),
        )

    def _fit(self, trainer: Trainer) -> None:
        if self._resume and trainer.resume():
            say(f"continuing after epoch {trainer.progress.epoch}")
        steps = trainer.steps_per_epoch * trainer.config.batch_size
        bars: list[Progress] = []

        def on_step(_step: int) -> None:
            if not bars:
                bars.append(Progress(steps, "images", every=60.0).__enter__())
            bars[0].advance(trainer.config.batch_size)

        def on_epoch(epoch: Epoch) -> None:
            bars.pop().__exit__(None, None, None)
            say(_describe(epoch, trainer.config.epochs))

        trainer.fit(on_epoch, on_step)


def _describe(epoch: Epoch, epochs: int) -> str:
    text = f"epoch {epoch.number} of {epochs}: loss {epoch.train_loss:.4f}"
    if epoch.validation_loss is not None and epoch.validation_accuracy is not None:
        text += f", validation loss {epoch.validation_loss:.4f}, accuracy {epoch.validation_accuracy:.4f}"
    return f"{text}, {epoch.seconds:.0f} s" + (", best so far" if epoch.best else "")


def _join(parts: list[HeldOut], epochs: int) -> HeldOut:
    """Put the folds' predictions together: every image was predicted by the network that had not seen it."""
    rows = [row for part in parts for row in part.rows]
    return replace(
        parts[0],
        rows=rows,
        logits=np.concatenate([part.logits for part in parts]),
        history=_mean([part.history for part in parts]),
        epochs=epochs,
        trained_on=len(rows),
        how=f"out of {len(parts)} folds",
    )


def _mean(histories: list[list[dict[str, float]]]) -> list[dict[str, float]]:
    """Average the folds' histories over the epochs that all of them reached."""
    epochs = min(len(history) for history in histories)
    return [
        {name: float(np.mean([history[epoch][name] for history in histories])) for name in histories[0][epoch]}
        for epoch in range(epochs)
    ]
