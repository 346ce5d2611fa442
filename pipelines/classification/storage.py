"""A folder on a disk or in an object store, by path or by URI."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
from pyarrow import fs as arrow_fs

from core.errors import DataError, LeukorayError
from core.files import replace_file
from pipelines.classification.location import Location, parse_location
from pipelines.classification.patience import Patience, is_full, is_passing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Folder", "StorageError", "open_folder"]

_Result = TypeVar("_Result")
_UNFINISHED = re.compile(r"\..+\.(\d+)\.tmp")
"""Temporary names that `core.files.replacing` gives, with the number of the process."""


class StorageError(LeukorayError):
    """Storage that does not do its work: nothing about a single file, so that the run stops and can be resumed."""


@dataclass(frozen=True)
class Folder:
    """A folder that can be read and written with the same calls wherever it is.

    Every call is tried again for a while where it fails for a passing reason, and raises `StorageError` where that
    does not help or where nothing more can be written. Other failures are raised as `OSError`.

    Attributes:
        filesystem: pyarrow's file system.
        path: Path of the folder in it, without a trailing slash.
        local: Whether it is on this machine's disk.
        location: Where it is, as it was written.
        patience: How long failing calls are tried again.
    """

    filesystem: arrow_fs.FileSystem = field(repr=False)
    path: str
    local: bool
    location: Location = field(default_factory=lambda: Location("", ""))
    patience: Patience = field(default_factory=Patience)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2] or "slides"

    @property
    def shown(self) -> str:
        """The folder for people: the path on a disk, the URI without secrets elsewhere."""
        return self.path if self.local else self.location.shown

    def show(self, name: str) -> str:
        """Return where something inside is, for people."""
        return f"{self.path if self.local else self.location.base}/{name}"

    def join(self, name: str) -> str:
        """Return the path of something inside, by its relative name."""
        return f"{self.path}/{name}"

    def impatient(self) -> Folder:
        """Return the same folder, whose calls are tried only once."""
        return replace(self, patience=Patience(limit_s=0))

    def exists(self, name: str) -> bool:
        """Whether a file or folder of this relative name exists."""
        return self._type(name) != arrow_fs.FileType.NotFound

    def is_folder(self) -> bool:
        """Whether this folder exists; an empty prefix of an object store does not."""
        return self._type("") == arrow_fs.FileType.Directory

    def has_content(self) -> bool:
        """Whether this folder exists and anything is in it; an unmounted disk leaves an empty folder behind."""
        if not self.local:
            return self.is_folder()

        def look() -> bool:
            with os.scandir(self.path) as children:
                return any(True for _ in children)

        try:
            return self.attempt(look, "")
        except (FileNotFoundError, NotADirectoryError):
            return False

    def read(self, name: str) -> bytes:
        """Read a whole file."""
        return self.attempt(lambda: self._read(self.join(name), None), name)

    def read_path(self, path: bytes, most: int) -> bytes:
        """Read at most `most` bytes of a file, by its full path as the listing gave it."""
        plain = os.fsdecode(path)
        inside = plain[len(self.path) :].lstrip("/") if plain.startswith(self.path) else plain
        return self.attempt(lambda: self._read(path if self.local else path.decode(), most), inside)

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file; readers see all of it or nothing."""
        self.attempt(lambda: self._write(name, data), name, writing=True)

    def write_plain(self, name: str, data: bytes) -> None:
        """Write a file without the detour of an atomic replacement, for what is written again after a kill."""
        self.attempt(lambda: self._write_plain(name, data), name, writing=True)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        if self.exists(name):
            self.attempt(lambda: self.filesystem.delete_file(self.join(name)), name, writing=True)

    def files(self, name: str, suffix: str) -> Iterator[str]:
        """Yield the names, sorted, of finished files with this suffix directly in the folder `name`."""
        selector = arrow_fs.FileSelector(self.join(name), allow_not_found=True)
        infos = self.attempt(lambda: self.filesystem.get_file_info(selector), name)
        found = (info.base_name for info in infos)
        yield from sorted(base for base in found if base.endswith(suffix) and not base.startswith("."))

    def children(self, path: str) -> list[arrow_fs.FileInfo]:
        """List what is directly in a folder, by its full path, sorted by path."""
        infos = self.attempt(lambda: self.filesystem.get_file_info(arrow_fs.FileSelector(path)), "")
        return sorted(infos, key=lambda info: info.path)

    def delete_unfinished(self) -> None:
        """Delete the temporary files that killed processes of this machine left behind on a disk."""
        if not self.local:
            return
        for parent, _, names in os.walk(self.path):
            for name in names:
                match = _UNFINISHED.fullmatch(name)
                if match and not Path("/proc", match[1]).exists():
                    Path(parent, name).unlink(missing_ok=True)

    def attempt(self, call: Callable[[], _Result], name: str, *, writing: bool = False) -> _Result:
        """Return what `call` returns, trying it again where it fails for a passing reason.

        Args:
            call: Work on the storage.
            name: What it is about, relative to this folder, for the error message.
            writing: Whether it writes.

        Raises:
            StorageError: With code ``storage-fails`` where the reason did not pass in time; ``disk-full`` where
                there is no room to write.
            OSError: For every other failure.
        """
        try:
            return self.patience.retry(call)
        except OSError as error:
            raise self._failure(error, self.show(name) if name else self.shown, writing=writing) from error

    def _failure(self, error: OSError, what: str, *, writing: bool) -> OSError | StorageError:
        if writing and is_full(error):
            return StorageError(
                "disk-full", f"{what} cannot be written: the disk is full. Make room, and continue with --resume."
            )
        if not is_passing(error):
            return error
        reason = self.location.scrub(error.strerror or str(error)).rstrip(".")
        tried = f" after {self.patience.limit_s:g} s of trying" if self.patience.limit_s else ""
        return StorageError(
            "storage-fails",
            f"{what} cannot be {'written' if writing else 'read'}{tried}: {reason}. What is done is kept; continue"
            " with --resume.",
        )

    def _type(self, name: str) -> arrow_fs.FileType:
        path = self.join(name) if name else self.path
        return self.attempt(lambda: self.filesystem.get_file_info(path).type, name)

    def _read(self, path: str | bytes, most: int | None) -> bytes:
        if self.local:
            with open(path, "rb") as stream:
                return stream.read(-1 if most is None else most)
        with self.filesystem.open_input_stream(path) as stream:
            return stream.read(most)

    def _write(self, name: str, data: bytes) -> None:
        if self.local:
            replace_file(Path(self.join(name)), data)
            return
        with self.filesystem.open_output_stream(self.join(name)) as stream:
            stream.write(data)

    def _write_plain(self, name: str, data: bytes) -> None:
        if not self.local:
            self._write(name, data)
            return
        target = Path(self.join(name))
        try:
            try:
                target.write_bytes(data)
            except FileNotFoundError:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        except OSError as error:
            if is_full(error):
                target.unlink(missing_ok=True)
            raise


