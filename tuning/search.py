"""Search hyperparameters on Ray Tune: ``python tuning/search.py DATA --out SEARCH``."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
import warnings
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import ray
from optuna.samplers import TPESampler
from pydantic import Field
from pydantic_settings import CliPositionalArg
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from core import __version__
from core.errors import SettingsError
from core.training.run import TrainingSettings
from runtime.cluster import WorkerPlan, connected, plan_workers
from runtime.command import FAILED, refuse_existing, run_command
from runtime.progress import say
from runtime.training import prepare_run
from tuning.ledger import Ledger, write_json
from tuning.report import write_report
from tuning.space import Space, load_space
from tuning.stopping import ResumableASHA, TimeBudget
from tuning.trial import SharedImages, TrialData, keep_weights, run_trial
from tuning.watch import Watch
from tuning.winner import write_winner

if TYPE_CHECKING:
    from core.training.config import TrainingConfig
    from core.training.run import TrainingRun

__all__ = ["SearchSettings", "main", "search"]

RECORD = "search.json"
_PER_GPU = 4
_RETRIES = 2


class SearchSettings(TrainingSettings):
    """Search learning rate, weight decay and StepLR settings on class folders (DATA/CLASS/**/IMAGE).

    A trial is one training run with its own values. Part of DATA is kept out of all of them, and the trial with the
    lowest validation loss there is the best. The first trial has the recipe's own values; by default Optuna's TPE
    proposes the others from what it has seen, and ASHA stops the weak ones early.

    In the folder that --out names: report/index.html, which a person opens; best/, the best trial's best epoch as a
    bundle for classify.py and Serve; recipe.json, its values for train.py --recipe; trials.csv; tune/, Ray Tune's own
    state, and logs for TensorBoard. Images that you keep for a final test stay out of DATA: the search must not see
    them, evaluate.py does.

        python tuning/search.py my-cells --out my-search --groups groups.csv
        python tuning/search.py my-cells --out my-search --groups groups.csv --num-samples 200 --time-budget 28800
        python tuning/search.py my-cells --out my-search --groups groups.csv --resume
    """

    data: CliPositionalArg[Path] = Field(description="folder with one sub-folder per class")
    out: Path = Field(description="folder of the search; on a cluster, one that every node reaches")
    recipe: str = Field("cell-crop-step", description="cell-crop-step, cell-crop, notebook, or a JSON file")
    learning_rate: float | None = Field(None, gt=0, description="of the first trial, instead of the recipe's")
    num_samples: int | None = Field(
        None,
        ge=1,
        description="number of trials, the recipe's own among them; these or --time-budget, whichever is first, end the"
        " search; otherwise 20; with a grid, repetitions of its points, otherwise 1",
    )
    time_budget: float | None = Field(
        None,
        gt=0,
        description="seconds for all trials together (8 hours: 28800); those under way are then stopped, each with its"
        " best epoch so far, and the report is written; after --resume, only what is left of it is used",
    )
    seed: int = Field(0, ge=0, description="of the split, the weights, the augmentation and the proposals")
    space: Path | None = Field(
        None,
        description="YAML file of what is varied; otherwise tuning/space.yaml: copy it, and add for example"
        " batch_size: {choice: [16, 32, 64]}",
    )
    search: Literal["tpe", "random", "grid"] = Field(
        "tpe", description="how values are proposed: tpe learns from earlier trials; grid: all that --space lists"
    )
    stopping: Literal["asha", "none"] = Field("asha", description="what stops weak trials early")
    grace_period: int | None = Field(
        None, ge=1, description="epochs before a trial may be stopped; otherwise one more than the smallest step size"
    )
    reduction_factor: int = Field(
        3,
        ge=2,
        description="3: after the grace period G, 3 G, 9 G ... a trial goes on if it is in the best third of those that"
        " have come so far",
    )
    cpus_per_trial: float | None = Field(None, gt=0, description="otherwise as many as keep every core busy")
    gpus_per_trial: float | None = Field(
        None,
        ge=0,
        description="0.5: two trials share a GPU; otherwise up to four do; 1 where its memory is too small for more",
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="trials at once; otherwise as many as machine or cluster hold"
    )
    threads: int | None = Field(None, ge=1, description="torch threads per trial; otherwise its CPUs")
    address: str | None = Field(
        None,
        description="HOST:PORT of a Ray cluster, from one of its nodes, each of which reaches DATA and --out;"
        " otherwise the cluster that the command is a job of, or this machine",
    )
    mlflow: bool = Field(False, description="log to MLflow too, where MLFLOW_TRACKING_URI says, or mlflow.db in --out")
    resume: bool = Field(
        False,
        description="continue a killed search: add it to the same command (another --time-budget may be given); never"
        " in a folder from a stranger, whose code could run here",
    )

    @property
    def repetitions(self) -> int:
        """Ray Tune's ``num_samples``: the number of trials, or of rounds through the grid."""
        return self.num_samples or (1 if self.search == "grid" else 20)


