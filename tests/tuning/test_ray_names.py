"""What the search uses of Ray Tune beyond its documented interface: each test fails when Ray drops a name."""

from __future__ import annotations

import importlib
import inspect

import pytest
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler

from tuning.experiment import ENVIRONMENT

READ_BY = {
    "TUNE_DISABLE_SIGINT_HANDLER": "ray.tune.tune",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "ray.tune.execution.tune_controller",
    "RAY_AIR_NEW_OUTPUT": "ray.tune.experimental.output",
    "TUNE_GLOBAL_CHECKPOINT_S": "ray.tune.execution.tune_controller",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "ray.tune.execution.experiment_state",
}


def test_every_setting_of_the_environment_has_its_place() -> None:
    assert set(READ_BY) == set(ENVIRONMENT)


@pytest.mark.parametrize("name", READ_BY)
def test_ray_reads_the_setting(name: str) -> None:
    assert f'"{name}"' in inspect.getsource(importlib.import_module(READ_BY[name]))


@pytest.mark.parametrize("name", ["last_result", "checkpoint", "num_failures", "get_error"])
def test_a_trial_has_the_property(name: str) -> None:
    assert hasattr(Trial, name)


@pytest.mark.parametrize("name", ["trial_id", "config", "experiment_tag", "status"])
def test_a_trial_has_the_attribute(name: str) -> None:
    assert hasattr(Trial("run_trial", stub=True), name)


@pytest.mark.parametrize("name", ["PENDING", "RUNNING", "TERMINATED", "ERROR"])
def test_a_trial_has_the_status(name: str) -> None:
    assert getattr(Trial, name) == name


def test_asha_has_the_metric_that_reports_are_compared_by() -> None:
    asha = ASHAScheduler(max_t=3)
    asha.set_search_properties("score", "min")
    assert asha.metric == "score"
    assert list(inspect.signature(ASHAScheduler.on_trial_result).parameters)[1:] == [
        "tune_controller",
        "trial",
        "result",
    ]
    assert list(inspect.signature(ASHAScheduler.on_trial_add).parameters)[1:] == ["tune_controller", "trial"]


def test_checkpoints_carry_metadata_and_say_where_they_are() -> None:
    for name in ("get_metadata", "set_metadata", "update_metadata", "as_directory", "from_directory"):
        assert callable(getattr(tune.Checkpoint, name))
    assert {"path", "filesystem"} <= set(vars(tune.Checkpoint.from_directory("/tmp")))


def test_an_analysis_reads_the_trials_of_a_folder() -> None:
    assert "trials" in inspect.signature(tune.ExperimentAnalysis).parameters
