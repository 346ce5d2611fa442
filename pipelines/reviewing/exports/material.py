"""What an export is made from, and what is told of it afterwards."""

from __future__ import annotations

from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from core.errors import ImageError
from pipelines.reviewing.cells import NO_CELL
from pipelines.reviewing.state import labels_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from pipelines.classification.record import RunRecord
    from pipelines.classification.storage import Folder
    from pipelines.reviewing.exports.images import ReviewedImage
    from pipelines.reviewing.outcome import ReviewedCell
    from pipelines.reviewing.sources import SourceImages

__all__ = ["LeftOut", "Material", "Tally"]

_Made = TypeVar("_Made")


class LeftOut(NamedTuple):
    """Something that was to be exported and could not be.

    Attributes:
        slide: Name of the slide.
        image: Path of the image, relative to the slide.
        cell: Number of the cell; 0 where it is about the whole image.
        code: Stable code of the reason.
        message: The reason in one sentence.
    """

    slide: str
    image: str
    cell: int
    code: str
    message: str


@dataclass
class Tally:
    """What became of the images and cells.

    Attributes:
        images: Images that are in the export, or that it speaks of.
        labels: Cells in it, by label.
        left_out: What could not be exported, in order.
        passed_over: What does not belong into an export of this kind, by reason: ``no-cell`` for cells that are none,
            ``incomplete-image`` for images of which a finder would learn that there is no cell where nobody looked.
    """

    images: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    left_out: list[LeftOut] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def leave_out(self, image: ReviewedImage, error: ImageError, cell: ReviewedCell | None = None) -> None:
        """Note an image, or one of its cells, that could not be exported."""
        number = cell.key.number if cell else 0
        self.left_out.append(LeftOut(image.slide, image.image, number, error.code, error.message))

    def leave_out_without_box(self, image: ReviewedImage, cell: ReviewedCell) -> None:
        """Note a cell of which nobody knows where it is."""
        message = "It is not known where in the image this cell is; add it with its box."
        self.leave_out(image, ImageError("no-box", message), cell)


@dataclass(frozen=True)
class Material:
    """What an export is made from.

    Attributes:
        images: The images, with the cells that were asked for.
        record: Record of the run.
        source: Folder of slides.
        sources: Where its files are.
        threads: Number of threads that read and decode images.
        on_image: Called after each image that was read.
    """

    images: Sequence[ReviewedImage]
    record: RunRecord
    source: Folder
    sources: SourceImages
    threads: int = 2
    on_image: Callable[[], object] | None = None

    @property
    def bundle(self) -> str:
        """Identity of the bundle that made the run's rows."""
        return (self.record.adapted or self.record.bundle).id

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that a white cell has or could have, in order; the unidentified ones last."""
        given = sorted({cell.label for image in self.images for cell in image.cells})
        return tuple(name for name in labels_of(self.record.bundle.classes, given) if name != NO_CELL)

    def name(self, image: ReviewedImage) -> bytes:
        """Return the path of an image's file, relative to the folder of slides.

        Raises:
            ImageError: With code ``not-listed`` or ``two-files``.
        """
        if image.doubled:
            raise ImageError("two-files", "Two files have this name once it is printable; rename one of them.")
        return self.sources.name(image.slide, image.image, image.part)

    def read_each(
        self, images: Sequence[ReviewedImage], make: Callable[[ReviewedImage, bytes], _Made]
    ) -> Iterator[tuple[ReviewedImage, _Made | ImageError]]:
        """Read images in the background, a few ahead, and yield them in order with what is made of them.

        Args:
            images: The images to read.
            make: Given an image and the bytes of its file; several threads call it at once.

        Yields:
            The image, and what was made of it or why it cannot be used.

        Raises:
            StorageError: The storage fails.
        """

        def read(image: ReviewedImage, name: bytes) -> _Made | ImageError:
            try:
                return make(image, self.sources.read(name))
            except ImageError as error:
                return error

        def finish() -> tuple[ReviewedImage, _Made | ImageError]:
            image, made = waiting.popleft()
            result = made if isinstance(made, ImageError) else made.result()
            if self.on_image:
                self.on_image()
            return image, result

        waiting: deque[tuple[ReviewedImage, Future[_Made | ImageError] | ImageError]] = deque()
        with ThreadPoolExecutor(self.threads) as pool:
            for image in images:
                try:
                    waiting.append((image, pool.submit(read, image, self.name(image))))
                except ImageError as error:
                    waiting.append((image, error))
                if len(waiting) > self.threads:
                    yield finish()
            while waiting:
                yield finish()
