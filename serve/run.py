"""``make serve``: the service on this machine, or on a cluster, until it is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import SystemRandom
from typing import TYPE_CHECKING

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pydantic import Field
from ray import serve as ray_serve
from ray.serve.config import HTTPOptions, ProxyLocation

from core.errors import SettingsError
from core.model.opening import has_nvidia_gpu
from runtime.cluster import connected
from runtime.command import run_command
from runtime.progress import say
from serve.app import build, check
from serve.registry import remove_registry
from serve.settings import ServeSettings, read_settings

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["StandaloneSettings", "serve"]

_NAME = "leukoray"
_OWN = {"host", "port", "address"}
_QUIET_PORTS = range(20_000, 32_000)
"""Ports between those that Ray gives its workers and those that Linux gives to whoever asks for any."""

_TUNED = {
    # Ray has no public settings for any of these; tests/serve/test_private_names.py says when a name goes.
    # One thread and one loop for each process: fewer hand-overs for each request.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # One write to the log for many requests.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "100",
    # The log is in Ray's folder; the terminal belongs to the command's own lines.
    "RAY_SERVE_LOG_TO_STDERR": "0",
    # Ray gives its workers niceness 15, under which a busy machine serves everybody else first.
    "RAY_worker_niceness": "0",
}
"""Environment of a private cluster, where it says nothing else."""


class StandaloneSettings(ServeSettings):
    """Classify white blood cells over HTTP, on Ray Serve.

    Each option can also stand in the environment (LEUKORAY_SERVE_BATCH_SIZE=16).
    """

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every network")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    address: str | None = Field(
        None, description="address of a Ray cluster; otherwise a private one is started on this machine"
    )


def serve(options: StandaloneSettings) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code.

    Raises:
        LeukorayError: Settings, keys, bundle, port or cluster cannot be used.
    """
    settings = read_settings({name: getattr(options, name) for name in options.model_fields_set - _OWN})
    _check_port(options.host, options.port)
    check(settings)
    port = options.port
    if options.address is None:
        environment = dict(_TUNED)
        if _one_door(settings):
            environment |= _direct(options.port)
            port = _free_port()
        for name, value in environment.items():
            os.environ.setdefault(name, value)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it would name the port of its own proxy
    with _until_asked_to_stop() as asked, connected(options.address):
        application = build(settings)
        ray_serve.start(
            proxy_location=ProxyLocation.HeadOnly if options.address is None else ProxyLocation.EveryNode,
            http_options=HTTPOptions(
                host=options.host, port=port, request_timeout_s=settings.body_timeout_s + settings.timeout_s + 5
            ),
        )
        try:
            ray_serve.run(application, name=_NAME, route_prefix="/")
            say(f"Leukoray: http://{options.host}:{options.port}/ (the page), /docs (for programs); Ctrl-C ends it")
            while not asked:
                time.sleep(0.5)
        finally:
            ray_serve.delete(_NAME)
            remove_registry(_NAME)
    return 0


def _one_door(settings: ServeSettings) -> bool:
    """Whether one process takes all requests."""
    if settings.joint(gpus=has_nvidia_gpu()):
        return settings.replicas == 1 and not settings.max_replicas
    return settings.ingress_replicas == 1


def _direct(port: int) -> dict[str, str]:
    """Let the one replica that takes requests listen itself: Serve's proxy in front of it costs more than all the rest.

    Serve has no public setting for this; tests/serve/test_private_names.py says when a name goes.
    """
    return {
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port + 1),  # exclusive
        "RAY_SERVE_PORT_QUARANTINE_S": "0",  # a restarted replica takes the same port again
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                "port-taken", f"Nothing can listen on {host}:{port} ({error.strerror}); choose another --port."
            ) from None


def _free_port() -> int:
    """Return a port for Serve's own proxy, which is then only a spare door on the same address.

    It is none that the kernel gives to whoever asks for any, as Ray's processes do while they start.
    """
    for port in SystemRandom().sample(_QUIET_PORTS, len(_QUIET_PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise SettingsError("port-taken", "There is no free port for Serve's own proxy on this machine.")


@contextmanager
def _until_asked_to_stop() -> Generator[list[int]]:
    """Leave the block at SIGINT or SIGTERM, also while the service is still starting.

    Yields:
        The signals that came: Ray catches some exceptions, and the interruption may be among them.
    """
    asked: list[int] = []

    def stop(number: int, _frame: object) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield asked
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def main() -> int:
    """Entry point of the command."""
    return run_command(StandaloneSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
