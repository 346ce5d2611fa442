"""Classify a folder of slides: ``python pipelines/classify.py SLIDES --out RUN``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Literal

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pydantic import Field
from pydantic_settings import CliPositionalArg

from core.errors import LeukorayError
from core.model.opening import EngineName, choose_engine, open_bundle
from core.model.record import read_bundle
from core.settings import Settings
from pipelines.classification.journal import Journal
from pipelines.classification.listing import list_images
from pipelines.classification.location import refuse_recorded_secrets
from pipelines.classification.opening import open_run
from pipelines.classification.parts import classify_parts
from pipelines.classification.patience import Patience
from pipelines.classification.record import RunArguments, RunBundle
from pipelines.classification.results import conclude, write_results
from pipelines.classification.run_folder import RunFolder
from pipelines.classification.storage import Folder, open_folder
from pipelines.classification.worker_settings import WorkerSettings
from runtime.cluster import cluster_address, connected, live_nodes, plan_workers, wait_for_room
from runtime.command import run_command
from runtime.progress import say

__all__ = ["ClassifySettings", "classify", "main"]

SHIPPED_BUNDLE = Path(__file__).resolve().parents[1] / "models" / "blood-cells"
_PART_CPU, _PART_GPU = 64, 512


class ClassifySettings(Settings):
    """Classify every image of a folder of slides, with Grad-CAM, on Ray Data.

    SLIDES holds one folder per slide; images directly in it belong to a slide of its name. SLIDES and RUN are
    paths or URIs (s3://, gs://), in which names stand as they are: a space as a space, # and % as themselves.
    """

    slides: CliPositionalArg[str] = Field(description="folder of slides", repr=False)
    out: str = Field(description="folder for the results; new, or a run to continue with --resume", repr=False)
    model: Path = Field(SHIPPED_BUNDLE, description="bundle (default: the one that ships)")
    engine: EngineName = Field("auto", description="what runs the network; auto: openvino on CPUs if MODEL has it")
    adapt: bool = Field(False, description="first adapt the bundle to the slides' stain and camera (no labels; torch)")
    cells: Literal["one", "all"] = Field("one", description="cells of each image; all: of camera fields, every one")
    gradcam: Literal["all", "flagged", "none"] = Field("all", description="which cells get a heatmap overlay")
    colour_map: Literal["jet", "turbo", "viridis", "inferno"] = Field("jet", description="colours of the heatmap")
    batch_size: int = Field(32, ge=1, le=4096, description="images, or cells, per forward pass")
    limit: int | None = Field(None, ge=1, description="classify only the first so many images")
    resume: bool = Field(False, description="continue the run in RUN; what is finished is not done again")
    max_error_rate: float = Field(0.05, ge=0, le=1, description="share of unreadable files above which to exit with 1")
    workers: int | None = Field(None, ge=1, description="worker processes; otherwise one per GPU, else one per CPU")
    cpus_per_worker: float | None = Field(None, gt=0, description="logical CPUs that each worker reserves")
    gpus_per_worker: float | None = Field(None, ge=0, description="GPUs that each worker reserves; 0: use CPUs only")
    threads: int | None = Field(None, ge=1, description="torch threads of each worker")
    part_size: int | None = Field(
        None, ge=1, le=4096, description="images per unit of work; otherwise 64, on a GPU 512"
    )
    report_cells: int = Field(200, ge=1, description="thumbnails that the report shows per slide and class")
    drawn: bool = Field(False, description="say in the report that the images are drawings")
    wait: float | None = Field(None, gt=0, description="seconds to wait for a free CPU or GPU; otherwise no limit")
    patience: float = Field(30, ge=0, description="seconds for which storage that fails is tried again")
    address: str | None = Field(None, description="Ray cluster; otherwise the job's, RAY_ADDRESS, else a private one")


def classify(settings: ClassifySettings) -> int:
    """Do what the command does; return its exit code.

    Raises:
        LeukorayError: Bundle, slides or options cannot be used, or where the run cannot go on.
    """
    started = time.perf_counter()
    bundle, patience = read_bundle(settings.model), Patience(settings.patience)
    source, run = open_folder(settings.slides, patience), RunFolder(open_folder(settings.out, patience))
    if cluster_address(settings.address):
        refuse_recorded_secrets(source.location, run.folder.location)
    chosen = RunBundle.of(str(settings.model), bundle)
    record = open_run(source, run, _arguments(settings, source), chosen, resume=settings.resume)
    if record.state == "finished":
        say(f"{run.folder.shown} is finished already.")
        return conclude(run, record, settings.max_error_rate)
    journal = Journal(run, record)
    try:
        _work(settings, source, run, journal, started)
    except BaseException as error:
        reason = journal.fail(error, source, run.folder)
        if isinstance(error, OSError):
            raise LeukorayError("storage-refuses", reason) from None
        raise
    return conclude(run, journal.record, settings.max_error_rate)


def _work(settings: ClassifySettings, source: Folder, run: RunFolder, journal: Journal, started: float) -> None:
    """Take the steps of a run: list, classify, write the results."""
    journal.write(error=None)
    with connected(settings.address):
        plan = plan_workers(
            live_nodes(),
            workers=settings.workers,
            cpus=settings.cpus_per_worker,
            gpus=0 if settings.engine == "openvino" else settings.gpus_per_worker,
            threads=settings.threads,
        )
        part_size = settings.part_size or (_PART_GPU if plan.gpus else _PART_CPU)
        images = list_images(source, run, part_size, settings.limit)
        counts = {"listed": images.images, "ignored": images.ignored, "parts": images.parts}
        journal.write(
            state="running",
            counts=journal.record.counts.model_copy(update=counts),
            timings=journal.record.timings.model_copy(update={"listing_s": images.listing_s}),
        )
        workers = f"{plan.workers} worker{'s' * (plan.workers > 1)} on {plan.device}"
        threads = f"{plan.threads} thread{'s' * (plan.threads > 1)} each"
        asked = "torch" if settings.adapt else settings.engine
        engine = journal.record.engine or choose_engine(settings.model, asked, plan.device)
        bundle = open_bundle(settings.model, engine)
        journal.write(engine=engine)
        say(f"{images.images:,} images; {workers}, {threads}, {engine}; bundle {bundle.id[:12]}")
        if settings.adapt:
            from pipelines.classification.adaptation import adapt_for_run  # noqa: PLC0415 - loads PyTorch

            bundle = adapt_for_run(bundle, source, run, images)
            journal.write(adapted=RunBundle.of(run.folder.show("bundle"), bundle), adaptation=bundle.record.adaptation)
        wait_for_room(plan, say, settings.wait)
        worker = WorkerSettings.of_run(source, run, journal.record.arguments, plan)
        classify_parts(run, images, bundle, worker, plan, journal)
    write_results(run, images, journal, cells=settings.report_cells, drawn=settings.drawn, started=started)


def _arguments(settings: ClassifySettings, source: Folder) -> RunArguments:
    """Return what decides the rows of a run; the rest may differ when it is resumed."""
    names = RunArguments.model_fields.keys() - {"slides"}
    return RunArguments(slides=source.shown, **{name: getattr(settings, name) for name in names})


def main() -> int:
    """Run the command; return its exit code."""
    return run_command(ClassifySettings, classify)


if __name__ == "__main__":
    sys.exit(main())
