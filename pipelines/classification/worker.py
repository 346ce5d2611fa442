"""What a Ray actor does with one part of the list of images: read, decode, classify, draw, write."""

from __future__ import annotations

import errno
import hashlib
import json
import time
import warnings
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyarrow as pa
import ray
import torch

from core.errors import ImageError, LeukorayError
from core.images.decoder import MAX_BYTES
from core.images.overlay import DISPLAY_SIDE, NO_EVIDENCE, encode_jpeg, overlay, shrink_to, write_words
from core.images.reading import processing
from core.model.predictor import Predictor
from pipelines.classification.run_folder import ERRORS_SCHEMA, RunFolder, overlay_path, predictions_schema
from pipelines.classification.storage import Folder, open_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from core.images.preprocessing import Prepared
    from core.model.prediction import Prediction
    from pipelines.classification.slides import Entry

__all__ = ["THUMBNAIL", "THUMBNAIL_COLUMNS", "PartClassifier", "WorkerSettings"]

THUMBNAIL = (96, 80)
"""Width and height of a thumbnail, in pixels; multiples of 16, so that JPEG blocks do not mix."""
THUMBNAIL_COLUMNS = 16
"""Thumbnails in a row of a part's sheet."""

_CAREFUL_FROM, _GIVE_UP_AT = 3, 12
_BATCHES_AHEAD = 2
_UNFIT_NAME = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What every worker of a run needs to know.

    Attributes:
        slides: Folder of slides, path or URI.
        run: Folder of the run, path or URI.
        gradcam: ``all``, ``flagged`` or ``none``.
        colour_map: Of the overlays.
        batch_size: Images per forward pass.
        threads: Torch threads.
        loaders: Threads that read and decode.
        device: Torch device.
    """

    slides: str
    run: str
    gradcam: str
    colour_map: str
    batch_size: int
    threads: int
    loaders: int
    device: str


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A decoded image: the network's input, and a copy small enough to draw on."""

    entry: Entry
    prepared: Prepared
    display: NDArray[np.uint8]
    factor: float
    width: int
    height: int
    size: int


@dataclass(frozen=True, slots=True)
class _Refused:
    entry: Entry
    code: str
    message: str


