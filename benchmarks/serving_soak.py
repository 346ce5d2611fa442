"""Minutes of mixed load on the service: does its memory stay, and does it get back every slot?

    python benchmarks/serving_soak.py IMAGES [--minutes 10]

Clients send images, forms, tensors, broken files and large pictures, ask for heatmaps, and go away in the middle.
Prints the memory of the service's two processes each half minute, and at the end their growth since the second minute.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "benchmarks")]

import httpx
import psutil
from serving import started

MIB = 1024 * 1024


class Mixed:
    """A client that does everything."""

    def __init__(self, port: int, files: list[bytes]) -> None:
        self.base, self.port, self.files = f"http://127.0.0.1:{port}", port, files
        self.codes: Counter[str] = Counter()
        self.rng = random.Random(0)

    async def run(self, until: float) -> None:
        """Do one thing after the other."""
        async with httpx.AsyncClient(base_url=self.base, timeout=60) as client:
            while time.monotonic() < until:
                data = self.rng.choice(self.files)
                kind = self.rng.choice([self.raw, self.raw, self.heat, self.form, self.tensor, self.broken, self.leave])
                try:
                    await kind(client, data)
                except httpx.HTTPError as error:
                    self.codes[type(error).__name__] += 1

    def count(self, answer: httpx.Response) -> None:
        """Keep the status."""
        self.codes[str(answer.status_code)] += 1

    async def raw(self, client: httpx.AsyncClient, data: bytes) -> None:
        """Send an image."""
        self.count(await client.post("/v1/classify", content=data))

    async def heat(self, client: httpx.AsyncClient, data: bytes) -> None:
        """Ask for image and heatmap."""
        self.count(await client.post("/v1/classify?gradcam=layers", content=data))

    async def form(self, client: httpx.AsyncClient, data: bytes) -> None:
        """Send two images and a broken file."""
        self.count(await client.post("/v1/classify", files=[("images", data), ("images", b"no"), ("images", data)]))

    async def tensor(self, client: httpx.AsyncClient, data: bytes) -> None:
        """Speak the Open Inference Protocol."""
        value = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(data).decode()]}
        self.count(await client.post("/v2/models/blood-cells/infer", json={"inputs": [value]}))

    async def broken(self, client: httpx.AsyncClient, data: bytes) -> None:
        """Send the beginning of an image."""
        self.count(await client.post("/v1/gradcam", content=data[: self.rng.randrange(len(data))]))

    async def leave(self, _client: httpx.AsyncClient, data: bytes) -> None:
        """Send an image, or half of one, and go away."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        writer.write(head + data[: self.rng.choice([len(data), len(data) // 2])])
        await writer.drain()
        await asyncio.sleep(self.rng.random() * 0.2)
        writer.close()
        self.codes["left"] += 1


def memory() -> dict[str, float]:
    """Return the resident memory of ingress and classifier, in MiB."""
    lines = {process: " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])}
    return {
        name: process.memory_info().rss / MIB
        for name in ("Ingress", "Classifier")
        for process, line in lines.items()
        if f"ServeReplica:leukoray:{name}" in line
    }


async def soak(port: int, files: list[bytes], minutes: float) -> tuple[Counter[str], list[dict[str, float]]]:
    """Put the load on; return what was answered, and the memory every half minute."""
    mixed = Mixed(port, files)
    until = time.monotonic() + 60 * minutes
    clients = [asyncio.create_task(mixed.run(until)) for _ in range(10)]
    seen: list[dict[str, float]] = []
    while time.monotonic() < until:
        await asyncio.sleep(30)
        seen.append(memory())
        print({name: f"{size:.0f} MiB" for name, size in seen[-1].items()}, sum(mixed.codes.values()), flush=True)
    await asyncio.gather(*clients)
    return mixed.codes, seen


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    options.threads, options.batch, options.normal_priority = 1, 16, False
    options.model = PROJECT / "models" / "blood-cells"
    files = [path.read_bytes() for path in sorted(options.images.rglob("*.jp*g"))[::30]]
    with started("leukoray", options) as port:
        codes, seen = asyncio.run(soak(port, files, options.minutes))
        time.sleep(2)
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    waiting = next(line for line in text.splitlines() if line.startswith("leukoray_waiting_images "))
    print(json.dumps(codes), waiting)
    for name in ("Ingress", "Classifier"):
        sizes = [one[name] for one in seen]
        early, late = statistics.median(sizes[3:7]), statistics.median(sizes[-4:])
        print(f"{name}: {early:.0f} MiB in minutes 2 and 3, {late:.0f} MiB in the last two: {late / early:.3f}")


if __name__ == "__main__":
    main()
