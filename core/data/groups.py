"""Sources: which images show the same microscope field, from a CSV, a folder level or the file names."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from core.errors import DataError
from core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SourceSettings", "read_groups", "read_linked_groups"]


class SourceSettings(Settings):
    """The options of `ClassFolders.with_sources`."""

    groups: str | None = Field(
        None,
        description="which images show the same field or slide (a source), kept together in every split, without"
        " which results look too good: a CSV with the columns path (within DATA) and source; or a folder level,"
        " folder:1; or what a regular expression, in quotes, finds in the file name, 'name:^S[0-9]+'",
    )
    linked_groups: Path | None = Field(
        None, description="CSV with the columns source and same_as: sources to be taken as one"
    )


def read_groups(file: Path) -> dict[str, str]:
    """Read a CSV with the columns ``path`` and ``source``; an empty source means unknown.

    Raises:
        DataError: With code ``groups-unreadable``.
    """
    pairs = _read_pairs(file, "path", "source")
    return {path.replace("\\", "/"): source for path, source in pairs.items()} | pairs


def read_linked_groups(file: Path) -> dict[str, str]:
    """Read a CSV with the columns ``source`` and ``same_as``: sources that stay on one side of a split.

    A source whose ``same_as`` is empty is left out of every grouped split; chains are followed to their end.

    Raises:
        DataError: With code ``groups-unreadable``.
    """
    pairs = _read_pairs(file, "source", "same_as")
    return {source: _last(source, pairs) for source in pairs}


def _last(source: str, pairs: Mapping[str, str]) -> str:
    """Follow a source to the one that it stands for in the end."""
    seen = {source}
    while pairs.get(source):
        source = pairs[source]
        if source in seen:
            raise DataError("groups-unreadable", f"The linked groups lead from {source} back to itself.")
        seen.add(source)
    return pairs.get(source, source)


def _read_pairs(file: Path, key: str, value: str) -> dict[str, str]:
    """Read two columns of a CSV, of Excel's too; a missing value is empty."""
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            pairs = [(row[key], row[value] or "") for row in csv.DictReader(stream)]
    except (OSError, KeyError, csv.Error) as error:
        raise DataError(
            "groups-unreadable", f"{file} is not a CSV with the columns {key} and {value} ({error!r})."
        ) from error
    if any(name is None for name, _ in pairs):
        raise DataError("groups-unreadable", f"{file} has a row without {key}.")
    return dict(pairs)
