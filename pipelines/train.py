"""Train on class folders and write a bundle: ``python pipelines/train.py DATA --out BUNDLE``."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from pydantic import Field
from pydantic_settings import CliPositionalArg

from core.errors import SettingsError
from core.images.overlay import encode_jpeg, panel
from core.model.bundle import round_weights
from core.model.predictor import Predictor
from core.training.run import KeptOut, TrainingRun, TrainingSettings
from runtime.command import refuse_existing, run_command
from runtime.progress import Progress, say
from runtime.training import prepare_run

if TYPE_CHECKING:
    from torchvision.models import ResNet

    from core.model.bundle import Bundle
    from core.training.trainer import Epoch, Trainer

__all__ = ["TrainSettings", "main", "train"]


class TrainSettings(TrainingSettings):
    """Train ResNet18 on class folders (DATA/CLASS/**/IMAGE) and write a bundle with its metrics.

    Validation images are kept out by source where --groups names the sources. With --folds the bundle is
    trained on every image whose source is known, and its metrics, temperature and thresholds come from as many
    networks that each left one fold out. No folder but the named ones is read: TEST is for evaluate.py.
    """

    data: CliPositionalArg[Path] = Field(description="folder with one sub-folder per class")
    out: Path = Field(description="folder of the new bundle")
    folds: int = Field(0, ge=0, le=20, description="train on everything, validate out of fold; 0: one validation set")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, ge=1, description="torch and decoding threads; otherwise all cores")
    samples: int = Field(8, ge=0, le=64, description="Grad-CAM sample pictures in the bundle")
    resume: bool = Field(False, description="continue a run that was killed")


def train(settings: TrainSettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: Where data, recipe or options cannot be used.
    """
    refuse_existing(settings.out)
    work = settings.out.parent / f".{settings.out.name}.training"
    if work.exists() and not settings.resume:
        raise SettingsError("unfinished-run", f"{work} holds an unfinished run; give --resume, or remove it.")
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    run = prepare_run(settings, device=settings.device, threads=torch.get_num_threads())
    networks = _Networks(run, work, resume=settings.resume)
    network, kept_out = networks.with_folds(settings.folds) if settings.folds else networks.with_validation()
    bundle = run.write(settings.out, network, kept_out, {"folds": settings.folds})
    here = run.known_here(kept_out.rows)
    _write_samples(run, bundle, [row for row, use in zip(kept_out.rows, here, strict=True) if use], settings)
    shutil.rmtree(work)
    say(f"bundle: {settings.out} ({bundle.id[:12]})")
    return 0


class _Networks:
    """Trains the networks of a run, with checkpoints in the folder `work`."""

    def __init__(self, run: TrainingRun, work: Path, *, resume: bool) -> None:
        self._run, self._work, self._resume = run, work, resume

    def with_validation(self) -> tuple[ResNet, KeptOut]:
        """Train once, with one validation set."""
        training, validation = self._run.split()
        say(f"training on {len(training):,} images, validation on {len(validation):,}")
        trainer = self._trainer("checkpoint", training, validation)
        return trainer.network, self._kept_out(trainer, training, validation)

    def with_folds(self, count: int) -> tuple[ResNet, KeptOut]:
        """Train once per fold for the metrics, and once on everything for the weights."""
        run = self._run
        folds = run.data.folds(run.images, count, run.settings.seed)
        parts: list[KeptOut] = []
        for number, (training, validation) in enumerate(folds, start=1):
            say(f"fold {number} of {len(folds)}: training on {len(training):,} images, not on {len(validation):,}")
            parts.append(self._kept_out(self._trainer(f"fold-{number}", training, validation), training, validation))
        rows = [row for part in parts for row in part.rows]
        epochs = round(np.mean([part.epochs for part in parts]))
        say(f"final network: training on {len(rows):,} images")
        final = self._trainer("final", sorted(rows), None, epochs)
        self._fit(final)
        round_weights(final.network)
        kept_out = replace(
            parts[0],
            rows=rows,
            logits=np.concatenate([part.logits for part in parts]),
            history=_mean([part.history for part in parts]),
            epochs=epochs,
            trained_on=len(rows),
            how=f"out of {count} folds",
        )
        return final.network, kept_out

    def _trainer(
        self, name: str, training: list[int], validation: list[int] | None, epochs: int | None = None
    ) -> Trainer:
        checkpoint = self._work / f"{name}.safetensors"
        return self._run.trainer(training, validation, checkpoint=checkpoint, name=name, epochs=epochs)

    def _kept_out(self, trainer: Trainer, training: list[int], validation: list[int]) -> KeptOut:
        """Train, and classify what was kept out with the weights as a bundle stores them."""
        self._fit(trainer)
        round_weights(trainer.network)
        progress = trainer.progress
        return KeptOut(
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
            watched = epoch.metrics
            validation = f", validation loss {watched.loss:.4f}, accuracy {watched.accuracy:.4f}" if watched else ""
            say(
                f"epoch {epoch.number} of {trainer.config.epochs}: loss {epoch.train_loss:.4f}{validation},"
                f" {epoch.seconds:.0f} s" + (", best so far" if epoch.best else "")
            )

        trainer.fit(on_epoch, on_step)


def _mean(histories: list[list[dict[str, float]]]) -> list[dict[str, float]]:
    """Average the folds' histories over the epochs that all of them reached."""
    epochs = min(len(history) for history in histories)
    return [
        {name: float(np.mean([history[epoch][name] for history in histories])) for name in histories[0][epoch]}
        for epoch in range(epochs)
    ]


def _write_samples(run: TrainingRun, bundle: Bundle, rows: list[int], settings: TrainSettings) -> None:
    """Write original, heatmap and overlay of some validated images, spread over the classes."""
    if not settings.samples:
        return
    predictor = Predictor(bundle, "cpu")
    order = sorted(rows, key=lambda row: int(run.images.labels[row]))
    places = np.linspace(0, len(order) - 1, min(settings.samples, len(order))).astype(int)
    (settings.out / "samples").mkdir()
    for number, place in enumerate(places):
        sample = run.images.samples[order[place]]
        picture, prepared = predictor.prepare(sample.path.read_bytes())
        (prediction,) = predictor.predict([prepared])
        if prediction.cam is not None:
            label = bundle.class_names[int(run.images.labels[order[place]])]
            name = f"{number:02d}-{label}-as-{prediction.label}.jpg"
            three = encode_jpeg(panel(picture.rgb, prediction.cam, prediction.box))
            (settings.out / "samples" / name).write_bytes(three)


def main() -> int:
    """Entry point of the command."""
    return run_command(TrainSettings, train)


if __name__ == "__main__":
    sys.exit(main())
