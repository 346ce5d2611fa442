"""What ``run.json`` holds: the record of one run of ``pipelines/classify.py``."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from core import __version__
from core.model.record import AdaptationRecord
from core.settings import Settings, time_stamp

if TYPE_CHECKING:
    from core.model.engine import Usable
    from core.model.record import BundleFolder

__all__ = ["RunArguments", "RunBundle", "RunCounts", "RunRecord", "RunSession", "RunThroughput", "RunTimings"]


class RunArguments(Settings):
    """The options that decide a run's rows; a run is only continued with the same ones."""

    slides: str = Field(description="folder of slides, without secrets")
    cells: str = Field("one", description="cells of each image: one or all")
    gradcam: str = Field(description="which cells get a heatmap overlay")
    colour_map: str = Field(description="colours of the heatmap")
    overlay_side: int = Field(1024, description="longest side of an overlay in pixels")
    overlay_quality: int = Field(85, description="JPEG quality of the overlays")
    embeddings: bool = Field(False, description="whether the network's features of each cell are stored")
    batch_size: int = Field(description="images per forward pass")
    limit: int | None = Field(description="number of images after which listing stops")
    part_size: int | None = Field(description="images per unit of work, where it was given")
    adapt: bool = Field(False, description="whether the bundle is adapted to the slides first")
    engine: str = Field("auto", description="engine that was asked for")


class RunBundle(Settings):
    """The bundle that a run uses."""

    path: str = Field(description="where it was loaded from")
    id: str = Field(description="SHA-256 of everything in it that decides an answer")
    classes: tuple[str, ...] = Field(description="its class names, in order")
    preprocessing: str = Field("", description="SHA-256 of how it prepares cells; empty in older runs")
    stains: int | None = Field(None, description="laboratories whose stain it knows; none in older runs")

    @classmethod
    def of(cls, path: str, bundle: Usable | BundleFolder) -> RunBundle:
        """Say which bundle it is that was loaded from a path."""
        known = bundle.record.familiarity
        return cls(
            path=path,
            id=bundle.id,
            classes=bundle.class_names,
            preprocessing=hashlib.sha256(bundle.record.preprocessing.model_dump_json().encode()).hexdigest(),
            stains=len(known.stains) if known else 0,
        )


class RunCounts(Settings):
    """Numbers of things; those of the results are zero until a run has finished."""

    listed: int = Field(0, description="image files under SLIDES")
    ignored: int = Field(0, description="other files under SLIDES")
    parts: int = Field(0, description="units of work")
    slides: int = Field(0, description="slides with at least one image or unreadable file")
    images: int = Field(0, description="images that could be read")
    empty: int = Field(0, description="images in which no white cell was found")
    cells: int = Field(0, description="white cells")
    unidentified: int = Field(0, description="cells unlike everything that the bundle knows; no differential has them")
    errors: int = Field(0, description="rows of errors")
    flagged: int = Field(0, description="cells and empty images that a person should look at")


class RunTimings(Settings):
    """Durations in seconds; none is known before its step is over."""

    listing_s: float | None = Field(None, description="listing of the images")
    classify_s: float | None = Field(None, description="classification, all sessions together")
    report_s: float | None = Field(None, description="slides.csv and the report")
    total_s: float | None = Field(None, description="the last session from start to end")


class RunThroughput(Settings):
    """Speed in images per second; not known before the run has finished."""

    images_per_s: float | None = Field(None, description="with the workers' start")
    images_per_s_once_started: float | None = Field(None, description="from the first part on")


class RunSession(Settings):
    """One start of the command: the first one, and one for each --resume."""

    started: str = Field(description="time, ISO 8601, UTC")
    parts: int = Field(0, description="parts that it finished")
    images: int = Field(0, description="images that it classified")
    errors: int = Field(0, description="files that it could not read")
    starting_s: float = Field(0.0, description="seconds until its first part began")
    seconds: float = Field(0.0, description="seconds until its last finished part")


class RunRecord(Settings):
    """The content of ``run.json``."""

    format: Literal[3] = Field(3, description="version of this layout")
    state: Literal["listing", "running", "finished", "stopped", "failed"] = Field(description="how far the run is")
    error: str | None = Field(None, description="why it stopped or failed, in one sentence")
    arguments: RunArguments
    bundle: RunBundle
    engine: Literal["torch", "openvino"] | None = Field(None, description="engine that the run uses")
    drawn: bool = Field(False, description="whether the images are drawings, as the options of the command said")
    adapted: RunBundle | None = Field(None, description="the bundle adapted to the slides, which classifies")
    adaptation: AdaptationRecord | None = Field(None, description="the images that it was adapted to")
    versions: dict[str, str] = Field(description="versions of the software that started it")
    started: str = Field(description="time, ISO 8601, UTC")
    updated: str = Field(description="time of this record, ISO 8601, UTC")
    finished: str | None = Field(None, description="time, ISO 8601, UTC")
    counts: RunCounts = RunCounts()
    timings: RunTimings = RunTimings()
    throughput: RunThroughput = RunThroughput()
    sessions: tuple[RunSession, ...] = Field((), description="the starts of the command, in order")

    @classmethod
    def begin(cls, arguments: RunArguments, bundle: RunBundle) -> RunRecord:
        """Return the record of a run that starts now."""
        moment = time_stamp()
        return cls(
            state="listing",
            arguments=arguments,
            bundle=bundle,
            versions=_versions(),
            started=moment,
            updated=moment,
        )


def _versions() -> dict[str, str]:
    libraries = {name: version(name) for name in ("ray", "torch", "torchvision", "pyarrow")}
    return {"leukoray": __version__, "python": platform.python_version(), **libraries}