class PartClassifier:
    """The actor: a thin shell around core's `Predictor`.

    Args:
        bundle: Ray reference of the bundle.
        settings: The run's.
    """

    def __init__(self, bundle: ray.ObjectRef, settings: WorkerSettings) -> None:
        torch.set_num_threads(settings.threads)
        cv2.setNumThreads(1)
        warnings.filterwarnings("ignore", module="PIL")  # odd metadata of single files; the decoder decides
        self._settings = settings
        self._predictor = Predictor(ray.get(bundle), settings.device)
        self._source = open_folder(settings.slides)
        self._run = RunFolder(open_folder(settings.run))
        self._pool = ThreadPoolExecutor(settings.loaders)
        self._schema = predictions_schema(self._predictor.bundle.class_names)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> Iterator[dict[str, list[Any]]]:
        """Classify the parts named in ``batch["part"]``; yield one row of counts per part."""
        for part in batch["part"]:
            counts = self._classify(int(part))
            yield {name: [value] for name, value in counts.items()}

    def _classify(self, part: int) -> dict[str, float]:
        begun = time.time()
        attempts = _Attempts(self._run.folder, part)
        entries = self._run.read_manifest(part)
        loaded = self._load_carefully(entries, attempts) if attempts.careful else self._load_ahead(entries)
        rows: list[dict[str, Any]] = []
        refused: list[_Refused] = []
        sheet = _Sheet(len(entries))
        while batch := list(islice(loaded, self._settings.batch_size)):
            refused += [item for item in batch if isinstance(item, _Refused)]
            good = [item for item in batch if isinstance(item, _Loaded)]
            for item in good:
                sheet.add(item.display)
            rows += self._finish(good)
        if rows:
            self._run.folder.write(f"report/thumbnails/part-{part:08d}.jpg", sheet.encode())
        errors = [
            {"slide": item.entry.slide, "image": item.entry.image, "code": item.code, "message": item.message}
            for item in refused
        ]
        self._run.write_part(
            part,
            pa.Table.from_pylist(rows, schema=self._schema),
            pa.Table.from_pylist(errors, schema=ERRORS_SCHEMA),
        )
        attempts.finish()
        flagged = sum(1 for row in rows if row["flag"])
        return {"part": part, "images": len(rows), "errors": len(errors), "flagged": flagged, "begun": begun}

    def _load(self, entry: Entry) -> _Loaded | _Refused:
        """Read and decode one file; runs in several threads."""
        if entry.code:
            return _Refused(entry, entry.code, entry.message)
        try:
            data = _read(self._source, entry.path)
            with processing():
                picture, prepared = self._predictor.prepare(data)
                display, factor = shrink_to(picture.rgb, DISPLAY_SIDE)
        except ImageError as error:
            return _Refused(entry, error.code, error.message)
        except OSError as error:
            return _Refused(entry, *_explain(error))
        return _Loaded(entry, prepared, display, factor, picture.width, picture.height, len(data))

    def _load_ahead(self, entries: Sequence[Entry]) -> Iterator[_Loaded | _Refused]:
        """Decode in the background, a few batches ahead of the network and no more."""
        waiting: deque[Future[_Loaded | _Refused]] = deque()
        for entry in entries:
            waiting.append(self._pool.submit(self._load, entry))
            if len(waiting) > _BATCHES_AHEAD * self._settings.batch_size:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _load_carefully(self, entries: Sequence[Entry], attempts: _Attempts) -> Iterator[_Loaded | _Refused]:
        """Decode one file at a time, on record: a file that ends the process is left out the next time."""
        message = "Decoding this file ended the worker process more than once; it was left out."
        for position, entry in enumerate(entries):
            if position in attempts.poison:
                yield _Refused(entry, "crashes-decoder", message)
                continue
            attempts.record(position)
            loaded = self._load(entry)
            attempts.record(None)
            yield loaded

    def _finish(self, items: list[_Loaded]) -> list[dict[str, Any]]:
        """Classify one batch, write its overlays, return its rows."""
        wanted = self._settings.gradcam
        predictions = self._predictor.predict([item.prepared for item in items], gradcam=wanted != "none")
        rows: list[dict[str, Any]] = []
        for item, prediction in zip(items, predictions, strict=True):
            drawn = wanted == "all" or (wanted == "flagged" and prediction.flag)
            rows.append(self._row(item, prediction, self._draw(item, prediction) if drawn else None))
        return rows

    def _row(self, item: _Loaded, prediction: Prediction, gradcam: str | None) -> dict[str, Any]:
        bundle = self._predictor.bundle
        shares = zip(bundle.class_names, prediction.probabilities.tolist(), strict=True)
        return {
            "slide": item.entry.slide,
            "image": item.entry.image,
            "label": prediction.label,
            "confidence": prediction.confidence,
            **{f"p_{name}": value for name, value in shares},
            "ood": prediction.ood,
            "flag": prediction.flag,
            "gradcam": gradcam,
            "width": item.width,
            "height": item.height,
            "bytes": item.size,
            "bundle": bundle.id,
        }

    def _draw(self, item: _Loaded, prediction: Prediction) -> str | None:
        """Write the overlay; return its path relative to the run."""
        if prediction.cam is None:
            return None
        box = prediction.box.scaled(item.factor)
        picture = overlay(item.display, prediction.cam, box, colour_map=self._settings.colour_map)
        data = encode_jpeg(picture if prediction.has_evidence else write_words(picture, NO_EVIDENCE))
        path = overlay_path(item.entry.slide, item.entry.image)
        try:
            _write_plain(self._run.folder, path, data)
        except OSError as error:
            if error.errno not in _UNFIT_NAME:
                raise
            path = f"gradcam/_renamed/{hashlib.sha256(path.encode()).hexdigest()}.jpg"
            _write_plain(self._run.folder, path, data)
        return path


