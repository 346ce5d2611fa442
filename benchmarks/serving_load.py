"""Load for `serving.py`: clients in a process of their own, on raw sockets so that they cost little.

    python benchmarks/serving_load.py '{"port": 8000, "path": "/v1/classify", "images": [...], "clients": 8, ...}'

Closed loop: so many clients, each sends the next image when it has its answer. Open loop: images arrive by a Poisson
process at a rate, whatever the server does; latency counts from the moment at which the request was due, so that a
slow server cannot hide behind a waiting client. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any


class Connection:
    """One HTTP/1.1 connection that is kept open."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; return status and body."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        body = await self.reader.readexactly(length)
        if b"connection: close" in lines:
            self.writer.close()
            self.writer = None
        return int(head[9:12]), body


def as_request(path: str, form: str, data: bytes) -> bytes:
    """Wrap an image as the server takes it: ``raw``, ``json`` (base64) or ``form``."""
    kind, body = "image/jpeg", data
    if form == "json":
        kind, body = "application/json", json.dumps({"image": base64.b64encode(data).decode()}).encode()
    elif form == "form":
        mark = uuid.uuid4().hex
        part = f'--{mark}\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n'
        body = part.encode() + b"Content-Type: image/jpeg\r\n\r\n" + data + f"\r\n--{mark}--\r\n".encode()
        kind = f"multipart/form-data; boundary={mark}"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Load:
    """Sends requests and keeps what came of them."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        files = [Path(name).read_bytes() for name in options["images"]]
        self.requests = [as_request(options["path"], options["form"], data) for data in files]
        self.latencies: list[float] = []
        self.refusals: list[float] = []
        self.codes: Counter[str] = Counter()
        self.batches: list[int] = []
        self.idle: list[Connection] = []

    async def one(self, number: int, due: float) -> None:
        """Send one image and keep what came of it."""
        connection = self.idle.pop() if self.idle else Connection(self.options["port"])
        try:
            code, body = await connection.send(self.requests[number % len(self.requests)])
        except (OSError, asyncio.IncompleteReadError):
            self.codes["connection"] += 1
            return
        self.idle.append(connection)
        seconds = time.perf_counter() - due
        self.codes[str(code)] += 1
        (self.latencies if code == 200 else self.refusals).append(seconds)
        if code == 200 and (batch := json.loads(body).get("batch_size")):
            self.batches.append(batch)

    async def closed(self, clients: int, seconds: float) -> None:
        """Let each client send its next image when it has its answer."""
        end = time.perf_counter() + seconds

        async def client(number: int) -> None:
            while (now := time.perf_counter()) < end:
                await self.one(number, now)
                number += clients

        await asyncio.gather(*(client(number) for number in range(clients)))

    async def open(self, rate: float, seconds: float) -> None:
        """Send images by a Poisson process."""
        rng, tasks, number = random.Random(0), set(), 0
        due = begun = time.perf_counter()
        while due - begun < seconds:
            due += rng.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(self.one(number, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.gather(*tasks)

    async def run(self) -> dict[str, Any]:
        """Put the load on; return what is reported."""
        options = self.options
        begun = time.perf_counter()
        if "clients" in options:
            await self.closed(options["clients"], options["seconds"])
        else:
            await self.open(options["rate"], options["seconds"])
        seconds = time.perf_counter() - begun
        return {
            "throughput": len(self.latencies) / seconds,
            "p50": quantile(self.latencies, 0.50),
            "p95": quantile(self.latencies, 0.95),
            "p99": quantile(self.latencies, 0.99),
            "refused_p99": quantile(self.refusals, 0.99),
            "batch": sum(self.batches) / len(self.batches) if self.batches else None,
            "codes": dict(self.codes),
        }


def quantile(values: list[float], share: float) -> float | None:
    """Return a quantile in milliseconds."""
    return 1000 * sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else None


if __name__ == "__main__":
    print(json.dumps(asyncio.run(Load(json.loads(sys.argv[1])).run())))
