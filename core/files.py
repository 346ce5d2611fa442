"""Files: replaced in one step, and tables as CSV."""

from __future__ import annotations

import csv
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from pathlib import Path

__all__ = ["replace_file", "replacing", "write_table"]


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a temporary file beside `path` to write to; when the block ends, it takes the place of `path`.

    A reader, and whoever comes after a kill, finds the old file or the new one, never half of it. Where the block
    fails, `path` stays as it was, nothing is left behind, and an error of the disk names `path`. Missing folders above
    `path` are made.

    Example:
        >>> with replacing(path) as unfinished:
        ...     save_file(tensors, unfinished)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        unfinished.replace(path)
    except BaseException as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in {None, str(unfinished)}:
            error.filename = str(path)
        raise


def replace_file(path: Path, content: bytes | str) -> None:
    """Write a whole file, text as UTF-8, so that it is the old one or the new one, never half of it."""
    with replacing(path) as unfinished:
        if isinstance(content, str):
            unfinished.write_text(content, encoding="utf-8", errors="surrogateescape")
        else:
            unfinished.write_bytes(content)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file in one step; file names that are no UTF-8 keep their bytes."""
    with (
        replacing(path) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
