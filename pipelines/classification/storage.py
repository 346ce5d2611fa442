"""A folder on a disk or in an object store, by path or by URI."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow import fs as arrow_fs

from core.errors import DataError
from core.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Folder", "open_folder"]


@dataclass(frozen=True)
class Folder:
    """A folder that can be read and written with the same calls wherever it is.

    Attributes:
        filesystem: pyarrow's file system.
        path: The folder in it, without a trailing slash.
        local: Whether it is on this machine's disk.
    """

    filesystem: arrow_fs.FileSystem
    path: str
    local: bool

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2] or "slides"

    def join(self, name: str) -> str:
        """Path of something inside, by its relative name."""
        return f"{self.path}/{name}"

    def inside(self, name: str) -> Folder:
        """Folder inside this one."""
        return Folder(self.filesystem, self.join(name), self.local)

    def exists(self, name: str) -> bool:
        """Whether a file or folder of this relative name exists."""
        return self.filesystem.get_file_info(self.join(name)).type != arrow_fs.FileType.NotFound

    def is_folder(self) -> bool:
        """Whether this folder exists; an empty prefix of an object store does not."""
        return self.filesystem.get_file_info(self.path).type == arrow_fs.FileType.Directory

    def read(self, name: str) -> bytes:
        """Read a whole file."""
        with self.filesystem.open_input_stream(self.join(name)) as stream:
            return stream.read()

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file; on a disk readers see all of it or nothing."""
        if not self.local:
            with self.filesystem.open_output_stream(self.join(name)) as stream:
                stream.write(data)
            return
        replace_file(Path(self.join(name)), data)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        if self.exists(name):
            self.filesystem.delete_file(self.join(name))

    def files(self, name: str, suffix: str) -> Iterator[str]:
        """Yield the names, sorted, of finished files with this suffix directly in the folder `name`."""
        selector = arrow_fs.FileSelector(self.join(name), allow_not_found=True)
        found = (info.base_name for info in self.filesystem.get_file_info(selector))
        yield from sorted(base for base in found if base.endswith(suffix) and not base.startswith("."))


def open_folder(location: str) -> Folder:
    """Resolve a local path or a URI such as ``s3://bucket/slides``.

    Raises:
        DataError: With code ``bad-location`` where pyarrow has no file system for the URI.
    """
    if "://" not in location:
        path = str(Path(os.path.expanduser(location)).resolve())
        if not path.isprintable() or path != path.encode("utf-8", "replace").decode():
            raise DataError("bad-location", f"{location!a} has characters that a path must not have here.")
        return Folder(arrow_fs.LocalFileSystem(), path, local=True)
    try:
        filesystem, path = arrow_fs.FileSystem.from_uri(location)
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise DataError("bad-location", f"{location} cannot be opened: {error}") from error
    local = isinstance(filesystem, arrow_fs.LocalFileSystem)
    return Folder(filesystem, path.rstrip("/"), local=local)
