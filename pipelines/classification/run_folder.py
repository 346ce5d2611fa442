"""The folder of one run: what is in it, what is finished, and what may continue it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from core.errors import SettingsError
from core.settings import Settings, describe_problems
from pipelines.classification.record import RunRecord
from pipelines.classification.slides import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pipelines.classification.storage import Folder

__all__ = [
    "ERRORS_SCHEMA",
    "ImageList",
    "RunFolder",
    "embeddings_schema",
    "part_name",
    "predictions_schema",
]

_LIST, _COMPLETE = ".work/manifest", ".work/manifest/complete.json"
_LIST_SCHEMA = pa.schema(
    [
        ("slide", pa.string()),
        ("image", pa.string()),
        ("path", pa.binary()),
        ("code", pa.string()),
        ("message", pa.string()),
    ]
)
ERRORS_SCHEMA = pa.schema(
    [("slide", pa.string()), ("image", pa.string()), ("code", pa.string()), ("message", pa.string())]
)


def predictions_schema(class_names: Sequence[str]) -> pa.Schema:
    """Return the columns of ``predictions``, in order."""
    return pa.schema(
        [
            ("slide", pa.string()),
            ("image", pa.string()),
            ("cell", pa.int32()),
            ("left", pa.float32()),
            ("top", pa.float32()),
            ("right", pa.float32()),
            ("bottom", pa.float32()),
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


def embeddings_schema(features: int) -> pa.Schema:
    """Return the columns of ``embeddings``, in order.

    Args:
        features: Number of features that the network gives of a cell.
    """
    return pa.schema(
        [
            ("slide", pa.string()),
            ("image", pa.string()),
            ("cell", pa.int32()),
            ("embedding", pa.list_(pa.float16(), features)),
        ]
    )


class ImageList(Settings):
    """What is known of a run's list of images once it is complete; written last, in one step."""

    parts: int = Field(ge=1, description="units of work")
    images: int = Field(ge=1, description="image files")
    ignored: int = Field(ge=0, description="other files that were passed over")
    top_slide: str = Field(description="name of the slide that images directly in SLIDES belong to")
    listing_s: float = Field(ge=0, description="seconds that listing took")


@dataclass(frozen=True)
class RunFolder:
    """One run on disk or in an object store.

    Attributes:
        folder: Folder that holds the run.
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

    def read_record(self) -> RunRecord:
        """Read ``run.json``.

        Raises:
            SettingsError: With code ``run-damaged`` where it was changed, or is another program's or version's.
        """
        path = self.folder.show("run.json")
        try:
            return RunRecord.model_validate_json(self.folder.read("run.json"))
        except ValidationError as error:
            problem = describe_problems(error.errors())[0]
            raise SettingsError(
                "run-damaged",
                f"{path} is not the record of a run of this version of Leukoray ({problem}); choose another folder.",
            ) from error
        except OSError as error:
            raise SettingsError("run-damaged", f"{path} cannot be read: {error.strerror or error}.") from error

    def write_record(self, record: RunRecord) -> None:
        """Replace ``run.json``."""
        self.folder.write("run.json", (record.model_dump_json(indent=2) + "\n").encode())

    def write_list_part(self, part: int, entries: Sequence[Entry]) -> None:
        """Write one part of the list of images."""
        rows = [{name: getattr(entry, name) for name in _LIST_SCHEMA.names} for entry in entries]
        self.folder.write(f"{_LIST}/{part_name(part)}", _parquet(pa.Table.from_pylist(rows, schema=_LIST_SCHEMA)))

    def complete_list(self, images: ImageList) -> None:
        """Put on record that the list of images is complete."""
        self.folder.write(_COMPLETE, images.model_dump_json().encode())

    def read_list(self) -> ImageList | None:
        """Return what is known of the list of images, or None where listing was not finished.

        Raises:
            SettingsError: With code ``run-damaged``.
        """
        if not self.folder.exists(_COMPLETE):
            return None
        try:
            return ImageList.model_validate_json(self.folder.read(_COMPLETE))
        except ValidationError as error:
            message = f"{self.folder.show(_COMPLETE)} was changed, or is of another version; choose another folder."
            raise SettingsError("run-damaged", message) from error

    def read_list_part(self, part: int) -> list[Entry]:
        """Read one part of the list of images."""
        table = self.read_table(f"{_LIST}/{part_name(part)}")
        return [Entry(**row) for row in table.to_pylist()]

    def finished_parts(self) -> set[int]:
        """Return the parts whose predictions are on disk; they are written last."""
        return {int(name[5:-8]) for name in self.folder.files("predictions", ".parquet")}

    def unfinished_parts(self, parts: int) -> list[int]:
        """Return the parts that are still to do, in order."""
        done = self.finished_parts()
        return [part for part in range(parts) if part not in done]

    def clean(self) -> None:
        """Drop what killed workers left behind; an earlier session's end says nothing about a file."""
        for kind in (".work/attempts", ".work/starts"):
            for name in self.folder.files(kind, ".json"):
                self.folder.delete(f"{kind}/{name}")
        self.folder.delete_unfinished()

    def write_part(
        self, part: int, predictions: pa.Table, errors: pa.Table, embeddings: pa.Table | None = None
    ) -> None:
        """Commit one part: errors first, predictions last."""
        self.folder.write(f"errors/{part_name(part)}", _parquet(errors))
        if embeddings is not None:
            self.folder.write(f"embeddings/{part_name(part)}", _parquet(embeddings))
        self.folder.write(f"predictions/{part_name(part)}", _parquet(predictions))

    def read_embeddings(self, part: int) -> NDArray[np.float16]:
        """Read the network's features of one part of a run with ``--embeddings``.

        Returns:
            One row for each row of the part's predictions, in the same order, (N, K) float16; NaN where nothing was
            classified.

        Raises:
            OSError: The part has no such file.
        """
        column = self.read_table(f"embeddings/{part_name(part)}").column("embedding").combine_chunks()
        values = np.full((len(column), column.type.list_size), np.nan, np.float16)
        values[column.is_valid().to_numpy(zero_copy_only=False)] = (
            column.flatten().to_numpy().reshape(-1, column.type.list_size)
        )
        return values

    def part_files(self, kind: str) -> Iterator[tuple[int, str]]:
        """Yield numbers and names of the parts of ``predictions``, ``errors`` or ``embeddings``, in order."""
        for name in self.folder.files(kind, ".parquet"):
            yield int(name[5:-8]), f"{kind}/{name}"

    def read_table(self, name: str) -> pa.Table:
        """Read one part by its name."""
        return pq.read_table(io.BytesIO(self.folder.read(name)))


def part_name(part: int) -> str:
    """Return the file name of a part of a table."""
    return f"part-{part:08d}.parquet"


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
