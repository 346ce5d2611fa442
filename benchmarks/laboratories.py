"""How a model does in laboratories that it never saw, with and without their own images, and with some labels.

    python benchmarks/laboratories.py DATA --work WORK [--epochs N] [--draws 5]

DATA is the folder of real images (`blood-cells`, `labs`). Trains, by the recipe `robust` and for ResNet18 from
random weights by the recipe `cell-crop`, one network on all laboratories of `models/laboratories.yaml`, one without
Barcelona and one without Bangkok, each into a bundle in WORK (what is there already is used; a run that was killed
goes on), and prints:

- balanced accuracy over the four types, as it is and with the batch norms' statistics adapted to the laboratory's own
  images without labels; AUROC of its unknown types; calibration error; share of the errors among the least certain
  fifth, and what the bundle's own flags catch;
- TEST by the notebook's protocol, and its sources;
- Tehran with 20, 50 and 100 labelled cells, a mean over draws by cell: balanced accuracy on the rest (no crop within
  six numbers of a chosen one), and what the old laboratories lose.

Tehran is in no training set of `models/laboratories.yaml`, nor of the finder that cuts the cells out for `robust`; the
finder has learned from all others, whichever is left out here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[0] = str(PROJECT)

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split

from core.data.image_set import ImageSet, load_images
from core.data.laboratories import Laboratory
from core.evaluation.scores import Predicted, evaluate
from core.model.adaptation import adapt_statistics, even_batches
from core.model.bundle import Bundle, load_bundle, round_weights
from core.model.confidence import energy
from core.training.run import TrainingRun
from core.training.trainer import predict_logits
from pipelines.classification.adaptation import MOST_IMAGES, SHARE
from pipelines.train import TrainSettings, train

if TYPE_CHECKING:
    from core.images.preprocessing import Preprocessing

RECIPES = {
    "robust": {"recipe": "robust", "weights": "imagenet", "finder": PROJECT / "models" / "blood-cells"},
    "before": {"recipe": "cell-crop", "weights": "none"},
}
LEFT_OUT = ("", "barcelona", "bangkok")
NEAR = 6


@dataclass(frozen=True)
class Measured:
    """What one network gives on one laboratory."""

    balanced: float
    accuracy: float
    auroc: float | None
    ece: float
    caught: float
    flagged: float
    errors_flagged: float


def main() -> None:
    """Train what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder of the trained bundles")
    parser.add_argument("--epochs", type=int, help="epochs instead of the recipes'")
    parser.add_argument("--draws", type=int, default=5, help="random draws of labelled cells; 0 leaves that part out")
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), choices=RECIPES)
    options = parser.parse_args()
    laboratories = laboratories_of(options.data)
    for recipe in options.recipes:
        folders = {left: trained(recipe, left, options.work, options.epochs) for left in LEFT_OUT}
        bundles = {left: load_bundle(folder) for left, folder in folders.items()}
        images = Images(laboratories, bundles[""])
        print_table(recipe, bundles, images)
        if options.draws:
            print_labelled(folders[""], images, options.draws)


def laboratories_of(data: Path) -> dict[str, Laboratory]:
    """Return what is measured, by name."""
    labs, home = data / "labs", data / "blood-cells"
    entries = [
        {"name": "TEST", "path": home / "images" / "TEST", "groups": str(home / "sources.csv")},
        {
            "name": "barcelona",
            "path": labs / "pbc" / "test",
            "unknown": ["BASOPHIL", "ERYTHROBLAST", "IMMATURE_GRANULOCYTE", "PLATELET"],
        },
        {
            "name": "bangkok",
            "path": labs / "chula" / "images",
            "boxes": labs / "chula" / "boxes.csv",
            "unknown": ["BASOPHIL"],
        },
        {"name": "tehran", "path": labs / "lisc", "unknown": ["BASOPHIL"]},
    ]
    return {str(entry["name"]): Laboratory.model_validate(entry) for entry in entries}


