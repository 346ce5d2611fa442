"""Search hyperparameters on Ray Tune: ``python tuning/search.py DATA --out SEARCH``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])


from core import __version__
from core.settings import time_stamp
from runtime.cluster import OptionNames, WorkerPlan, connected, live_nodes, plan_workers, wait_for_room
from runtime.command import FAILED, refuse_existing, run_command
from runtime.progress import say
from runtime.training import prepare_run
from tuning.checkpoints import release_trainer
from tuning.experiment import experiment_folder, run_trials
from tuning.outcome import count, say_result
from tuning.preparation import Prepared, check_options
from tuning.record import Identity, Plan, SearchRecord
from tuning.report import REPORT, write_report
from tuning.settings import SearchSettings
from tuning.space import load_space
from tuning.tables import write_tables
from tuning.winner import refuse_foreign, write_winner

if TYPE_CHECKING:
    from tuning.trials import Trials

__all__ = ["SearchSettings", "main", "search"]

_PER_GPU = 4
_OPTIONS = OptionNames("--max-concurrent", "--cpus-per-trial", "--gpus-per-trial")


def search(settings: SearchSettings) -> int:
    """Search, and write the best trial and the report.

    Args:
        settings: The options.

    Returns:
        Exit code: 1 where a trial failed or none can be used, otherwise 0.

    Raises:
        LeukorayError: Data, space, recipe or options cannot be used.
    """
    started = time.monotonic()
    settings = settings.model_copy(update={"out": settings.out.absolute(), "data": settings.data.absolute()})
    earlier = SearchRecord.load(settings.out) if settings.resume else refuse_existing(settings.out)
    recipe = settings.load_recipe()
    space = load_space(settings.space, recipe.training)
    check_options(settings, space, recipe.training)
    device = "cpu" if settings.gpus_per_trial == 0 else "auto"
    run = prepare_run(settings, device=device, threads=os.cpu_count() or 1, architectures=space.architectures)
    identity = Identity.of(settings, run, space)
    if earlier is not None:
        earlier.refuse_changed(identity, settings.out)
        if earlier.state == "finished":
            say(f"this search is finished: {settings.out / REPORT}")
            return 0
        refuse_foreign(settings.out)
    prepared = Prepared.of(run, space)
    del run
    with connected(settings.address, int(1.1 * prepared.shared_bytes)):
        plan = _plan(settings)
        wait_for_room(plan, say, settings.wait)
        record = _begin(settings, prepared, plan, identity, earlier)
        record.save()
        try:
            trials = run_trials(settings, prepared, plan)
        finally:
            spent = record.seconds + time.monotonic() - started
            record = record.change(seconds=round(spent, 1), state="interrupted")
            record.save()
    return _finish(settings, prepared, record, trials)


def _plan(settings: SearchSettings) -> WorkerPlan:
    plan = plan_workers(
        live_nodes(),
        workers=settings.max_concurrent,
        cpus=settings.cpus_per_trial,
        gpus=settings.gpus_per_trial,
        threads=settings.threads,
        per_gpu=_PER_GPU,
        names=_OPTIONS,
    )
    say(f"{plan.workers} trials at once, each with {plan.cpus:g} CPUs, {plan.gpus:g} GPUs and {plan.threads} threads")
    return plan


def _begin(
    settings: SearchSettings, prepared: Prepared, plan: WorkerPlan, identity: Identity, earlier: SearchRecord | None
) -> SearchRecord:
    """Make the record of a search that begins, or continues."""
    now = time_stamp()
    return SearchRecord(
        version=__version__,
        started=earlier.started if earlier else now,
        state="running",
        seconds=earlier.seconds if earlier else 0.0,
        settings=settings,
        identity=identity,
        recipe_values=prepared.space.values_of(prepared.run.recipe.training),
        plan=Plan(trials_at_once=plan.workers, cpus=plan.cpus, gpus=plan.gpus, threads=plan.threads),
        images=prepared.counts,
    )


def _finish(settings: SearchSettings, prepared: Prepared, record: SearchRecord, trials: Trials) -> int:
    """Write the tables, the bundle and the report; the record is the last, since it says that all is there."""
    for trial in trials.records:
        if trial.id in trials.checkpoints:
            release_trainer(trials.checkpoints[trial.id], {"ends": trial.state, "reason": trial.reason})
    write_tables(settings.out, trials.records)
    result = write_winner(settings.out, prepared, trials) if trials.ranked else None
    record = record.change(counts=count(trials, prepared.run.recipe.training.epochs), result=result, state="finished")
    write_report(settings.out, trials, record, experiment_folder(settings))
    record.save()
    say_result(record, trials)
    failed = any(trial.state in {"failed", "out-of-memory"} for trial in trials.records)
    return FAILED if failed or result is None else 0


def main() -> int:
    """Entry point of the command."""
    return run_command(SearchSettings, search)


if __name__ == "__main__":
    sys.exit(main())
