"""The README's commands, run one after the other as a reader would."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import httpx
import numpy as np
import pytest

from core.images.drawings import CLASS_NAMES, draw_field, draw_smear
from core.model.bundle import load_bundle
from tools.figures import readme_table

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if not line.startswith("#")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a clone whose environment is ready, with cells of the reader's own."""
    folder = tmp_path_factory.mktemp("readme")
    for name in (
        "core",
        "runtime",
        "pipelines",
        "serve",
        "tuning",
        "README.md",
        "models",
        "benchmarks",
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
    ):
        (folder / name).symlink_to(PROJECT / name)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    for stamp in ("installed", "installed-dev"):
        (folder / ".venv" / stamp).touch()
    rng = np.random.default_rng(0)
    (folder / "my-fields").mkdir()
    boxes = ["image,label,left,top,right,bottom"]
    for number in range(6):
        rgb, cells = draw_smear(["NEUTROPHIL", "LYMPHOCYTE"], rng)
        cv2.imwrite(str(folder / "my-fields" / f"{number}.png"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        boxes += [f"{number}.png,WHITE," + ",".join(f"{edge:.0f}" for edge in cell.box) for cell in cells]
    (folder / "my-fields" / "boxes.csv").write_text("\n".join(boxes) + "\n")
    for kind in CLASS_NAMES:
        (folder / "my-cells" / kind).mkdir(parents=True)
        for number in range(12):
            rgb = draw_field(kind, rng)
            cv2.imwrite(str(folder / "my-cells" / kind / f"{number}.jpg"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return folder


def quick(command: str) -> str:
    """Replace what takes an hour or the internet; the rest of the command stays as it stands."""
    recipe = json.loads((PROJECT / "core" / "training" / "recipes" / "cell-crop.json").read_text())
    recipe["preprocessing"] |= {"height": 64, "width": 64}
    recipe["training"] |= {"epochs": 1, "samples_per_epoch": 32}
    Path("recipe.json").write_text(json.dumps(recipe))
    if "tuning/search.py" in command:
        step = json.loads((PROJECT / "core" / "training" / "recipes" / "cell-crop-step.json").read_text())
        step["preprocessing"], step["training"] = (
            recipe["preprocessing"],
            step["training"]
            | {
                "epochs": 1,
                "samples_per_epoch": 32,
            },
        )
        Path("recipe.json").write_text(json.dumps(step))
        command += " --num-samples 2"
    if "train_finder.py" in command:
        return f"{command} --steps 2 --drawn 4"
    if "--start" in command:
        command += " --epochs 1 --samples-per-epoch 32 --folds 2"
    return command.replace("--weights imagenet", "--weights none --recipe recipe.json")


def test_the_two_commands_stand_first() -> None:
    assert COMMANDS[:2] == ["make demo", "make test"]


def test_the_figures_are_the_bundles(shipped: Path) -> None:
    table = readme_table(load_bundle(shipped).metrics)
    assert f"<!-- figures -->\n{table}<!-- end of figures -->" in README


@contextlib.contextmanager
def serving(environment: dict[str, str]) -> Iterator[None]:
    """``make serve``, from when it is ready until the block ends."""
    with Path("serve.log").open("wb") as log:
        process = subprocess.Popen(["make", "serve"], stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        for _ in range(240):
            assert process.poll() is None, Path("serve.log").read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen("http://127.0.0.1:8000/readyz", timeout=5):
                break
            time.sleep(0.5)
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        process.wait(timeout=60)


def run(command: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=600, check=False, env=environment
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def review(command: str, environment: dict[str, str]) -> None:
    """Serve the page, say something of some cells of each class, and stop it as Ctrl-C does."""
    arguments = [*command.split(), "--port", "0", "--token", "reader"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        assert process.stderr is not None
        address = next(line for line in process.stderr if "?token=" in line).split()[1].partition("/?")[0]
        with httpx.Client(base_url=address, headers={"Authorization": "Bearer reader"}, trust_env=False) as client:
            columns = client.get("/api/cells").json()["columns"]
            for number, label in enumerate(CLASS_NAMES):
                rows = columns["row"][8 * number : 8 * number + 8]
                body = {
                    "reviewer": "Ann",
                    "request": f"what-these-are-{number}",
                    "seen": 0,
                    "cells": rows,
                    "label": label,
                }
                assert client.post("/api/label", json=body).status_code == 200
    finally:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 0


@pytest.mark.slow
def test_every_command_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RAY_TMPDIR": "/tmp"}
    assert len(COMMANDS) >= 6
    service = contextlib.ExitStack()
    given = ""
    for command in COMMANDS:
        if command.startswith(("make test", "ray ", "serve ", "source ")):
            continue  # this is `make test`; test_job.py and test_deploy.py work on a cluster of their own
        if command == "make serve":
            service.enter_context(serving(environment))
        elif "pipelines/review.py" in command and "--export" not in command:
            review(command, environment)
        elif command.startswith("cell="):
            given = f"{command}; "
        elif command.startswith("curl"):
            assert "error" not in run(given + command, environment)[:10]
        else:
            service.close()
            output = run(quick(command), environment)
            assert command != "make demo" or "report/index.html" in output
    assert (place / "demo" / "run" / "report" / "index.html").is_file()
    results = json.loads((place / "results.json").read_text())["results"]
    assert ["label" in result for result in results] == [True, False]
    assert (place / "heatmap.png").read_bytes().startswith(b"\x89PNG")


def test_the_client_in_python_works(place: Path, served: str) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    cell = place / "cell.jpg"
    rgb = draw_field("MONOCYTE", np.random.default_rng(3))
    cv2.imwrite(str(cell), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    program = program.replace("http://127.0.0.1:8000", served)
    program = program.replace("demo/slides/smear-1-adult/cell-0000.jpg", str(cell))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in CLASS_NAMES
