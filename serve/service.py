"""From the bytes of images to results: limits, decoding, the classifier, pictures."""

from __future__ import annotations

import asyncio
import base64
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import cv2

from core.errors import ImageError
from core.images.overlay import encode_jpeg, encode_png, heatmap_layer, overlay
from core.images.reading import prepare_cells, prepare_image, processing
from core.images.view import View
from serve.errors import BusyError, RequestError
from serve.messages import Item
from serve.pool import Pool
from serve.siblings import all_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from typing import TypeAlias

    import numpy as np
    from numpy.typing import NDArray

    from core.images.decoder import Picture
    from core.images.heatmap import Heatmap
    from core.images.preprocessing import Prepared
    from core.model.prediction import Prediction
    from serve.messages import Answer, Model
    from serve.metrics import Metrics
    from serve.pool import Stop
    from serve.settings import ServeSettings

    _Cut: TypeAlias = "tuple[list[tuple[Prepared, View | None]], Seen]"  # each cell with what its map is drawn on

__all__ = [
    "AnyClassifier",
    "Classified",
    "ClassifiedField",
    "Places",
    "Seen",
    "Service",
    "draw",
    "draw_heatmap",
    "draw_picture",
]

_CHANGES = 5
_CELLS_AT_ONCE = 32
"""Most cells of one image that are on their way to the classifiers at the same time."""

_SPARES = 4
"""Threads, for each decoder, that may still be busy with what nobody waits for any more."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Seen:
    """What is said of an image, whatever it shows.

    Attributes:
        view: The upright image, its longer side at most 1024 pixels; None where nothing is drawn.
        width: Width of the upright image, in pixels.
        height: Height of the upright image, in pixels.
        format: Format of the file, by Pillow's name; ``RAW`` for a tensor of pixels.
    """

    view: View | None
    width: int
    height: int
    format: str


@dataclass(frozen=True, slots=True)
class Classified:
    """One classified cell.

    Attributes:
        prediction: What the classifier found.
        model: The bundle that made the prediction.
        image: The image that it is in.
        view: The image, or the cell's surroundings where all cells are wanted; None without a map.
    """

    prediction: Prediction
    model: Model
    image: Seen
    view: View | None


@dataclass(frozen=True, slots=True)
class ClassifiedField:
    """All cells of one image.

    Attributes:
        cells: The cells in reading order; none where none was found.
        model: The bundle that classified.
        image: The image.
    """

    cells: tuple[Classified, ...]
    model: Model
    image: Seen


class AnyClassifier(Protocol):
    """Whatever holds the network: a `Classifier` in this process, or a `RemoteClassifier`."""

    async def describe(self) -> tuple[Model, dict[str, str] | None]:
        """Return the bundle that is served, and the one that was refused last."""
        ...

    async def classify(self, item: Item) -> Answer:
        """Classify one cell, together with others that wait."""
        ...


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

    def take_free(self, most: int) -> int:
        """Take as many more places as are free, none perhaps, and return how many."""
        free = max(0, min(most, self._service.room()))
        self._service.occupy(free)
        self.taken += free
        return free


class Service:
    """What an ingress does with images, whatever protocol they came by.

    Args:
        settings: Settings of the service.
        classifier: What holds the network.
        metrics: Counters of this ingress.
    """

    def __init__(self, settings: ServeSettings, classifier: AnyClassifier, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self._classifier = classifier
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
        self._model, refused = await self._classifier.describe()
        return self._model, refused

    async def model(self) -> Model:
        """Return the bundle that images are prepared for at present."""
        return self._model or (await self.describe())[0]

    def room(self) -> int:
        """Return how many places are free."""
        return self.settings.max_queue - self._taken

    def check_room(self, images: int = 1) -> None:
        """Refuse at once what could not be taken anyway.

        Raises:
            BusyError: With status 429.
        """
        if images > self.room():
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
        return await self._classify_one(data, gradcam=gradcam)

    async def classify_cells(self, data: bytes, places: Places, *, gradcam: bool) -> ClassifiedField | ImageError:
        """Classify every white cell of an image file; one that cannot be used gets its error.

        Args:
            data: The file.
            places: Places of the request; more are taken where there are several cells and room for them.
            gradcam: Whether maps are wanted.

        Raises:
            RequestError: There is no room at the classifiers, or none answers.
        """
        return await self._classify(
            lambda model, stop: _prepare_every(data, model, self.settings, stop, draw=gradcam), places, gradcam=gradcam
        )

    async def classify_pixels(self, rgb: NDArray[np.uint8], *, gradcam: bool) -> Classified | ImageError:
        """Classify a decoded image, (H, W, 3) uint8 RGB.

        Raises:
            RequestError: There is no room at the classifiers, or none answers.
        """
        return await self._classify_one(rgb, gradcam=gradcam)

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

    async def _classify_one(self, image: bytes | NDArray[np.uint8], *, gradcam: bool) -> Classified | ImageError:
        most = self.settings.max_pixels
        found = await self._classify(
            lambda model, stop: _prepare(image, model, most, stop, draw=gradcam), None, gradcam=gradcam
        )
        return found if isinstance(found, ImageError) else found.cells[0]

    async def _classify(
        self, prepare: Callable[[Model, Stop], _Cut], places: Places | None, *, gradcam: bool
    ) -> ClassifiedField | ImageError:
        """Prepare an image and classify what was cut out, all of it by one bundle.

        Args:
            prepare: Decodes and cuts out; runs in a thread.
            places: Where more places are taken for more than one cell; so many are classified at a time.
            gradcam: Whether maps are wanted.
        """
        at_once = 1
        for _ in range(_CHANGES):
            model = await self.model()
            try:
                cut, image = await self.compute(lambda stop, model=model: prepare(model, stop))
            except ImageError as error:
                self.metrics.unusable.labels(error.code).inc()
                return error
            if places is not None:
                at_once += places.take_free(min(len(cut), _CELLS_AT_ONCE) - at_once)
            cells: list[Classified] = []
            for start in range(0, len(cut), at_once):
                part = cut[start : start + at_once]
                found = await all_of(self._predict(Item(model.id, one, gradcam)) for one, _ in part)
                cells += [
                    Classified(prediction, model, image, view)
                    for prediction, (_, view) in zip(found, part, strict=True)
                    if prediction is not None
                ]
            if len(cells) == len(cut):
                return ClassifiedField(tuple(cells), model, image)
        raise BusyError("The model is being changed; come back.", self.settings.retry_after_s, 503)

    async def _predict(self, item: Item) -> Prediction | None:
        """Ask a classifier about one cell; None where the bundle that it was prepared for is served no more.

        Raises:
            RequestError: There is no room at the classifiers, none answers, or the network fails.
        """
        try:
            answer = await self._classifier.classify(item)
        except BusyError as error:
            if error.status == 429:
                self.metrics.refused.inc()
            raise
        if answer.successor is not None:
            self._model = answer.successor
        if answer.error:
            raise RequestError("internal", answer.error, 500)
        if answer.prediction is not None:
            self.metrics.observe(answer)
        return answer.prediction


def draw(found: Classified, *, colour_map: str = "jet", strength: float = 0.4) -> bytes:
    """Return the heatmap on the image, as a PNG file."""
    view, cam = _drawable(found)
    return encode_png(
        overlay(view.rgb, cam, view.place(found.prediction.box), colour_map=colour_map, strength=strength)
    )


def draw_picture(image: Seen) -> str:
    """Return an image as a JPEG file, in base64.

    Raises:
        RequestError: Nothing was to be drawn.
    """
    if image.view is None:
        raise RequestError("internal", "No picture was retained.", 500)
    return base64.b64encode(encode_jpeg(image.view.rgb)).decode()


def draw_heatmap(found: Classified) -> str:
    """Return a heatmap of the size of the cell's view, clear where the network saw nothing, as PNG in base64."""
    view, cam = _drawable(found)
    layer = heatmap_layer(cam, view.place(found.prediction.box), *view.rgb.shape[:2])
    return base64.b64encode(encode_png(layer)).decode()


