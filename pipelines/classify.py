"""Classify a folder of slides: ``python pipelines/classify.py SLIDES --out RUN``."""

from __future__ import annotations

import logging
import math
import platform
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pyarrow as pa
import ray
import torch
import torchvision
from pydantic import Field
from pydantic_settings import CliPositionalArg

from core import __version__
from core.errors import LeukorayError, SettingsError
from core.model.bundle import Bundle, load_bundle
from core.settings import Settings
from pipelines.classification.report import Report
from pipelines.classification.run_folder import RunFolder
from pipelines.classification.slides import Entry, list_slides, top_slide
from pipelines.classification.storage import Folder, open_folder
from pipelines.classification.summary import Slide, slides_csv, summarise
from pipelines.classification.worker import PartClassifier, WorkerSettings
from runtime.cluster import WORKER_ENVIRONMENT, WorkerPlan, connected, plan_workers
from runtime.command import FAILED, run_command
from runtime.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

__all__ = ["ClassifySettings", "classify", "main"]

SHIPPED_BUNDLE = Path(__file__).resolve().parents[1] / "models" / "blood-cells"
_PART_CPU, _PART_GPU = 64, 512
_MOST_BLOCKS = 4096


class ClassifySettings(Settings):
    """Classify every image of a folder of slides, with Grad-CAM, on Ray Data.

    SLIDES holds one folder per slide; images directly in it belong to a slide of its name. SLIDES and RUN are
    paths or URIs (s3://, gs://).
    """

    slides: CliPositionalArg[str] = Field(description="folder of slides")
    out: str = Field(description="folder for the results; new, or a run to continue with --resume")
    model: Path = Field(SHIPPED_BUNDLE, description="bundle (default: the one that ships)")
    gradcam: Literal["all", "flagged", "none"] = Field("all", description="which images get a heatmap overlay")
    colour_map: Literal["jet", "turbo", "viridis", "inferno"] = Field("jet", description="colours of the heatmap")
    batch_size: int = Field(32, ge=1, le=4096, description="images per forward pass")
    limit: int | None = Field(None, ge=1, description="classify only the first so many images")
    resume: bool = Field(False, description="continue the run in RUN; finished work is kept")
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
    address: str | None = Field(None, description="Ray cluster; otherwise the job's, RAY_ADDRESS, else a private one")