def trained(recipe: str, left_out: str, work: Path, epochs: int | None) -> Path:
    """Return the folder of the bundle that was trained without a laboratory; train it if it is not there."""
    folder = work / f"{recipe}-without-{left_out or 'none'}"
    if not (folder / "config.json").exists():
        settings = {
            "data": PROJECT / "models" / "laboratories.yaml",
            "out": folder,
            "leave_out": [left_out] if left_out else [],
            "samples": 0,
            "resume": True,
        }
        settings |= RECIPES[recipe] | ({"epochs": epochs} if epochs else {})
        train(TrainSettings.model_validate(settings))
    return folder


class Images:
    """The measured images, prepared for one bundle's input; read once.

    Args:
        laboratories: Laboratories by name.
        bundle: A bundle with the preprocessing.
    """

    def __init__(self, laboratories: dict[str, Laboratory], bundle: Bundle) -> None:
        self.class_names = bundle.class_names
        self.preprocessing: Preprocessing = bundle.record.preprocessing
        self.sets: dict[str, ImageSet] = {
            name: load_images(laboratory.read(self.class_names).samples, bundle.cell_search())
            for name, laboratory in laboratories.items()
        }

    def known(self, name: str) -> np.ndarray:
        """Say which images of a laboratory are of known classes, (N,) bool."""
        return self.sets[name].labels.numpy() < len(self.class_names)

    def measure(self, bundle: Bundle, name: str, rows: np.ndarray | None = None, *, own: bool = False) -> Measured:
        """Measure a bundle on a laboratory, or on some of its rows.

        Args:
            bundle: The bundle.
            name: The laboratory.
            rows: Rows to measure; otherwise all.
            own: Whether the statistics are adapted to the laboratory's own images first.
        """
        images = self.sets[name]
        network = adapted(bundle, images) if own else bundle.network
        chosen = np.arange(len(images)) if rows is None else rows
        logits = predict_logits(network, images.inputs[torch.from_numpy(chosen)], self.preprocessing, 64)
        known, labels = self.known(name)[chosen], images.labels.numpy()[chosen]
        confidence = bundle.record.confidence
        probabilities, ood = confidence.probabilities(logits), energy(logits)
        flags = confidence.flags(logits)
        predicted = Predicted.of_samples(
            [images.samples[row] for row in chosen[known]],
            self.class_names,
            probabilities[known],
            ood=ood[known],
            flags=[flag for flag, keep in zip(flags, known, strict=True) if keep],
        )
        wrong = probabilities.argmax(axis=1) != labels
        least = np.argsort(probabilities[known].max(axis=1))[: round(0.2 * known.sum())]
        flagged = np.array([flag != "" for flag in flags])
        return Measured(
            balanced=float(balanced_accuracy_score(labels[known], probabilities[known].argmax(axis=1))),
            accuracy=float((~wrong[known]).mean()),
            auroc=float(roc_auc_score(~known, ood)) if not known.all() else None,
            ece=float(evaluate(predicted, resamples=0).image.ece.value),
            caught=float(wrong[known][least].sum() / max(1, wrong[known].sum())),
            flagged=float(flagged[known].mean()),
            errors_flagged=float((flagged & wrong)[known].sum() / max(1, wrong[known].sum())),
        )


def adapted(bundle: Bundle, images: ImageSet) -> torch.nn.Module:
    """Return the network with statistics of the images, whatever their labels."""
    found = np.flatnonzero(np.ones(len(images), bool) if images.found is None else images.found.numpy())
    rows = np.random.default_rng(0).permutation(found)[:MOST_IMAGES]
    inputs = images.inputs[torch.from_numpy(rows)]
    return adapt_statistics(bundle.network, even_batches(inputs, bundle.record.preprocessing), SHARE)


def print_table(recipe: str, bundles: dict[str, Bundle], images: Images) -> None:
    """Print what the networks of one recipe give."""
    print(f"\n## {recipe}: {RECIPES[recipe]} ({bundles[''].architecture})\n")
    print(
        "| images | trained without | balanced | own statistics | AUROC unknown | ECE | errors in least certain fifth |"
        " flagged | errors flagged |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, left in (
        ("tehran", ""),
        ("barcelona", "barcelona"),
        ("bangkok", "bangkok"),
        ("barcelona", ""),
        ("TEST", ""),
    ):
        plain, own = (images.measure(bundles[left], name, own=adapt) for adapt in (False, True))
        auroc = "" if plain.auroc is None else f"{plain.auroc:.3f}"
        away = "tehran" if name == "tehran" else left or "nothing"
        print(
            f"| {name} | {away} | {plain.balanced:.1%} | {own.balanced:.1%} | {auroc} | {plain.ece:.3f} |"
            f" {plain.caught:.0%} | {plain.flagged:.0%} | {plain.errors_flagged:.0%} |"
        )
    print_notebook(bundles[""], images)


