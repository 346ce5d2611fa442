"""What a Ray actor does with one part of the list of images: read, decode, classify, draw, write."""

from __future__ import annotations

import errno
import time
import warnings
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import pyarrow as pa

from core.errors import ImageError, LeukorayError
from core.images.decoder import MAX_BYTES
from core.images.overlay import NO_EVIDENCE, encode_jpeg, overlay, write_words
from core.images.reading import processing
from core.images.view import View
from core.model.confidence import NO_CELL
from core.model.predictor import Predictor
from pipelines.classification.attempts import PartAttempts
from pipelines.classification.overlay_path import overlay_path, short_overlay_path
from pipelines.classification.run_folder import ERRORS_SCHEMA, RunFolder, embeddings_schema, predictions_schema
from pipelines.classification.sheet import ThumbnailSheets, sheet_name
from pipelines.classification.slides import slides_gone
from pipelines.classification.stains import SlideStains
from pipelines.classification.storage import Folder, open_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from core.images.preprocessing import Prepared
    from core.model.engine import Usable
    from core.model.prediction import Prediction
    from pipelines.classification.slides import Entry
    from pipelines.classification.worker_settings import WorkerSettings

__all__ = ["PartClassifier"]

_BATCHES_AHEAD = 2
_CELLS_OF_FIELD = 8
"""Camera fields are loaded as if each had so many cells, so that what is loaded ahead stays small."""

