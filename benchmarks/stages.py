"""Where the processor's time of one image goes, from its file to its row and its overlay.

    python benchmarks/stages.py IMAGES [--count 400] [--engine openvino] [--cells one]

Each stage is run alone over the same images, one thread, and its processor time counted, whatever thread of the process
spends it. The last line is a worker of ``pipelines/classify.py`` on the same images, in this process; what it takes
beyond the stages (hand-overs between threads, rows, the list of images, the part's Parquet file) is the rest.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

PROJECT = Path(__file__).resolve().parents[1]
sys.path[0] = str(PROJECT)

import cv2

from core.images.decoder import decode
from core.images.overlay import encode_jpeg, overlay
from core.images.view import View
from core.model.opening import open_bundle
from core.model.predictor import Predictor
from pipelines.classification.listing import list_images
from pipelines.classification.patience import Patience
from pipelines.classification.run_folder import RunFolder
from pipelines.classification.sheet import ThumbnailSheets
from pipelines.classification.slides import list_slides
from pipelines.classification.storage import open_folder
from pipelines.classification.worker import PartClassifier
from pipelines.classification.worker_settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

BATCH = 32


class Stages:
    """Counts processor time by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, name: str, work: Callable[..., object], *arguments: Iterable[object]) -> list:
        """Do something with each of several things; return what came of them."""
        begun = time.process_time()
        done = [work(*given) for given in zip(*arguments, strict=True)]
        self.seconds[name] = time.process_time() - begun
        return done


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="folder of slides")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--engine", choices=["auto", "torch", "openvino"], default="auto")
    parser.add_argument("--model", type=Path, default=PROJECT / "models" / "blood-cells")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    bundle = open_bundle(options.model, options.engine, "cpu")
    predictor = Predictor(bundle, "cpu", 1)
    source = open_folder(options.images, Patience())
    entries = (entry for entry in list_slides(source) if entry and not entry.code)
    paths = [Path(entry.path.decode()) for entry in islice(entries, options.count)]
    for _ in range(2):  # the first time warms up
        stages = Stages()
        with tempfile.TemporaryDirectory() as folder:
            measure(stages, predictor, paths, Path(folder))
    whole = worker_seconds(options, bundle)
    print(f"\n{len(paths)} images, {bundle.engine_name}, one thread; processor time per image\n")
    print("| stage | ms | share |\n|---|---|---|")
    stages.seconds["rest"] = whole - sum(stages.seconds.values())
    for name, seconds in stages.seconds.items():
        print(f"| {name} | {1000 * seconds / len(paths):.2f} | {seconds / whole:.0%} |")
    print(f"| **the whole worker** | {1000 * whole / len(paths):.2f} | 100% |")


def measure(stages: Stages, predictor: Predictor, paths: list[Path], folder: Path) -> None:
    """Run each stage over all images."""
    cells, preprocessing = predictor.cells, predictor.bundle.record.preprocessing
    files = stages.run("read", Path.read_bytes, paths)
    pictures = [picture.rgb for picture in stages.run("decode", decode, files)]
    if cells.finder is None:
        prepared = stages.run("find and cut out", cells.prepare, pictures)
    else:
        found = stages.run("find", cells.finder.find, pictures)
        boxes = [max(one, key=lambda cell: cell.score).box if one else None for one in found]
        prepared = stages.run("cut out", preprocessing.prepare, pictures, boxes)
    batches = [prepared[at : at + BATCH] for at in range(0, len(prepared), BATCH)]
    answers = stages.run("network, maps, probabilities, flags", predictor.predict, batches)
    predictions = [prediction for batch in answers for prediction in batch]
    views = stages.run("make smaller", View.of, pictures)
    drawn = stages.run(
        "draw the overlay", lambda view, one: overlay(view.rgb, one.cam, view.place(one.box)), views, predictions
    )
    data = stages.run("encode it", encode_jpeg, drawn)
    places = [folder / f"{number}.jpg" for number in range(len(data))]
    stages.run("write it", Path.write_bytes, places, data)
    stages.run("thumbnails", write_sheets, [views])


def write_sheets(views: list[View]) -> None:
    """Make and encode the thumbnails of a part."""
    sheets = ThumbnailSheets()
    for view in views:
        sheets.add(view.rgb)
    list(sheets.encoded())


def worker_seconds(options: argparse.Namespace, bundle: object) -> float:
    """Return the processor time of a worker on the same images, without its start."""
    with tempfile.TemporaryDirectory() as folder:
        patience = Patience()
        source, run = open_folder(options.images, patience), RunFolder(open_folder(f"{folder}/run", patience))
        images = list_images(source, run, options.count, options.count)
        settings = WorkerSettings(
            slides=source.location,
            run=run.folder.location,
            patience=patience,
            cells="one",
            gradcam="all",
            colour_map="jet",
            overlay_side=1024,
            overlay_quality=85,
            batch_size=BATCH,
            threads=1,
            loaders=2,
            device="cpu",
        )
        worker = PartClassifier(bundle, settings)
        begun = time.process_time()
        for part in range(images.parts):
            worker.classify(part)
        return time.process_time() - begun


if __name__ == "__main__":
    main()
