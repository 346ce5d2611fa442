"""The service beside its ceiling and beside other servers, with the same network, engine and threads.

    python benchmarks/serving.py IMAGES [--rounds 2] [--seconds 8] [--peers PYTHON]

In turns, in one run: the bare forward pass on tensors in memory (the ceiling) and decode plus forward of one image;
``serve/run.py``; a fair FastAPI server; LitServe; BentoML. Each server alone, clients in their own process: closed loop
with 1, 8 and 32 clients; then, for ours, open loop (Poisson) at 50, 90 and 200 % of what it did with 32.
Ours runs with ``lower_priority``, which is off unless it is asked for; ``--normal-priority`` measures without.
``--peers`` names the Python of an environment with litserve and bentoml; without it, those two are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path[0] = str(PROJECT)

import psutil

from runtime.cluster import WORKER_ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLIENTS = (1, 8, 32)
LOADS = (0.5, 0.9, 2.0)
QUIET = {"BENTOML_DO_NOT_TRACK": "True"}
FORMS = {"leukoray": "raw", "fastapi": "raw", "litserve": "json", "bentoml": "json"}

BARE = """
import json, statistics, sys, time
from pathlib import Path
import cv2
from core.model.opening import open_bundle
from core.model.predictor import Predictor
options = json.loads(sys.argv[1])
cv2.setNumThreads(1)
predictor = Predictor(open_bundle(Path(options["model"]), options["engine"], "cpu"), "cpu", options["threads"])
files = [Path(name).read_bytes() for name in options["images"][:200]]
prepared = [predictor.prepare(data)[1] for data in files]
batch = prepared[: options["batch"]]
predictor.predict(batch, gradcam=False)
done, begun = 0, time.perf_counter()
while time.perf_counter() - begun < options["seconds"]:
    predictor.predict(batch, gradcam=False); done += len(batch)
rate = done / (time.perf_counter() - begun)
alone = []
for data in files:
    at = time.perf_counter()
    predictor.predict([predictor.prepare(data)[1]], gradcam=False)
    alone.append(time.perf_counter() - at)