class _Sheet:
    """The thumbnails of one part, side by side in one picture, in the order of its predictions."""

    def __init__(self, count: int) -> None:
        width, height = THUMBNAIL
        rows = -(-count // THUMBNAIL_COLUMNS)
        self._pixels = np.full((rows * height, THUMBNAIL_COLUMNS * width, 3), 245, np.uint8)
        self._count = 0

    def add(self, rgb: NDArray[np.uint8]) -> None:
        """Fit one image into the next place, its proportions kept."""
        width, height = THUMBNAIL
        factor = min(width / rgb.shape[1], height / rgb.shape[0])
        size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
        row, column = divmod(self._count, THUMBNAIL_COLUMNS)
        top, left = row * height + (height - size[1]) // 2, column * width + (width - size[0]) // 2
        self._pixels[top : top + size[1], left : left + size[0]] = cv2.resize(rgb, size)
        self._count += 1

    def encode(self) -> bytes:
        """Return the sheet as a JPEG file."""
        used = -(-self._count // THUMBNAIL_COLUMNS) * THUMBNAIL[1]
        return encode_jpeg(self._pixels[:used])


class _Attempts:
    """How often a part was begun: a part that keeps killing its worker is worked through file by file.

    Ray restarts a dead worker and gives it the same part again, without end. From the third attempt on,
    each file's number is on record while it is decoded; a file that was on record at two deaths is left out.
    """

    def __init__(self, folder: Folder, part: int) -> None:
        self._folder, self._name = folder, f".work/attempts/part-{part:08d}.json"
        before = json.loads(folder.read(self._name)) if folder.exists(self._name) else {}
        self._number = int(before.get("number", 0)) + 1
        self._deaths = Counter({int(position): deaths for position, deaths in before.get("deaths", {}).items()})
        if before.get("decoding") is not None:
            self._deaths[int(before["decoding"])] += 1
        if self._number > _GIVE_UP_AT:
            raise LeukorayError(
                "worker-dies",
                f"Part {part} ended its worker {self._number - 1} times; there may be too little memory."
                " Lower --workers, and continue with --resume.",
            )
        self.record(None)

    @property
    def careful(self) -> bool:
        """Whether to decode one file at a time."""
        return self._number >= _CAREFUL_FROM

    @property
    def poison(self) -> set[int]:
        """Numbers of the files that are left out."""
        return {position for position, deaths in self._deaths.items() if deaths > 1}

    def record(self, decoding: int | None) -> None:
        """Put on record which file is being decoded, if any."""
        record = {"number": self._number, "deaths": self._deaths, "decoding": decoding}
        self._folder.write(self._name, json.dumps(record).encode())

    def finish(self) -> None:
        """Forget the record; the part is on disk."""
        self._folder.delete(self._name)


def _read(source: Folder, path: bytes) -> bytes:
    """Read one file, unless it is larger than any image may be."""
    if source.local:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    else:
        with source.filesystem.open_input_stream(path.decode()) as stream:
            data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ImageError("too-large", f"The file has more than {MAX_BYTES:,} bytes.")
    return data


def _write_plain(folder: Folder, name: str, data: bytes) -> None:
    """Write without the detour of an atomic replacement: an unfinished part is drawn again anyway."""
    if not folder.local:
        folder.write(name, data)
        return
    target = Path(folder.join(name))
    try:
        target.write_bytes(data)
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _explain(error: OSError) -> tuple[str, str]:
    if error.errno == errno.ENOENT:
        return "not-found", "The file was there when the slides were listed, and is gone now."
    if error.errno in {errno.EACCES, errno.EPERM}:
        return "permission-denied", "The file may not be read by this user."
    return "unreadable", f"The file cannot be read ({error.strerror or error})."
