"""The Ray connection, how many workers of which size a cluster takes, and waiting until there is room for them."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import ray
from ray.util import placement_group, remove_placement_group

from core.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

__all__ = [
    "WORKER_ENVIRONMENT",
    "OptionNames",
    "WorkerPlan",
    "cluster_address",
    "connected",
    "live_nodes",
    "plan_workers",
    "wait_for_room",
]

WORKER_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
"""Lets glibc keep the memory of a batch's feature maps for the next batch, instead of asking the kernel for
zeroed pages each time: a tenth of the time of a forward pass on a CPU."""

_OBJECT_STORE_BYTES = 512 * 1024 * 1024
"""Object store of a private cluster, beside what the caller puts into it."""

_MOST_LOADERS = 16
_FIRST_LOOK_S, _BETWEEN_LINES_S = 5.0, 60.0


class OptionNames(NamedTuple):
    """How a command calls the options that size its workers; its error messages use them."""

    workers: str = "--workers"
    cpus: str = "--cpus-per-worker"
    gpus: str = "--gpus-per-worker"


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """Number and size of the worker processes that a command starts.

    Attributes:
        workers: Number of actors.
        cpus: Logical CPUs that each reserves.
        gpus: GPUs that each reserves.
        threads: Torch threads of each.
        loaders: Threads of each that read and decode.
    """

    workers: int
    cpus: float
    gpus: float
    threads: int
    loaders: int

    @property
    def device(self) -> str:
        """Torch device of each worker."""
        return "cuda" if self.gpus > 0 else "cpu"


def cluster_address(address: str | None) -> str | None:
    """Return the address of the cluster that `connected` joins; None where it starts a private one.

    Args:
        address: What the user gave; otherwise the job's, or RAY_ADDRESS.
    """
    return address or os.environ.get("RAY_ADDRESS")


@contextmanager
def connected(address: str | None, shared_bytes: int = 0) -> Generator[None]:
    """Join the cluster of a job or of `address`, or start a private one on this machine, for a while.

    A process that is connected already stays so.

    Args:
        address: Address of a cluster; None for the cluster whose job this process is, or else a private one.
        shared_bytes: Bytes that the caller will put into the object store of a private cluster.

    Raises:
        SettingsError: With code ``no-cluster``.
    """
    if ray.is_initialized():
        yield
        return
    on_terminate = signal.getsignal(signal.SIGTERM)
    _connect(cluster_address(address), shared_bytes)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)  # ray.init() puts its own in its place
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str | None, shared_bytes: int) -> None:
    common: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    if address:
        try:
            ray.init(address=address, **common)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise SettingsError("no-cluster", f"There is no Ray cluster at {address} ({error}).") from error
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # the C++ parts warn of actors that Ray Data itself starts
    # Ray listens on every network, so a private cluster asks for a token, which only this process and its own know.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES + shared_bytes,
        **common,
    )


def live_nodes() -> list[dict[str, float]]:
    """Return the resources of each live node of the connected cluster, as `plan_workers` takes them."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def plan_workers(
    nodes: Sequence[dict[str, float]],
    *,
    workers: int | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
    threads: int | None = None,
    per_gpu: int = 1,
    names: OptionNames | None = None,
) -> WorkerPlan:
    """Choose workers for a cluster; what is not given is worked out from what is.

    With GPUs: one worker per GPU, and CPUs beside it to decode. Without: one single-threaded worker per
    CPU, since two networks on one core each are faster than one network on two. One logical CPU of every node
    (half of a single one) stays free of workers, so that whatever else Ray runs there can start.

    Args:
        nodes: Resources of each live node, as Ray counts them (``CPU``, ``GPU``).
        workers: Number of workers.
        cpus: Logical CPUs of each worker.
        gpus: GPUs of each worker; 0 keeps off the GPUs.
        threads: Torch threads of each worker; otherwise its whole CPUs, or 1 beside a GPU.
        per_gpu: Workers that share a GPU, where its CPUs allow and `gpus` is not given.
        names: Names of the command's options for the error message, where they are not the usual ones.

    Raises:
        SettingsError: With code ``too-few-resources`` where the cluster could never start them; it says which
            numbers fit.

    Example:
        >>> plan_workers([{"CPU": 16.0}], cpus=4).workers
        3
    """
    total_gpus = sum(node.get("GPU", 0.0) for node in nodes)
    on_gpu = total_gpus > 0 if gpus is None else gpus > 0
    hosts = [node for node in nodes if node.get("GPU" if on_gpu else "CPU", 0.0) > 0]
    if not hosts:
        what = f"no GPU; give {(names or OptionNames()).gpus} 0" if on_gpu else "no node with a CPU"
        raise SettingsError("too-few-resources", f"The cluster has {what}.")
    if gpus is None:
        gpus = 1 / _sharing(hosts, per_gpu) if on_gpu else 0.0
    if workers is None:
        workers = _room(hosts, cpus, gpus) if cpus else sum(_natural_workers(node, gpus) for node in hosts)
        workers = max(1, workers)
    if cpus is None:
        cpus = _largest_cpus(hosts, workers, gpus) or 1.0
    if (room := _room(hosts, cpus, gpus)) < workers:
        raise _too_few(hosts, WorkerPlan(workers, cpus, gpus, 1, 1), room, names or OptionNames())
    whole = max(1, int(cpus))
    return WorkerPlan(workers, cpus, gpus, threads or (1 if on_gpu else whole), min(_MOST_LOADERS, max(2, whole)))