@dataclass(frozen=True)
class _Prepared:
    """What the driver holds: the images that were kept out, and what it hands to the trials."""

    run: TrainingRun
    space: Space
    train: SharedImages
    watched: SharedImages
    trained_on: int
    left_out: int

    @classmethod
    def of(cls, run: TrainingRun, space: Space) -> _Prepared:
        """Split by source, and give the training images' memory back once they are shared."""
        training, validation = run.split()
        train, watched = run.images.select(training), run.watched(validation)
        say(f"training on {len(training):,} images; {len(validation):,} kept out, {len(watched):,} of them watched")
        return cls(
            run.with_only(validation),
            space,
            SharedImages.of(train, train.pixels),
            SharedImages.of(watched, watched.inputs),
            len(training),
            run.left_out(training + validation),
        )

    def for_trials(self, settings: SearchSettings, plan: WorkerPlan) -> TrialData:
        """Put together what every trial gets."""
        return TrialData(
            recipe=self.run.recipe,
            class_names=self.run.data.main.class_names,
            train=self.train,
            validation=self.watched,
            start={name: value.numpy() for name, value in self.run.start.items()},
            folder=settings.out / "trials",
            device=plan.device,
            threads=plan.threads,
            origin=f"weights {settings.weights}, recipe {settings.recipe}, search",
        )


def search(settings: SearchSettings) -> int:
    """Run the command; return its exit code: 1 where a trial failed or none can be used.

    Raises:
        LeukorayError: Where data, space, recipe or options cannot be used.
    """
    started = time.monotonic()
    settings = settings.model_copy(update={"out": settings.out.absolute(), "data": settings.data.absolute()})
    earlier = _earlier(settings.out) if settings.resume else refuse_existing(settings.out)
    recipe = settings.load_recipe()
    space = load_space(settings.space, recipe.training)
    _check(settings, space, recipe.training)
    device = "cpu" if settings.gpus_per_trial == 0 else "auto"
    run = prepare_run(settings, device=device, threads=os.cpu_count() or 1)
    identity = _identity(settings, run, space)
    if earlier is not None:
        _refuse_changed(earlier, identity, settings.out)
        if earlier["state"] == "finished":
            say(f"this search is finished: {settings.out / 'report' / 'index.html'}")
            return 0
    prepared = _Prepared.of(run, space)
    del run
    with connected(settings.address, int(1.1 * (prepared.train.pixels.nbytes + prepared.watched.pixels.nbytes))):
        plan = _plan(settings)
        record = _record(settings, prepared, plan, identity, earlier)
        settings.out.mkdir(parents=True, exist_ok=True)
        write_json(settings.out / RECORD, record)
        try:
            _run_trials(settings, prepared, plan)
        finally:
            record["seconds"] = round(record["seconds"] + time.monotonic() - started, 1)
            write_json(settings.out / RECORD, record | {"state": "interrupted"})
    return _finish(settings, prepared, record)


def _run_trials(settings: SearchSettings, prepared: _Prepared, plan: WorkerPlan) -> None:
    """Let Ray Tune run what is left to run."""
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C ends the command as everywhere, and --resume goes on
    os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"  # the table has the reason, SEARCH/tune/TRIAL/error.txt the rest
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # Tune's own tables are not asked for
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "1"  # Tune's own state, small, is never older than a second
    os.environ["TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S"] = "0"
    warnings.filterwarnings("ignore", message="The reported value is ignored")  # Optuna's, of a continued trial
    shared = ray.put(prepared.for_trials(settings, plan))
    with_data = tune.with_parameters(run_trial, data=shared)
    trainable = tune.with_resources(with_data, {"cpu": plan.cpus, "gpu": plan.gpus})
    folder = settings.out / "tune"
    if settings.resume and tune.Tuner.can_restore(str(folder)):
        say("continuing: finished trials stay, the others go on from their last epoch")
        tuner = tune.Tuner.restore(str(folder), trainable=trainable, resume_unfinished=True)
    else:
        tuner = _tuner(settings, prepared, plan, trainable)
    tuner.fit()


