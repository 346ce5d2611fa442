"""What `serving.py` compares with: the same network behind other servers, each as its documentation would have it.

    python benchmarks/serving_peers.py fastapi|litserve|bentoml --port 9000 --threads 1 --model BUNDLE ...

All decode with core's decoder, run core's predictor with the same engine and threads, and answer with the same JSON.
FastAPI decodes in a thread pool and has a simple batcher: what waits when the network is free goes together.
"""

import argparse
import asyncio
import base64
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path[0] = str(PROJECT)

import cv2
import uvicorn
from fastapi import FastAPI, Request

from core.images.preprocessing import Prepared
from core.model.opening import open_bundle
from core.model.prediction import Prediction
from core.model.predictor import Predictor

parser = argparse.ArgumentParser()
parser.add_argument("server", choices=["fastapi", "litserve", "bentoml"])
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--model", type=Path, required=True)
parser.add_argument("--engine", required=True)
OPTIONS = parser.parse_args(os.environ["PEER"].split() if "PEER" in os.environ else None)


def make_predictor() -> Predictor:
    cv2.setNumThreads(1)
    return Predictor(open_bundle(OPTIONS.model, OPTIONS.engine, "cpu"), "cpu", OPTIONS.threads)


def as_json(predictor: Predictor, found: Prediction, batch: int) -> dict[str, Any]:
    shares = zip(predictor.bundle.class_names, found.probabilities.tolist(), strict=True)
    return {
        "label": found.label,
        "confidence": found.confidence,
        "probabilities": dict(shares),
        "ood": found.ood,
        "flag": found.flag,
        "box": list(found.box),
        "batch_size": batch,
    }


def fastapi() -> None:
    predictor, app = make_predictor(), FastAPI()
    decoders, network = ThreadPoolExecutor(2), ThreadPoolExecutor(1)
    waiting: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue()

    async def work() -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await waiting.get()]
            while len(batch) < OPTIONS.batch and not waiting.empty():
                batch.append(waiting.get_nowait())
            images = [image for image, _ in batch]
            found = await loop.run_in_executor(network, lambda images=images: predictor.predict(images, gradcam=False))
            for (_, future), one in zip(batch, found, strict=True):
                future.set_result((one, len(batch)))

    @app.post("/classify")
    async def classify(request: Request) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        if not hasattr(app.state, "worker"):
            app.state.worker = loop.create_task(work())
        body = await request.body()
        _, prepared = await loop.run_in_executor(decoders, predictor.prepare, body)
        future: asyncio.Future[Any] = loop.create_future()
        await waiting.put((prepared, future))
        return as_json(predictor, *await future)

    uvicorn.run(app, host="127.0.0.1", port=OPTIONS.port, log_level="error", access_log=False)


if OPTIONS.server == "litserve":
    import litserve as ls

    class Api(ls.LitAPI):
        """Decodes, batches and predicts in LitServe's one worker."""

        def setup(self, _device: str) -> None:
            """Load the model."""
            self.predictor = make_predictor()

        def decode_request(self, request: dict[str, str]) -> Prepared:
            """Decode one image."""
            return self.predictor.prepare(base64.b64decode(request["image"]))[1]

        def batch(self, inputs: list[Prepared]) -> list[Prepared]:
            """Keep the images as they are."""
            return inputs

        def predict(self, batch: Prepared | list[Prepared]) -> list[tuple[Prediction, int]]:
            """Run the network."""
            images = batch if isinstance(batch, list) else [batch]
            found = self.predictor.predict(images, gradcam=False)
            return [(one, len(images)) for one in found]

        def unbatch(self, output: list[tuple[Prediction, int]]) -> list[tuple[Prediction, int]]:
            """Keep the results as they are."""
            return output

        def encode_response(self, output: tuple[Prediction, int]) -> dict[str, Any]:
            """Answer with the common JSON."""
            return as_json(self.predictor, *output)


def litserve() -> None:
    api = Api(max_batch_size=OPTIONS.batch, batch_timeout=0.005, api_path="/classify")
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(host="127.0.0.1", port=OPTIONS.port, generate_client_file=False, log_level="error", num_api_servers=1)


if "PEER" in os.environ:
    import bentoml

    @bentoml.service(workers=1, traffic={"timeout": 60}, name="peer")
    class Peer:
        """Holds the network."""

        def __init__(self) -> None:
            self.predictor = make_predictor()

        @bentoml.api(batchable=True, max_batch_size=OPTIONS.batch, max_latency_ms=10_000)
        def predict(self, images: list[str]) -> list[dict[str, Any]]:
            """Decode and classify a batch."""
            prepared = [self.predictor.prepare(base64.b64decode(image))[1] for image in images]
            found = self.predictor.predict(prepared, gradcam=False)
            return [as_json(self.predictor, one, len(images)) for one in found]

    @bentoml.service(workers=1, traffic={"timeout": 60}, name="front")
    class Front:
        """Takes the requests."""

        peer = bentoml.depends(Peer)

        @bentoml.api(route="/classify")
        async def classify(self, image: str) -> dict[str, Any]:
            """Classify one image."""
            (found,) = await self.peer.to_async.predict([image])
            return found

    svc = Front
elif __name__ == "__main__":
    if OPTIONS.server == "bentoml":
        os.environ["PEER"] = " ".join(sys.argv[1:])
        command = [
            sys.executable,
            "-m",
            "bentoml",
            "serve",
            "benchmarks.serving_peers:svc",
            "--port",
            str(OPTIONS.port),
        ]
        os.chdir(PROJECT)
        os.execv(sys.executable, [*command, "--host", "127.0.0.1"])
    {"fastapi": fastapi, "litserve": litserve}[OPTIONS.server]()
