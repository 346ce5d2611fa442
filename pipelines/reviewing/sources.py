"""The images that a run read, by slide and name, from where its listing found them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from core.images.decoder import MAX_BYTES

if TYPE_CHECKING:
    from pipelines.classification.run_folder import RunFolder
    from pipelines.classification.storage import Folder
    from pipelines.reviewing.cells import RunCells

__all__ = ["SourceImages"]


class SourceImages:
    """Reads the images of a run.

    Args:
        run: Folder of the run, whose listing says where each image is.
        slides: Folder of the slides: the listed one, or another place to which they were moved.
        listed: Path of the slides when they were listed.
        cells: Rows of the run.
    """

    def __init__(self, run: RunFolder, slides: Folder, listed: str, cells: RunCells) -> None:
        self._run, self._slides, self._listed = run, slides.impatient(), listed.encode()
        self._parts = {(key.slide, key.image): int(cells.place[row, 0]) for key, row in cells.rows.items()}
        self._paths = lru_cache(64)(self._read_paths)

    def read(self, slide: str, image: str) -> bytes:
        """Return the file of an image.

        Raises:
            LeukorayError: The storage fails.
            OSError: The file is not there, or may not be read.
        """
        path = self._paths(self._parts[slide, image])[slide, image]
        if path.startswith(self._listed + b"/"):
            path = self._slides.path.encode() + path[len(self._listed) :]
        return self._slides.read_path(path, MAX_BYTES + 1)

    def _read_paths(self, part: int) -> dict[tuple[str, str], bytes]:
        return {(entry.slide, entry.image): entry.path for entry in self._run.read_list_part(part)}
