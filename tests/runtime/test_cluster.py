"""Planning workers for a cluster, and waiting until there is room for them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray

from core.errors import SettingsError
from runtime.cluster import OptionNames, WorkerPlan, plan_workers, wait_for_room

PROJECT = Path(__file__).resolve().parents[2]


def test_cpu_workers_leave_a_logical_cpu_free() -> None:
    plan = plan_workers([{"CPU": 2.0}])
    assert (plan.workers, plan.cpus, plan.gpus, plan.threads, plan.device) == (2, 0.5, 0.0, 1, "cpu")
    large = plan_workers([{"CPU": 64.0}, {"CPU": 16.0}])
    assert large.workers == 80
    assert large.workers * large.cpus <= 80 - 2
    assert plan_workers([{"CPU": 1.0}]).cpus <= 0.5


def test_one_worker_per_gpu() -> None:
    plan = plan_workers([{"CPU": 16.0, "GPU": 2.0}, {"CPU": 32.0}])
    assert (plan.workers, plan.gpus, plan.device) == (2, 1.0, "cuda")
    assert plan.loaders > 1
    shared = plan_workers([{"CPU": 16.0, "GPU": 1.0}], gpus=0.25)
    assert shared.workers == 4


def test_a_gpu_can_be_left_alone() -> None:
    assert plan_workers([{"CPU": 4.0, "GPU": 1.0}], gpus=0).device == "cpu"


def test_a_single_worker_gets_the_threads() -> None:
    assert plan_workers([{"CPU": 16.0}], workers=1).threads == 15


def test_what_is_not_given_follows_from_what_is() -> None:
    wide = plan_workers([{"CPU": 16.0}], cpus=4)
    assert (wide.workers, wide.threads) == (3, 4)
    few = plan_workers([{"CPU": 16.0}], workers=4)
    assert (few.cpus, few.threads) == (3.75, 3)
    both = plan_workers([{"CPU": 16.0}, {"CPU": 4.0}], cpus=3)
    assert both.workers == 5 + 1
    shared = plan_workers([{"CPU": 9.0, "GPU": 1.0}], gpus=0.25, cpus=4)
    assert shared.workers == 2


@pytest.mark.parametrize("workers", [None, 1, 3, 7, 40])
@pytest.mark.parametrize("cpus", [None, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("nodes", [(2.0,), (16.0,), (64.0, 16.0), (4.0, 4.0, 4.0), (1.0,)])
def test_every_plan_leaves_a_cpu_of_each_node(
    nodes: tuple[float, ...], cpus: float | None, workers: int | None
) -> None:
    cluster, free = [{"CPU": size} for size in nodes], [size - 1 if size > 1 else 0.5 for size in nodes]
    if cpus is not None and sum(int(size / cpus) for size in free) < (workers or 1):
        with pytest.raises(SettingsError, match="These fit"):
            plan_workers(cluster, workers=workers, cpus=cpus)
        return
    plan = plan_workers(cluster, workers=workers, cpus=cpus)
    assert workers in {None, plan.workers}
    assert sum(int(size / plan.cpus + 1e-6) for size in free) >= plan.workers


@pytest.mark.parametrize(
    ("node", "wanted", "fitting"),
    [
        ({"CPU": 2.0}, {"gpus": 1.0}, "no GPU; give --gpus-per-worker 0"),
        ({"CPU": 2.0}, {"workers": 9, "cpus": 1.0}, "--workers 1 or --cpus-per-worker 0.11"),
        ({"CPU": 2.0}, {"cpus": 3.0}, "1 worker with 3 CPUs .* --cpus-per-worker 1"),
        ({"CPU": 2.0}, {"workers": 2, "cpus": 1.0}, "--workers 1 or --cpus-per-worker 0.5"),
        ({"CPU": 16.0, "GPU": 1.0}, {"gpus": 2.0}, "--gpus-per-worker 1"),
        ({"CPU": 16.0, "GPU": 2.0}, {"workers": 4, "gpus": 1.0}, "--workers 2"),
    ],
)
def test_what_never_fits_is_refused_with_numbers_that_do(
    node: dict[str, float], wanted: dict[str, float], fitting: str
) -> None:
    with pytest.raises(SettingsError, match=fitting) as refused:
        plan_workers([node], **wanted)  # type: ignore[arg-type]
    assert refused.value.code == "too-few-resources"


def test_a_command_names_its_own_options() -> None:
    names = OptionNames("--max-concurrent", "--cpus-per-trial", "--gpus-per-trial")
    with pytest.raises(SettingsError, match=r"--max-concurrent 1 or --cpus-per-trial 0\.5"):
        plan_workers([{"CPU": 2.0}], workers=2, cpus=1.0, names=names)


@pytest.mark.usefixtures("cluster")
def test_a_full_cluster_is_waited_for_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.cluster._FIRST_LOOK_S", 0.5)
    monkeypatch.setattr("runtime.cluster._BETWEEN_LINES_S", 0.5)
    holder = ray.util.placement_group([{"CPU": 2}])
    assert holder.wait(30)
    lines: list[str] = []
    plan = WorkerPlan(1, 1.0, 0.0, 1, 1)
    with pytest.raises(SettingsError, match=r"After 1 s .*1 CPU, 0 of 2 free") as refused:
        wait_for_room(plan, lines.append, limit_s=1)
    assert refused.value.code == "no-room"
    assert lines[0] == "waits for 1 CPU, 0 of 2 free"
    threading.Timer(1.0, ray.util.remove_placement_group, [holder]).start()
    wait_for_room(plan, lines.append, limit_s=60)
    until = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0) < 2:  # its own request is gone, too
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
def test_a_private_cluster_takes_nobody_without_its_token(tmp_path: Path) -> None:
    """Ray listens on every network: whoever reaches its ports must not be able to run code."""
    stranger = "import ray; ray.init(address={address!r}, log_to_driver=False); print(ray.nodes())"
    owner = (
        "import os, subprocess, sys, ray\n"
        "from runtime.cluster import connected\n"
        "with connected(None):\n"
        "    assert ray.get(ray.remote(num_cpus=0.1)(lambda: 5).remote()) == 5\n"
        "    address = ray.get_runtime_context().gcs_address\n"
        "    plain = {k: v for k, v in os.environ.items() if not k.startswith('RAY_')}\n"
        f"    code = {stranger!r}.format(address=address)\n"
        "    for token in ({}, {'RAY_AUTH_MODE': 'token', 'RAY_AUTH_TOKEN': 'a' * 64}):\n"
        "        stranger = [sys.executable, '-c', code]\n"
        "        done = subprocess.run(stranger, env=plain | token, capture_output=True, timeout=60)\n"
        "        assert done.returncode, done.stdout\n"
        "        assert b'uthenticat' in done.stderr, done.stderr\n"
        "print('refused')\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(PROJECT), "RAY_TMPDIR": "/tmp"}
    done = subprocess.run(
        [sys.executable, "-c", owner], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout == "refused\n", done.stderr
    assert not (tmp_path / ".ray").exists()
