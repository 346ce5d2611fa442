"""``pipelines/review.py`` as a process of its own, on a free port."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
from drawn import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TOKEN", "Reviewing", "reviewing"]

TOKEN = "a-token-of-the-test"


@dataclass
class Reviewing:
    """A running server and a client that may come in."""

    process: subprocess.Popen[str]
    address: str
    client: httpx.Client

    def act(self, name: str, request: str, *, reviewer: str = "Ann", seen: int = 0, **content: Any) -> httpx.Response:
        body = {"reviewer": reviewer, "request": request, "seen": seen, **content}
        return self.client.post(f"/api/{name}", json=body)


@contextlib.contextmanager
def reviewing(run: str, *options: str) -> Iterator[Reviewing]:
    """Start the server; kill it at the end, as at any moment."""
    command = [sys.executable, "pipelines/review.py", run, "--port", "0", "--token", TOKEN, *options]
    process = subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
    )
    assert process.stdout is not None
    try:
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            found = re.search(r"review: (http://\S+)/\?token=", line)
            if found:
                break
        else:
            raise AssertionError("".join(lines))
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=found[1], headers=headers, timeout=30, trust_env=False) as client:
            yield Reviewing(process, found[1], client)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
