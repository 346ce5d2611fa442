"""From the bytes of images to results: room, decoding, the classifier, pictures."""

from __future__ import annotations

import asyncio
import base64
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from core.errors import ImageError
from core.images.overlay import DISPLAY_SIDE, encode_jpeg, encode_png, heatmap_layer, overlay, shrink_to
from core.images.reading import prepare_image, processing
from serve.errors import BusyError, RequestError
from serve.messages import Item

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from ray.serve.handle import DeploymentHandle

    from core.images.cells import Box
    from core.images.heatmap import Heatmap
    from core.images.preprocessing import Prepared
    from core.model.prediction import Prediction
    from serve.messages import Answer, Model
    from serve.metrics import Metrics
    from serve.settings import ServeSettings

__all__ = ["Classified", "Service", "draw"]

_READY_S = 3.0
_CHANGES = 5


@dataclass(frozen=True, slots=True)
class Classified:
    """One classified image.

    Attributes:
        prediction: Of the classifier.
        model: The bundle that made it.
        display: The upright image, its longer side at most 1024 pixels, (H, W, 3) uint8; None without a map.
        factor: Size of `display` relative to the image.
        width: Of the upright image, in pixels.
        height: Of the upright image, in pixels.
        format: Of the file, by Pillow's name; ``RAW`` for a tensor of pixels.
    """

    prediction: Prediction
    model: Model
    display: NDArray[np.uint8] | None
    factor: float
    width: int
    height: int
    format: str