def _tuner(settings: SearchSettings, prepared: _Prepared, plan: WorkerPlan, trainable: Any) -> tune.Tuner:  # noqa: ANN401
    config, space = prepared.run.recipe.training, prepared.space
    first = [space.values_of(config)]
    if settings.search == "tpe":
        # Trials run side by side; constant_liar keeps TPE from proposing what is being tried.
        sampler = TPESampler(seed=settings.seed, constant_liar=True)
        proposer: Any = OptunaSearch(sampler=sampler, points_to_evaluate=first)
    else:
        proposer = BasicVariantGenerator(
            points_to_evaluate=[] if settings.search == "grid" else first,
            random_state=settings.seed,
            max_concurrent=plan.workers,
        )
    tune_config = tune.TuneConfig(
        metric="score",
        mode="min",
        search_alg=proposer,
        scheduler=_scheduler(settings, config, space),
        num_samples=settings.repetitions,
        max_concurrent_trials=plan.workers if settings.search == "tpe" else None,
        reuse_actors=True,
        trial_dirname_creator=lambda trial: trial.trial_id,
    )
    run_config = tune.RunConfig(
        name="tune",
        storage_path=str(settings.out),
        failure_config=tune.FailureConfig(max_failures=_RETRIES),
        stop=TimeBudget(settings.out / RECORD),
        callbacks=[
            Watch(settings.out, epochs=config.epochs, keep=config.keep),
            *_mlflow(settings),
        ],
        verbose=0,
    )
    return tune.Tuner(trainable, param_space=dict(space.domains), tune_config=tune_config, run_config=run_config)


def _scheduler(settings: SearchSettings, config: TrainingConfig, space: Space) -> Any:  # noqa: ANN401
    grace = _grace_period(settings, config, space)
    if settings.stopping == "none" or grace >= config.epochs:
        return FIFOScheduler()
    return ResumableASHA(
        settings.out,
        keep=config.keep,
        spared=space.values_of(config),
        max_t=config.epochs,
        grace_period=grace,
        reduction_factor=settings.reduction_factor,
    )


def _grace_period(settings: SearchSettings, config: TrainingConfig, space: Space) -> int:
    """Return after how many epochs a trial may be stopped: not before the quickest schedule has decayed once."""
    return settings.grace_period or space.smallest_step(config) + 1


def _mlflow(settings: SearchSettings) -> list[Any]:
    if not settings.mlflow:
        return []
    from ray.air.integrations.mlflow import MLflowLoggerCallback  # noqa: PLC0415 - only where MLflow is wanted

    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{settings.out / 'mlflow.db'}"
    return [MLflowLoggerCallback(tracking_uri=address, experiment_name=settings.out.name)]


def _check(settings: SearchSettings, space: Space, config: TrainingConfig) -> None:
    """Refuse options that contradict each other, before anything is read."""
    if (settings.search == "grid") != space.is_grid:
        raise SettingsError("bad-space", "--search grid and settings with grid_search in --space go together.")
    if settings.search == "tpe" and space.has_normal:
        raise SettingsError("bad-space", "TPE proposes no normally distributed values; give --search random.")
    if settings.mlflow and importlib.util.find_spec("mlflow") is None:
        raise SettingsError("no-mlflow", "MLflow is not installed here: pip install mlflow, or leave --mlflow away.")
    if settings.stopping == "asha" and (grace := _grace_period(settings, config, space)) >= config.epochs:
        say(f"warning: no trial can be stopped early, since {config.epochs} epochs are not more than {grace}")
    if settings.stopping == "asha" and config.schedule == "one-cycle":
        say("warning: one-cycle schedules end low and start high; stopping early misjudges them (--stopping none)")


def _plan(settings: SearchSettings) -> WorkerPlan:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    plan = plan_workers(
        nodes,
        workers=settings.max_concurrent,
        cpus=settings.cpus_per_trial,
        gpus=settings.gpus_per_trial,
        threads=settings.threads,
        per_gpu=_PER_GPU,
    )
    say(f"{plan.workers} trials at once, each with {plan.cpus:g} CPUs, {plan.gpus:g} GPUs and {plan.threads} threads")
    return plan


def _identity(settings: SearchSettings, run: TrainingRun, space: Space) -> dict[str, Any]:
    """Return what may not change when a search is continued, as JSON has it."""
    identity = {
        "data": run.data.main.fingerprint,
        "further data": [data.fingerprint for data in run.data.sets[1:]],
        "groups": settings.groups,
        "space": space.text,
        "recipe": run.recipe.model_dump(mode="json"),
        "options": {
            name: getattr(settings, name)
            for name in (
                "weights",
                "validation_share",
                "repetitions",
                "search",
                "stopping",
                "grace_period",
                "reduction_factor",
                "seed",
                "outliers",
            )
        },
    }
    return json.loads(json.dumps(identity))


