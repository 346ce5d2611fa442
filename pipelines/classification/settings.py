"""The options of ``pipelines/classify.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from core.images.overlay import DISPLAY_SIDE
from core.model.opening import EngineName
from core.settings import Settings

__all__ = ["SHIPPED_BUNDLE", "ClassifySettings"]

SHIPPED_BUNDLE = Path(__file__).resolve().parents[2] / "models" / "blood-cells"


class ClassifySettings(Settings):
    """Classify every image of a folder of slides, with Grad-CAM, on Ray Data.

    SLIDES holds one folder per slide; images directly in it belong to a slide of its name. SLIDES and RUN are
    paths or URIs (s3://, gs://), in which names stand as they are: a space as a space, # and % as themselves.
    """

    slides: CliPositionalArg[str] = Field(description="folder of slides", repr=False)
    out: str = Field(description="folder for the results; new, or a run to continue with --resume", repr=False)
    model: Path = Field(SHIPPED_BUNDLE, description="bundle (default: the one that ships)")
    engine: EngineName = Field("auto", description="what runs the network; auto: openvino on CPUs if MODEL has it")
    adapt: bool = Field(False, description="first adapt the bundle to the slides' stain and camera (no labels; torch)")
    cells: Literal["one", "all"] = Field("one", description="cells of each image; all: of camera fields, every one")
    gradcam: Literal["all", "flagged", "none"] = Field("all", description="which cells get a heatmap overlay")
    colour_map: Literal["jet", "turbo", "viridis", "inferno"] = Field("jet", description="colours of the heatmap")
    overlay_side: int = Field(DISPLAY_SIDE, ge=64, le=8192, description="longest side of an overlay in pixels")
    overlay_quality: int = Field(85, ge=1, le=100, description="JPEG quality of the overlays")
    embeddings: bool = Field(False, description="store the network's features of each cell too (2 bytes a feature)")
    batch_size: int = Field(32, ge=1, le=4096, description="images, or cells, per forward pass")
    limit: int | None = Field(None, ge=1, description="classify only the first so many images")
    resume: bool = Field(False, description="continue the run in RUN; what is finished is not done again")
    max_error_rate: float = Field(0.05, ge=0, le=1, description="share of unreadable files above which to exit with 1")
    workers: int | None = Field(None, ge=1, description="worker processes; otherwise one per GPU, else one per CPU")
    cpus_per_worker: float | None = Field(None, gt=0, description="logical CPUs that each worker reserves")
    gpus_per_worker: float | None = Field(None, ge=0, description="GPUs that each worker reserves; 0: use CPUs only")
    threads: int | None = Field(None, ge=1, description="torch threads of each worker")
    part_size: int | None = Field(
        None, ge=1, le=4096, description="images per unit of work; otherwise 64, on a GPU 512"
    )
    report_cells: int = Field(200, ge=1, description="thumbnails that the report shows per slide and class")
    drawn: bool = Field(False, description="say in the report that the images are drawings")
    wait: float | None = Field(None, gt=0, description="seconds to wait for a free CPU or GPU; otherwise no limit")
    patience: float = Field(30, ge=0, description="seconds for which storage that fails is tried again")
    address: str | None = Field(None, description="Ray cluster; otherwise the job's, RAY_ADDRESS, else a private one")