_UNFIT_NAME = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A decoded image: an input of the network for each cell, and what is drawn on."""

    entry: Entry
    cells: list[tuple[Prepared, View]]
    field: View
    width: int
    height: int
    size: int


@dataclass(frozen=True, slots=True)
class _Refused:
    entry: Entry
    code: str
    message: str


class TooLittleMemoryError(OSError):
    """There is too little memory at present; it may pass, as when other processes end."""


class PartClassifier:
    """A thin shell around core's `Predictor` that works through parts of the list of images.

    Args:
        bundle: Bundle that classifies.
        settings: Settings of the run's workers.
        on_progress: Called when a part is written, or a file is found to end its process.
    """

    def __init__(
        self, bundle: Usable, settings: WorkerSettings, on_progress: Callable[[], None] = lambda: None
    ) -> None:
        cv2.setNumThreads(1)
        warnings.filterwarnings("ignore", module="PIL")  # odd metadata of single files; the decoder decides
        self._settings, self._on_progress = settings, on_progress
        self._predictor = Predictor(bundle, settings.device, settings.threads)
        self._source = open_folder(settings.slides, settings.patience)
        self._run = RunFolder(open_folder(settings.run, settings.patience))
        self._pool = ThreadPoolExecutor(settings.loaders)
        self._schema = predictions_schema(self._predictor.bundle.class_names)
        self._features = embeddings_schema(self._predictor.count_features()) if settings.embeddings else None
        of_image = _CELLS_OF_FIELD if settings.cells == "all" else 1
        self._images_at_once = max(1, settings.batch_size // of_image)

    def classify(self, part: int) -> dict[str, float]:
        """Classify one part and write it.

        Returns:
            Numbers of ``images`` and ``errors``, and ``begun``, the time in seconds since the epoch.

        Raises:
            LeukorayError: The storage fails, the slides are gone, or the part keeps ending its worker.
            OSError: The storage refuses what a run needs.
        """
        begun = time.time()
        attempts = PartAttempts(self._run.folder, part)
        if attempts.found_poison:
            self._on_progress()
        entries = self._run.read_list_part(part)
        loaded = self._load_carefully(entries, attempts) if attempts.careful else self._load_ahead(entries)
        rows: list[dict[str, Any]] = []
        refused: list[_Refused] = []
        stains = SlideStains()
        sheets = ThumbnailSheets()
        while batch := self._next_batch(loaded):
            refused += [item for item in batch if isinstance(item, _Refused)]
            for item in (item for item in batch if isinstance(item, _Loaded)):
                for _, view in item.cells or [(None, item.field)]:
                    sheets.add(view.rgb)
            rows += self._finish([item for item in batch if isinstance(item, _Loaded)], stains)
        for number, data in enumerate(sheets.encoded()):
            self._run.folder.write(f"report/thumbnails/{sheet_name(part, number)}", data)
        table = stains.attached(pa.Table.from_pylist(rows, schema=self._schema))
        embeddings = pa.Table.from_pylist(rows, schema=self._features) if self._features else None
        self._run.write_part(part, table, _errors_table(refused), embeddings)
        attempts.finish()
        self._on_progress()
        return {"images": len(entries) - len(refused), "errors": len(refused), "begun": begun}

    def _load(self, entry: Entry) -> _Loaded | _Refused:
        """Read and decode one file; runs in several threads."""
        if entry.code:
            return _Refused(entry, entry.code, entry.message)
        try:
            data = _read(self._source, entry.path)
            return self._settings.patience.retry(lambda: self._prepare(entry, data))
        except ImageError as error:
            return _Refused(entry, error.code, error.message)
        except TooLittleMemoryError as error:
            raise LeukorayError(
                "too-little-memory",
                f"There is too little memory to decode {entry.image} of {entry.slide}; lower --workers, and use"
                " --resume.",
            ) from error
        except OSError as error:
            if not self._source.has_content():
                raise slides_gone(self._source) from error
            return _Refused(entry, *_describe_os_error(error, self._source))

    def _prepare(self, entry: Entry, data: bytes) -> _Loaded:
        """Decode one image, cut out the network's inputs, and copy what is drawn on.

        Raises:
            TooLittleMemoryError: There is too little memory at present, which says nothing of the image.
        """
        side = self._settings.overlay_side
        try:
            with processing():
                if self._settings.cells == "all":
                    picture, prepared = self._predictor.prepare_every(data)
                    cells = [(one, View.around(picture.rgb, one.box, side)) for one in prepared]
                    field = View.of(picture.rgb, side)
                else:
                    picture, one = self._predictor.prepare(data)
                    field = View.of(picture.rgb, side)
                    cells = [(one, field)]
                return _Loaded(entry, cells, field, picture.width, picture.height, len(data))
        except ImageError as error:
            if error.code == "out-of-memory":
                raise TooLittleMemoryError(errno.ENOMEM, error.message, entry.image) from error
            raise

    def _next_batch(self, loaded: Iterator[_Loaded | _Refused]) -> list[_Loaded | _Refused]:
        """Take images until a batch of the network is full; the last of them may have more cells than fit in."""
        batch: list[_Loaded | _Refused] = []
        for item in loaded:
            batch.append(item)
            if len(batch) == self._images_at_once or sum(map(_cells_of, batch)) >= self._settings.batch_size:
                break
        return batch

    def _load_ahead(self, entries: Sequence[Entry]) -> Iterator[_Loaded | _Refused]:
        """Decode in the background, a few batches ahead of the network and no more."""
        waiting: deque[Future[_Loaded | _Refused]] = deque()
        for entry in entries:
            waiting.append(self._pool.submit(self._load, entry))
            while waiting and self._is_ahead(waiting):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _is_ahead(self, waiting: deque[Future[_Loaded | _Refused]]) -> bool:
        """Whether enough images, or enough cells of images that are decoded already, wait for the network."""
        cells = sum(_cells_of(future.result()) for future in waiting if future.done() and not future.exception())
        return (
            len(waiting) > _BATCHES_AHEAD * self._images_at_once or cells > _BATCHES_AHEAD * self._settings.batch_size
        )

    def _load_carefully(self, entries: Sequence[Entry], attempts: PartAttempts) -> Iterator[_Loaded | _Refused]:
        """Decode one file at a time, on record: a file that ends the process is left out the next time."""
        message = "Decoding this file ended the worker process more than once; it was left out."
        for position, entry in enumerate(entries):
            if position in attempts.poison:
                yield _Refused(entry, "crashes-decoder", message)
                continue
            attempts.note(position)
            loaded = self._load(entry)
            attempts.note(None)
            yield loaded

    def _finish(self, items: list[_Loaded], stains: SlideStains) -> list[dict[str, Any]]:
        """Classify the cells of a batch of images, draw, return their rows; note how each slide is stained."""
        wanted = self._settings.gradcam
        inputs = [prepared for item in items for prepared, _ in item.cells]
        predictions = self._predictor.predict_in_batches(
            inputs, self._settings.batch_size, gradcam=wanted != "none", features=self._settings.embeddings
        )
        rows: list[dict[str, Any]] = []
        for item in items:
            if not item.cells:
                rows.append(self._empty_row(item))
            drawn: list[tuple[int, Prediction]] = []
            for number, (_, view) in enumerate(item.cells, start=1):
                prediction = next(predictions)
                stains.add(item.entry.slide, prediction)
                draw = wanted == "all" or (wanted == "flagged" and bool(prediction.flag))
                path = self._draw(item, number, prediction, view) if draw else None
                rows.append(self._row(item, number, prediction, path))
                drawn.append((number, prediction))
            if self._settings.cells == "all" and wanted != "none" and drawn:
                path = overlay_path(item.entry.slide, item.entry.image, 0)
                self._write_picture(path, item.field.with_boxes(drawn))
        return rows

    def _row(self, item: _Loaded, number: int, prediction: Prediction, gradcam: str | None) -> dict[str, Any]:
        bundle = self._predictor.bundle
        shares = zip(bundle.class_names, prediction.probabilities.tolist(), strict=True)
        return self._empty_row(item) | {
            "cell": number if prediction.flag != NO_CELL else 0,
            **(prediction.cell._asdict() if prediction.cell else {}),
            "label": prediction.label,
            "confidence": prediction.confidence,
            **{f"p_{name}": value for name, value in shares},
            "ood": prediction.ood,
            "flag": prediction.flag,
            "gradcam": gradcam,
            "embedding": prediction.features,
        }

    def _empty_row(self, item: _Loaded) -> dict[str, Any]:
        """Return the row of an image in which no cell was found; what it does not name is null."""
        return {
            "slide": item.entry.slide,
            "image": item.entry.image,
            "cell": 0,
            "flag": NO_CELL,
            "width": item.width,
            "height": item.height,
            "bytes": item.size,
            "bundle": self._predictor.bundle.id,
        }

    def _draw(self, item: _Loaded, number: int, prediction: Prediction, view: View) -> str | None:
        """Write the overlay; return its path relative to the run."""
        if prediction.cam is None:
            return None
        picture = overlay(view.rgb, prediction.cam, view.place(prediction.box), colour_map=self._settings.colour_map)
        picture = picture if prediction.has_evidence else write_words(picture, NO_EVIDENCE)
        own = number if self._settings.cells == "all" else None
        return self._write_picture(overlay_path(item.entry.slide, item.entry.image, own), picture)

    def _write_picture(self, path: str, picture: NDArray[np.uint8]) -> str:
        """Write a picture; return where it is, which is another place where the file system cannot take its name."""
        data = encode_jpeg(picture, self._settings.overlay_quality)
        try:
            self._run.folder.write_plain(path, data)
        except OSError as error:
            if error.errno not in _UNFIT_NAME:
                raise
            path = short_overlay_path(path)
            self._run.folder.write_plain(path, data)
        return path


def _cells_of(item: _Loaded | _Refused) -> int:
    return len(item.cells) if isinstance(item, _Loaded) else 0


def _errors_table(refused: Sequence[_Refused]) -> pa.Table:
    rows = [
        {"slide": item.entry.slide, "image": item.entry.image, "code": item.code, "message": item.message}
        for item in refused
    ]
    return pa.Table.from_pylist(rows, schema=ERRORS_SCHEMA)


def _read(source: Folder, path: bytes) -> bytes:
    """Read one file, unless it is larger than any image may be."""
    data = source.read_path(path, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ImageError("too-large", f"The file has more than {MAX_BYTES:,} bytes.")
    return data


def _describe_os_error(error: OSError, source: Folder) -> tuple[str, str]:
    """Return code and sentence of what is wrong with one file."""
    if error.errno == errno.ENOENT:
        return "not-found", "The file was there when the slides were listed, and is gone now."
    if error.errno in {errno.EACCES, errno.EPERM} or "ACCESS_DENIED" in str(error):
        return "permission-denied", "The file may not be read by this user."
    return "unreadable", f"The file cannot be read ({source.location.scrub(error.strerror or str(error))})."
