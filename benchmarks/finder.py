"""How well the learned finder finds white cells, what it costs, and what it does to the classes.

    python benchmarks/finder.py DATA --work WORK [--steps N] [--parts found speed classes large]

DATA is the folder of real images (`blood-cells`, `labs`). Trains one finder without Bangkok and one with half of its
slides (into WORK; what is there is used), both with half of Raabin's images and with drawn fields, and prints:

1. recall and precision on Bangkok's fields at the threshold of the bundle that ships, with intervals that resample
   slides; the largest recall at a precision of 80 %; average precision;
2. the same on BCCD's TEST fields (their boxes are those of the set that shows them squashed to 416x416) and on the
   other half of Raabin, and of purple-otsu's one cell beside it;
3. milliseconds of decoding, finding and classifying a 640x480 image on one thread, in turns;
4. accuracy and balanced accuracy of the bundle that ships with cells cut out by colour and by the finder, and of a
   bundle that learned from what a finder cut out (--compare);
5. memory and counts of a drawn picture of 5,000 x 5,000 pixels with 300 cells.
"""

from __future__ import annotations

import argparse
import csv
import resource
import statistics
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[0] = str(PROJECT)

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import balanced_accuracy_score

from core.data.image_set import load_images
from core.data.laboratories import Laboratory, read_laboratories
from core.evaluation.detection import (
    average_precision,
    match_field,
    measure_finding,
    recall_precision,
)
from core.finding.marked import DRAWN, MarkedFile, draw_fields, list_fields, load_fields
from core.finding.network import FinderNetwork
from core.finding.passes import FoundCell
from core.finding.search import CellSearch
from core.finding.torch_finder import TorchFinder
from core.images.cells import cell_around, find_nucleus
from core.images.decoder import decode
from core.images.drawings import CLASS_NAMES, draw_smear
from core.images.overlay import encode_jpeg
from core.model.bundle import Bundle, load_bundle
from core.model.predictor import Predictor
from core.training.finder import FinderConfig, FinderTrainer
from core.training.trainer import predict_logits
from pipelines.train_finder import TrainFinderSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from core.evaluation.scores import Interval
    from core.finding.record import FinderRecord

_LOWEST = 0.02
_PARTS = ("found", "speed", "classes", "large")


