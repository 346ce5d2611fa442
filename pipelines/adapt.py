"""Adapt a bundle to unlabelled slides: ``python pipelines/adapt.py BUNDLE SLIDES --out BUNDLE``."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pydantic import Field
from pydantic_settings import CliPositionalArg

from core.model.bundle import load_bundle
from core.settings import Settings
from pipelines.classification.adaptation import FEWEST_IMAGES, MOST_IMAGES, SHARE, adapt_bundle
from pipelines.classification.slides import list_slides
from pipelines.classification.storage import open_folder
from runtime.command import refuse_existing, run_command
from runtime.progress import say

__all__ = ["AdaptSettings", "adapt", "main"]


class AdaptSettings(Settings):
    """Adapt a bundle to the stain and camera of unlabelled slides, and write it as a new bundle.

    The statistics of the batch norms are taken from the slides' own cells and mixed with those of the training
    images; no other weight changes. Give slides as they come, with all types of cells in them. Nothing is measured:
    where there are labels, train.py --start adapts better.
    """

    bundle: CliPositionalArg[Path] = Field(description="folder of the bundle")
    slides: CliPositionalArg[str] = Field(description="folder of slides, a path or a URI", repr=False)
    out: Path = Field(description="folder of the new bundle")
    images: int = Field(MOST_IMAGES, ge=FEWEST_IMAGES, le=100_000, description="most images to look at")
    share: float = Field(SHARE, ge=0, le=1, description="weight of their statistics against the training images'")


def adapt(settings: AdaptSettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: The bundle or the slides cannot be used.
    """
    refuse_existing(settings.out)
    bundle, source = load_bundle(settings.bundle), open_folder(settings.slides)
    entries = (entry for entry in list_slides(source) if entry is not None)
    adapted = adapt_bundle(bundle, source, entries, settings.out, most=settings.images, share=settings.share)
    record = adapted.record.adaptation
    if record:
        say(f"adapted to {record.images:,} images of {record.slides:,} slides")
    say(f"bundle: {settings.out} ({adapted.id[:12]})")
    return 0


def main() -> int:
    """Entry point of the command."""
    return run_command(AdaptSettings, adapt)


if __name__ == "__main__":
    sys.exit(main())