def classify(settings: ClassifySettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: Where bundle, slides or options cannot be used.
    """
    started = time.perf_counter()
    bundle = load_bundle(settings.model)
    source, run = open_folder(settings.slides), RunFolder(open_folder(settings.out))
    record = _begin(settings, bundle, source, run)
    if record["state"] == "finished":
        _say(f"{run.folder.path} is finished already.")
        return _conclude(settings, record, run)
    try:
        with connected(settings.address):
            plan = _plan(settings)
            counts = _list(settings, source, run, plan, record)
            _say(
                f"{counts['images']:,} images; {plan.workers} worker{'s' * (plan.workers > 1)} on {plan.device},"
                f" {plan.threads} thread{'s' * (plan.threads > 1)} each; bundle {bundle.id[:12]}"
            )
            _classify_parts(settings, bundle, source, run, plan, record)
        _finish(settings, bundle, run, record, started)
    except BaseException as error:
        record["state"] = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        record["error"] = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        run.write_record(record)
        raise
    return _conclude(settings, record, run)


def _begin(settings: ClassifySettings, bundle: Bundle, source: Folder, run: RunFolder) -> dict[str, Any]:
    """Check that this run may write into RUN; return its record."""
    if not source.is_folder():
        raise SettingsError("not-found", f"The slide folder {settings.slides} does not exist, or is not a folder.")
    inside = run.folder.path == source.path or run.folder.path.startswith(source.path + "/")
    if inside and type(run.folder.filesystem) is type(source.filesystem):
        raise SettingsError("run-inside-slides", "RUN lies inside SLIDES, so its overlays would be taken for slides.")
    arguments = _arguments(settings, source)
    if run.exists and run.manifest_counts() is not None:  # before that, nothing is there to continue
        return _continue(settings, arguments, bundle, run)
    if not run.exists and not run.is_empty:
        raise SettingsError("run-not-empty", f"{settings.out} is not empty and holds no run; choose another folder.")
    record: dict[str, Any] = {
        "state": "listing",
        "arguments": arguments,
        "bundle": {"path": str(settings.model), "id": bundle.id, "classes": list(bundle.class_names)},
        "versions": _versions(),
        "started": _now(),
        "finished": None,
        "counts": {},
        "timings": {},
        "throughput": {},
        "sessions": [],
    }
    run.write_record(record)
    return record


def _continue(settings: ClassifySettings, arguments: dict[str, Any], bundle: Bundle, run: RunFolder) -> dict[str, Any]:
    if not settings.resume:
        raise SettingsError(
            "run-exists", f"{settings.out} holds a run already; continue it with --resume, or choose another folder."
        )
    record = run.read_record()
    if record["bundle"]["id"] != bundle.id:
        raise SettingsError("run-mismatch", f"The run in {settings.out} was made with another bundle; it is not mixed.")
    for name, value in arguments.items():
        if record["arguments"].get(name) != value:
            raise SettingsError(
                "run-mismatch",
                f"The run in {settings.out} was made with {name} = {record['arguments'].get(name)!r}, not {value!r};"
                " give the same options, or choose another folder.",
            )
    return record


def _arguments(settings: ClassifySettings, source: Folder) -> dict[str, Any]:
    """Return what decides the rows of a run; the rest may differ when it is resumed."""
    return {
        "slides": source.path if source.local else settings.slides,
        "gradcam": settings.gradcam,
        "colour_map": settings.colour_map,
        "batch_size": settings.batch_size,
        "limit": settings.limit,
        "part_size": settings.part_size,
    }


def _plan(settings: ClassifySettings) -> WorkerPlan:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return plan_workers(
        nodes,
        workers=settings.workers,
        cpus=settings.cpus_per_worker,
        gpus=settings.gpus_per_worker,
        threads=settings.threads,
    )


def _list(
    settings: ClassifySettings, source: Folder, run: RunFolder, plan: WorkerPlan, record: dict[str, Any]
) -> dict[str, int]:
    """Write the list of images, unless an earlier session did."""
    counts = run.manifest_counts()
    if counts is None:
        started = time.perf_counter()
        ignored = 0

        def images() -> Iterator[Entry]:
            nonlocal ignored
            listed = 0
            for entry in list_slides(source):
                if entry is None:
                    ignored += 1
                    continue
                if listed == settings.limit:
                    return
                listed += 1
                yield entry

        counts = run.write_manifest(images(), settings.part_size or (_PART_GPU if plan.gpus else _PART_CPU))
        record["top_slide"] = top_slide(source)
        record["counts"]["ignored"] = ignored
        record["timings"]["listing_s"] = round(time.perf_counter() - started, 3)
    record["counts"]["listed"] = counts["images"]
    record["counts"]["parts"] = counts["parts"]
    record["state"] = "running"
    record.pop("error", None)
    run.write_record(record)
    return counts


def _classify_parts(
    settings: ClassifySettings, bundle: Bundle, source: Folder, run: RunFolder, plan: WorkerPlan, record: dict[str, Any]
) -> None:
    """Classify the unfinished parts on Ray Data, and count them as they come."""
    run.forget_attempts()
    parts = run.unfinished_parts(record["counts"]["parts"])
    session = {"started": _now(), "parts": 0, "images": 0, "errors": 0, "starting_s": 0.0, "seconds": 0.0}
    record["sessions"].append(session)
    if not parts:
        return
    total = record["counts"]["listed"]
    done = total - sum(len(run.read_manifest(part)) for part in parts) if len(record["sessions"]) > 1 else 0
    worker = WorkerSettings(
        slides=settings.slides if not source.local else source.path,
        run=settings.out if not run.folder.local else run.folder.path,
        gradcam=settings.gradcam,
        colour_map=settings.colour_map,
        batch_size=settings.batch_size,
        threads=plan.threads,
        loaders=plan.loaders,
        device=plan.device,
    )
    started, first = time.time(), math.inf
    with Progress(total, "images", done=done) as progress:
        for row in _rows(parts, bundle, worker, plan):
            session["parts"] += 1
            session["images"] += int(row["images"])
            session["errors"] += int(row["errors"])
            first = min(first, float(row["begun"]))
            session["starting_s"] = round(first - started, 3)
            session["seconds"] = round(time.time() - started, 3)
            progress.advance(int(row["images"] + row["errors"]))
            run.write_record(record)


def _rows(
    parts: Sequence[int], bundle: Bundle, worker: WorkerSettings, plan: WorkerPlan
) -> Iterator[dict[str, np.generic]]:
    """Yield the counts of each part as soon as it is on disk."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.memory_usage_poll_interval_s = None  # reading a worker's page tables every second slows it down
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    reference = ray.put(bundle)  # held here as long as a worker may be restarted
    blocks = min(len(parts), _MOST_BLOCKS)
    dataset = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=blocks).map_batches(
        PartClassifier,
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=min(plan.workers, len(parts))),
        num_cpus=plan.cpus,
        num_gpus=plan.gpus or None,
        fn_constructor_kwargs={"bundle": reference, "settings": worker},
        runtime_env={"env_vars": WORKER_ENVIRONMENT},
    )
    try:
        yield from dataset.iter_rows()
    except ray.exceptions.RayError as error:
        raise _explain(error) from error


