"""Classify a folder of slides: ``python pipelines/classify.py SLIDES --out RUN``."""

from __future__ import annotations

import sys
import threading
import time
from importlib import import_module
from pathlib import Path

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from core.errors import LeukorayError
from core.model.opening import choose_engine, open_bundle
from core.model.record import read_bundle
from pipelines.classification.journal import Journal
from pipelines.classification.listing import list_images
from pipelines.classification.location import refuse_recorded_secrets
from pipelines.classification.opening import open_run
from pipelines.classification.parts import classify_parts
from pipelines.classification.patience import Patience
from pipelines.classification.record import RunArguments, RunBundle
from pipelines.classification.results import conclude, write_results
from pipelines.classification.run_folder import RunFolder
from pipelines.classification.settings import ClassifySettings
from pipelines.classification.storage import Folder, open_folder
from pipelines.classification.worker_settings import WorkerSettings
from runtime.cluster import cluster_address, connected, live_nodes, plan_workers, wait_for_room
from runtime.command import run_command
from runtime.progress import say

__all__ = ["ClassifySettings", "classify", "main"]

_PART_CPU, _PART_GPU = 64, 512


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
    # Ray Data takes a second to load, in which Ray itself waits for the processes that it starts.
    threading.Thread(target=import_module, args=["ray.data"], daemon=True).start()
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
