"""The files of an export on their way to the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Files"]


class Files:
    """Writes files into a folder that nobody else writes to; folders in it are made once, when they are needed.

    Args:
        out: The folder.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._made: set[Path] = set()

    def write(self, path: str, data: bytes) -> None:
        """Write a file by its path relative to the folder."""
        file = self._out / path
        if file.parent not in self._made:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(file.parent)
        file.write_bytes(data)