def _explain(error: BaseException) -> LeukorayError:
    """Find, under what Ray wraps around it, the error that a worker met."""
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None:
        error = inner
    if isinstance(error, LeukorayError):
        return error
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return LeukorayError(
        "worker-failed", f"A worker failed: {type(error).__name__}: {first}. What is done is kept; use --resume."
    )


def _finish(settings: ClassifySettings, bundle: Bundle, run: RunFolder, record: dict[str, Any], started: float) -> None:
    """Write what is made from all rows: slides.csv, the report, the final run.json."""
    before = time.perf_counter()
    report = Report(run, bundle.class_names, record, drawn=settings.drawn)
    slides: list[Slide] = []
    coming = summarise(run, bundle.class_names, settings.report_cells, record["top_slide"])
    slide = next(coming, None)
    while slide is not None:
        following = next(coming, None)
        report.add(slide, last=following is None)
        slide.forget()
        slides.append(slide)
        slide = following
    run.folder.write("slides.csv", slides_csv(slides, bundle.class_names).encode())
    _count(record, slides)
    record["finished"] = _now()
    report.finish()
    record["timings"] |= {
        "classify_s": round(sum(session["seconds"] for session in record["sessions"]), 3),
        "report_s": round(time.perf_counter() - before, 3),
        "total_s": round(time.perf_counter() - started, 3),
    }
    record["state"] = "finished"
    run.write_record(record)


def _count(record: dict[str, Any], slides: Sequence[Slide]) -> None:
    """Put the final counts and the throughput on record."""
    predictions, errors = sum(slide.n for slide in slides), sum(slide.n_errors for slide in slides)
    seconds = sum(session["seconds"] for session in record["sessions"])
    working = seconds - sum(session["starting_s"] for session in record["sessions"])
    record["counts"] |= {
        "slides": len(slides),
        "predictions": predictions,
        "errors": errors,
        "flagged": sum(slide.flagged.total() for slide in slides),
    }
    record["throughput"] = {
        "images_per_s": round((predictions + errors) / seconds, 2) if seconds > 0 else None,
        "images_per_s_once_started": round((predictions + errors) / working, 2) if working > 0 else None,
    }


def _conclude(settings: ClassifySettings, record: dict[str, Any], run: RunFolder) -> int:
    counts = record["counts"]
    total = counts["predictions"] + counts["errors"]
    rate = record["throughput"]["images_per_s"]
    _say(
        f"{counts['predictions']:,} cells on {counts['slides']:,} slides classified, {counts['flagged']:,} to look at,"
        f" {counts['errors']:,} unreadable files" + (f", {rate:,.1f} images/s" if rate else "")
    )
    _say(f"report: {run.folder.join('report/index.html')}")
    share = counts["errors"] / total
    if share <= settings.max_error_rate:
        return 0
    _say(
        f"error: {share:.1%} of the files are unreadable, more than --max-error-rate allows"
        f" ({settings.max_error_rate:.1%})"
    )
    return FAILED


def _versions() -> dict[str, str]:
    return {
        "leukoray": __version__,
        "python": platform.python_version(),
        "ray": ray.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pyarrow": pa.__version__,
    }


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Entry point of the command."""
    return run_command(ClassifySettings, classify)


if __name__ == "__main__":
    sys.exit(main())
