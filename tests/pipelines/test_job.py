"""The same command as a Ray job on a running cluster."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pyarrow.parquet as pq
import pytest

from pipelines.demo import draw_slides

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).parent / "ray")
ACTIVATED = {**os.environ, "RAY_AUTH_MODE": "disabled", "PATH": f"{Path(RAY).parent}:{os.environ['PATH']}"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """A head node of its own, on loopback, ended by its own process."""
    port, address = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="lj", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
        command += [f"--port={port}", f"--dashboard-port={address}", "--dashboard-host=127.0.0.1"]
        # The session's own cluster holds the agent's usual port; without an agent no job is taken.
        command += [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
        command += [f"--temp-dir={folder}", "--disable-usage-stats", f"--object-store-memory={256 * 1024 * 1024}"]
        environment = {**ACTIVATED, "RAY_USAGE_STATS_ENABLED": "0"}
        head = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        try:
            wait_for(f"http://127.0.0.1:{address}/api/version", head)
            yield f"http://127.0.0.1:{address}"
        finally:
            for process in [*psutil.Process(head.pid).children(recursive=True), head]:
                with contextlib.suppress(psutil.Error):  # asked nicely, they take half a minute
                    process.kill()
            head.wait(timeout=60)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert process.poll() is None, "ray start ended"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail("the dashboard never answered")


def readme_command() -> str:
    """The line of the README that submits a job, without its own slides and run."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.startswith("ray job submit"))
    return line[: line.index("pipelines/classify.py") + len("pipelines/classify.py")]


def submit(dashboard: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*shlex.split(readme_command()), *arguments]
    environment = {**ACTIVATED, "RAY_API_SERVER_ADDRESS": dashboard}
    for _ in range(10):
        done = subprocess.run(
            command, cwd=PROJECT, capture_output=True, text=True, timeout=400, check=False, env=environment
        )
        if "No available agent" not in done.stderr:  # the dashboard answers before its agent is there
            break
        time.sleep(1)
    return done


def test_a_submitted_job_does_the_same(dashboard: str, small_bundle: Path, tmp_path: Path) -> None:
    draw_slides(tmp_path / "slides", 20)
    out = tmp_path / "run"
    options = [str(tmp_path / "slides"), "--out", str(out), "--model", str(small_bundle)]
    done = submit(dashboard, *options, "--max-error-rate", "0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(pq.read_table(out / "predictions")) == 60
    assert len(pq.read_table(out / "errors")) == 5
    assert json.loads((out / "run.json").read_text())["state"] == "finished"
    assert (out / "report" / "index.html").is_file()
    assert "images/s" in done.stdout
    again = submit(dashboard, *options, "--resume", "--max-error-rate", "0.01")
    assert again.returncode == 1
    assert "more than --max-error-rate" in again.stdout
