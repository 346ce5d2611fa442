"""The server of the page: one process, this machine only unless asked otherwise, until it is stopped."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import cv2
import uvicorn

from core.errors import SettingsError
from pipelines.reviewing.application import build_application
from runtime.progress import say

if TYPE_CHECKING:
    from pipelines.reviewing.desk import Desk

__all__ = ["serve_page"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve_page(desk: Desk, host: str, port: int, token: str) -> None:
    """Serve the page until the process is told to stop; say where it is.

    Args:
        desk: What is shown and done.
        host: Address to answer on.
        port: Port; 0 for any that is free.
        token: What lets people in.

    Raises:
        SettingsError: With code ``address-taken`` or ``bad-address``.
    """
    cv2.setNumThreads(1)
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    local = _is_loopback(host)
    app = build_application(desk, token, {*_LOOPBACK, host.lower()} if local else (), port)
    shown = f"[{host}]" if ":" in host else host
    say(f"review: http://{shown}:{port}/?token={token}")
    if not local:
        say("others on the network can open it who know this address; it is not encrypted")
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=30, limit_concurrency=256
    )
    with suppress(KeyboardInterrupt):  # what uvicorn raises once it has ended in good order
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        if isinstance(error, socket.gaierror):
            raise SettingsError("bad-address", f"{host} is no address of this machine.") from error
        raise SettingsError(
            "address-taken", f"{host}:{port} cannot be used ({error.strerror}); choose another --port, or 0 for any."
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
