"""A Ray cluster with a dashboard, and jobs on it, as the README submits them."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from serve.run import _free_port as free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[1]
RAY = str(Path(sys.executable).parent / "ray")
ACTIVATED = {**os.environ, "RAY_AUTH_MODE": "disabled", "PATH": f"{Path(RAY).parent}:{os.environ['PATH']}"}


@contextlib.contextmanager
def head_node() -> Iterator[str]:
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


def readme_command(script: str) -> str:
    """The line of the README that submits this script, without its own arguments."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("ray job submit")]
    line = lines[0].replace("pipelines/classify.py", script)
    return line[: line.index(script) + len(script)]


def submit(dashboard: str, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Submit a script of the project as a job and wait for it."""
    command = [*shlex.split(readme_command(script)), *arguments]
    environment = {**ACTIVATED, "RAY_API_SERVER_ADDRESS": dashboard}
    for _ in range(10):
        done = subprocess.run(
            command, cwd=PROJECT, capture_output=True, text=True, timeout=400, check=False, env=environment
        )
        if "No available agent" not in done.stderr:  # the dashboard answers before its agent is there
            break
        time.sleep(1)
    return done
