"""Errors before and after at most a hundred reviewed cells, drawn ones and real ones in a stain that no bundle knows.

    python benchmarks/loop.py [DATA]

Goes through the commands as the README does (`tests/review_loop.py`): classify, say what up to a hundred cells are in
the page's order, as many of each class, export them, adapt the shipped bundle to them, classify again. DATA is the
folder of real images; of Barcelona's test images every other one is brought into other colours
(`core.images.drawings.restain`), and only the four known types are taken. Errors are counted among the cells that were
not reviewed; a cell that a run calls unidentified is one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[0] = str(PROJECT)
sys.path.append(str(PROJECT / "tests"))

from review_loop import Truth, draw_strange_slides, loop

from core.images.decoder import decode
from core.images.drawings import CLASS_NAMES, restain
from core.images.overlay import encode_jpeg

_SLIDES = 6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of the real images")
    options = parser.parse_args()
    for name in ("drawn", "barcelona") if options.data else ("drawn",):
        with tempfile.TemporaryDirectory() as folder:
            slides = Path(folder) / "slides"
            if name == "drawn":
                truth = draw_strange_slides(slides, 100)
            else:
                truth = restained(options.data / "labs" / "pbc" / "test", slides)
            errors = loop(slides, truth, Path(folder) / "work")
        print(
            f"{name}: of {errors.cells} cells that nobody reviewed, {errors.before} wrong before, {errors.after} after"
        )


def restained(images: Path, slides: Path) -> Truth:
    """Bring every other image into other colours, and deal them out to slides."""
    truth: Truth = {}
    for kind in CLASS_NAMES:
        for number, path in enumerate(sorted((images / kind).iterdir())[::2]):
            slide, name = f"slide-{number % _SLIDES}", f"{kind[:2].lower()}-{path.stem}.jpg"
            (slides / slide).mkdir(parents=True, exist_ok=True)
            (slides / slide / name).write_bytes(encode_jpeg(restain(decode(path.read_bytes()).rgb), 95))
            truth[slide, name] = kind
    return truth


if __name__ == "__main__":
    main()
