"""Draw three demo slides and classify them: ``python pipelines/demo.py --out DEMO``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2
import numpy as np
from PIL import Image
from pydantic import Field

from core.errors import SettingsError
from core.images.drawings import CLASS_NAMES, ODDITIES, draw_field
from core.settings import Settings
from pipelines.classify import ClassifySettings, classify
from runtime.command import run_command

__all__ = ["DemoSettings", "draw_slides", "main"]

_SMEARS = {
    "smear-1-adult": (0.05, 0.30, 0.07, 0.58),
    "smear-2-allergic": (0.25, 0.25, 0.06, 0.44),
    "smear-3-viral": (0.02, 0.62, 0.10, 0.26),
}
"""Slides and their shares of eosinophils, lymphocytes, monocytes and neutrophils."""


class DemoSettings(Settings):
    """Draw three smears of four cell types, odd cells and broken files among them, and classify them."""

    out: Path = Field(description="folder for slides and results")
    images: int = Field(120, ge=20, description="cells per slide")
    seed: int = Field(0, ge=0, description="of the drawing")


def draw_slides(folder: Path, images: int, seed: int = 0, *, broken: bool = True) -> int:
    """Draw the demo's slides.

    Args:
        folder: Where the slides go; made where it does not exist.
        images: Cells per slide.
        seed: The same seed draws the same slides.
        broken: Whether the last slide also holds files that cannot be read.

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


def _demo(settings: DemoSettings) -> int:
    slides, run = settings.out / "slides", settings.out / "run"
    drawn, wanted = slides / ".drawn", f"{settings.images} cells per slide, seed {settings.seed}"
    if not drawn.exists() or drawn.read_text() != wanted:
        for old in (slides, run):
            shutil.rmtree(old, ignore_errors=True)
        print(f"drawing {settings.images * len(_SMEARS)} cells into {slides} (drawings, not photographs)", flush=True)
        draw_slides(slides, settings.images, settings.seed)
        drawn.write_text(wanted)
    arguments = ClassifySettings(slides=str(slides), out=str(run), resume=True, drawn=True, max_error_rate=1)
    try:
        code = classify(arguments)
    except SettingsError as error:
        if error.code not in {"run-mismatch", "run-damaged"}:
            raise
        shutil.rmtree(run)  # the demo's own, of another bundle or place
        code = classify(arguments)
    print(f"\nOpen {(run / 'report' / 'index.html').resolve()} in a browser.")
    return code


def main() -> int:
    """Entry point of the command."""
    return run_command(DemoSettings, _demo)


if __name__ == "__main__":
    sys.exit(main())