class Service:
    """What an ingress does with images, whatever protocol they came by.

    Args:
        settings: Of the service.
        classifier: Where the network is.
        metrics: What is counted.
    """

    def __init__(self, settings: ServeSettings, classifier: DeploymentHandle, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        # By gRPC with plain pickle, a third of what a call of an actor costs; both ends are our own processes.
        self._classifier = classifier.options(
            _by_reference=False, request_serialization="pickle", response_serialization="pickle"
        )
        self._threads = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode")
        self._model: Model | None = None
        self._taken = 0
        self._buffered = 0
        cv2.setNumThreads(1)

    async def describe(self) -> tuple[Model, dict[str, str] | None]:
        """Ask the classifier which bundle it serves, and which it refused last.

        Raises:
            BusyError: With status 503 where no classifier answers.
        """
        model, refused = await self._ask(self._classifier.describe.remote(), _READY_S)
        self._model = model
        return model, refused

    async def model(self) -> Model:
        """Return the bundle that images are prepared for at present."""
        return self._model or (await self.describe())[0]

    def check_room(self, images: int = 1) -> None:
        """Refuse at once what could not be taken anyway.

        Raises:
            BusyError: With status 429.
        """
        if self._taken + images > self.settings.max_queue:
            self.metrics.refused.inc()
            taken, places = self._taken, self.settings.max_queue
            raise BusyError(f"{taken} of {places} places are taken; come back later.", self.settings.retry_after_s)

    @contextmanager
    def buffered(self) -> Generator[Callable[[int], None]]:
        """Account for the bytes of a body while it is held.

        Raises:
            BusyError: With status 503, from the function that is given, where all bodies together are too much.
        """
        held = 0

        def add(count: int) -> None:
            nonlocal held
            held += count
            self._buffered += count
            if self._buffered > self.settings.max_buffered_bytes:
                raise BusyError("Too many large uploads at once; come back later.", self.settings.retry_after_s, 503)

        try:
            yield add
        finally:
            self._buffered -= held

    async def classify_files(self, files: Sequence[bytes], *, gradcam: bool) -> list[Classified | ImageError]:
        """Classify image files; one that cannot be used gets its error, the others their result.

        Raises:
            RequestError: Where there is no room, no classifier, or not enough time.
        """
        return await self._classify(files, gradcam=gradcam)

    async def classify_pixels(
        self, images: Sequence[NDArray[np.uint8]], *, gradcam: bool
    ) -> list[Classified | ImageError]:
        """Classify decoded images, (H, W, 3) uint8 RGB each.

        Raises:
            RequestError: Where there is no room, no classifier, or not enough time.
        """
        return await self._classify(images, gradcam=gradcam)

    async def run(self, work: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Run something that computes in one of the decoder's threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _classify(
        self, sources: Sequence[bytes] | Sequence[NDArray[np.uint8]], *, gradcam: bool
    ) -> list[Classified | ImageError]:
        self.check_room(len(sources))
        self._taken += len(sources)
        self.metrics.waiting.set(self._taken)
        try:
            work = [self._classify_one(source, gradcam=gradcam) for source in sources]
            return list(await self._in_time(asyncio.gather(*work)))
        finally:
            self._taken -= len(sources)
            self.metrics.waiting.set(self._taken)

    async def _in_time(self, work: Awaitable[Any]) -> Any:  # noqa: ANN401
        try:
            return await asyncio.wait_for(work, self.settings.timeout_s)
        except asyncio.TimeoutError:
            raise RequestError("too-slow", f"There was no result within {self.settings.timeout_s:g} s.", 504) from None

    async def _classify_one(self, source: bytes | NDArray[np.uint8], *, gradcam: bool) -> Classified | ImageError:
        most = self.settings.max_pixels
        for _ in range(_CHANGES):
            model = await self.model()
            try:
                prepared, view = await self.run(lambda model=model: _prepare(source, model, most, gradcam=gradcam))
            except ImageError as error:
                self.metrics.unusable.labels(error.code).inc()
                return error
            answer = await self._send(Item(model.id, prepared, gradcam))
            if answer.successor is not None:
                self._model = answer.successor
            if answer.error:
                raise RequestError("internal", answer.error, 500)
            if answer.prediction is not None:
                self.metrics.observe(answer)
                return Classified(answer.prediction, model, *view)
        raise BusyError("The model is being changed; come back.", self.settings.retry_after_s, 503)

    async def _send(self, item: Item) -> Answer:
        return await self._ask(self._classifier.classify.remote(item))

    async def _ask(self, response: Any, timeout_s: float | None = None) -> Any:  # noqa: ANN401
        """Await a deployment's response; nobody waits for what a cancelled caller asked for."""
        try:
            return await (response if timeout_s is None else asyncio.wait_for(response, timeout_s))
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            self.metrics.refused.inc()
            raise BusyError("The classifiers are full; come back later.", self.settings.retry_after_s) from None
        except (asyncio.TimeoutError, DeploymentUnavailableError, RayServeException, RayError) as error:
            reason = type(error).__name__
            raise BusyError(f"No classifier answers ({reason}).", self.settings.retry_after_s, 503) from error


def draw(found: Classified, *, colour_map: str = "jet", strength: float = 0.4) -> bytes:
    """Return the heatmap on the image, as a PNG file."""
    rgb, cam, box = _drawable(found)
    return encode_png(overlay(rgb, cam, box, colour_map=colour_map, strength=strength))


def draw_layers(found: Classified) -> dict[str, str]:
    """Return image (JPEG) and heatmap (PNG, clear where the network saw nothing) apart, in base64, same size."""
    rgb, cam, box = _drawable(found)
    layers = {"picture_jpeg": encode_jpeg(rgb), "heatmap_png": encode_png(heatmap_layer(cam, box, *rgb.shape[:2]))}
    return {name: base64.b64encode(data).decode() for name, data in layers.items()}


def _drawable(found: Classified) -> tuple[NDArray[np.uint8], Heatmap, Box]:
    if found.display is None or found.prediction.cam is None:
        raise RequestError("internal", "No map was computed.", 500)
    return found.display, found.prediction.cam, found.prediction.box.scaled(found.factor)


def _prepare(
    source: bytes | NDArray[np.uint8], model: Model, max_pixels: int, *, gradcam: bool
) -> tuple[Prepared, tuple[NDArray[np.uint8] | None, float, int, int, str]]:
    """Decode and cut out; return the network's input, and what is kept of the image. Runs in a thread."""
    with processing():
        picture, prepared = prepare_image(source, model.preprocessing, max_pixels=max_pixels)
        display, factor = shrink_to(picture.rgb, DISPLAY_SIDE) if gradcam else (None, 1.0)
    return prepared, (display, factor, picture.width, picture.height, picture.format)
