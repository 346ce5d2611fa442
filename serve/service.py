"""From the bytes of images to results: limits, decoding, the classifier, pictures."""

from __future__ import annotations

import asyncio
import base64
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from core.errors import ImageError
from core.images.overlay import DISPLAY_SIDE, encode_jpeg, encode_png, heatmap_layer, overlay, shrink_to
from core.images.reading import prepare_image, processing
from serve.errors import BusyError, RequestError
from serve.messages import Item
from serve.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    import numpy as np
    from numpy.typing import NDArray
    from ray.serve.handle import DeploymentHandle

    from core.images.cells import Box
    from core.images.heatmap import Heatmap
    from core.images.preprocessing import Prepared
    from core.model.prediction import Prediction
    from serve.messages import Answer, Model
    from serve.metrics import Metrics
    from serve.pool import Stop
    from serve.settings import ServeSettings

__all__ = ["Classified", "Places", "Service", "draw", "draw_layers"]

_READY_S = 3.0
_CHANGES = 5
_SPARES = 4
"""Threads, for each decoder, that may still be busy with what nobody waits for any more."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Classified:
    """One classified image.

    Attributes:
        prediction: What the classifier found.
        model: The bundle that made the prediction.
        display: The upright image, its longer side at most 1024 pixels, (H, W, 3) uint8; None without a map.
        factor: Size of `display` relative to the image.
        width: Width of the upright image, in pixels.
        height: Height of the upright image, in pixels.
        format: Format of the file, by Pillow's name; ``RAW`` for a tensor of pixels.
    """

    prediction: Prediction
    model: Model
    display: NDArray[np.uint8] | None
    factor: float
    width: int
    height: int
    format: str


class Places:
    """The places that one request holds, until its answer is made.

    Args:
        service: Service that has the places.
    """

    def __init__(self, service: Service) -> None:
        self._service, self.taken = service, 0

    def take(self, images: int) -> None:
        """Take places for some images more.

        Raises:
            BusyError: With status 429 where there is no room.
        """
        self._service.check_room(images)
        self._service.occupy(images)
        self.taken += images


class Service:
    """What an ingress does with images, whatever protocol they came by.

    Args:
        settings: Settings of the service.
        classifier: Handle of the deployment that holds the network.
        metrics: Counters of this ingress.
    """

    def __init__(self, settings: ServeSettings, classifier: DeploymentHandle, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        # By gRPC with plain pickle, a third of what a call of an actor costs; both ends are our own processes. There
        # is no public name for the choice of gRPC; tests/serve/test_private_names.py says when this one goes.
        self._classifier = classifier.options(
            _by_reference=False, request_serialization="pickle", response_serialization="pickle"
        )
        self._pool = Pool(settings.decoders, _SPARES * settings.decoders)
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

    async def within_limits(self, images: int, work: Callable[[Places], Awaitable[_Result]]) -> _Result:
        """Do all that a request asks for, up to the bytes of its answer, within the limits on places and time.

        Args:
            images: Number of places to take at once; the work may take more.
            work: Function that makes the answer.

        Raises:
            BusyError: With status 429 where there is no room.
            RequestError: With status 504 where the time is over; the work is cancelled then.
        """
        with self._places() as places:
            places.take(images)
            try:
                return await asyncio.wait_for(work(places), self.settings.timeout_s)
            except asyncio.TimeoutError:
                message = f"There was no result within {self.settings.timeout_s:g} s."
                raise RequestError("too-slow", message, 504) from None

    async def classify_file(self, data: bytes, *, gradcam: bool) -> Classified | ImageError:
        """Classify an image file; one that cannot be used gets its error.

        Raises:
            RequestError: There is no room at the classifiers, or none answers.
        """
        return await self._classify(data, gradcam=gradcam)

    async def classify_pixels(self, rgb: NDArray[np.uint8], *, gradcam: bool) -> Classified | ImageError:
        """Classify a decoded image, (H, W, 3) uint8 RGB.

        Raises:
            RequestError: There is no room at the classifiers, or none answers.
        """
        return await self._classify(rgb, gradcam=gradcam)

    async def compute(self, work: Callable[[Stop], _Result]) -> _Result:
        """Compute something in one of the decoder's threads; it stops soon where the caller is cancelled."""
        return await self._pool.run(work)

    @contextmanager
    def _places(self) -> Generator[Places]:
        places = Places(self)
        try:
            yield places
        finally:
            self.occupy(-places.taken)

    def occupy(self, places: int) -> None:
        """Count places as taken, or as free again where the number is negative."""
        self._taken += places
        self.metrics.waiting.set(self._taken)

    async def _classify(self, image: bytes | NDArray[np.uint8], *, gradcam: bool) -> Classified | ImageError:
        most = self.settings.max_pixels
        for _ in range(_CHANGES):
            model = await self.model()
            try:
                prepared, view = await self.compute(
                    lambda stop, model=model: _prepare(image, model, most, stop, gradcam=gradcam)
                )
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
    image: bytes | NDArray[np.uint8], model: Model, max_pixels: int, stop: Stop, *, gradcam: bool
) -> tuple[Prepared, tuple[NDArray[np.uint8] | None, float, int, int, str]]:
    """Decode and cut out; return the network's input, and what is shown of the image. Runs in a thread."""
    with processing():
        picture, prepared = prepare_image(image, model.preprocessing, max_pixels=max_pixels, check=stop.check)
        stop.check()
        display, factor = shrink_to(picture.rgb, DISPLAY_SIDE) if gradcam else (None, 1.0)
    return prepared, (display, factor, picture.width, picture.height, picture.format)
