"""On a cluster, as an operator works: ``serve deploy``, a change of bundles, a killed replica, all under load."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
import torch
import yaml
from hostile import encoded, picture
from jobs import ACTIVATED, RAY, free_port, head_node

from core.model.bundle import load_bundle, save_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

PROJECT = Path(__file__).resolve().parents[2]
SERVE = str(Path(RAY).parent / "serve")
GOOD = encoded(picture(), "JPEG")
REFUSALS = {429, 503}


class Callers:
    """Some clients that never stop asking, and what they were told."""

    def __init__(self, address: str, count: int = 4) -> None:
        self.address, self.going = address, True
        self.codes: Counter[int] = Counter()
        self.bundles: list[str] = []
        self.answered = [time.monotonic()]
        self.threads = [threading.Thread(target=self.ask) for _ in range(count)]

    def ask(self) -> None:
        with httpx.Client(base_url=self.address, timeout=30) as client:
            while self.going:
                try:
                    answer = client.post("/v1/classify", content=GOOD)
                except httpx.HTTPError:
                    self.codes[0] += 1
                    time.sleep(0.05)
                    continue
                self.codes[answer.status_code] += 1
                if answer.status_code == 200:
                    self.bundles.append(answer.json()["bundle"])
                    self.answered.append(time.monotonic())
                else:
                    time.sleep(0.05)

    def longest_pause(self) -> float:
        """Seconds in which nobody got a result."""
        return max(later - before for before, later in itertools.pairwise(self.answered))

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.going = False
        for thread in self.threads:
            thread.join()


class Cluster:
    """A cluster with the service on it."""

    def __init__(self, dashboard: str, folder: Path, bundle: Path, layout: str) -> None:
        self.dashboard, self.file, self.bundle, self.layout = dashboard, folder / "serve.yaml", bundle, layout
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"

    def deploy(self, bundle: Path | None = None) -> None:
        config: dict[str, Any] = yaml.safe_load((PROJECT / "deploy" / "serve.yaml").read_text())
        config["http_options"]["port"] = self.port
        config["applications"][0]["args"] |= {"bundle": str(self.bundle), "layout": self.layout}
        config["applications"][0]["deployments"][0]["user_config"]["bundle"] = None if bundle is None else str(bundle)
        self.file.write_text(yaml.safe_dump(config))
        command = [SERVE, "deploy", "--address", self.dashboard, str(self.file)]
        environment = {**ACTIVATED, "PYTHONPATH": str(PROJECT)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr

    def model(self) -> dict[str, Any]:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            answer = httpx.get(f"{self.address}/v1/model", timeout=5)
            if answer.status_code == 200:
                return answer.json()
        return {}

    def wait(self, condition: Any, seconds: float = 120) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if (model := self.model()) and condition(model):
                return model
            time.sleep(0.2)
        pytest.fail(f"it never happened: {self.model()}")

    def replica(self, name: str) -> psutil.Process:
        children = psutil.Process(os.getpid()).children(recursive=True)
        for process in children:
            with contextlib.suppress(psutil.Error):
                if f"ServeReplica:leukoray:{name}" in " ".join(process.cmdline()) and self.owns(process):
                    return process
        pytest.fail(f"no {name} runs")

    def kill(self, name: str) -> None:
        """Kill a replica, and wait until the service has lost it."""
        self.replica(name).kill()
        time.sleep(2)

    def owns(self, process: psutil.Process) -> bool:
        option = f"--dashboard-port={self.dashboard.rpartition(':')[2]}"
        return any(option in parent.cmdline() for parent in process.parents())


@pytest.fixture(scope="module", params=["joint", "split"])
def cluster_with_service(
    request: pytest.FixtureRequest, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    with head_node() as dashboard:
        cluster = Cluster(dashboard, tmp_path_factory.mktemp("deploy"), small_bundle, request.param)
        cluster.deploy()
        cluster.wait(bool)
        yield cluster


@pytest.fixture(scope="module")
def other_bundle(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    first = load_bundle(small_bundle)
    torch.manual_seed(5)
    with torch.no_grad():
        first.network.get_classifier().bias.add_(torch.randn(len(first.class_names)))
    folder = tmp_path_factory.mktemp("other") / "bundle"
    save_bundle(folder, first.network, first.class_names, first.record, None, "# Other\n")
    return folder


@pytest.mark.slow
def test_a_change_of_bundles_fails_no_request(
    cluster_with_service: Cluster, other_bundle: Path, tmp_path: Path
) -> None:
    cluster, new = cluster_with_service, load_bundle(other_bundle).id
    old = cluster.model()["bundle"]
    with Callers(cluster.address) as callers:
        cluster.deploy(other_bundle)
        cluster.wait(lambda model: model["bundle"] == new)
        time.sleep(1)
        cluster.deploy(tmp_path / "nothing")
        refused = cluster.wait(lambda model: model["refused"])
        time.sleep(1)
        cluster.deploy()
        cluster.wait(lambda model: model["bundle"] == old)
    assert set(callers.codes) == {200}, callers.codes
    assert set(callers.bundles) == {old, new}
    assert "no bundle" in refused["refused"]["reason"]
    assert refused["bundle"] == new


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Classifier", "Ingress"])
def test_a_killed_replica_comes_back(cluster_with_service: Cluster, name: str) -> None:
    cluster = cluster_with_service
    joint = cluster.layout == "joint"
    if joint and name == "Ingress":
        pytest.skip("the joint layout has none")
    bundle = cluster.model()["bundle"]
    with Callers(cluster.address) as callers:
        time.sleep(1)
        before = callers.codes.copy()
        cluster.kill(name)
        cluster.wait(lambda model: model["bundle"] == bundle)
        time.sleep(1)
        back = callers.codes.copy()
        time.sleep(3)
    print(f"{name}: {dict(callers.codes)}, no result for {callers.longest_pause():.1f} s")
    assert set(before) == {200}
    assert set(callers.codes - back) == {200}
    failed = back - before
    del failed[200]
    cut_off = failed.pop(500, 0)
    assert cut_off <= (len(callers.threads) if joint or name == "Ingress" else 0), failed
    assert all(code in REFUSALS for code in failed), failed
    assert set(callers.bundles) == {bundle}
    assert 1 < callers.longest_pause() < 60


@pytest.mark.slow
def test_a_killed_classifier_comes_back_with_the_bundle_accepted_last(
    cluster_with_service: Cluster, other_bundle: Path, tmp_path: Path
) -> None:
    """Where the configuration names one that was refused."""
    cluster, accepted = cluster_with_service, load_bundle(other_bundle).id
    cluster.deploy(other_bundle)
    cluster.wait(lambda model: model["bundle"] == accepted)
    cluster.deploy(tmp_path / "nothing")
    cluster.wait(lambda model: model["refused"])
    with Callers(cluster.address) as callers:
        cluster.kill("Classifier")
        model = cluster.wait(bool)
        time.sleep(3)
    assert (model["bundle"], model["refused"]["bundle"]) == (accepted, str(tmp_path / "nothing"))
    assert set(callers.bundles) == {accepted}
    cluster.deploy()
    cluster.wait(lambda model: model["bundle"] == load_bundle(cluster.bundle).id)


@pytest.mark.slow
def test_a_signal_while_it_starts_ends_it(shipped: Path) -> None:
    command = [sys.executable, "serve/run.py", "--port", str(free_port()), "--bundle", str(shipped)]
    process = subprocess.Popen(command, cwd=PROJECT, env={**ACTIVATED, "RAY_TMPDIR": "/tmp"}, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while not any("ServeController" in line for line in command_lines(process.pid)):
            assert time.monotonic() < until
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def command_lines(parent: int) -> list[str]:
    """Of all processes below one."""
    lines = []
    for process in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            lines.append(" ".join(process.cmdline()))
    return lines
