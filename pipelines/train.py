"""Train on class folders and write a bundle: ``python pipelines/train.py DATA --out BUNDLE``."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from pydantic import Field, ValidationError
from pydantic_settings import CliPositionalArg  # noqa: TC002 - pydantic reads it
from scipy.special import softmax

from core.bundle import Bundle, BundleRecord, round_weights, save_bundle
from core.calibration import fit_confidence
from core.confidence import energy
from core.dataset import OUTLIER
from core.errors import SettingsError
from core.evaluation import Evaluation, Predicted, evaluate
from core.network import build_network
from core.overlay import encode_jpeg, panel
from core.predictor import Predictor, choose_device
from core.preprocessing import Preprocessing
from core.settings import Settings
from core.training import Epoch, Trainer, TrainingConfig, predict_outputs
from pipelines.card import write_card
from pipelines.command import refuse_existing, run_command
from pipelines.plots import confusion_png, curves_png
from pipelines.progress import Progress, say
from pipelines.training_data import DataSettings, TrainingData

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torchvision.models import ResNet

    from core.confidence import Confidence
    from core.dataset import ImageSet

__all__ = ["Recipe", "TrainSettings", "load_recipe", "main", "train"]

_WATCHED_PER_SOURCE = 8
_EVALUATED_AT_ONCE = 64
_RECIPES = Path(__file__).resolve().parent / "recipes"


class Recipe(Settings):
    """A way to train, as data: what the network sees and how it learns."""

    preprocessing: Preprocessing
    training: TrainingConfig


class TrainSettings(DataSettings):
    """Train ResNet18 on class folders (DATA/CLASS/**/IMAGE) and write a bundle with its metrics.

    Validation images are kept out by source where --groups names the sources. With --folds the bundle is
    trained on every image whose source is known, and its metrics, temperature and thresholds come from as many
    networks that each left one fold out. No folder but the named ones is read: TEST is for evaluate.py.
    """

    data: CliPositionalArg[Path] = Field(description="folder with one sub-folder per class")
    out: Path = Field(description="folder of the new bundle")
    recipe: str = Field("cell-crop", description="cell-crop, notebook, or a JSON file")
    weights: str = Field("imagenet", description="start from: imagenet, none, or a .safetensors or .pth file")
    validation_share: float = Field(0.15, gt=0, le=0.5, description="share of the images kept for validation")
    folds: int = Field(0, ge=0, le=20, description="train on everything, validate out of fold; 0: one validation set")
    risk: float = Field(0.05, gt=0, lt=1, description="error rate aimed at among the cells that are not flagged")
    epochs: int | None = Field(None, ge=1, description="instead of the recipe's")
    samples_per_epoch: int | None = Field(None, ge=1, description="instead of the recipe's")
    batch_size: int | None = Field(None, ge=2, description="instead of the recipe's")
    learning_rate: float | None = Field(None, gt=0, description="instead of the recipe's")
    seed: int = Field(0, ge=0, description="of the split, the weights and the augmentation")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, ge=1, description="torch and decoding threads (default: all cores)")
    samples: int = Field(8, ge=0, le=64, description="Grad-CAM sample pictures in the bundle")
    resume: bool = Field(False, description="continue a run that was killed")


@dataclass(frozen=True)
class _KeptOut:
    """What networks said of images that they were not trained on, and how many images the bundle was trained on."""

    rows: list[int]
    logits: NDArray[np.float32]
    history: list[dict[str, float]]
    epochs: int
    trained_on: int


def load_recipe(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe by name or from a file, with single training settings replaced.

    Raises:
        SettingsError: With code ``bad-recipe``.
    """
    path = Path(name) if name.endswith(".json") else _RECIPES / f"{name}.json"
    known = ", ".join(sorted(entry.stem for entry in _RECIPES.glob("*.json")))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["training"] |= {key: value for key, value in (overrides or {}).items() if value is not None}
        return Recipe.model_validate(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise SettingsError(
            "bad-recipe", f"The recipe {name!r} is neither known ({known}) nor a usable file: {reason}"
        ) from error


def train(settings: TrainSettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: Where data, recipe or options cannot be used.
    """
    refuse_existing(settings.out)
    changed = ("epochs", "samples_per_epoch", "batch_size", "learning_rate", "seed")
    recipe = load_recipe(settings.recipe, {name: getattr(settings, name) for name in changed})
    work = settings.out.parent / f".{settings.out.name}.training"
    if work.exists() and not settings.resume:
        raise SettingsError("unfinished-run", f"{work} holds an unfinished run; give --resume, or remove it.")
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    data = TrainingData.read(settings)
    run = _Run(settings, recipe, data, work)
    network, kept_out = run.with_folds() if settings.folds else run.with_validation()
    bundle = _write(run, network, kept_out)
    shutil.rmtree(work)
    say(f"bundle: {settings.out} ({bundle.id[:12]})")
    return 0


class _Run:
    """One run: the images in memory, and the networks that are trained on parts of them."""

    def __init__(self, settings: TrainSettings, recipe: Recipe, data: TrainingData, work: Path) -> None:
        self.settings, self.recipe, self.data, self._work = settings, recipe, data, work
        self.device = choose_device(settings.device)
        torch.manual_seed(settings.seed)
        self._start = build_network(len(data.main.class_names), settings.weights)  # what is missing shows now
        threads = settings.threads or torch.get_num_threads()
        self.images = data.load(recipe.preprocessing, recipe.training.augmentation.margin, threads)
        say(f"data: {len(self.images):,} images of {int(self.images.sources.max()) + 1:,} sources")

    def with_validation(self) -> tuple[ResNet, _KeptOut]:
        """Train once, with one validation set."""
        folds = self.data.folds(self.images, round(1 / self.settings.validation_share), self.settings.seed)
        training, validation = folds[0]
        trainer = self._trainer("checkpoint", training, validation)
        say(f"training on {len(training):,} images, validation on {len(validation):,}")
        return trainer.network, self._kept_out(trainer, validation)

    def with_folds(self) -> tuple[ResNet, _KeptOut]:
        """Train once per fold for the metrics, and once on everything for the weights."""
        folds = self.data.folds(self.images, self.settings.folds, self.settings.seed)
        parts: list[_KeptOut] = []
        for number, (training, validation) in enumerate(folds, start=1):
            say(f"fold {number} of {len(folds)}: training on {len(training):,} images, not on {len(validation):,}")
            parts.append(self._kept_out(self._trainer(f"fold-{number}", training, validation), validation))
        rows = [row for part in parts for row in part.rows]
        epochs = round(np.mean([part.epochs for part in parts]))
        say(f"final network: training on {len(rows):,} images")
        final = self._trainer("final", sorted(rows), None, epochs)
        self._fit(final)
        round_weights(final.network)
        logits = np.concatenate([part.logits for part in parts])
        return final.network, _KeptOut(rows, logits, _mean([part.history for part in parts]), epochs, len(rows))

    def _kept_out(self, trainer: Trainer, validation: list[int]) -> _KeptOut:
        """Train, and classify what was kept out with the weights as a bundle stores them."""
        self._fit(trainer)
        round_weights(trainer.network)
        progress = trainer.progress
        epochs = progress.best_epoch if trainer.config.keep == "best" else progress.epoch
        logits = self._logits(trainer.network, validation)
        return _KeptOut(validation, logits, progress.history, epochs, len(trainer.train))

    def _trainer(
        self, name: str, training: list[int], validation: list[int] | None, epochs: int | None = None
    ) -> Trainer:
        config = self.recipe.training
        if validation is None:
            config = config.model_copy(update={"keep": "last", "epochs": epochs or config.epochs})
        network = build_network(len(self.data.main.class_names))
        network.load_state_dict(self._start.state_dict())
        return Trainer(
            network,
            config,
            self.recipe.preprocessing,
            self.images.select(training),
            self._watched(validation) if validation else None,
            self.data.main.class_names,
            device=str(self.device),
            checkpoint=self._work / f"{name}.safetensors",
            origin=f"weights {self.settings.weights}, recipe {self.settings.recipe}, {name}",
        )

    def _watched(self, validation: list[int]) -> ImageSet:
        """Choose what is looked at after each epoch: the known images, of each source at most eight."""
        seen: Counter[int] = Counter()
        kept: list[int] = []
        for row in validation:
            source = int(self.images.sources[row])
            if int(self.images.labels[row]) != OUTLIER and seen[source] < _WATCHED_PER_SOURCE:
                kept.append(row)
            seen[source] += 1
        return self.images.select(kept)

    def _fit(self, trainer: Trainer) -> None:
        if self.settings.resume and trainer.resume():
            say(f"continuing after epoch {trainer.progress.epoch}")
        steps = trainer.steps_per_epoch * trainer.config.batch_size
        bars: list[Progress] = []

        def on_step(_step: int) -> None:
            if not bars:
                bars.append(Progress(steps, "images", every=60.0).__enter__())
            bars[0].advance(trainer.config.batch_size)

        def on_epoch(epoch: Epoch) -> None:
            bars.pop().__exit__(None, None, None)
            watched = epoch.metrics
            validation = f", validation loss {watched.loss:.4f}, accuracy {watched.accuracy:.4f}" if watched else ""
            say(
                f"epoch {epoch.number} of {trainer.config.epochs}: loss {epoch.train_loss:.4f}{validation},"
                f" {epoch.seconds:.0f} s" + (", best so far" if epoch.best else "")
            )

        trainer.fit(on_epoch, on_step)

    def _logits(self, network: ResNet, rows: list[int]) -> NDArray[np.float32]:
        chosen = torch.tensor(rows)
        parts = [
            predict_outputs(network, self.images.inputs[part], self.recipe.preprocessing, _EVALUATED_AT_ONCE)[0]
            for part in chosen.split(1024)
        ]
        return np.concatenate(parts)


def _mean(histories: list[list[dict[str, float]]]) -> list[dict[str, float]]:
    """Average the folds' histories over the epochs that all of them reached."""
    epochs = min(len(history) for history in histories)
    return [
        {name: float(np.mean([history[epoch][name] for history in histories])) for name in histories[0][epoch]}
        for epoch in range(epochs)
    ]


def _write(run: _Run, network: ResNet, kept_out: _KeptOut) -> Bundle:
    """Measure what was kept out, and write the bundle with the weights as they were measured."""
    settings, recipe, main, images = run.settings, run.recipe, run.data.main, run.images
    labels = images.labels.numpy()[kept_out.rows]
    domains = np.zeros(len(labels), int) if images.domains is None else images.domains.numpy()[kept_out.rows]
    known = labels != OUTLIER
    here = known & (domains == 0)
    kind = f"out of {settings.folds} folds" if settings.folds else "kept out of training"
    on = f"{int(here.sum())} images, {kind}{' by source' if settings.groups else ''}"
    confidence = fit_confidence(kept_out.logits[here], labels[here], risk=settings.risk, on=on)
    metrics: dict[str, Any] = {
        "validation": _evaluate(run, kept_out, here, confidence).model_dump(mode="json"),
        "history": kept_out.history,
    }
    if (further := known & (domains > 0)).any():
        metrics["validation_further"] = _evaluate(run, kept_out, further, confidence).model_dump(mode="json")
    record = BundleRecord(
        preprocessing=recipe.preprocessing,
        confidence=confidence,
        training={
            "recipe": settings.recipe,
            "weights": settings.weights,
            "folds": settings.folds,
            **recipe.training.model_dump(mode="json"),
        },
        data={
            "fingerprint": main.fingerprint,
            "images": main.counts(),
            "sources": main.source_counts(),
            "left_out": len(main.samples) - _of_main(images, run.data.folds(images, 2, settings.seed)),
            "training_images": kept_out.trained_on,
            "validation": kind,
            "grouped": settings.groups is not None,
            "validation_images": int(here.sum()),
            "validation_sources": int(np.unique(images.sources.numpy()[kept_out.rows][here]).size),
            "further_images": sum(len(data.samples) for data in run.data.sets[1:]),
            "outliers": settings.outliers,
        },
    )
    confusion = metrics["validation"]["image"]["confusion"]
    extras = {
        "confusion.png": confusion_png(confusion, main.class_names),
        "curves.png": curves_png(kept_out.history),
    }
    card = write_card(settings.out.name, main.class_names, record, metrics)
    bundle = save_bundle(settings.out, network.cpu(), main.class_names, record, metrics, card, extras)
    _write_samples(run, bundle, [row for row, use in zip(kept_out.rows, here, strict=True) if use])
    return bundle


def _of_main(images: ImageSet, folds: list[tuple[list[int], list[int]]]) -> int:
    """Count the images of the main data set that take part."""
    rows = [row for _, validation in folds for row in validation]
    return len(rows) if images.domains is None else int((images.domains[rows] == 0).sum())


def _found(images: ImageSet) -> NDArray[np.bool_]:
    return np.ones(len(images), bool) if images.found is None else images.found.numpy()


def _evaluate(run: _Run, kept_out: _KeptOut, chosen: NDArray[np.bool_], confidence: Confidence) -> Evaluation:
    rows = np.asarray(kept_out.rows)[chosen]
    logits = kept_out.logits[chosen]
    probabilities = softmax(logits.astype(np.float64) / confidence.temperature, axis=1)
    scores = energy(logits)
    predicted = Predicted(
        probabilities=probabilities,
        labels=run.images.labels.numpy()[rows],
        sources=run.images.sources.numpy()[rows],
        class_names=run.data.main.class_names,
        named=np.array([run.images.samples[row].source is not None for row in rows]),
        flags=tuple(
            confidence.flag(float(largest), float(score), found=bool(found))
            for largest, score, found in zip(probabilities.max(axis=1), scores, _found(run.images)[rows], strict=True)
        ),
        ood=scores.astype(np.float64),
    )
    return evaluate(predicted)


def _write_samples(run: _Run, bundle: Bundle, rows: list[int]) -> None:
    """Write original, heatmap and overlay of some validated images, spread over the classes."""
    if not run.settings.samples:
        return
    predictor = Predictor(bundle, "cpu")
    order = sorted(rows, key=lambda row: int(run.images.labels[row]))
    places = np.linspace(0, len(order) - 1, min(run.settings.samples, len(order))).astype(int)
    (run.settings.out / "samples").mkdir()
    for number, place in enumerate(places):
        sample = run.images.samples[order[place]]
        picture, prepared = predictor.prepare(sample.path.read_bytes())
        (prediction,) = predictor.predict([prepared])
        if prediction.cam is not None:
            label = bundle.class_names[int(run.images.labels[order[place]])]
            name = f"{number:02d}-{label}-as-{prediction.label}.jpg"
            three = encode_jpeg(panel(picture.rgb, prediction.cam, prediction.box))
            (run.settings.out / "samples" / name).write_bytes(three)


def main() -> int:
    """Entry point of the command."""
    return run_command(TrainSettings, train)


if __name__ == "__main__":
    sys.exit(main())
