"""The folder of one run: what is in it, what is finished, and what may continue it."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import DataError, SettingsError
from pipelines.classification.slides import IMAGE_SUFFIXES, Entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipelines.classification.storage import Folder

__all__ = ["ERRORS_SCHEMA", "RunFolder", "overlay_path", "predictions_schema"]

_MANIFEST, _COMPLETE = ".work/manifest", ".work/manifest/complete.json"
_MANIFEST_SCHEMA = pa.schema(
    [
        ("slide", pa.string()),
        ("image", pa.string()),
        ("path", pa.binary()),
        ("code", pa.string()),
        ("message", pa.string()),
    ]
)
_RECORD_KEYS = {"state", "arguments", "bundle", "counts", "timings", "throughput", "sessions"}
ERRORS_SCHEMA = pa.schema(
    [("slide", pa.string()), ("image", pa.string()), ("code", pa.string()), ("message", pa.string())]
)


def predictions_schema(class_names: Sequence[str]) -> pa.Schema:
    """Return the columns of ``predictions``, in order."""
    return pa.schema(
        [
            ("slide", pa.string()),
            ("image", pa.string()),
            ("label", pa.string()),
            ("confidence", pa.float32()),
            *((f"p_{name}", pa.float32()) for name in class_names),
            ("ood", pa.float32()),
            ("flag", pa.string()),
            ("gradcam", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("bytes", pa.int64()),
            ("bundle", pa.string()),
        ]
    )


@dataclass(frozen=True)
class RunFolder:
    """One run on disk or in an object store.

    Attributes:
        folder: Where it is.
    """

    folder: Folder

    @property
    def exists(self) -> bool:
        """Whether a run has begun here."""
        return self.folder.exists("run.json")

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is here."""
        return not self.folder.is_folder() or not any(self.folder.files("", ""))

    def read_record(self) -> dict[str, Any]:
        """Read ``run.json``.

        Raises:
            SettingsError: With code ``run-damaged``.
        """
        try:
            record = json.loads(self.folder.read("run.json"))
            missing = _RECORD_KEYS - record.keys()
        except (OSError, ValueError, AttributeError) as error:
            raise SettingsError("run-damaged", f"{self.folder.join('run.json')} cannot be used: {error}.") from error
        if missing:
            raise SettingsError("run-damaged", f"{self.folder.join('run.json')} lacks {', '.join(sorted(missing))}.")
        return record

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace ``run.json``."""
        record = {**record, "updated": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        self.folder.write("run.json", (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())

    def write_manifest(self, entries: Iterable[Entry], part_size: int) -> dict[str, int]:
        """Write the list of images in parts of `part_size`; return the numbers of parts and images.

        Raises:
            DataError: With code ``no-images``.
        """
        part: list[Entry] = []
        parts = images = 0
        for entry in entries:
            part.append(entry)
            if len(part) == part_size:
                self._write_manifest_part(parts, part)
                parts, images, part = parts + 1, images + len(part), []
        if part:
            self._write_manifest_part(parts, part)
            parts, images = parts + 1, images + len(part)
        if not images:
            raise DataError("no-images", "There is no image file under SLIDES.")
        counts = {"parts": parts, "images": images}
        self.folder.write(_COMPLETE, json.dumps(counts).encode())
        return counts

    def manifest_counts(self) -> dict[str, int] | None:
        """Return the numbers of parts and images, or None where listing was not finished."""
        return json.loads(self.folder.read(_COMPLETE)) if self.folder.exists(_COMPLETE) else None

    def read_manifest(self, part: int) -> list[Entry]:
        """Read one part of the list of images."""
        table = pq.read_table(io.BytesIO(self.folder.read(f"{_MANIFEST}/{_part_name(part)}")))
        return [Entry(**row) for row in table.to_pylist()]

    def finished_parts(self) -> set[int]:
        """Return the parts whose predictions are on disk; they are written last."""
        return {int(name[5:-8]) for name in self.folder.files("predictions", ".parquet")}

    def unfinished_parts(self, parts: int) -> list[int]:
        """Return the parts that are still to do, in order."""
        done = self.finished_parts()
        return [part for part in range(parts) if part not in done]

    def forget_attempts(self) -> None:
        """Drop what killed workers left behind; an earlier session's end says nothing about a file."""
        for name in self.folder.files(".work/attempts", ".json"):
            self.folder.delete(f".work/attempts/{name}")

    def write_part(self, part: int, predictions: pa.Table, errors: pa.Table) -> None:
        """Commit one part: errors first, predictions last."""
        self.folder.write(f"errors/{_part_name(part)}", _parquet(errors))
        self.folder.write(f"predictions/{_part_name(part)}", _parquet(predictions))

    def part_files(self, kind: str) -> Iterator[tuple[int, str]]:
        """Yield numbers and names of the parts of ``predictions`` or ``errors``, in order."""
        for name in self.folder.files(kind, ".parquet"):
            yield int(name[5:-8]), f"{kind}/{name}"

    def read_table(self, name: str) -> pa.Table:
        """Read one part by its name."""
        return pq.read_table(io.BytesIO(self.folder.read(name)))

    def _write_manifest_part(self, part: int, entries: list[Entry]) -> None:
        rows = [{name: getattr(entry, name) for name in _MANIFEST_SCHEMA.names} for entry in entries]
        table = pa.Table.from_pylist(rows, schema=_MANIFEST_SCHEMA)
        self.folder.write(f"{_MANIFEST}/{_part_name(part)}", _parquet(table))


def _part_name(part: int) -> str:
    return f"part-{part:08d}.parquet"


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def overlay_path(slide: str, image: str) -> str:
    """Return where an image's overlay is, relative to the run: its own relative path, as a JPEG.

    ``a/b.jpg`` stays ``a/b.jpg`` and ``a/b.png`` becomes ``a/b.png.jpg``. A name that this could make
    ambiguous, or that is too long for a file system, is shortened and carries a hash.
    """
    *folders, name = image.split("/")
    stem, _, ending = name.rpartition(".")
    inner = "." + stem.rpartition(".")[2].lower()
    suffix = f".{ending.lower()}"
    if suffix in {".jpg", ".jpeg"} and inner not in IMAGE_SUFFIXES:
        target = name
    elif suffix in IMAGE_SUFFIXES and stem:
        target = f"{name}.jpg"
    else:
        target = f"{name}.{_hash(name)}.jpg"
    return "/".join(("gradcam", *(_fitting(part) for part in (slide, *folders)), _fitting(target, ".jpg")))


def _fitting(name: str, ending: str = "") -> str:
    """Shorten a file name that has over 240 bytes, or that would step out of its folder."""
    if name in {"", ".", ".."} or "\\" in name:
        return f"{name.replace(chr(92), '_').strip('.')}_{_hash(name)}{ending}"
    if len(name.encode()) <= 240:
        return name
    return f"{name.encode()[:200].decode('utf-8', 'ignore')}.{_hash(name)}{ending}"


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:12]
