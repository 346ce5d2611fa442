"""Ray: connecting, and working out how many workers of which size the cluster can take."""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from core.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

__all__ = ["WORKER_ENVIRONMENT", "WorkerPlan", "connected", "plan_workers"]

WORKER_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
"""Lets glibc keep the memory of a batch's feature maps for the next batch, instead of asking the kernel for
zeroed pages each time: a tenth of the time of a forward pass on a CPU."""

_OBJECT_STORE_BYTES = 512 * 1024 * 1024
"""Of a private cluster, beside what the caller puts into it."""

_MOST_LOADERS = 16


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """The workers of a run.

    Attributes:
        workers: Number of actors.
        cpus: Logical CPUs that each reserves.
        gpus: GPUs that each reserves.
        threads: Torch threads of each.
        loaders: Threads that read and decode, of each.
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


@contextmanager
def connected(address: str | None, shared_bytes: int = 0) -> Generator[None]:
    """Join the cluster of a job or of `address`, or start a private one on this machine, for a while.

    A process that is connected already stays so.

    Args:
        address: Of a cluster; None: of the job that this is, or none.
        shared_bytes: What the caller will put into the object store of a private cluster.

    Raises:
        SettingsError: With code ``no-cluster``.
    """
    if ray.is_initialized():
        yield
        return
    on_terminate = signal.getsignal(signal.SIGTERM)
    _connect(address or os.environ.get("RAY_ADDRESS"), shared_bytes)
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
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of C++ alone, which warns of Ray Data's own actors
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # private: loopback only, no dashboard, ends with this process
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES + shared_bytes,
        _node_ip_address="127.0.0.1",
        **common,
    )


def plan_workers(
    nodes: Sequence[dict[str, float]],
    *,
    workers: int | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
    threads: int | None = None,
    per_gpu: int = 1,
) -> WorkerPlan:
    """Choose workers for a cluster.

    With GPUs: one worker per GPU, and CPUs beside it to decode. Without: one single-threaded worker per
    CPU, since two networks on one core each are faster than one network on two. A logical CPU of every node
    stays free of actors, so that whatever else Ray runs there can start.

    Args:
        nodes: Resources of each live node, as Ray counts them (``CPU``, ``GPU``).
        workers: Overrides the number.
        cpus: Overrides the CPUs of each.
        gpus: Overrides the GPUs of each; 0 keeps off the GPUs.
        threads: Overrides the torch threads of each.
        per_gpu: How many share a GPU, where its CPUs allow and `gpus` says nothing else.

    Raises:
        SettingsError: With code ``too-few-resources`` where the cluster could never start them.
    """
    total_gpus = sum(node.get("GPU", 0.0) for node in nodes)
    use_gpu = total_gpus > 0 if gpus is None else gpus > 0
    if use_gpu:
        hosts = [node for node in nodes if node.get("GPU", 0.0) > 0]
        gpus = 1 / _sharing(hosts, per_gpu) if gpus is None else gpus
        per_node = [max(1, int(node["GPU"] / gpus)) for node in hosts]
    else:
        gpus = 0.0
        hosts = [node for node in nodes if node.get("CPU", 0.0) > 0]
        per_node = [max(1, int(node["CPU"])) for node in hosts]
    if not hosts:
        raise SettingsError("too-few-resources", "The cluster has no node with a CPU or GPU that could classify.")
    if workers is not None:
        per_node = [-(-workers // len(hosts))] * len(hosts)
    fair = min(_free_cpus(node) / count for node, count in zip(hosts, per_node, strict=True))
    cpus = max(0.01, int(fair * 100) / 100) if cpus is None else cpus
    whole = max(1, int(fair))
    plan = WorkerPlan(
        workers or sum(per_node), cpus, gpus, threads or (1 if use_gpu else whole), min(_MOST_LOADERS, max(2, whole))
    )
    _check(plan, nodes)
    return plan


def _sharing(hosts: Sequence[dict[str, float]], most: int) -> int:
    """Return how many workers share a GPU: at most `most`, and no more than there are CPUs to feed them."""
    return max(1, min(most, *(int(_free_cpus(node) / node["GPU"]) for node in hosts)))


def _free_cpus(node: dict[str, float]) -> float:
    total = node.get("CPU", 0.0)
    return total - 1 if total > 1 else total / 2


def _check(plan: WorkerPlan, nodes: Sequence[dict[str, float]]) -> None:
    room = 0
    for node in nodes:
        by_cpu = node.get("CPU", 0.0) / plan.cpus if plan.cpus else float("inf")
        by_gpu = node.get("GPU", 0.0) / plan.gpus if plan.gpus else float("inf")
        room += int(min(by_cpu, by_gpu, 1e6) + 1e-6)
    if room < plan.workers:
        raise SettingsError(
            "too-few-resources",
            f"{plan.workers} workers with {plan.cpus:g} CPUs and {plan.gpus:g} GPUs each do not fit into the"
            f" cluster; it has room for {room}. Lower their number, or the CPUs or GPUs of each.",
        )
