"""SIGKILL half-way, the driver and then a worker: no epoch is lost, and none is trained twice without need."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from drawn import draw_class_folders

from tuning.ledger import Ledger, TrialRecord

PROJECT = Path(__file__).resolve().parents[2]
TRIALS, EPOCHS = 4, 6

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("killed")
    training = {"epochs": EPOCHS, "samples_per_epoch": 48, "batch_size": 16}
    draw_class_folders(root, 6, recipe="cell-crop-step", training=training)
    return root


def start(cells: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "tuning/search.py", str(cells / "cells"), "--out", str(out)]
    command += ["--groups", str(cells / "groups.csv"), "--recipe", str(cells / "recipe.json"), "--weights", "none"]
    command += ["--num-samples", str(TRIALS), "--validation-share", "0.33", "--stopping", "none"]
    return subprocess.Popen([*command, *options], cwd=PROJECT, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], out: Path, trial: int, epochs: int) -> list[TrialRecord]:
    for _ in range(2400):
        trials = Ledger(out).ordered()
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


@pytest.fixture(scope="module")
def undisturbed(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> list[TrialRecord]:
    out = tmp_path_factory.mktemp("undisturbed") / "search"
    finish(start(cells, out))
    return Ledger(out).ordered()


def test_the_driver_is_killed_and_the_search_continues(
    cells: Path, undisturbed: list[TrialRecord], tmp_path: Path
) -> None:
    out = tmp_path / "search"
    process = start(cells, out)
    wait_for(process, out, trial=2, epochs=2)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    for child in alive:
        with contextlib.suppress(psutil.Error):
            child.kill()
    killed = {trial.id: trial for trial in Ledger(out).ordered()}
    finished = {name for name, trial in killed.items() if trial.state == "finished"}
    weights = {name: (out / "trials" / name / "weights.safetensors").stat().st_mtime_ns for name in finished}
    assert len(finished) >= 2
    text = finish(start(cells, out, "--resume"))
    after = Ledger(out).ordered()
    assert len(after) == TRIALS
    assert all(trial.state == "finished" and len(trial.epochs) == EPOCHS for trial in after)
    for name in finished:  # not run again
        assert (out / "trials" / name / "weights.safetensors").stat().st_mtime_ns == weights[name]
        assert Ledger(out).trials[name] == killed[name]
    # What was under way went on from its last epoch: at most the epoch that was being trained is trained again.
    assert sum(trial.repeated for trial in after) == 0
    assert len([line for line in text.splitlines() if ", epoch 1 of" in line]) <= TRIALS - len(finished) - 1
    for before, now in zip(undisturbed[:3], after[:3], strict=True):
        assert now.values == before.values
        assert same_curve(now, before)
    assert json.loads((out / "search.json").read_text())["state"] == "finished"
    assert (out / "best" / "model.safetensors").is_file()


def test_a_worker_is_killed_and_its_trial_goes_on(cells: Path, undisturbed: list[TrialRecord], tmp_path: Path) -> None:
    out = tmp_path / "search"
    process = start(cells, out)
    trials = wait_for(process, out, trial=0, epochs=3)
    os.kill(trials[0].processes[-1], signal.SIGKILL)
    text = finish(process)
    after = Ledger(out).ordered()
    assert "its worker died" in text
    assert sum(trial.retries for trial in after) >= 1
    assert all(trial.state == "finished" and len(trial.epochs) == EPOCHS for trial in after)
    assert sum(trial.repeated for trial in after) == 0
    assert len(after[0].processes) >= 2
    assert same_curve(after[0], undisturbed[0])


def test_an_interrupted_search_says_how_to_continue(cells: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    process = start(cells, out)
    wait_for(process, out, trial=0, epochs=1)
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert "--resume" in text
    assert json.loads((out / "search.json").read_text())["state"] == "interrupted"
