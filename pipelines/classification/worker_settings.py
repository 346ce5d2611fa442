"""What every worker of a run needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.classification.location import Location
    from pipelines.classification.patience import Patience
    from pipelines.classification.record import RunArguments
    from pipelines.classification.run_folder import RunFolder
    from pipelines.classification.storage import Folder
    from runtime.cluster import WorkerPlan

__all__ = ["WorkerSettings"]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Settings of the workers; no field may show a secret where it is printed.

    Attributes:
        slides: Folder of slides.
        run: Folder of the run.
        patience: How long storage that fails is tried again.
        cells: ``one`` cell of each image, or ``all``.
        gradcam: Cells that get an overlay: ``all``, ``flagged`` or ``none``.
        colour_map: Colours of the overlays.
        overlay_side: Longest side of an overlay in pixels.
        overlay_quality: JPEG quality of the overlays.
        batch_size: Images per forward pass.
        threads: Torch threads.
        loaders: Threads that read and decode.
        device: Torch device.
        embeddings: Whether the network's features of each cell are stored.
    """

    slides: Location
    run: Location
    patience: Patience
    cells: str
    gradcam: str
    colour_map: str
    overlay_side: int
    overlay_quality: int
    batch_size: int
    threads: int
    loaders: int
    device: str
    embeddings: bool = False

    @classmethod
    def of_run(cls, source: Folder, run: RunFolder, arguments: RunArguments, plan: WorkerPlan) -> WorkerSettings:
        """Return the settings of the workers of one run."""
        return cls(
            slides=source.location,
            run=run.folder.location,
            patience=source.patience,
            cells=arguments.cells,
            gradcam=arguments.gradcam,
            colour_map=arguments.colour_map,
            overlay_side=arguments.overlay_side,
            overlay_quality=arguments.overlay_quality,
            batch_size=arguments.batch_size,
            threads=plan.threads,
            loaders=plan.loaders,
            device=plan.device,
            embeddings=arguments.embeddings,
        )
