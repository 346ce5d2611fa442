"""SIGKILL, of the driver and of a worker: every trial is there once, and no epoch is lost."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
from drawn import draw_class_folders

from tuning.record import SearchRecord
from tuning.trials import TrialRecord, read_trials

PROJECT = Path(__file__).resolve().parents[2]
EPOCHS = 4

SUICIDE = """
import os, signal, sys
from tuning.search import main
from tuning.watch import Watch

start, limit = Watch.on_trial_start, int(sys.argv.pop(1))

def killed_at(self, trials, trial, **info):
    start(self, trials, trial, **info)
    if len(trials) >= limit:
        os.kill(os.getpid(), signal.SIGKILL)

Watch.on_trial_start = killed_at
sys.exit(main())
"""
"""The command, which kills itself the moment that its trial number so many starts: before Ray Tune has saved it."""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("killed")
    training = {"epochs": EPOCHS, "samples_per_epoch": 32, "batch_size": 16}
    draw_class_folders(root, 6, recipe="cell-crop-step", training=training)
    return root


def options(cells: Path, out: Path, *more: str) -> list[str]:
    named = {"out": out, "groups": cells / "groups.csv", "recipe": cells / "recipe.json", "weights": "none"}
    named |= {"validation-share": 0.33, "stopping": "none"}
    return [str(cells / "cells"), *(part for name, value in named.items() for part in (f"--{name}", str(value))), *more]


def start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *command], cwd=PROJECT, stderr=subprocess.PIPE, text=True)


def end_of(process: subprocess.Popen[str]) -> str:
    """Wait until the process has ended, and see to it that nothing that it started is left."""
    children = psutil.Process(process.pid).children(recursive=True)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(process.pid).children(recursive=True) or children
        time.sleep(0.2)
    _, alive = psutil.wait_procs(children, timeout=0.1)
    for child in alive:
        with contextlib.suppress(psutil.Error):
            child.kill()
    return process.stderr.read() if process.stderr else ""


def tried(out: Path) -> list[TrialRecord]:
    with contextlib.suppress(ValueError, OSError, IndexError):
        return list(read_trials(str(out / "tune")).records)
    return []


def wait_for(process: subprocess.Popen[str], out: Path, trial: int, epochs: int) -> list[TrialRecord]:
    for _ in range(2400):
        trials = tried(out)
        if len(trials) > trial and len(trials[trial].epochs) >= epochs:
            return trials
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)
    pytest.fail("the search never got that far")


def finish(process: subprocess.Popen[str]) -> str:
    _, text = process.communicate(timeout=400)
    assert process.returncode == 0, text
    return text


def same_curve(one: TrialRecord, other: TrialRecord) -> bool:
    names = ("train_loss", "validation_loss")
    curves = [[[epoch[name] for name in names] for epoch in trial.epochs] for trial in (one, other)]
    return np.allclose(*curves, rtol=1e-4)


def all_there(out: Path, trials: int, epochs: int) -> None:
    with (out / "trials.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["trial"] for row in rows] == [str(number) for number in range(trials)]
    assert {(row["state"], row["reason"], row["epochs"]) for row in rows} == {("finished", "all epochs", str(epochs))}
    assert len({row["learning_rate"] for row in rows}) == trials
    assert len({row["id"] for row in rows}) == trials == len(list((out / "tune").glob("*/result.json")))
    assert SearchRecord.load(out).state == "finished"
    assert (out / "best" / "model.safetensors").is_file()


def kill_and_continue(cells: Path, out: Path, *more: str, limits: tuple[int, ...], trials: int) -> list[int]:
    """Kill the driver each time that the next trial starts, then let it finish; the trials that there are."""
    common = options(cells, out, "--num-samples", str(trials), "--epochs", "1", *more)
    for attempt, limit in enumerate(limits):
        process = start("-c", SUICIDE, str(limit), *common, *(["--resume"] if attempt else []))
        text = end_of(process)
        assert process.returncode == -signal.SIGKILL, text
    finish(start("tuning/search.py", *common, "--resume"))
    all_there(out, trials=trials, epochs=1)
    return [trial.number for trial in tried(out)]


@pytest.mark.slow
def test_a_driver_killed_at_a_new_trial_leaves_no_trial_twice(cells: Path, tmp_path: Path, cluster: None) -> None:
    address = ray.get_runtime_context().gcs_address
    more = ("--address", address)
    assert kill_and_continue(cells, tmp_path / "search", *more, limits=(2,), trials=2) == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("search", ["tpe", "random"])
def test_a_driver_killed_at_each_new_trial_leaves_no_trial_twice(cells: Path, tmp_path: Path, search: str) -> None:
    more = ("--search", search)
    assert kill_and_continue(cells, tmp_path / "search", *more, limits=(1, 2, 3), trials=3) == [0, 1, 2]


@pytest.fixture(scope="module")
def undisturbed(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> list[TrialRecord]:
    out = tmp_path_factory.mktemp("undisturbed") / "search"
    finish(start("tuning/search.py", *options(cells, out, "--num-samples", "3")))
    return tried(out)


@pytest.mark.slow
def test_the_driver_is_killed_and_the_search_continues(
    cells: Path, undisturbed: list[TrialRecord], tmp_path: Path
) -> None:
    out = tmp_path / "search"
    command = ("tuning/search.py", *options(cells, out, "--num-samples", "3"))
    process = start(*command)
    wait_for(process, out, trial=2, epochs=1)
    process.send_signal(signal.SIGKILL)
    end_of(process)
    killed = {trial.id: trial for trial in tried(out)}
    text = finish(start(*command, "--resume"))
    after = tried(out)
    all_there(out, trials=3, epochs=EPOCHS)
    for trial in after:
        before = killed[trial.id]
        assert trial.values == before.values
        assert trial.epochs[: len(before.epochs)] == before.epochs  # none of them was trained again
        if before.state == "finished":
            assert f"trial {trial.number}, epoch" not in text
    assert same_curve(after[0], undisturbed[0])


@pytest.mark.slow
def test_a_worker_is_killed_and_its_trial_goes_on(cells: Path, undisturbed: list[TrialRecord], tmp_path: Path) -> None:
    out = tmp_path / "search"
    process = start("tuning/search.py", *options(cells, out, "--num-samples", "3"))
    trials = wait_for(process, out, trial=0, epochs=2)
    assert trials[0].process is not None
    os.kill(trials[0].process, signal.SIGKILL)
    text = finish(process)
    after = tried(out)
    assert "its worker died" in text
    assert "its worker died; it goes on from its last epoch\ntrial 0, epoch 1 " not in text
    assert after[0].retries == 1
    assert after[0].process != trials[0].process
    all_there(out, trials=3, epochs=EPOCHS)
    assert same_curve(after[0], undisturbed[0])


@pytest.mark.slow
def test_an_interrupted_search_says_how_to_continue(cells: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    process = start("tuning/search.py", *options(cells, out, "--num-samples", "3"))
    wait_for(process, out, trial=0, epochs=1)
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert "--resume" in text
    assert SearchRecord.load(out).state == "interrupted"
