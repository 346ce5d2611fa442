"""Train on class folders and write a bundle: ``python pipelines/train.py DATA --out BUNDLE``."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pydantic import Field
from pydantic_settings import CliPositionalArg

from core.data.laboratories import names_laboratories
from core.errors import SettingsError
from core.model.bundle import load_bundle
from core.training.outcome import write_bundle
from core.training.run import TrainingSettings
from pipelines.training.networks import Networks
from pipelines.training.samples import write_samples
from pipelines.training.work_folder import WorkFolder
from runtime.command import refuse_existing, run_command
from runtime.progress import say
from runtime.training import prepare_run, take_cores

__all__ = ["TrainSettings", "main", "train"]


class TrainSettings(TrainingSettings):
    """Train a network on class folders (DATA/CLASS/**/IMAGE) and write a bundle with its metrics.

    Validation images are held out by source where --groups names the sources. With --folds the bundle is
    trained on every image whose source is known, and its metrics, temperature and thresholds come from as many
    networks that each left one fold out. No folder but the named ones is read: TEST is for evaluate.py.
    """

    data: CliPositionalArg[Path] = Field(
        description="folder with one sub-folder per class, or a YAML file of laboratories"
    )
    out: Path = Field(description="folder of the new bundle")
    start: Path | None = Field(None, description="bundle to start from: adapts it to these images (recipe adapt)")
    folds: int = Field(
        0, ge=0, le=20, description="train on everything, validate out of fold; 0: one validation set (--start: 3)"
    )
    in_turn: list[str] = Field(
        [],
        description="laboratories: train without each of them as well, to measure on it and to choose thresholds by it",
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, ge=1, description="torch and decoding threads; otherwise all cores")
    samples: int = Field(8, ge=0, le=64, description="Grad-CAM sample pictures in the bundle")
    resume: bool = Field(False, description="continue a run that was killed")

    def with_defaults_of_start(self) -> TrainSettings:
        """Return the settings with what ``--start`` means unless the user said otherwise.

        Raises:
            SettingsError: With code ``start-options`` where options contradict it.
        """
        if self.start is None:
            return self
        if given := {"weights", "architecture", "finder"} & self.model_fields_set:
            raise SettingsError(
                "start-options", f"--start gives the network, its weights and the finder; leave --{min(given)} away."
            )
        defaults = {"recipe": "adapt", "folds": 3}
        return self.model_copy(update={name: defaults[name] for name in defaults.keys() - self.model_fields_set})

    def check_in_turn(self) -> None:
        """Refuse what ``--in-turn`` cannot leave out.

        Raises:
            SettingsError: With code ``laboratories-options``.
        """
        if not self.in_turn:
            return
        if not names_laboratories(self.data):
            raise SettingsError("laboratories-options", "--in-turn needs a file of laboratories as DATA.")
        names = {laboratory.name for laboratory in self.laboratories_in(self.data)}
        if absent := set(self.in_turn) - names:
            raise SettingsError("laboratories-options", f"{self.data} has no laboratory {', '.join(sorted(absent))}.")
        if len(names) < 2:
            raise SettingsError("laboratories-options", f"Without {min(names)} there is nothing to train on.")


def train(settings: TrainSettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: The data, the recipe or the options cannot be used.
    """
    refuse_existing(settings.out)
    settings = settings.with_defaults_of_start()
    start = load_bundle(settings.start, with_replay=True) if settings.start else None
    if start and start.replay is None:
        say("warning: the bundle keeps nothing of its own training images; what they taught it will fade")
    if settings.folds == 1:
        raise SettingsError("one-fold", "One fold leaves nothing to train on; give --folds 0 or at least 2.")
    settings.check_in_turn()
    work = WorkFolder(settings.out, resume=settings.resume)
    run = prepare_run(settings, device=settings.device, threads=take_cores(settings.threads), start=start)
    networks = Networks(run, work, resume=settings.resume)
    trained = networks.with_folds(settings.folds) if settings.folds else networks.with_validation()
    away = networks.away(settings.in_turn) if settings.in_turn else None
    bundle = write_bundle(run, settings.out, trained.network, trained.held_out, trained.facts, away=away)
    rows = trained.held_out.rows
    here = [row for row, known in zip(rows, run.known(rows), strict=True) if known]
    write_samples(settings.out / "samples", bundle, run, here, settings.samples)
    if rest := work.remove():
        say(f"warning: {work.path} stays, since files that are not of this run lie in it: {rest[0].name}")
    say(f"bundle: {settings.out} ({bundle.id[:12]})")
    return 0


def main() -> int:
    """Entry point of the command."""
    return run_command(TrainSettings, train)


if __name__ == "__main__":
    sys.exit(main())
