"""The plots of a search leave Optuna's settings as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from tuning.plots import curves_png, parameter_plots
from tuning.trials import TrialRecord

if TYPE_CHECKING:
    import pytest

PROJECT = Path(__file__).resolve().parents[2]


def trials(count: int) -> list[TrialRecord]:
    return [
        TrialRecord(
            number=number,
            id=f"trial-{number}",
            state="finished",
            values={"learning_rate": 10.0 ** -(2 + number % 3), "step_size": 2 + number % 4},
            epochs=[{"epoch": 1, "validation_loss": 1.0 / (1 + number), "validation_accuracy": 0.5, "seconds": 1.0}],
            score=1.0 / (1 + number),
            best_epoch=1,
        )
        for number in range(count)
    ]


def test_importing_the_plots_changes_no_setting() -> None:
    code = (
        "import logging, optuna; before = optuna.logging.get_verbosity(); import tuning.plots;"
        " assert optuna.logging.get_verbosity() == before == logging.INFO, before"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_drawing_is_silent_and_puts_the_log_level_back(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    plots = parameter_plots(trials(6))
    assert set(plots) == {"parallel.png", "slices.png", "importance.png"}
    assert all(image.startswith(b"\x89PNG") for image in plots.values())
    assert optuna.logging.get_verbosity() == before
    assert "Trial" not in capfd.readouterr().err


def test_too_few_trials_give_curves_alone() -> None:
    assert parameter_plots(trials(3)) == {}
    assert curves_png(trials(3), best=2).startswith(b"\x89PNG")
    assert curves_png([], best=None).startswith(b"\x89PNG")