def _refuse_changed(earlier: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    """Refuse to continue another search.

    Raises:
        SettingsError: With code ``resume-mismatch``.
    """
    if earlier["settings"]["out"] != str(out):
        raise SettingsError(
            "resume-mismatch", f"This search was begun at {earlier['settings']['out']}; move it back to continue it."
        )
    changed = [name.replace("_", " ") for name in now if earlier["identity"].get(name) != now[name]]
    if changed:
        raise SettingsError(
            "resume-mismatch",
            f"{out} was begun with other {', '.join(changed)}; trials before and after could not be compared."
            " Give the same again, or another --out.",
        )


def _earlier(out: Path) -> dict[str, Any]:
    """Return the record of the search to continue.

    Raises:
        SettingsError: With code ``nothing-to-resume``.
    """
    try:
        return json.loads((out / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError("nothing-to-resume", f"{out} holds no search that could be continued ({error}).") from error


def _record(
    settings: SearchSettings,
    prepared: _Prepared,
    plan: WorkerPlan,
    identity: dict[str, Any],
    earlier: dict[str, Any] | None,
) -> dict[str, Any]:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {
        "version": __version__,
        "started": earlier["started"] if earlier else now,
        "state": "running",
        "seconds": earlier["seconds"] if earlier else 0.0,
        "settings": settings.model_dump(mode="json"),
        "identity": identity,
        "recipe_values": prepared.space.values_of(prepared.run.recipe.training),
        "plan": {"trials_at_once": plan.workers, "cpus": plan.cpus, "gpus": plan.gpus, "threads": plan.threads},
        "images": {
            "training": prepared.trained_on,
            "kept_out": len(prepared.run.images),
            "watched": len(prepared.watched.labels),
        },
    }


def _finish(settings: SearchSettings, prepared: _Prepared, record: dict[str, Any]) -> int:
    """Write the bundle, the report and the last word on every trial."""
    ledger = Ledger(settings.out)
    for trial in ledger.ordered():
        if trial.state in {"pending", "running"}:  # the time budget ended with them under way
            ended = trial.model_copy(update={"state": "stopped", "reason": "time budget"})
            ledger.put(ended)
            keep = prepared.run.recipe.training.keep
            keep_weights(settings.out / "trials" / trial.id, ended.outcome(), usable=ended.usable, keep=keep)
    ledger.save()
    trials, epochs = ledger.ordered(), prepared.run.recipe.training.epochs
    bad = [trial for trial in trials if trial.state in {"failed", "out-of-memory"}]
    possible, done = epochs * len(trials), sum(len(trial.epochs) for trial in trials)
    record["counts"] = {
        "trials": len(trials),
        **{state: sum(trial.state == state for trial in trials) for state in sorted({t.state for t in trials})},
        "bad": sum(not trial.usable for trial in trials),
        "epochs": done,
        "epochs_possible": possible,
        "epochs_saved": 1 - done / possible if possible else 0.0,
    }
    record["result"] = None
    if ledger.ranked():
        counts = {"trained_on": prepared.trained_on, "left_out": prepared.left_out}
        record["result"] = write_winner(settings.out, prepared.run, ledger, **counts)
    record["state"] = "finished"
    write_report(settings.out, ledger, record)
    write_json(settings.out / RECORD, record)
    _say_result(settings, record)
    for trial in bad:
        say(f"trial {trial.number} {trial.state}: {trial.reason}")
    return FAILED if bad or record["result"] is None else 0


def _say_result(settings: SearchSettings, record: dict[str, Any]) -> None:
    result, counts = record["result"], record["counts"]
    say(f"{counts['trials']} trials, {counts['epochs']} of {counts['epochs_possible']} epochs trained")
    if result is None:
        say("no trial ended with weights that can be used")
    else:
        values = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in result["values"].items()
        )
        say(f"best: trial {result['trial']} ({values})")
        if other := result["comparison"]:
            gain = other["image_accuracy"]
            span = f" ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})" if gain["low"] is not None else ""
            say(
                f"accuracy of trial {other['trial']} against trial 0: {100 * gain['value']:+.1f} points{span}"
                " on images that no trial was trained on"
            )
        print(f"bundle: {settings.out / 'best'}")
    print(f"report: {settings.out / 'report' / 'index.html'}", flush=True)


def main() -> int:
    """Entry point of the command."""
    return run_command(SearchSettings, search)


if __name__ == "__main__":
    sys.exit(main())