print(json.dumps({"rate": rate, "alone_ms": 1000 * statistics.median(alone)}))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--threads", type=int, default=1, help="threads of every server's network")
    parser.add_argument("--engine", default="auto", help="engine of every server: auto, torch or openvino")
    parser.add_argument("--layout", default="auto", help="layout of ours: auto, joint or split")
    parser.add_argument("--batch", type=int, default=16, help="largest batch of every server")
    parser.add_argument("--model", type=Path, default=PROJECT / "models" / "blood-cells")
    parser.add_argument("--normal-priority", action="store_true", help="leave out --lower-priority")
    parser.add_argument("--peers", help="Python of an environment with litserve and bentoml")
    options = parser.parse_args()
    names = sorted(str(path) for path in options.images.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    images = names[:: max(1, len(names) // 400)]
    servers = ["leukoray", "fastapi"] + (["litserve", "bentoml"] if options.peers else [])
    bare: list[dict[str, float]] = []
    rounds: dict[str, list[dict[Any, dict[str, Any]]]] = {name: [] for name in servers}
    for _ in range(options.rounds):
        bare.append(run_bare(options, images))
        for name in servers:
            rounds[name].append(run_server(name, options, images))
    report(bare, rounds)


def run_bare(options: argparse.Namespace, images: list[str]) -> dict[str, float]:
    """Measure the ceiling in a process of its own."""
    wanted = {"threads": options.threads, "model": str(options.model), "engine": options.engine, "batch": options.batch}
    wanted["images"] = images
    command = [sys.executable, "-c", BARE, json.dumps({**wanted, "seconds": options.seconds})]
    environment = {**os.environ, **WORKER_ENVIRONMENT, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout)


def run_server(name: str, options: argparse.Namespace, images: list[str]) -> dict[Any, dict[str, Any]]:
    """Start one server, put each load on it, end it."""
    found: dict[Any, dict[str, Any]] = {}
    with started(name, options) as port:
        common = {"port": port, "path": "/v1/classify" if name == "leukoray" else "/classify", "images": images}
        common |= {"form": FORMS[name], "seconds": options.seconds}
        load({**common, "clients": 16, "seconds": 3})
        for clients in CLIENTS:
            found[clients] = batches(name, port, lambda clients=clients: load({**common, "clients": clients}))
            show(name, f"{clients} clients", found[clients])
        if name == "leukoray":
            capacity = found[CLIENTS[-1]]["throughput"]
            for share in LOADS:
                found[share] = load({**common, "rate": share * capacity, "seconds": 2 * options.seconds})
                show(name, f"{share:.0%} of capacity", found[share])
    return found


@contextlib.contextmanager
def started(name: str, options: argparse.Namespace) -> Iterator[int]:
    """Run a server; wait until it answers."""
    port = free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command_of(name, port, options),
            cwd=PROJECT,
            env={
                **os.environ,
                **WORKER_ENVIRONMENT,
                "BENTOML_DO_NOT_TRACK": "True",
                "OMP_NUM_THREADS": str(options.threads),
            },
            stdout=log,
            stderr=log,
        )
        try:
            wait_for(port, process)
            yield port
        finally:
            end(process)


def command_of(name: str, port: int, options: argparse.Namespace) -> list[str]:
    """Return the command line of a server."""
    common = ["--port", str(port), "--threads", str(options.threads)]
    if name == "leukoray":
        most = ["--batch-size", str(options.batch), "--bundle", str(options.model)]
        most += ["--engine", options.engine, "--layout", options.layout]
        most += [] if options.normal_priority else ["--lower-priority"]
        return [sys.executable, "serve/run.py", *common, *most]
    python = sys.executable if name == "fastapi" else options.peers
    most = ["--batch", str(options.batch), "--model", str(options.model), "--engine", options.engine]
    return [python, "benchmarks/serving_peers.py", name, *common, *most]


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until something listens, and some seconds more, in which the servers finish starting."""
    for _ in range(240):
        if process.poll() is not None:
            raise SystemExit("a server ended before it was ready")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            time.sleep(10)
            return
        time.sleep(0.5)
    raise SystemExit("a server never listened")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a server and what it started."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=30)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    if process.poll() is None:
        process.kill()
    process.wait()


def load(wanted: dict[str, Any]) -> dict[str, Any]:
    """Run the clients in their own process."""
    command = [sys.executable, str(PROJECT / "benchmarks" / "serving_load.py"), json.dumps(wanted)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def batches(name: str, port: int, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a load; add the mean batch size, which ours tells in its metrics, not in its answers."""
    before = counters(port) if name == "leukoray" else (0.0, 0.0)
    found = work()
    if name == "leukoray":
        after = counters(port)
        found["batch"] = (after[0] - before[0]) / max(1.0, after[1] - before[1])
    return found


def counters(port: int) -> tuple[float, float]:
    """Return sum and count of the batch sizes."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = b"".join(iter(lambda: connection.recv(65_536), b"")).decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("leukoray_batch_size_"))
    return float(values["leukoray_batch_size_sum"]), float(values["leukoray_batch_size_count"])


def show(name: str, what: str, found: dict[str, Any]) -> None:
    numbers = [f"{key} {found[key]:.0f} ms" for key in ("p50", "p95", "p99", "refused_p99") if found[key] is not None]
    batch = f", batch {found['batch']:.1f}" if found["batch"] else ""
    print(f"{name:9} {what:16} {found['throughput']:6.1f}/s  {', '.join(numbers)}{batch}  {found['codes']}", flush=True)


def report(bare: list[dict[str, float]], rounds: dict[str, list[dict[Any, dict[str, Any]]]]) -> None:
    """Print the ratios, as medians over the rounds of what stood side by side in each."""
    most = CLIENTS[-1]
    print(f"\nbare forward pass {statistics.median(one['rate'] for one in bare):.1f} images/s,", end=" ")
    print(f"decode and forward of one image {statistics.median(one['alone_ms'] for one in bare):.1f} ms")
    for name, found in rounds.items():
        pairs = list(zip(found, bare, strict=True))
        ceiling = statistics.median(one[most]["throughput"] / base["rate"] for one, base in pairs)
        alone = statistics.median(one[1]["p50"] / base["alone_ms"] for one, base in pairs)
        print(f"{name}: {most} clients / ceiling {ceiling:.2f}; one client's p50 / decode and forward {alone:.2f}")
    ours = rounds["leukoray"]
    tail = statistics.median(one[2.0]["p99"] / one[0.9]["p99"] for one in ours)
    print(f"leukoray: p99 of the accepted at 200 % / p99 at 90 % of capacity {tail:.2f}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
