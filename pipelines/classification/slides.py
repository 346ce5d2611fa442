"""Finding the images of a slide folder, one at a time, in a fixed order.

A name decides what is an image file; on a disk, where the name says nothing (an unknown ending, or none),
the first bytes do. Hidden files and folders are passed over. Whatever else cannot be read as a file (a broken
link, a loop of links, a pipe, a folder called ``x.png``) is listed too, with the reason, so that nothing goes
missing without a word.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyarrow import fs as arrow_fs

from core.errors import DataError
from core.images.signatures import LONGEST_START, begins_like_image
from pipelines.classification.storage import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipelines.classification.storage import Folder

__all__ = ["IMAGE_SUFFIXES", "Entry", "list_slides", "no_such_slides", "slides_gone", "top_slide"]

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".tif", ".tiff", ".bmp", ".dib", ".webp", ".gif",
    ".eps", ".ps", ".svg", ".svgz", ".mpo", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jpx", ".jxl",
    ".ico", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw",
    ".raw", ".svs", ".ndpi", ".czi", ".nd2", ".lif", ".dcm", ".exr", ".hdr", ".pcx",
})
# fmt: on
"""Endings that mean an image, whether it can be decoded or not, in lower case."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One image file, or one thing that is named like an image.

    Attributes:
        slide: Name of the slide.
        image: Path relative to the slide, printable.
        path: Where to read it: file system bytes of a local path, UTF-8 of an object's key.
        code: Empty, or why it cannot be read.
        message: The same as a sentence.
    """

    slide: str
    image: str
    path: bytes
    code: str = ""
    message: str = ""


def list_slides(root: Folder) -> Iterator[Entry | None]:
    """Yield the images under a folder of slides; None stands for a file that is no image.

    Raises:
        DataError: With code ``not-found`` where the folder does not exist.
        StorageError: The storage fails, or the folder goes away meanwhile.
    """
    if not root.is_folder():
        raise no_such_slides(root)
    top = top_slide(root)
    if root.local:
        yield from _walk_local(root, top)
    else:
        yield from _walk_remote(root, root.path, top)
    if not root.is_folder():
        raise slides_gone(root)


def no_such_slides(root: Folder) -> DataError:
    """Return the error that says that the folder of slides does not exist."""
    encoded = "%" in root.shown and not root.local
    hint = " Names are written as they are: a space as a space, not as %20." if encoded else ""
    return DataError("not-found", f"The slide folder {root.shown} does not exist, or is not a folder.{hint}")


def slides_gone(root: Folder) -> StorageError:
    """Return the error that says that the whole folder of slides went away during a run."""
    return StorageError(
        "slides-gone",
        f"The slide folder {root.shown} is gone or empty now. What is done is kept; bring it back, and continue with"
        " --resume.",
    )


def top_slide(root: Folder) -> str:
    """Return the name of the slide that images directly in the folder belong to."""
    return f"{root.name} (top folder)" if root.exists(root.name) else root.name


def printable(name: bytes) -> str:
    r"""Return a file name as text that can be stored anywhere; bytes that are no UTF-8 become ``\xNN``."""
    return name.decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class _Level:
    """An open folder of the walk: what is left to visit, where it is, and which folders are above it."""

    children: Iterator[os.DirEntry[bytes]]
    parts: tuple[bytes, ...]
    above: frozenset[tuple[int, int]]


def _walk_local(root: Folder, top: str) -> Iterator[Entry | None]:
    """Walk depth first without recursion, so that no depth of folders is too deep."""
    start = os.fsencode(root.path)
    inside = os.path.realpath(start)
    opened = _open_level(root, start, (), frozenset(), top)
    levels = [opened] if isinstance(opened, _Level) else []
    while levels:
        level = levels[-1]
        child = next(level.children, None)
        if child is None:
            levels.pop()
            continue
        parts = (*level.parts, child.name)
        found = _look_at(root, child, parts, top, inside)
        if found is not _FOLDER:
            yield found
            continue
        if _suffix(child.name) in IMAGE_SUFFIXES:
            message = "This is a folder, not an image; the images inside it were classified."
            yield _problem(parts, top, child.path, "not-a-file", message)
        opened = _open_level(root, child.path, parts, level.above, top)
        if isinstance(opened, _Level):
            levels.append(opened)
        else:
            yield opened


def _open_level(
    root: Folder, folder: bytes, parts: tuple[bytes, ...], above: frozenset[tuple[int, int]], top: str
) -> _Level | Entry:
    """List a folder, or say why it is not listed."""

    def list_folder() -> list[os.DirEntry[bytes]]:
        with os.scandir(folder) as children:
            return sorted(children, key=lambda child: child.name)

    try:
        identity = root.attempt(lambda: os.stat(folder), printable(b"/".join(parts)))
        key = (identity.st_dev, identity.st_ino)
        if key in above:
            return _problem(parts, top, folder, "symlink-loop", "The link leads back to a folder that contains it.")
        return _Level(iter(root.attempt(list_folder, printable(b"/".join(parts)))), parts, above | {key})
    except OSError as error:
        return _problem(parts, top, folder, *_describe_os_error(error, "folder"))


_FOLDER = Entry("", "", b"")
"""Stands for a folder to walk into."""


def _look_at(
    root: Folder, child: os.DirEntry[bytes], parts: tuple[bytes, ...], top: str, inside: bytes
) -> Entry | None:
    """Return the entry of a file, None for what is no image, or `_FOLDER`."""
    if child.name.startswith(b"."):
        return None
    named = _suffix(child.name) in IMAGE_SUFFIXES
    try:
        mode = root.attempt(child.stat, printable(b"/".join(parts))).st_mode
    except OSError as error:
        return _problem(parts, top, child.path, *_describe_os_error(error, "file")) if named else None
    if stat.S_ISDIR(mode):
        return _linked_twice(child, parts, top, inside) or _FOLDER
    if not stat.S_ISREG(mode):
        message = "This is a pipe, a socket or a device, not an image file."
        return _problem(parts, top, child.path, "not-a-file", message) if named else None
    return Entry(*_name(parts, top), child.path) if named or _begins_like_image(root, child.path) else None


def _linked_twice(child: os.DirEntry[bytes], parts: tuple[bytes, ...], top: str, inside: bytes) -> Entry | None:
    """Refuse a link to a folder that the walk meets anyway: its images belong into one row each."""
    if not child.is_symlink():
        return None
    target = os.path.realpath(child.path)
    if target != inside and not target.startswith(inside + b"/"):
        return None
    if (os.path.realpath(os.path.dirname(child.path)) + b"/").startswith(target + b"/"):
        return _problem(parts, top, child.path, "symlink-loop", "The link leads back to a folder that contains it.")
    return _problem(parts, top, child.path, "linked-twice", "The folder behind this link is listed under its own name.")


def _walk_remote(root: Folder, folder: str, top: str) -> Iterator[Entry | None]:
    for info in root.children(folder):
        if info.base_name.startswith("."):
            yield None
            continue
        if info.type == arrow_fs.FileType.Directory:
            yield from _walk_remote(root, info.path, top)
            continue
        parts = tuple(part.encode() for part in info.path[len(root.path) :].strip("/").split("/"))
        named = _suffix(parts[-1]) in IMAGE_SUFFIXES
        yield Entry(*_name(parts, top), info.path.encode()) if named else None


def _problem(parts: tuple[bytes, ...], top: str, path: bytes, code: str, message: str) -> Entry:
    return Entry(*_name(parts or (b"",), top), path, code, message)


def _name(parts: tuple[bytes, ...], top: str) -> tuple[str, str]:
    """Return slide and image of a path relative to the folder of slides."""
    texts = [printable(part) for part in parts]
    return (texts[0], "/".join(texts[1:])) if len(texts) > 1 else (top, texts[0])


def _suffix(name: bytes) -> str:
    stem, dot, ending = name.rpartition(b".")
    return "." + ending.decode("ascii", "replace").lower() if dot and stem else ""


def _begins_like_image(root: Folder, path: bytes) -> bool:
    """Look at the first bytes of a local file whose name says nothing."""
    try:
        return begins_like_image(root.read_path(path, LONGEST_START))
    except OSError:
        return False


def _describe_os_error(error: OSError, what: str) -> tuple[str, str]:
    if error.errno == errno.ELOOP:
        return "symlink-loop", "The link leads back to itself."
    if error.errno == errno.ENOENT:
        return "not-found", f"The link leads to a {what} that does not exist."
    if error.errno == errno.EACCES:
        return "permission-denied", f"This {what} may not be read by this user."
    return "unreadable", f"This {what} cannot be read ({error.strerror})."