def open_folder(location: str | Location, patience: Patience | None = None) -> Folder:
    """Resolve a local path or a URI such as ``s3://bucket/my slides``, written as people write it.

    Args:
        location: The path or URI.
        patience: How long failing calls are tried again, opening included.

    Raises:
        DataError: With code ``bad-location`` where pyarrow has no file system for the URI.
        StorageError: With code ``storage-fails`` where the object store does not answer.
    """
    where, patience = parse_location(location) if isinstance(location, str) else location, patience or Patience()
    if not where.uri:
        return _open_path(where, patience)
    try:
        filesystem, path = patience.retry(lambda: arrow_fs.FileSystem.from_uri(where.uri))
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        reason = where.scrub(str(error)).rstrip(".")
        if isinstance(error, OSError) and is_passing(error):
            raise StorageError("storage-fails", f"{where} does not answer: {reason}.") from None
        raise DataError("bad-location", f"{where} cannot be opened: {reason}.") from None
    local = isinstance(filesystem, arrow_fs.LocalFileSystem)
    return Folder(filesystem, path.rstrip("/"), local=local, location=where, patience=patience)


def _open_path(where: Location, patience: Patience) -> Folder:
    path = str(Path(os.path.expanduser(where.shown)).resolve())
    if not path.isprintable() or path != path.encode("utf-8", "replace").decode():
        raise DataError("bad-location", f"{where.shown!a} has characters that a path must not have here.")
    absolute = Location(shown=path, base=path)  # a worker has another working directory
    return Folder(arrow_fs.LocalFileSystem(), path, local=True, location=absolute, patience=patience)
