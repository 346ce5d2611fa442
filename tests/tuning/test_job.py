"""A search as a Ray job on a running cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from drawn import draw_class_folders
from jobs import submit

from core.model.bundle import load_bundle

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_a_submitted_search_does_the_same(dashboard: str, tmp_path: Path) -> None:
    training = {"epochs": 2, "samples_per_epoch": 32, "batch_size": 16}
    draw_class_folders(tmp_path, 6, recipe="cell-crop-step", training=training)
    out = tmp_path / "search"
    options = [str(tmp_path / "cells"), "--out", str(out), "--recipe", str(tmp_path / "recipe.json")]
    options += ["--groups", str(tmp_path / "groups.csv"), "--weights", "none", "--num-samples", "2"]
    done = submit(dashboard, "tuning/search.py", *options, "--validation-share", "0.33")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trial 1: finished" in done.stdout
    assert json.loads((out / "search.json").read_text())["state"] == "finished"
    load_bundle(out / "best")