def main() -> None:
    """Train what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder of the trained finders")
    parser.add_argument("--steps", type=int, default=2000, help="training steps")
    parser.add_argument("--bundle", type=Path, default=PROJECT / "models" / "blood-cells")
    parser.add_argument("--compare", type=Path, help="a bundle that learned from what a finder cut out")
    parser.add_argument("--parts", nargs="*", default=list(_PARTS), choices=_PARTS, help="what to measure")
    options = parser.parse_args()
    data: Path = options.data
    bundle = load_bundle(options.bundle)
    if bundle.finder is None:
        parser.error(f"{options.bundle} has no finder")
    if "found" in options.parts:
        options.work.mkdir(parents=True, exist_ok=True)
        print_every_finding(data, options.work, options.steps, bundle.finder.record)
    if "speed" in options.parts:
        print_speed(bundle, bundle.finder, bccd_test_fields(data))
    if "classes" in options.parts:
        preprocessing = bundle.record.preprocessing
        compared = {
            "by colour": (bundle, CellSearch(preprocessing)),
            "the same network, by the finder": (bundle, CellSearch(preprocessing, bundle.finder.cutting_out())),
        }
        if options.compare:
            other = load_bundle(options.compare)
            compared[f"{options.compare.name}, as it cuts out"] = (other, other.cell_search())
        print_classes(compared, data)
    if "large" in options.parts:
        print_large(bundle.finder)


def print_every_finding(data: Path, work: Path, steps: int, record: FinderRecord) -> None:
    """Print how finders do on what they did not learn from; train them if they are not there."""
    files = {laboratory.name: list_fields(laboratory) for laboratory in laboratories_of(data)}
    raabin = [file for file in files.pop("txl") if cv2.imread(str(file.path)).shape[0] == 575]
    near, far = halves(raabin)
    learned = [*files["bccd"], *files["barcelona"], *near]
    known, other = halves(files["bangkok"])
    finders = {
        "without Bangkok": trained(work / "without-bangkok", learned, steps, record),
        "with half of Bangkok": trained(work / "half-bangkok", [*learned, *known], steps, record),
    }
    test = bccd_test_fields(data)
    print("\n| finder | fields | recall | precision | recall at precision 80 % | average precision |")
    print("|---|---|---|---|---|---|")
    for name, finder in finders.items():
        bangkok = files["bangkok"] if name == "without Bangkok" else other
        for where, chosen in (("Bangkok", bangkok), ("BCCD TEST", test), ("Raabin, other half", far)):
            print_found(name, where, chosen, finder)
    for where, chosen in (("Bangkok", files["bangkok"]), ("BCCD TEST", test), ("Raabin, other half", far)):
        print_found("purple-otsu, one cell", where, chosen, None)


def laboratories_of(data: Path) -> list[Laboratory]:
    """Return the marked images, by laboratory."""
    labs = data / "labs"
    entries = [
        {"name": "bccd", "path": data / "blood-cells" / "originals", "boxes": labs / "bccd" / "boxes.csv"},
        {"name": "txl", "path": labs / "txl" / "images", "boxes": labs / "txl" / "boxes.csv"},
        {"name": "barcelona", "path": labs / "pbc" / "train"},
        {
            "name": "bangkok",
            "path": labs / "chula" / "images",
            "boxes": labs / "chula" / "boxes.csv",
            "groups": "name:^(.+)_[^_]+$",
        },
    ]
    return [Laboratory.model_validate(entry | {"not_white": ["PLATELET"]}) for entry in entries]


def halves(files: Sequence[MarkedFile]) -> tuple[list[MarkedFile], list[MarkedFile]]:
    """Divide files in two by slide."""
    slides = sorted({file.slide for file in files})
    first = {slides[place] for place in np.random.default_rng(0).permutation(len(slides))[: len(slides) // 2]}
    return [file for file in files if file.slide in first], [file for file in files if file.slide not in first]


def trained(place: Path, files: Sequence[MarkedFile], steps: int, record: FinderRecord) -> TorchFinder:
    """Return a finder that learned from these files; train it if it is not there."""
    weights = place.with_suffix(".safetensors")
    config = FinderConfig.model_validate({"steps": steps})
    network = FinderNetwork(record.widths, record.blocks).eval()
    if weights.exists():
        network.load_state_dict(load_file(weights))
    else:
        checkpoint = place.with_suffix(".checkpoint")
        everything = [*load_fields(files, 640)[0], *draw_fields(150, 0)]
        trainer = FinderTrainer(everything, config, shipped_shares(), checkpoint=checkpoint, origin=place.name)
        trainer.resume()
        started = time.perf_counter()
        trainer.fit(lambda step, loss: print(step, round(loss, 3), file=sys.stderr) if step % 100 == 0 else None)
        print(f"{place.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
        network.load_state_dict(trainer.network.state_dict())
        save_file(network.state_dict(), weights)
    return TorchFinder(network, record)


def shipped_shares() -> dict[str, float]:
    """Return how often each laboratory's images are shown to the finder that ships."""
    shares = {laboratory.name: laboratory.share for laboratory in read_laboratories(PROJECT / "models" / "finder.yaml")}
    return shares | {DRAWN: TrainFinderSettings.model_fields["drawn_share"].default}


def look_for_cells(file: MarkedFile, finder: TorchFinder | None) -> list[FoundCell]:
    """Return all that may be a cell in a file's image, at its own size."""
    rgb = decode(file.path.read_bytes()).rgb
    if finder is not None:
        return finder.find(rgb, _LOWEST)
    nucleus = find_nucleus(rgb)
    return [] if nucleus is None else [FoundCell(cell_around(rgb, nucleus), 1.0)]


def bccd_test_fields(data: Path) -> list[MarkedFile]:
    """Return BCCD's TEST fields with the boxes of the squashed copies that show them."""
    originals = data / "blood-cells" / "originals"
    with (data / "blood-cells" / "fields.csv").open(newline="") as stream:
        names = [row["field"] for row in csv.DictReader(stream) if row["split"] == "TEST"]
    (txl,) = [laboratory for laboratory in laboratories_of(data) if laboratory.name == "txl"]
    squashed = [file for file in list_fields(txl) if cv2.imread(str(file.path)).shape[0] == 416]
    small = np.stack([fingerprint(file.path) for file in squashed])
    fields: list[MarkedFile] = []
    for name in names:
        path = originals / f"{name}.jpg"
        alike = small @ fingerprint(path)
        if alike.max() > 0.98:
            copy = squashed[int(alike.argmax())]
            boxes = tuple(
                box._replace(
                    left=box.left * 640 / 416,
                    right=box.right * 640 / 416,
                    top=box.top * 480 / 416,
                    bottom=box.bottom * 480 / 416,
                )
                for box in copy.boxes or ()
            )
            fields.append(MarkedFile(path, "bccd", name, boxes))
    print(f"BCCD: {len(fields)} of {len(names)} TEST fields have boxes", file=sys.stderr)
    return fields