def wait_for_room(plan: WorkerPlan, say: Callable[[str], object], limit_s: float | None = None) -> None:
    """Wait until the cluster has free resources for one of the planned workers; say so while it has not.

    The request is a placement group, so that a cluster that grows on demand sees it.

    Args:
        plan: The planned workers; the connected cluster is large enough for them.
        say: Called with a line for the user: after five seconds, then once a minute.
        limit_s: Seconds to wait at the most; None for no limit.

    Raises:
        SettingsError: With code ``no-room`` after `limit_s` seconds.
    """
    needed = {"CPU": plan.cpus} | ({"GPU": plan.gpus} if plan.gpus else {})
    started = time.monotonic()
    group = placement_group([needed])
    try:
        pause = _FIRST_LOOK_S
        while True:
            left = float("inf") if limit_s is None else limit_s - (time.monotonic() - started)
            if group.wait(max(0.1, min(pause, left))):
                return
            if left <= pause:
                raise SettingsError(
                    "no-room",
                    f"After {limit_s:g} s there is still no room for a worker ({_shortage(needed)}). End what holds the"
                    " cluster, or wait longer.",
                )
            say(f"waits for {_shortage(needed)}")
            pause = _BETWEEN_LINES_S
    finally:
        remove_placement_group(group)


def _shortage(needed: dict[str, float]) -> str:
    """Say what is needed and what is free, such as ``1 CPU, 0 of 2 free``."""
    total, free = ray.cluster_resources(), ray.available_resources()
    parts = (
        f"{amount:g} {name}, {free.get(name, 0.0):g} of {total.get(name, 0.0):g} free"
        for name, amount in needed.items()
    )
    return " and ".join(parts)


def _sharing(hosts: Sequence[dict[str, float]], most: int) -> int:
    """Return how many workers share a GPU: at most `most`, and no more than there are CPUs to feed them."""
    return max(1, min(most, *(int(_free_cpus(node) / node["GPU"]) for node in hosts)))


def _natural_workers(node: dict[str, float], gpus: float) -> int:
    """Return how many workers a node takes where nothing is given: one per share of a GPU, or one per CPU."""
    return max(1, int(node["GPU"] / gpus + 1e-6) if gpus else int(node["CPU"]))


def _free_cpus(node: dict[str, float]) -> float:
    """Return the CPUs of a node that workers may take."""
    total = node.get("CPU", 0.0)
    return total - 1 if total > 1 else total / 2


def _room(hosts: Sequence[dict[str, float]], cpus: float, gpus: float) -> int:
    """Return how many workers of this size the nodes take beside the CPU that stays free on each."""
    room = 0
    for node in hosts:
        by_cpu = _free_cpus(node) / cpus
        by_gpu = node.get("GPU", 0.0) / gpus if gpus else by_cpu
        room += int(min(by_cpu, by_gpu) + 1e-6)
    return room


def _largest_cpus(hosts: Sequence[dict[str, float]], workers: int, gpus: float) -> float | None:
    """Return the most CPUs that each of so many workers can have, in hundredths; None where they never fit."""
    shares = {_free_cpus(node) / count for node in hosts for count in range(1, workers + 1)}
    floored = sorted({int(share * 100) / 100 for share in shares if share >= 0.01}, reverse=True)
    return next((share for share in floored if _room(hosts, share, gpus) >= workers), None)


def _too_few(hosts: Sequence[dict[str, float]], plan: WorkerPlan, room: int, names: OptionNames) -> SettingsError:
    """Say what does not fit, and which numbers would."""
    each = f"{plan.cpus:g} CPUs" + (f" and {plan.gpus:g} GPUs" if plan.gpus else "")
    fitting = [f"{names.workers} {room}"] if room else []
    if cpus := _largest_cpus(hosts, plan.workers, plan.gpus):
        fitting.append(f"{names.cpus} {cpus:g}")
    elif single := _largest_cpus(hosts, 1, plan.gpus):
        fitting += [] if room else [f"{names.workers} 1 {names.cpus} {single:g}"]
    if not fitting:
        fitting.append(f"{names.gpus} {max(node.get('GPU', 0.0) for node in hosts):g}")
    count = "1 worker" if plan.workers == 1 else f"{plan.workers} workers"
    return SettingsError(
        "too-few-resources",
        f"{count} with {each} each do not fit into the cluster, where one CPU of every node stays free."
        f" These fit: {' or '.join(fitting)}.",
    )