def print_notebook(bundle: Bundle, images: Images) -> None:
    """Print TEST by the notebook's protocol and by source."""
    labels = images.sets["TEST"].labels.numpy()
    rows, _ = train_test_split(np.arange(len(labels)), test_size=0.3, stratify=labels, random_state=0)
    part = images.measure(bundle, "TEST", rows)
    logits = predict_logits(bundle.network, images.sets["TEST"].inputs, images.preprocessing, 64)
    probabilities = bundle.record.confidence.probabilities(logits)
    predicted = Predicted.of_samples(
        images.sets["TEST"].samples, images.class_names, probabilities, ood=energy(logits), flags=[""] * len(labels)
    ).by_source()
    right = int((predicted.probabilities.argmax(axis=1) == predicted.labels).sum())
    print(
        f"\nTEST, notebook protocol: {part.accuracy:.1%} of {len(rows):,}; {right} of {len(predicted.labels)} sources"
    )


def print_labelled(folder: Path, images: Images, draws: int) -> None:
    """Print what labelled cells of Tehran give."""
    bundle = load_bundle(folder, with_replay=True)
    before = {name: images.measure(bundle, name) for name in ("TEST", "barcelona", "bangkok")}
    print("\n| labelled cells | Tehran, the rest | least | TEST changes | Barcelona | Bangkok | seconds |")
    print("|---|---|---|---|---|---|---|")
    for count in (20, 50, 100):
        rest, changes, seconds = [], [], []
        for draw in range(draws):
            chosen, others = draw_cells(images, count, draw)
            started = time.perf_counter()
            new = adapted_to_labels(bundle, images, chosen)
            seconds.append(time.perf_counter() - started)
            rest.append(images.measure(new, "tehran", others).balanced)
            changes.append([images.measure(new, name).balanced - before[name].balanced for name in before])
        changed = " | ".join(f"{value:+.1%}" for value in np.mean(changes, axis=0))
        print(f"| {count} | {np.mean(rest):.1%} | {min(rest):.1%} | {changed} | {np.mean(seconds):.0f} |", flush=True)


def draw_cells(images: Images, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw labelled crops, as many of each type; return their rows, and those of no crop near one of them."""
    rng = np.random.default_rng(seed)
    labels = images.sets["tehran"].labels.numpy()
    numbers = np.array([int(sample.path.stem) for sample in images.sets["tehran"].samples])
    chosen, others = [], []
    for label, share in enumerate(np.array_split(np.arange(count), len(images.class_names))):
        rows = np.flatnonzero(labels == label)
        picked = rng.choice(rows, len(share), replace=False)
        near = (np.abs(numbers[rows][:, None] - numbers[picked]) <= NEAR).any(axis=1)
        chosen.append(picked)
        others.append(rows[~near])
    return np.concatenate(chosen), np.concatenate(others)


def adapted_to_labels(bundle: Bundle, images: Images, rows: np.ndarray) -> Bundle:
    """Train a bundle further on labelled cells, as ``train.py CELLS --start BUNDLE`` does for its final network."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for row in rows:
            sample = images.sets["tehran"].samples[row]
            target = place / "cells" / sample.path.parent.name / sample.path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(sample.path.resolve())
        settings = TrainSettings.model_validate({"data": place / "cells", "out": place / "new", "recipe": "adapt"})
        run = TrainingRun.prepare(settings, start=bundle)
        everything = list(range(len(run.images)))
        trainer = run.trainer(everything, None, checkpoint=place / "checkpoint.safetensors", name="final", epochs=None)
        trainer.fit()
        round_weights(trainer.network)
        return replace(bundle, network=trainer.network.cpu().eval())


if __name__ == "__main__":
    main()
