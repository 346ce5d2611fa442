"""A PostgreSQL server of its own, from Debian's package, on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["postgres"]


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Start a server with an empty database; yield its address."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg", reason="the driver for PostgreSQL is an extra")
    programs = found[-1].parent
    # The server refuses to run as root.
    other_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:
        if other_user:
            shutil.chown(folder, "postgres")
        data = f"{folder}/data"

        def run(*command: object) -> None:
            subprocess.run([*other_user, *map(str, command)], cwd="/", stdout=subprocess.DEVNULL, check=True)

        run(programs / "initdb", "-D", data, "-U", "leukoray", "-A", "trust", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder}"
        run(programs / "pg_ctl", "-D", data, "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql://leukoray@127.0.0.1:{port}/postgres"
        finally:
            run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
