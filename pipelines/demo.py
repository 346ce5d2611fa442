"""Draw three demo slides and classify them: ``python pipelines/demo.py --out DEMO``."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2
import numpy as np
from PIL import Image
from pydantic import Field, ValidationError

from core.errors import SettingsError
from core.files import replace_file
from core.images.drawings import CLASS_NAMES, ODDITIES, draw_field, restain
from core.settings import Settings
from pipelines.classify import ClassifySettings, classify
from runtime.command import run_command
from runtime.progress import say

__all__ = ["DemoSettings", "draw_slides", "main"]

_SMEARS = {
    "smear-1-adult": (0.05, 0.30, 0.07, 0.58),
    "smear-2-allergic": (0.25, 0.25, 0.06, 0.44),
    "smear-3-viral": (0.02, 0.62, 0.10, 0.26),
}
"""Slides and their shares of eosinophils, lymphocytes, monocytes and neutrophils."""

_MARKER = ".drawn.json"


class DemoSettings(Settings):
    """Draw three smears of four cell types, odd cells and broken files among them, and classify them."""

    out: Path = Field(description="folder for slides and results")
    images: int = Field(120, ge=20, description="cells per slide")
    seed: int = Field(0, ge=0, description="seed of the drawing")
    strange: bool = Field(False, description="draw them in a stain that no bundle knows, for a walk through the review")


def draw_slides(folder: Path, images: int, seed: int = 0, *, broken: bool = True, strange: bool = False) -> int:
    """Draw the demo's slides.

    Args:
        folder: Folder for the slides; made where it does not exist.
        images: Cells per slide.
        seed: Seed of the drawing; the same seed draws the same slides.
        broken: Whether the last slide also holds files that cannot be read.
        strange: Whether they are in a stain that no bundle knows.

    Returns:
        The number of readable images.
    """
    for position, (name, shares) in enumerate(_SMEARS.items()):
        rng = np.random.default_rng((seed, position))
        slide = folder / name
        slide.mkdir(parents=True, exist_ok=True)
        odd = dict(zip((images // 5, images // 3, images // 2, images - 2), ODDITIES, strict=True))
        for number in range(images):
            kind = str(rng.choice(CLASS_NAMES, p=shares))
            rgb = draw_field(kind, rng, oddity=odd.get(number, "") if position == 1 else "")
            rgb = restain(rgb) if strange else rgb
            cv2.imwrite(str(slide / f"cell-{number:04d}.jpg"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if broken:
        _write_broken(folder / list(_SMEARS)[-1])
    return images * len(_SMEARS)


def _write_broken(slide: Path) -> None:
    """Add the kinds of file that real folders hold beside good images."""
    good = (slide / "cell-0000.jpg").read_bytes()
    (slide / "copy-interrupted.jpg").write_bytes(good[: len(good) // 2])
    (slide / "empty.png").write_bytes(b"")
    (slide / "saved-web-page.jpg").write_text("<!DOCTYPE html><html><body>Sign in to continue</body></html>")
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("white", "pink")]
    frames[0].save(slide / "stack.tif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)).save(slide / "float.tif")


class DrawnSlides(Settings):
    """The file that marks a folder of slides as drawn by this command."""

    images: int = Field(description="cells per slide")
    seed: int = Field(description="seed of the drawing")
    strange: bool = Field(False, description="whether they are in a stain that no bundle knows")
    complete: bool = Field(description="whether all of them are there")


def _demo(settings: DemoSettings) -> int:
    slides, run = settings.out / "slides", settings.out / "run"
    _prepare_slides(slides, settings)
    arguments = ClassifySettings(slides=str(slides), out=str(run), resume=True, drawn=True, max_error_rate=1)
    try:
        code = classify(arguments)
    except SettingsError as error:
        if error.code not in {"run-mismatch", "run-damaged", "run-not-empty"}:
            raise
        raise SettingsError("demo-exists", f"{error.message} Or remove {run} yourself.") from error
    print(f"\nOpen {(run / 'report' / 'index.html').resolve()} in a browser.", flush=True)
    return code


def _prepare_slides(slides: Path, settings: DemoSettings) -> None:
    """Draw the slides, unless they are there; nothing that this command did not draw is touched.

    Raises:
        SettingsError: With code ``demo-exists`` where something else is there.
    """
    marker = slides / _MARKER
    wanted = DrawnSlides(images=settings.images, seed=settings.seed, strange=settings.strange, complete=True)
    there = _read_marker(marker)
    if there == wanted:
        return
    unfinished = wanted.model_copy(update={"complete": False})
    if there != unfinished and slides.exists() and (not slides.is_dir() or any(slides.iterdir())):
        raise SettingsError(
            "demo-exists",
            f"{slides} exists already and was not drawn with {settings.images} cells per slide and seed"
            f" {settings.seed}{' in the strange stain' if settings.strange else ''}; choose another --out, or remove it"
            " yourself.",
        )
    replace_file(marker, unfinished.model_dump_json())
    say(f"drawing {settings.images * len(_SMEARS)} cells into {slides} (drawings, not photographs)")
    draw_slides(slides, settings.images, settings.seed, strange=settings.strange)
    replace_file(marker, wanted.model_dump_json())


def _read_marker(marker: Path) -> DrawnSlides | None:
    """Return what was drawn into a folder, or None where this command drew nothing there."""
    try:
        return DrawnSlides.model_validate_json(marker.read_bytes())
    except (OSError, ValidationError):
        return None


def main() -> int:
    """Run the command; return its exit code."""
    return run_command(DemoSettings, _demo)


if __name__ == "__main__":
    sys.exit(main())
