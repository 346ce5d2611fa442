"""The same command as a Ray job on a running cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from jobs import submit

from pipelines.demo import draw_slides

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_a_submitted_job_does_the_same(dashboard: str, small_bundle: Path, tmp_path: Path) -> None:
    draw_slides(tmp_path / "slides", 20)
    out = tmp_path / "run"
    options = [str(tmp_path / "slides"), "--out", str(out), "--model", str(small_bundle)]
    done = submit(dashboard, "pipelines/classify.py", *options, "--max-error-rate", "0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(pq.read_table(out / "predictions")) == 60
    assert len(pq.read_table(out / "errors")) == 5
    assert json.loads((out / "run.json").read_text())["state"] == "finished"
    assert (out / "report" / "index.html").is_file()
    assert "images/s" in done.stdout
    again = submit(dashboard, "pipelines/classify.py", *options, "--resume", "--max-error-rate", "0.01")
    assert again.returncode == 1
    assert "more than --max-error-rate" in again.stdout
