"""Train the finder of white cells: ``python pipelines/train_finder.py DATA --start BUNDLE --out NEW``."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pydantic import Field
from pydantic_settings import CliPositionalArg

from core.data.laboratories import DataOptions, Laboratory, names_laboratories
from core.errors import SettingsError
from core.finding.marked import DRAWN, draw_fields
from core.finding.torch_finder import TorchFinder
from core.model.bundle import load_bundle
from core.model.torch_engine import choose_device
from core.training.finder import FinderConfig, FinderTrainer
from pipelines.training.finding import choose_record, describe, load_fields_of, save_with_finder, split_by_slide
from pipelines.training.work_folder import WorkFolder
from runtime.command import refuse_existing, run_command
from runtime.progress import Progress, say
from runtime.training import take_cores

__all__ = ["TrainFinderSettings", "main", "train_finder"]


class TrainFinderSettings(DataOptions):
    """Train the finder of white cells, and write a bundle that has it.

    DATA is a folder of camera fields (with --boxes: a CSV with the columns image, label, left, top, right, bottom, in
    which every white cell of an image is marked), or a YAML file of laboratories, whose class folders count as images
    of one cell each. The new bundle is START with the new finder; its network and thresholds stay.
    """

    data: CliPositionalArg[Path] = Field(description="folder of camera fields, or a YAML file of laboratories")
    boxes: Path | None = Field(None, description="CSV of the white cells in DATA, where that is a folder")
    not_white: list[str] = Field([], description="labels of the CSV that are no white cells, such as platelets")
    start: Path = Field(description="bundle that gets the finder; training goes on from the one it has")
    out: Path = Field(description="folder of the new bundle")
    drawn: int = Field(150, ge=0, le=10_000, description="drawn fields that are shown beside, with cells that touch")
    drawn_share: float = Field(0.3, gt=0, le=1000, description="how often they are shown, relative to a laboratory")
    anew: bool = Field(False, description="begin from random weights, even where START has a finder")
    validation_share: float = Field(0.15, ge=0, le=0.5, description="share of each laboratory's slides held out")
    steps: int | None = Field(None, ge=1, description="training steps; otherwise 2,000, or 500 from a finder on")
    learning_rate: float | None = Field(None, gt=0, description="largest learning rate; otherwise by the beginning")
    seed: int = Field(0, ge=0, description="seed of the split, the weights and the views")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, ge=1, description="torch and decoding threads; otherwise all cores")
    resume: bool = Field(False, description="continue a run that was killed")

    def laboratories(self) -> tuple[Laboratory, ...]:
        """Return what DATA names.

        Raises:
            DataError: The file of laboratories cannot be read.
            SettingsError: With code ``laboratories-options`` where options contradict it.
        """
        found = self.laboratories_in(self.data)
        if names_laboratories(self.data):
            if self.boxes or self.not_white:
                raise SettingsError("laboratories-options", f"Boxes and labels stand in {self.data} itself.")
            return found
        if self.boxes is None:
            raise SettingsError("no-boxes", f"{self.data} is a folder of images: give the CSV of its cells as --boxes.")
        marked = {"boxes": self.boxes, "not_white": self.not_white}
        return tuple(laboratory.model_copy(update=marked) for laboratory in found)


def train_finder(settings: TrainFinderSettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: The data, the bundle or the options cannot be used.
    """
    refuse_existing(settings.out)
    bundle = load_bundle(settings.start, with_replay=True)
    laboratories = settings.laboratories()
    work = WorkFolder(settings.out, resume=settings.resume)
    fields = load_fields_of(laboratories, take_cores(settings.threads))
    training, held_out = split_by_slide(fields, settings.validation_share, settings.seed)
    say(describe(training, held_out))
    before = None if settings.anew or bundle.finder is None else bundle.finder.network
    config = FinderConfig.model_validate(
        {
            "steps": settings.steps or (500 if before else 2000),
            "learning_rate": settings.learning_rate or (1e-3 if before else 3e-3),
            "seed": settings.seed,
        }
    )
    trainer = FinderTrainer(
        [*training, *draw_fields(settings.drawn, settings.seed)],
        config,
        {laboratory.name: laboratory.share for laboratory in laboratories} | {DRAWN: settings.drawn_share},
        device=choose_device(settings.device),
        checkpoint=work.checkpoint("finder"),
        origin="random weights" if before is None else bundle.id,
        start=before,
    )
    if settings.resume and trainer.resume():
        say(f"continuing after step {trainer.step:,}")
    with Progress(config.steps, "steps", done=trainer.step) as progress:
        trainer.fit(lambda _step, _loss: progress.advance())
    network = trainer.network.cpu()
    record = choose_record(network, config, training, held_out)
    if bundle.finder is not None:
        record = record.model_copy(update={"cuts_out": bundle.finder.record.cuts_out})
    new = save_with_finder(settings.out, bundle, TorchFinder(network, record))
    work.remove()
    if record.training and record.training.held_out:
        found = record.training
        say(f"on {found.held_out:,} held-out cells: recall {found.recall:.1%}, precision {found.precision:.1%}")
    say(f"bundle: {settings.out} ({new.id[:12]})")
    return 0


def main() -> int:
    """Entry point of the command."""
    return run_command(TrainFinderSettings, train_finder)


if __name__ == "__main__":
    sys.exit(main())
