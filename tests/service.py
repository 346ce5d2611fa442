"""The service, as a user starts it: in its own process, on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest
from jobs import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[1]
LIMITS = {"max-body-bytes": 3_000_000, "body-timeout-s": 3, "max-images": 8, "decoders": 2}


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start the service; end it as Ctrl-C does, and see that it ends well."""
    port = free_port()
    command = [sys.executable, "serve/run.py", "--port", str(port), *arguments]
    environment = {**os.environ, "RAY_TMPDIR": "/tmp", "RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{address}/readyz", timeout=5).status_code == 200:
                    break
            time.sleep(0.5)
        else:
            pytest.fail("the service never became ready")
        yield address, process
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: Ray's own processes get it, too
        assert process.wait(timeout=60) == 0
    finally:
        if process.poll() is None:
            for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                with contextlib.suppress(psutil.Error):
                    child.kill()
