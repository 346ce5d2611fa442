"""The deployment that holds the network: a thin shell around core's `Predictor`."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from ray import serve as ray_serve

from core.errors import SettingsError
from core.images.cells import Box
from core.images.preprocessing import Prepared
from core.model.opening import open_bundle
from core.model.predictor import Predictor
from serve.batcher import Batcher
from serve.bundles import Loaded, ServedBundles
from serve.messages import Answer, Item, Model
from serve.priority import lower_priority, normal_priority
from serve.registry import RegistryClient

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from core.model.engine import Usable
    from core.model.prediction import Prediction
    from serve.registry import AnyRegistry
    from serve.settings import ServeSettings

__all__ = ["Classifier"]

_STUCK_S = 60.0
_WARM_EACH = 32
_log = logging.getLogger("ray.serve")


class Classifier:
    """Classifies prepared images in batches, with one bundle; switches to another without a pause.

    A batch takes what is there as soon as the network is free, so that a lone image never waits for company and
    a crowd is classified together. The forward pass has a thread of its own.

    Args:
        settings: Settings of the service.
        registry: Registry of the application; None: the one of the application that Serve runs this in.

    Raises:
        LeukorayError: The device cannot be used.
    """

    def __init__(self, settings: ServeSettings, registry: AnyRegistry | None = None) -> None:
        if settings.lower_priority:
            lower_priority()
        self._settings = settings
        self._begun: float | None = None
        self._registry = registry or RegistryClient(ray_serve.get_replica_context().app_name)
        self.bundles = ServedBundles(self._load, settings.bundle, self._registry, uuid.uuid4().hex)
        self._batcher: Batcher[Item, Answer] = Batcher(
            self._classify_batch,
            settings.batch_size,
            settings.batch_wait_ms / 1000,
            normal_priority if settings.lower_priority else None,
        )

    async def reconfigure(self, user_config: dict[str, Any] | None) -> None:
        """Switch to the bundle that the config names; Serve calls this at the start and at each change.

        Raises:
            LeukorayError: A classifier that starts has no bundle that it may serve.
        """
        await self.bundles.change(user_config)

    async def describe(self) -> tuple[Model, dict[str, str] | None]:
        """Return the bundle that is served, and the one that was refused last, if that is what was asked for."""
        refused = self.bundles.refused
        return self.bundles.current.model, None if refused is None else asdict(refused)

    async def classify(self, item: Item) -> Answer:
        """Classify one image, together with others that wait."""
        loaded = self.bundles.find(item.bundle)
        if loaded is None or not _fits(item, loaded.model):
            return Answer(None, self.bundles.current.model)
        return await self._batcher.submit(item)

    async def check_health(self) -> None:
        """Tell Serve that a forward pass hangs, or that this classifier cannot serve what the others serve.

        Raises:
            RuntimeError: A pass has taken a minute.
            LeukorayError: The bundle that was accepted last cannot be used here.
        """
        begun = self._begun
        if begun is not None and time.monotonic() - begun > _STUCK_S:
            raise RuntimeError(f"a forward pass has taken more than {_STUCK_S:.0f} s")
        await self.bundles.agree()

    def _classify_batch(self, items: Sequence[Item]) -> list[Answer]:
        """Run the network over a batch; images that were prepared for the bundle before go through that one."""
        begun = self._begun = time.monotonic()
        try:
            predicted: dict[int, Prediction | str] = {}
            for bundle in {item.bundle for item in items}:
                rows = [row for row, item in enumerate(items) if item.bundle == bundle]
                loaded = self.bundles.find(bundle)
                if loaded is not None:
                    predicted |= dict(zip(rows, _predict(loaded, [items[row] for row in rows]), strict=True))
            seconds = time.monotonic() - begun
        finally:
            self._begun = None
        return [self._answer(item, predicted.get(row), len(items), seconds) for row, item in enumerate(items)]

    def _answer(self, item: Item, found: Prediction | str | None, batch_size: int, seconds: float) -> Answer:
        current = self.bundles.current.model
        successor = None if item.bundle == current.id else current
        if isinstance(found, str):
            return Answer(None, successor, batch_size, seconds, found)
        return Answer(found, successor, batch_size, seconds)

    def _load(self, folder: Path) -> Loaded:
        """Load a bundle, and see that it works, before anybody depends on it."""
        settings = self._settings
        bundle = open_bundle(folder, settings.engine, settings.device)
        predictor = Predictor(bundle, settings.device, settings.compute_threads)
        preprocessing = bundle.record.preprocessing
        grey = np.full((preprocessing.height, preprocessing.width, 3), 200, np.uint8)
        blank = Prepared(grey, Box(0.0, 0.0, float(preprocessing.width), float(preprocessing.height)), found=True)
        for size in _warm_sizes(self._settings.batch_size):
            predictions = predictor.predict([blank] * size)
            if not all(np.isfinite(one.probabilities).all() for one in predictions):
                raise SettingsError("bundle-broken", f"The bundle in {folder} gives values that are not numbers.")
        cam = predictor.predict([blank])[0].cam
        model = _describe(bundle, cam.values.shape if cam is not None else (0, 0), folder.name)
        return Loaded(folder, model, predictor)


def _predict(loaded: Loaded, items: Sequence[Item]) -> list[Prediction | str]:
    """Predict a batch; where that fails, each image on its own, so that one cannot fail the others."""
    gradcam = any(item.gradcam for item in items)
    try:
        return list(loaded.predictor.predict([item.prepared for item in items], gradcam=gradcam))
    except (RuntimeError, ValueError, TypeError, MemoryError) as error:
        if len(items) == 1:
            _log.exception("the network failed on an image")
            return [f"The network failed on this image ({type(error).__name__})."]
    return [found for item in items for found in _predict(loaded, [item])]


def _fits(item: Item, model: Model) -> bool:
    pixels, record = item.prepared.pixels, model.preprocessing
    return pixels.shape == (record.height, record.width, 3) and pixels.dtype == np.uint8


def _warm_sizes(batch_size: int) -> list[int]:
    """Batch sizes that the network is run with once: each has kernels that are made on first use."""
    if batch_size <= _WARM_EACH:
        return list(range(1, batch_size + 1))
    return [*(1 << power for power in range(batch_size.bit_length())), batch_size]


def _describe(bundle: Usable, map_shape: tuple[int, ...], name: str) -> Model:
    record = bundle.record
    facts = {
        "bundle": bundle.id,
        "name": name,
        "engine": bundle.engine_name,
        "class_names": list(bundle.class_names),
        "preprocessing": record.preprocessing.model_dump(mode="json"),
        "finder": record.finder.model_dump(mode="json") if record.finder else None,
        "confidence": record.confidence.model_dump(mode="json"),
        "created": record.created,
        "versions": record.versions,
        "metrics": bundle.metrics.model_dump(mode="json") if bundle.metrics else {},
    }
    return Model(bundle.id, bundle.class_names, bundle.cell_search(), (map_shape[0], map_shape[1]), facts)
