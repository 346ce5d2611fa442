"""Train on class folders and write a bundle: ``python pipelines/train.py DATA --out BUNDLE``."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from pydantic import Field, ValidationError
from pydantic_settings import CliPositionalArg
from scipy.special import softmax

from core.bundle import Bundle, BundleRecord, round_weights, save_bundle
from core.calibration import fit_confidence
from core.dataset import (
    ClassFolders,
    ImageSet,
    load_images,
    read_class_folders,
    read_groups,
    read_linked_groups,
    split_by_source,
)
from core.decoder import decode
from core.errors import SettingsError
from core.metrics import measure, measure_by_source
from core.network import build_network
from core.overlay import encode_jpeg, panel
from core.predictor import Predictor, choose_device
from core.preprocessing import Preprocessing
from core.settings import Settings
from core.training import Epoch, Trainer, TrainingConfig, predict_logits
from pipelines.card import write_card
from pipelines.command import run_command
from pipelines.plots import confusion_png, curves_png
from pipelines.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchvision.models import ResNet

    from core.confidence import Confidence

__all__ = ["Recipe", "TrainSettings", "load_recipe", "main", "train"]

_RECIPES = Path(__file__).resolve().parent / "recipes"


class Recipe(Settings):
    """A way to train, as data: what the network sees and how it learns."""

    preprocessing: Preprocessing
    training: TrainingConfig


class TrainSettings(Settings):
    """Train ResNet18 on class folders (DATA/CLASS/**/IMAGE) and write a bundle with its metrics.

    Validation images are kept out by source where --groups names the sources. TEST folders are never read,
    unless --test names one.
    """

    data: CliPositionalArg[Path] = Field(description="folder with one sub-folder per class")
    out: Path = Field(description="folder of the new bundle")
    recipe: str = Field("cell-crop", description="cell-crop, notebook, or a JSON file")
    weights: str = Field("imagenet", description="start from: imagenet, none, or a .safetensors or .pth file")
    groups: Path | None = Field(None, description="CSV with the columns path and source")
    linked_groups: Path | None = Field(None, description="CSV with the columns source and same_as")
    validation_share: float = Field(0.15, gt=0, le=0.5, description="share of the images kept for validation")
    test: Path | None = Field(None, description="class folders that are evaluated once, at the end")
    test_groups: Path | None = Field(None, description="the same as --groups, for --test")
    epochs: int | None = Field(None, ge=1, description="instead of the recipe's")
    batch_size: int | None = Field(None, ge=2, description="instead of the recipe's")
    learning_rate: float | None = Field(None, gt=0, description="instead of the recipe's")
    seed: int = Field(0, ge=0, description="of the split, the weights and the augmentation")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, ge=1, description="torch and decoding threads (default: all cores)")
    samples: int = Field(8, ge=0, le=64, description="Grad-CAM sample pictures in the bundle")
    resume: bool = Field(False, description="continue a run that was killed")


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
    if settings.out.exists() and (not settings.out.is_dir() or any(settings.out.iterdir())):
        raise SettingsError("bundle-exists", f"{settings.out} exists already; choose another folder or remove it.")
    recipe = load_recipe(
        settings.recipe,
        {
            "epochs": settings.epochs,
            "batch_size": settings.batch_size,
            "learning_rate": settings.learning_rate,
            "seed": settings.seed,
        },
    )
    work = settings.out.parent / f".{settings.out.name}.training"
    if work.exists() and not settings.resume:
        raise SettingsError("unfinished-run", f"{work} holds an unfinished run; give --resume, or remove it.")
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    torch.manual_seed(settings.seed)
    data = _read_data(settings)
    if settings.test:
        read_class_folders(settings.test, data.class_names)  # a typo shows now, not after the training
    device = choose_device(settings.device)
    checkpoint = work / "checkpoint.safetensors"
    network = build_network(len(data.class_names), "none" if checkpoint.exists() else settings.weights)
    training, validation = split_by_source(data, settings.validation_share, settings.seed)
    _say(f"training on {_describe(training)}; validation on {_describe(validation)}")
    if left := len(data.samples) - len(training.samples) - len(validation.samples):
        _say(f"left out: {left:,} images whose source is not named, or is set aside")
    margin = recipe.training.augmentation.margin
    trainer = Trainer(
        network,
        recipe.training,
        recipe.preprocessing,
        _load(training, recipe.preprocessing, settings, margin),
        validation_set := _load(validation, recipe.preprocessing, settings),
        data.class_names,
        device=str(device),
        checkpoint=checkpoint,
        origin=f"weights {settings.weights}, recipe {settings.recipe}",
    )
    _fit(trainer, resume=settings.resume)
    bundle = _write(settings, recipe, data, trainer, validation_set)
    shutil.rmtree(work)
    _say(f"bundle: {settings.out} ({bundle.id[:12]})")
    return 0


def _read_data(settings: TrainSettings) -> ClassFolders:
    data = read_class_folders(settings.data)
    if settings.groups is None:
        _say("warning: without --groups, views of one field can be on both sides of the split; see README")
        return data
    linked = read_linked_groups(settings.linked_groups) if settings.linked_groups else None
    return data.with_groups(read_groups(settings.groups), linked)


def _load(data: ClassFolders, preprocessing: Preprocessing, settings: TrainSettings, margin: float = 1.0) -> ImageSet:
    with Progress(len(data.samples), "images decoded") as progress:
        images = load_images(
            data.samples,
            preprocessing,
            margin=margin,
            workers=settings.threads or torch.get_num_threads(),
            on_image=progress.advance,
        )
    for unreadable in images.unreadable:
        _say(f"left out: {unreadable.path}: {unreadable.message} [{unreadable.code}]")
    return images


def _fit(trainer: Trainer, *, resume: bool) -> None:
    if resume and trainer.resume():
        _say(f"continuing after epoch {trainer.progress.epoch}")
    steps = trainer.steps_per_epoch * trainer.config.batch_size
    bars: list[Progress] = []

    def on_step(_step: int, _loss: float) -> None:
        if not bars:
            bars.append(Progress(steps, "images", every=60.0).__enter__())
        bars[0].advance(trainer.config.batch_size)

    def on_epoch(epoch: Epoch) -> None:
        bars.pop().__exit__(None, None, None)
        _say(
            f"epoch {epoch.number} of {trainer.config.epochs}: loss {epoch.train_loss:.4f}, validation loss"
            f" {epoch.metrics.loss:.4f}, accuracy {epoch.metrics.accuracy:.4f}, {epoch.seconds:.0f} s"
            + (", best so far" if epoch.best else "")
        )

    trainer.fit(on_epoch, on_step)


def _write(
    settings: TrainSettings, recipe: Recipe, data: ClassFolders, trainer: Trainer, validation: ImageSet
) -> Bundle:
    """Measure the weights as they are stored, and write the bundle."""
    network = trainer.network.cpu()
    round_weights(network)
    logits = predict_logits(network, validation.pixels, recipe.preprocessing, recipe.training.batch_size)
    on = f"{len(validation)} validation images, kept out of training{' by source' if settings.groups else ''}"
    confidence = fit_confidence(logits, validation.labels.numpy(), on=on)
    metrics: dict[str, Any] = {
        "validation": _measure(logits, validation, confidence, data.class_names),
        "history": trainer.progress.history,
    }
    if settings.test:
        metrics["test"] = _test(settings.test, settings, recipe, network, confidence, data.class_names)
    record = BundleRecord(
        preprocessing=recipe.preprocessing,
        confidence=confidence,
        training={"recipe": settings.recipe, "weights": settings.weights, **recipe.training.model_dump(mode="json")},
        data={
            "fingerprint": data.fingerprint,
            "images": data.counts(),
            "sources": data.source_counts(),
            "left_out": len(data.samples) - len(trainer.train) - len(validation),
            "training_images": len(trainer.train),
            "validation_images": len(validation),
            "validation_sources": int(validation.sources.unique().numel()),
        },
    )
    extras = {
        "confusion.png": confusion_png(metrics["validation"]["image"]["confusion"], data.class_names),
        "curves.png": curves_png(trainer.progress.history),
    }
    card = write_card(settings.out.name, data.class_names, record, metrics)
    bundle = save_bundle(settings.out, network, data.class_names, record, metrics, card, extras)
    _write_samples(settings, bundle, validation)
    return bundle


def _measure(
    logits: np.ndarray, images: ImageSet, confidence: Confidence, class_names: Sequence[str]
) -> dict[str, Any]:
    probabilities = softmax(logits / confidence.temperature, axis=1)
    labels = images.labels.numpy()
    named = np.array([sample.source is not None for sample in images.samples])
    known = named if named.any() else ~named  # an image without a source is no source, unless none are named
    by_source = measure_by_source(probabilities[known], labels[known], images.sources.numpy()[known], class_names)
    return {
        "image": measure(probabilities, labels, class_names).model_dump(mode="json"),
        "source": by_source.model_dump(mode="json"),
    }


def _test(
    test: Path,
    settings: TrainSettings,
    recipe: Recipe,
    network: ResNet,
    confidence: Confidence,
    class_names: Sequence[str],
) -> dict[str, Any]:
    data = read_class_folders(test, class_names)
    if settings.test_groups:
        data = data.with_groups(read_groups(settings.test_groups))
    images = _load(data, recipe.preprocessing, settings)
    logits = predict_logits(network, images.pixels, recipe.preprocessing, recipe.training.batch_size)
    return _measure(logits, images, confidence, class_names)


def _write_samples(settings: TrainSettings, bundle: Bundle, validation: ImageSet) -> None:
    """Write original, heatmap and overlay of some validation images, spread over the classes."""
    if not settings.samples:
        return
    predictor = Predictor(bundle, "cpu")
    order = np.argsort(validation.labels.numpy(), kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(settings.samples, len(order))).astype(int)]
    (settings.out / "samples").mkdir()
    for number, index in enumerate(chosen):
        sample = validation.samples[int(index)]
        rgb = decode(sample.path.read_bytes()).rgb
        (prediction,) = predictor.predict([bundle.record.preprocessing.prepare(rgb)])
        if prediction.cam is not None:
            name = f"{number:02d}-{bundle.class_names[sample.label]}-as-{prediction.label}.jpg"
            picture = encode_jpeg(panel(rgb, prediction.cam, prediction.box))
            (settings.out / "samples" / name).write_bytes(picture)


def _describe(data: ClassFolders) -> str:
    sources = sum(data.source_counts().values())
    return f"{len(data.samples):,} images" + (f" of {sources:,} sources" if sources else "")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Entry point of the command."""
    return run_command(TrainSettings, train)


if __name__ == "__main__":
    sys.exit(main())
