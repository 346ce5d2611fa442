"""Writing a run's list of images, part by part."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from core.errors import DataError
from pipelines.classification.run_folder import ImageList
from pipelines.classification.slides import list_slides, top_slide

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipelines.classification.run_folder import RunFolder
    from pipelines.classification.slides import Entry
    from pipelines.classification.storage import Folder

__all__ = ["list_images", "write_list"]


def list_images(source: Folder, run: RunFolder, part_size: int, limit: int | None) -> ImageList:
    """Return what is known of the run's list of images; write the list first, unless an earlier session did.

    Args:
        source: Folder of slides.
        run: Folder of the run.
        part_size: Images per part.
        limit: Number of images after which listing stops; None for all.

    Raises:
        DataError: With code ``not-found``, or ``no-images`` where there is none.
        StorageError: The storage fails.
    """
    images = run.read_list()
    if images is None:
        images = write_list(run, list_slides(source), part_size, limit=limit, top=top_slide(source))
    return images


def write_list(
    run: RunFolder, entries: Iterable[Entry | None], part_size: int, *, limit: int | None = None, top: str = "slides"
) -> ImageList:
    """Write the list of images in parts, then, in one step, that it is complete.

    Args:
        run: Folder of the run.
        entries: Images; None stands for a file that is no image.
        part_size: Images per part.
        limit: Number of images after which to stop; None for all.
        top: Name of the slide that images directly in the folder of slides belong to.

    Raises:
        DataError: With code ``no-images``.
    """
    started = time.perf_counter()
    part: list[Entry] = []
    parts = images = ignored = 0
    for entry in entries:
        if entry is None:
            ignored += 1
            continue
        if images == limit:
            break
        part.append(entry)
        images += 1
        if len(part) == part_size:
            run.write_list_part(parts, part)
            parts, part = parts + 1, []
    if part:
        run.write_list_part(parts, part)
        parts += 1
    if not images:
        raise DataError("no-images", "There is no image file under SLIDES.")
    seconds = round(time.perf_counter() - started, 3)
    complete = ImageList(parts=parts, images=images, ignored=ignored, top_slide=top, listing_s=seconds)
    run.complete_list(complete)
    return complete
