"""The image files that a run was made from: where each is, and its bytes."""

from __future__ import annotations

import errno
from functools import lru_cache
from typing import TYPE_CHECKING

from core.errors import ImageError
from core.images.decoder import MAX_BYTES
from pipelines.classification.slides import top_slide

if TYPE_CHECKING:
    from pipelines.classification.run_folder import RunFolder
    from pipelines.classification.storage import Folder

__all__ = ["SourceImages"]

_PARTS_IN_MEMORY = 64


class SourceImages:
    """Finds the files of a run's images by the run's own list of them, which has their names to the byte.

    The list is read part by part, as images of a part are asked for, by any number of threads. A slide folder that
    lies elsewhere now serves as well, since only the end of a listed path counts. Where a run was copied without its
    list, names are taken as they are printed.

    Args:
        run: Folder of the run.
        source: Folder of slides.
    """

    def __init__(self, run: RunFolder, source: Folder) -> None:
        self._run, self._source = run, source
        self._images = run.read_list()
        self._top = self._images.top_slide if self._images else top_slide(source)
        self._listed = lru_cache(_PARTS_IN_MEMORY)(self._read_part)

    def name(self, slide: str, image: str, part: int) -> bytes:
        """Return the path of an image's file, relative to the folder of slides.

        Args:
            slide: Name of the slide.
            image: Path of the image relative to it, as it is printed.
            part: Part of the run that it belongs to.

        Raises:
            ImageError: With code ``not-listed`` where the run's list does not have it, or ``two-files``.
        """
        alone = slide == self._top and "/" not in image
        if self._images is None:
            found: bytes | None = (image if alone else f"{slide}/{image}").encode()
        else:
            found = self._find(slide, image, part)
        if found is None:
            raise ImageError("two-files", "Two files have this name once it is printable; rename one of them.")
        parts = found.split(b"/")[-(1 if alone else image.count("/") + 2) :]
        if {b"", b".", b".."} & set(parts):
            raise ImageError("not-listed", "The run's list of images has no usable path for it.")
        return b"/".join(parts)

    def read(self, name: bytes) -> bytes:
        """Read a file by what `name` gave; safe to call from several threads.

        Raises:
            ImageError: With code ``not-found``, ``permission-denied``, ``unreadable`` or ``too-large``.
            StorageError: The storage fails.
        """
        base = self._source.path.encode("utf-8", "surrogateescape")
        try:
            data = self._source.read_path(base + b"/" + name, MAX_BYTES + 1)
        except OSError as error:
            raise self._unreadable(error) from error
        if len(data) > MAX_BYTES:
            raise ImageError("too-large", f"The file has more than {MAX_BYTES:,} bytes.")
        return data

    def _find(self, slide: str, image: str, part: int) -> bytes | None:
        """Return the listed path; None where two files have the name."""
        try:
            return self._listed(part)[slide, image]
        except KeyError:
            raise ImageError("not-listed", "The run's list of images does not have it.") from None

    def _read_part(self, part: int) -> dict[tuple[str, str], bytes | None]:
        listed: dict[tuple[str, str], bytes | None] = {}
        for entry in self._run.read_list_part(part):
            key = (entry.slide, entry.image)
            listed[key] = None if key in listed else entry.path
        return listed

    def _unreadable(self, error: OSError) -> ImageError:
        if error.errno == errno.ENOENT:
            return ImageError("not-found", "The file was there when the run was made, and is gone now.")
        if error.errno in {errno.EACCES, errno.EPERM} or "ACCESS_DENIED" in str(error):
            return ImageError("permission-denied", "The file may not be read by this user.")
        reason = self._source.location.scrub(error.strerror or str(error))
        return ImageError("unreadable", f"The file cannot be read ({reason}).")
