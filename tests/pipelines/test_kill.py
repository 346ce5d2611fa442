"""SIGKILL half-way, the driver and then a worker: nothing is lost, and nothing finished is done again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from without_ray import work_here

from core.images.drawings import CLASS_NAMES, draw_smear
from pipelines.classify import ClassifySettings, classify
from pipelines.demo import draw_slides

PROJECT = Path(__file__).resolve().parents[2]
PART, IMAGES = 8, 240


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred and forty images: sixty drawings under four names each."""
    folder = tmp_path_factory.mktemp("kill")
    draw_slides(folder / "drawn", 20, broken=False)
    for path in sorted((folder / "drawn").glob("*/*.jpg")):
        for copy in range(IMAGES // 60):
            target = folder / "slides" / path.parent.name / f"{copy}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    return folder / "slides"


def command(slides: Path, out: Path, model: Path, *options: str, part: int = PART) -> list[str]:
    base = [sys.executable, "pipelines/classify.py", str(slides), "--out", str(out), "--model", str(model)]
    return [*base, "--part-size", str(part), "--batch-size", "8", *options]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(arguments, cwd=PROJECT, stderr=subprocess.PIPE, text=True)


def rows(run: Path) -> pd.DataFrame:
    return pq.read_table(run / "predictions").to_pandas().sort_values(["slide", "image", "cell"], ignore_index=True)


def done(run: Path) -> int:
    """How many parts are finished."""
    return len(list((run / "predictions").glob("part-*.parquet"))) if (run / "predictions").is_dir() else 0


def wait_for_parts(run: Path, process: subprocess.Popen[str], wanted: int) -> None:
    for _ in range(2_400):
        if done(run) >= wanted:
            return
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)
    pytest.fail("the run never got half-way")


def finish(process: subprocess.Popen[str]) -> str:
    _, text = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def wait_until_gone(processes: list[psutil.Process]) -> None:
    """Wait for the workers to follow their driver; Ray's agents sometimes do not, and are ended here."""
    names: dict[psutil.Process, str] = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            names[process] = "".join(process.cmdline())
    _, alive = psutil.wait_procs(processes, timeout=15)
    for process in alive:
        process.kill()
    assert not [names[process] for process in alive if "MapWorker" in names.get(process, "")]


def settings(slides: Path, out: Path, model: Path) -> ClassifySettings:
    return ClassifySettings(slides=str(slides), out=str(out), model=model, part_size=PART, batch_size=8)


@pytest.fixture(scope="module")
def undisturbed(slides: Path, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The rows of a run without Ray and without a kill."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        work_here(patch)
        assert classify(settings(slides, out, small_bundle)) == 0
    return rows(out)


def kill_and_continue(slides: Path, out: Path, model: Path, *options: str, part: int = PART) -> int:
    """Kill a run's driver once ten parts are done, and continue; return how many parts were kept as they were."""
    process = start(command(slides, out, model, *options, part=part))
    wait_for_parts(out, process, 10)
    children = family(process)
    process.send_signal(signal.SIGKILL)
    wait_until_gone(children)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in (out / "predictions").glob("part-*.parquet")}
    finish(start(command(slides, out, model, *options, "--resume", part=part)))
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    return len(kept)


@pytest.mark.slow
def test_the_driver_is_killed_and_the_run_continues(
    slides: Path, small_bundle: Path, undisturbed: pd.DataFrame, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    kept = kill_and_continue(slides, out, small_bundle)
    assert 10 <= kept < IMAGES // PART
    assert rows(out).equals(undisturbed)
    sessions = json.loads((out / "run.json").read_text())["sessions"]
    assert sessions[-1]["parts"] == IMAGES // PART - kept
    assert sessions[-1]["images"] == IMAGES - PART * kept
    assert len(list((out / "gradcam").rglob("*.jpg"))) == IMAGES


@pytest.mark.slow
def test_two_thousand_fields_continue_to_the_same_rows(field_bundle: Path, tmp_path: Path) -> None:
    """Several rows an image: twenty drawings of up to six cells, under a hundred names each."""
    rng = np.random.default_rng(4)
    for number in range(20):
        rgb, _ = draw_smear(rng.choice(CLASS_NAMES, number % 7).tolist(), rng, width=480, height=360)
        drawn = tmp_path / f"{number}.png"
        cv2.imwrite(str(drawn), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        for copy in range(100):
            target = tmp_path / "slides" / f"slide-{copy % 4}" / f"{copy}-{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(drawn, target)
    chosen = {"cells": "all", "gradcam": "none", "part_size": 50}
    with pytest.MonkeyPatch.context() as patch:
        work_here(patch)
        given = settings(tmp_path / "slides", tmp_path / "undisturbed", field_bundle)
        assert classify(given.model_copy(update=chosen)) == 0
    options = ("--cells", "all", "--gradcam", "none")
    assert 10 <= kill_and_continue(tmp_path / "slides", tmp_path / "run", field_bundle, *options, part=50) < 40
    found, expected = (rows(tmp_path / name) for name in ("run", "undisturbed"))
    assert len(found) > 5_000
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4)


@pytest.mark.slow
def test_a_worker_is_killed_and_the_run_goes_on(
    slides: Path, small_bundle: Path, undisturbed: pd.DataFrame, cluster: None, tmp_path: Path
) -> None:
    out, killed = tmp_path / "run", []

    def kill_half_way() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until and not killed:
            if done(out) >= 10:
                killed.append(busy_worker())
                killed[0].kill()
            time.sleep(0.01)

    killer = threading.Thread(target=kill_half_way)
    killer.start()
    assert classify(settings(slides, out, small_bundle)) == 0
    killer.join()
    assert len(killed) == 1
    assert rows(out).equals(undisturbed)
    record = json.loads((out / "run.json").read_text())
    assert len(record["sessions"]) == 1
    assert record["counts"]["images"] == IMAGES


def busy_worker() -> psutil.Process:
    """The worker of this process's cluster that classifies."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "MapWorker" in "".join(child.cmdline()):
                return child
    pytest.fail("no worker is at work")


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_continue(slides: Path, small_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(command(slides, out, small_bundle))
    wait_for_parts(out, process, 2)
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume" in text
    assert json.loads((out / "run.json").read_text())["state"] == "stopped"
