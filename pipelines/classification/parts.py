"""The parts of a run on Ray Data: started, counted as they come, and ended with a sentence where they fail."""

from __future__ import annotations

import logging
import math
import time
from contextlib import closing
from typing import TYPE_CHECKING

import ray

from core.errors import LeukorayError
from core.settings import time_stamp
from pipelines.classification.actor import PartActor
from pipelines.classification.record import RunSession
from runtime.cluster import WORKER_ENVIRONMENT
from runtime.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    import numpy as np

    from core.model.engine import Usable
    from pipelines.classification.journal import Journal
    from pipelines.classification.run_folder import ImageList, RunFolder
    from pipelines.classification.worker_settings import WorkerSettings
    from runtime.cluster import WorkerPlan

__all__ = ["classify_parts", "part_rows"]

_MOST_BLOCKS = 4096


def classify_parts(
    run: RunFolder, images: ImageList, bundle: Usable, settings: WorkerSettings, plan: WorkerPlan, journal: Journal
) -> None:
    """Classify the unfinished parts of a run, and write into its journal what is done.

    Args:
        run: Folder of the run.
        images: The complete list of images.
        bundle: Bundle that classifies.
        settings: Settings of the workers.
        plan: Number and size of the workers.
        journal: Journal of the run; a session is added to it.

    Raises:
        LeukorayError: A worker could not go on; what is done is kept.
    """
    run.clean()
    parts = run.unfinished_parts(images.parts)
    journal.write(sessions=(*journal.record.sessions, RunSession(started=time_stamp())))
    if not parts:
        return
    todo = sum(len(run.read_list_part(part)) for part in parts) if len(parts) < images.parts else images.images
    started, first = time.time(), math.inf
    with (
        Progress(images.images, "images", done=images.images - todo) as progress,
        closing(part_rows(parts, bundle, settings, plan)) as rows,
    ):
        for row in rows:
            if row["code"]:
                raise LeukorayError(str(row["code"]), str(row["message"]))
            first = min(first, float(row["begun"]))
            session = _add(journal.session, row, first - started, time.time() - started)
            progress.advance(int(row["images"] + row["errors"]))
            journal.write_session(session)


def _add(session: RunSession, row: Mapping[str, np.generic], starting_s: float, seconds: float) -> RunSession:
    """Return the session with one more part."""
    return session.model_copy(
        update={
            "parts": session.parts + 1,
            "images": session.images + int(row["images"]),
            "errors": session.errors + int(row["errors"]),
            "starting_s": round(starting_s, 3),
            "seconds": round(seconds, 3),
        }
    )


def part_rows(
    parts: Sequence[int], bundle: Usable, settings: WorkerSettings, plan: WorkerPlan
) -> Generator[dict[str, np.generic]]:
    """Yield a row for each part as soon as it is written: its counts, or a code and a sentence.

    Raises:
        LeukorayError: With code ``worker-failed`` where a worker met what nobody foresaw.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Ray would read each worker's page tables every second for its statistics, which slows a worker down.
    context.memory_usage_poll_interval_s = None
    # Ray Data's logger; it warns of CPUs that workers leave to no one else, and repeats errors as pages of trace.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    references = {"bundle": ray.put(bundle), "settings": ray.put(settings)}  # held as long as a worker may start
    dataset = ray.data.from_items(
        [{"part": part} for part in parts], override_num_blocks=min(len(parts), _MOST_BLOCKS)
    ).map_batches(
        PartActor,
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=min(plan.workers, len(parts))),
        num_cpus=plan.cpus,
        num_gpus=plan.gpus or None,
        fn_constructor_kwargs=references,
        # A worker with an environment of its own is a new process; without, one that Ray has started already.
        runtime_env={"env_vars": WORKER_ENVIRONMENT} if bundle.engine_name == "torch" else None,
    )
    try:
        yield from dataset.iter_rows()
    except ray.exceptions.RayError as error:
        raise _root_cause(error) from error


def _root_cause(error: BaseException) -> LeukorayError:
    """Find, under what Ray wraps around it, the error that a worker met."""
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None:
        error = inner
    if isinstance(error, LeukorayError):
        return error
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return LeukorayError(
        "worker-failed", f"A worker failed: {type(error).__name__}: {first}. What is done is kept; use --resume."
    )