def _drawable(found: Classified) -> tuple[View, Heatmap]:
    if found.view is None or found.prediction.cam is None:
        raise RequestError("internal", "No map was computed.", 500)
    return found.view, found.prediction.cam


def _prepare(image: bytes | NDArray[np.uint8], model: Model, max_pixels: int, stop: Stop, *, draw: bool) -> _Cut:
    """Decode and cut out the main cell, which is drawn on the whole image. Runs in a thread."""
    with processing():
        picture, prepared = prepare_image(image, model.cells, max_pixels=max_pixels, check=stop.check)
        stop.check()
        seen = _see(picture, draw=draw)
        return [(prepared, seen.view)], seen


def _prepare_every(data: bytes, model: Model, settings: ServeSettings, stop: Stop, *, draw: bool) -> _Cut:
    """Decode and cut out every cell, each with its surroundings where they are drawn on. Runs in a thread."""
    with processing():
        picture, prepared = prepare_cells(
            data, model.cells, max_pixels=settings.max_pixels, max_cells=settings.max_cells, check=stop.check
        )
        stop.check()
        cells = [(one, View.around(picture.rgb, one.box) if draw else None) for one in prepared]
        return cells, _see(picture, draw=draw)


def _see(picture: Picture, *, draw: bool) -> Seen:
    return Seen(View.of(picture.rgb) if draw else None, picture.width, picture.height, picture.format)