def fingerprint(path: Path) -> np.ndarray:
    """Return a small grey copy of an image as a vector of unit length without its mean."""
    grey = cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (32, 32), interpolation=cv2.INTER_AREA).ravel()
    vector = grey.astype(float) - grey.mean()
    return vector / np.linalg.norm(vector)


def print_found(name: str, where: str, files: Sequence[MarkedFile], finder: TorchFinder | None) -> None:
    """Print how a finder does on some files."""
    looked = [(file, look_for_cells(file, finder)) for file in files]
    every = [match_field(found, file.boxes or (), file.slide) for file, found in looked]
    least = finder.record.threshold if finder else 0.0
    certain = [(file, [cell for cell in found if cell.score >= least]) for file, found in looked]
    finding = measure_finding([match_field(found, file.boxes or (), file.slide) for file, found in certain])
    curve = [recall_precision(every, threshold) for threshold in np.arange(_LOWEST, 1, 0.01)]
    most = max((recall for recall, precision in curve if precision >= 0.8), default=0.0)
    print(
        f"| {name} | {where}, {finding.fields} with {finding.marked} cells | {share(finding.recall)} |"
        f" {share(finding.precision)} | {most:.1%} | {average_precision(every):.3f} |",
        flush=True,
    )


def share(interval: Interval) -> str:
    """Return a share with its interval in percent."""
    if interval.low is None or interval.high is None:
        return f"{interval.value:.1%}"
    return f"{interval.value:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def print_speed(bundle: Bundle, finder: TorchFinder, files: Sequence[MarkedFile]) -> None:
    """Print what each step of one image takes on one thread."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    contents = [file.path.read_bytes() for file in files[:40]]
    pictures = [decode(content).rgb for content in contents]
    predictor = Predictor(bundle, "cpu")
    prepared = [bundle.record.preprocessing.prepare(rgb) for rgb in pictures]
    steps: dict[str, Callable[[int], object]] = {
        "decoding": lambda place: decode(contents[place]),
        "finding": lambda place: finder.find(pictures[place]),
        "cutting out by colour": lambda place: bundle.record.preprocessing.prepare(pictures[place]),
        "network, one image at a time": lambda place: predictor.predict([prepared[place]], gradcam=False),
    }
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for place in range(len(contents)):
        for name, step in steps.items():
            started = time.perf_counter()
            step(place)
            taken[name].append(1000 * (time.perf_counter() - started))
    print("\n| step, one 640x480 image, one thread | ms, median |\n|---|---|")
    for name, values in taken.items():
        print(f"| {name} | {statistics.median(values):.2f} |")


def print_classes(compared: dict[str, tuple[Bundle, CellSearch]], data: Path) -> None:
    """Print the accuracy, and the mean over the classes, of networks with cells that were cut out in some way."""
    places = {
        "TEST": data / "blood-cells" / "images" / "TEST",
        "Barcelona": data / "labs" / "pbc" / "test",
        "Tehran": data / "labs" / "lisc",
    }
    torch.set_num_threads(2)
    print(f"\n| images | {' | '.join(compared)} |\n|---|{'---|' * len(compared)}")
    for name, path in places.items():
        cells: list[str] = []
        for bundle, search in compared.values():
            others = sorted({folder.name for folder in path.iterdir()} - set(bundle.class_names))
            laboratory = Laboratory.model_validate({"name": name, "path": path, "ignored": others})
            images = load_images(laboratory.read(bundle.class_names).samples, search)
            found = predict_logits(bundle.network, images.inputs, search.preprocessing, 64).argmax(axis=1)
            labels = images.labels.numpy()
            cells.append(f"{(found == labels).mean():.1%}, {balanced_accuracy_score(labels, found):.1%}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def print_large(finder: TorchFinder) -> None:
    """Print what a drawn picture of 5,000 x 5,000 pixels with 300 cells takes, and how many are found."""
    rng = np.random.default_rng(0)
    rows: list[np.ndarray] = []
    marked = 0
    for _ in range(5):
        tiles = [draw_smear(rng.choice(CLASS_NAMES, 12).tolist(), rng, width=1000, height=1000) for _ in range(5)]
        rows.append(np.hstack([tile for tile, _ in tiles]))
        marked += sum(len(cells) for _, cells in tiles)
    data = encode_jpeg(np.vstack(rows))
    del rows
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = finder.find(decode(data).rgb)
    seconds = time.perf_counter() - started
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"\n5,000 x 5,000 pixels with {marked} drawn cells: {len(found)} found in {seconds:.1f} s, {more:.0f} MiB more"
    )


if __name__ == "__main__":
    main()
