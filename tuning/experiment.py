"""Ray Tune's experiment: how trials are proposed, stopped, run, and continued after a kill."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import ray
from optuna.samplers import TPESampler
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from runtime.progress import say
from tuning.quiet import quiet_optuna
from tuning.stopping import ResumableASHA, TimeBudget
from tuning.trial import run_trial
from tuning.trials import Trials, read_trials
from tuning.watch import Watch

if TYPE_CHECKING:
    from core.training.config import TrainingConfig
    from runtime.cluster import WorkerPlan
    from tuning.preparation import Prepared
    from tuning.settings import SearchSettings
    from tuning.space import Space

__all__ = ["ENVIRONMENT", "experiment_folder", "grace_period", "run_trials"]

_RETRIES = 2

ENVIRONMENT = {
    # Ctrl-C ends the command as everywhere, and --resume goes on; Tune's own handler would ask for a second one.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # The table has the reason, error.txt in the trial's folder the rest.
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Tune's own tables are not asked for; verbose=0 silences only the old output.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Tune's own state, small, is never older than a second; by default ten.
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    # With one checkpoint per trial Tune saves its state after each, and warns of it without this.
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Settings that Ray Tune takes from the environment alone; `tests/tuning/test_ray_names.py` says when one goes."""


def experiment_folder(settings: SearchSettings) -> str:
    """Return where Ray Tune keeps the search, a path or a URI."""
    return f"{_storage(settings)}/{_name(settings)}"


def grace_period(settings: SearchSettings, config: TrainingConfig, space: Space) -> int:
    """Return after how many epochs a trial may be stopped: not before the quickest schedule has decayed once.

    Args:
        settings: The options.
        config: The recipe's training configuration.
        space: Search space.
    """
    return settings.grace_period or space.smallest_step(config) + 1


def run_trials(settings: SearchSettings, prepared: Prepared, plan: WorkerPlan) -> Trials:
    """Let Ray Tune run what is left to run, and return every trial of the search.

    Args:
        settings: The options.
        prepared: The images.
        plan: How many trials run at once, and what each gets.
    """
    os.environ.update(ENVIRONMENT)
    shared = ray.put(prepared.for_trials(settings, plan))
    with_data = tune.with_parameters(run_trial, data=shared)
    trainable = tune.with_resources(with_data, {"cpu": plan.cpus, "gpu": plan.gpus})
    folder = experiment_folder(settings)
    with quiet_optuna():
        if settings.resume and tune.Tuner.can_restore(folder):
            say("continuing: finished trials stay, the others go on from their last epoch")
            tuner = tune.Tuner.restore(folder, trainable=trainable, resume_unfinished=True)
        else:
            tuner = _tuner(settings, prepared, plan, trainable)
        tuner.fit()
    return read_trials(folder)


def _storage(settings: SearchSettings) -> str:
    return (settings.storage or str(settings.out)).rstrip("/")


def _name(settings: SearchSettings) -> str:
    """Return the name of the experiment: that of the search, where searches share one storage."""
    return settings.out.name if settings.storage else "tune"


def _tuner(settings: SearchSettings, prepared: Prepared, plan: WorkerPlan, trainable: Any) -> tune.Tuner:  # noqa: ANN401
    config, space = prepared.run.recipe.training, prepared.space
    tune_config = tune.TuneConfig(
        metric="score",
        mode="min",
        search_alg=_proposer(settings, [space.values_of(config)], plan),
        scheduler=_scheduler(settings, config, space),
        num_samples=settings.repetitions,
        max_concurrent_trials=plan.workers if settings.search == "tpe" else None,
        reuse_actors=True,
        trial_dirname_creator=lambda trial: trial.trial_id,
    )
    run_config = tune.RunConfig(
        name=_name(settings),
        storage_path=_storage(settings),
        checkpoint_config=tune.CheckpointConfig(num_to_keep=1),  # it holds the best weights too
        failure_config=tune.FailureConfig(max_failures=_RETRIES),
        stop=TimeBudget(settings.out),
        callbacks=[Watch(settings.out, epochs=config.epochs), *_mlflow(settings)],
        verbose=0,
    )
    return tune.Tuner(trainable, param_space=dict(space.domains), tune_config=tune_config, run_config=run_config)


def _proposer(settings: SearchSettings, first: list[dict[str, Any]], plan: WorkerPlan) -> Any:  # noqa: ANN401
    if settings.search == "tpe":
        # Trials run side by side; constant_liar keeps TPE from proposing what is being tried.
        sampler = TPESampler(seed=settings.seed, constant_liar=True)
        return OptunaSearch(sampler=sampler, points_to_evaluate=first)
    return BasicVariantGenerator(
        points_to_evaluate=[] if settings.search == "grid" else first,
        random_state=settings.seed,
        max_concurrent=plan.workers,
    )


def _scheduler(settings: SearchSettings, config: TrainingConfig, space: Space) -> Any:  # noqa: ANN401
    grace = grace_period(settings, config, space)
    if settings.stopping == "none" or grace >= config.epochs:
        return FIFOScheduler()
    return ResumableASHA(
        keep=config.keep,
        spared=space.values_of(config),
        max_t=config.epochs,
        grace_period=grace,
        reduction_factor=settings.reduction_factor,
    )


def _mlflow(settings: SearchSettings) -> list[Any]:
    if not settings.mlflow:
        return []
    from ray.air.integrations.mlflow import MLflowLoggerCallback  # noqa: PLC0415 - only where MLflow is wanted

    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{settings.out / 'mlflow.db'}"
    return [MLflowLoggerCallback(tracking_uri=address, experiment_name=settings.out.name)]
