"""The end of a training run: the bundle, with what it is worth and what it keeps."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from core.data.augment import augment
from core.data.sampling import sampling_weights
from core.evaluation.plots import confusion_png, curves_png
from core.model.bundle import Bundle, save_bundle
from core.model.card import write_card
from core.model.familiarity import Familiarity, fit_familiarity
from core.model.geometry import measure_origin
from core.model.record import REPLAY, BundleRecord, DataRecord, LaboratoryRecord, Remembered, TrainingRecord
from core.model.replay import Replay, record_replay
from core.model.torch_engine import TorchEngine
from core.training.held_out import choose_away, choose_confidence, measure
from core.training.rehearsal import remembered

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from core.training.held_out import HeldOut
    from core.training.run import TrainingRun

__all__ = ["write_bundle"]

_AT_ONCE = 64
_LOOKED_AT = 256
"""Images that tell where the values of the last map look."""


def write_bundle(
    run: TrainingRun,
    out: Path,
    network: nn.Module,
    held_out: HeldOut,
    more: dict[str, Any],
    *,
    chosen_on: HeldOut | None = None,
    away: HeldOut | None = None,
) -> Bundle:
    """Measure on the images that were held out, and write the bundle with the weights as they were measured.

    Args:
        run: The run, with its images and settings.
        out: Folder of the new bundle.
        network: Network whose weights are rounded already (`round_weights`).
        held_out: Predictions of images that no network had been trained on.
        more: What else the bundle records of its training, by the names of `TrainingRecord`.
        chosen_on: Predictions that temperature and thresholds are chosen on; otherwise those that are measured.
        away: Predictions of every laboratory by networks that never saw it; thresholds are then chosen on these.

    Raises:
        BundleError: The bundle cannot be written.
    """
    names = run.data.class_names
    confidence = choose_confidence(run, chosen_on or held_out, other=chosen_on is not None)
    metrics = measure(run, held_out, confidence, other=chosen_on is not None)
    if away:
        confidence, measured = choose_away(run, held_out, away)
        metrics = metrics.model_copy(update={"away": measured})
    more = {"remembered": _remembered(run, network), **more}
    facts = {"recipe": run.settings.recipe, "weights": run.origin, **more}
    kept = _kept(run, network)
    content = kept.to_bytes() if kept else b""
    record = BundleRecord(  # pyright: ignore[reportCallIssue] - the rest has defaults, filled in by save_bundle
        preprocessing=run.recipe.preprocessing,
        confidence=confidence,
        training=TrainingRecord.model_validate(facts | run.recipe.training.model_dump()),
        data=_data_record(run, held_out),
        familiarity=_familiarity(run),
        heatmap_origin=_heatmap_origin(run, network),
        replay=kept.record(content) if kept else None,
    )
    extras = {
        "confusion.png": confusion_png(metrics.validation.image.confusion, names),
        "curves.png": curves_png(held_out.history),
    }
    extras |= {REPLAY: content} if kept else {}
    architecture = run.recipe.training.architecture
    card = write_card(out.name, names, record, metrics, architecture)
    return save_bundle(
        out, network.cpu(), names, record, metrics, card, extras, architecture=architecture, finder=run.finder
    )


def _familiarity(run: TrainingRun) -> Familiarity | None:
    """Learn the stains of all laboratories from their inputs, beside those that the starting bundle knows."""
    pixels = run.images.inputs.numpy()
    domains = np.zeros(len(pixels), np.int64) if run.images.domains is None else run.images.domains.numpy()
    found = np.ones(len(pixels), bool) if run.images.found is None else run.images.found.numpy()
    return fit_familiarity(
        {
            laboratory.name: pixels[found & (domains == number)]
            for number, laboratory in enumerate(run.data.laboratories)
        },
        run.start.familiarity if run.start else None,
    )


def _heatmap_origin(run: TrainingRun, network: nn.Module) -> tuple[float, float] | None:
    """Measure where the values of the last map look, on images of known classes, turned upside down and mirrored."""
    rows = np.flatnonzero(run.known(list(range(len(run.images)))))
    rows = np.random.default_rng(0).permutation(rows)[:_LOOKED_AT]
    height, width = run.recipe.preprocessing.size
    engine = TorchEngine(network, run.recipe.preprocessing, torch.device("cpu"))
    stride = engine.geometry.stride

    def maps(inputs: torch.Tensor) -> NDArray[np.float32]:
        parts: list[torch.Tensor] = []
        with torch.inference_mode():
            for part in inputs.split(_AT_ONCE):
                outputs = engine(part)
                parts.append(engine.gradcam(outputs, outputs.logits.argmax(1)))
        return torch.cat(parts).numpy()

    inputs = run.images.inputs[torch.from_numpy(rows)]
    plain, turned, mirrored = maps(inputs), maps(inputs.flip(1)), maps(inputs.flip(2))
    top = measure_origin(plain, turned, height, stride)
    left = measure_origin(plain.transpose(0, 2, 1), mirrored.transpose(0, 2, 1), width, stride)
    return None if math.isnan(top) or math.isnan(left) else (top, left)


def _remembered(run: TrainingRun, network: nn.Module) -> Remembered | None:
    """Count what is left of what the starting bundle knew, where it keeps features of its training images."""
    if run.replay is None:
        return None
    probe = torch.zeros(1, 3, *run.recipe.preprocessing.size, device=run.device)
    return remembered(network.to(run.device), run.replay, probe)


def _kept(run: TrainingRun, network: nn.Module) -> Replay | None:
    """Choose images as training does, and keep their inner features, with those that the starting bundle kept."""
    config, size = run.recipe.training, run.recipe.preprocessing.size
    weights = sampling_weights(run.images, run.images.labels, config)
    weights = torch.ones(len(run.images), dtype=torch.float64) if weights is None else weights
    count = min(config.replay, int((weights > 0).sum()))
    if not count:
        return run.replay
    generator = torch.Generator().manual_seed(config.seed)
    rows = torch.multinomial(weights, count, generator=generator)
    mild = config.augmentation.model_copy(update={"mild_share": 1.0})
    device = next(network.parameters()).device
    batches = (
        run.recipe.preprocessing.normalise(augment(mild, run.images.pixels[part], *size, generator)).to(device)
        for part in rows.split(_AT_ONCE)
    )
    new = record_replay(network, batches, run.images.labels[rows])
    return run.replay.joined(new) if run.replay and new else new


def _data_record(run: TrainingRun, held_out: HeldOut) -> DataRecord:
    known = run.known(held_out.rows)
    parts, prints = list(zip(run.data.laboratories, run.data.sets, strict=True)), run.data.fingerprints()
    return DataRecord(
        fingerprint=hashlib.sha256("".join(prints.values()).encode()).hexdigest()
        if len(parts) > 1
        else prints[parts[0][0].name],
        images=_sum(run, [data.counts() for _, data in parts]),
        sources=_sum(run, [data.source_counts() for _, data in parts]),
        left_out=held_out.left_out,
        training_images=held_out.trained_on,
        validation=held_out.how,
        grouped=run.data.grouped,
        validation_images=int(known.sum()),
        validation_sources=int(np.unique(run.images.sources.numpy()[held_out.rows][known]).size),
        further_images=0,
        outliers=sorted({name for laboratory, _ in parts for name in laboratory.unknown}),
        laboratories=[
            LaboratoryRecord(
                name=laboratory.name,
                fingerprint=prints[laboratory.name],
                images=data.counts(),
                sources=data.source_counts(),
                unknown=laboratory.unknown,
                share=laboratory.share,
                credit=laboratory.credit,
            )
            for laboratory, data in parts
        ],
    )


def _sum(run: TrainingRun, counts: list[dict[str, int]]) -> dict[str, int]:
    return {name: sum(part.get(name, 0) for part in counts) for name in run.data.class_names}
