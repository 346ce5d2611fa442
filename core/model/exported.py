"""A bundle's network in OpenVINO's format: the fast engine on CPUs. Needs no torch.

The files lie in ``openvino/`` in the bundle; `pipelines/export.py` writes them. Each takes pixels as they are prepared,
uint8, and normalises inside. A few drawn images lie beside them with PyTorch's answers, which are asked for again when
the bundle is loaded: a processor that computes otherwise is noticed before anything depends on it.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from core.errors import BundleError, SettingsError
from core.finding.finder import Finder
from core.finding.search import CellSearch
from core.model.engine import Answers, normalise_maps
from core.model.record import read_bundle, read_part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from core.finding.record import FinderRecord
    from core.images.heatmap import MapGeometry
    from core.model.metrics import BundleMetrics
    from core.model.record import BundleFolder, BundleRecord, ExportRecord

__all__ = ["FOLDER", "LARGEST_DIFFERENCE", "ExportedBundle", "OpenVinoEngine", "OpenVinoFinder", "load_exported"]

FOLDER = "openvino"
"""Name of the folder in a bundle."""

LARGEST_DIFFERENCE = {"fp32": 0.02, "int8": 0.25}
"""What a probability of the stored images may differ by from PyTorch's, by precision."""

_AT_ONCE = 4
"""Images that go through the network at once, or one for each thread: more are no faster, and take more memory."""

_MOST_SIZES = 8
"""Sizes of pictures for each of which a finder is compiled; further ones share a slower network of any size."""


class _Network:
    """A compiled network; safe to call from several threads, which wait for each other.

    Args:
        files: Content of the ``.xml`` and of the ``.bin`` file.
        outputs: Number of outputs that it must have.
        threads: Number of threads that compute.
        shape: Shape of its input, for which it is compiled; None: any, which is slower.
    """

    def __init__(
        self, files: tuple[bytes, bytes], *, outputs: int, threads: int, shape: tuple[int, ...] | None
    ) -> None:
        try:
            import openvino  # noqa: PLC0415 - an optional package, and slow to load
        except ImportError:
            raise SettingsError(
                "no-openvino",
                "The engine openvino needs its package; install it with: pip install 'leukoray[openvino]', or use"
                " --engine torch.",
            ) from None
        runtime = openvino.Core()
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        }
        try:
            model = runtime.read_model(*files)
            if shape is not None:
                model.reshape(shape)
            self._compiled = runtime.compile_model(model, "CPU", options)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise BundleError("bundle-damaged", f"OpenVINO cannot use the bundle's network: {reason}") from error
        if (len(self._compiled.inputs), len(self._compiled.outputs)) != (1, outputs):
            raise BundleError("bundle-damaged", "The bundle's network for OpenVINO is none of this version.")
        self._requests = threading.local()

    def __call__(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        request: Any = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._compiled.create_infer_request()
        request.infer([pixels])
        return [np.array(output.data, np.float32) for output in request.output_tensors]


class OpenVinoEngine:
    """A network for inference in OpenVINO, from pixels on.

    Args:
        model: Content of ``model.xml``.
        weights: Content of ``model.bin``.
        geometry: The grid of the maps on the input.
        threads: Number of threads that compute.

    Attributes:
        geometry: The grid of the maps on the input.
    """

    def __init__(self, model: bytes, weights: bytes, geometry: MapGeometry, threads: int) -> None:
        self.geometry = geometry
        self._files, self._threads = (model, weights), threads
        self._networks: dict[tuple[int, ...], _Network] = {}
        self._lock = threading.Lock()

    def answer(self, pixels: NDArray[np.uint8], *, gradcam: bool) -> Answers:
        """Run the network (`core.model.engine.Engine`), over a few images at a time."""
        parts = [self._network(part.shape)(part) for part in self._split(pixels)]
        logits, class_maps, features = (np.concatenate(outputs) for outputs in zip(*parts, strict=True))
        if not gradcam:
            return Answers(logits, features, None)
        maps = class_maps[np.arange(len(logits)), logits.argmax(axis=1)]
        return Answers(logits, features, normalise_maps(np.maximum(maps, 0)))

    def _split(self, pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """Yield as many as go at once, and the rest one by one: for these two numbers networks are compiled."""
        together = max(_AT_ONCE, self._threads)
        full = len(pixels) // together * together
        yield from (pixels[at : at + together] for at in range(0, full, together))
        yield from (pixels[at : at + 1] for at in range(full, len(pixels)))

    def _network(self, shape: tuple[int, ...]) -> _Network:
        with self._lock:
            if shape not in self._networks:
                self._networks[shape] = _Network(self._files, outputs=3, threads=self._threads, shape=shape)
            return self._networks[shape]


class OpenVinoFinder(Finder):
    """Finds the white cells of pictures; it is compiled when the first one of a size comes, where it was sent to.

    Args:
        record: Input size and threshold.
        model: Content of ``finder.xml``.
        weights: Content of ``finder.bin``.
    """

    def __init__(self, record: FinderRecord, model: bytes, weights: bytes) -> None:
        super().__init__(record)
        self._files = (model, weights)
        self._own = threading.local()

    def __reduce__(self) -> tuple[type[OpenVinoFinder], tuple[FinderRecord, bytes, bytes]]:
        """Send the files, not what was compiled from them."""
        return OpenVinoFinder, (self.record, *self._files)

    def answer(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network once, in the thread that calls; each thread has networks of its own."""
        networks: dict[tuple[int, ...] | None, _Network] = self._own.__dict__.setdefault("networks", {})
        shape = (1, *pixels.shape)
        chosen = shape if shape in networks or len(networks) < _MOST_SIZES else None
        if chosen not in networks:
            networks[chosen] = _Network(self._files, outputs=1, threads=1, shape=chosen)
        return networks[chosen](pixels[None])[0][0]


@dataclass(frozen=True)
class ExportedBundle:
    """A bundle that OpenVINO runs.

    Attributes:
        read: What its folder says.
        export: What was exported.
        files: Content of the files of the export, by name.
    """

    read: BundleFolder
    export: ExportRecord
    files: dict[str, bytes]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.read.class_names

    @property
    def record(self) -> BundleRecord:
        """Preprocessing, confidence and provenance."""
        return self.read.record

    @property
    def id(self) -> str:
        """The bundle's identity, the same as for PyTorch."""
        return self.read.id

    @property
    def engine_name(self) -> Literal["openvino"]:
        """What runs it."""
        return "openvino"

    @property
    def metrics(self) -> BundleMetrics | None:
        """The evaluations that belong to the weights, read from the bundle's folder."""
        return self.read.metrics()

    def engine(self, device: str = "auto", threads: int | None = None) -> OpenVinoEngine:
        """Return what runs the network.

        Args:
            device: ``auto`` or ``cpu``.
            threads: Number of threads that compute; None: one for each core.

        Raises:
            BundleError: With code ``engine-differs`` where this machine's answers are not PyTorch's.
            SettingsError: With code ``no-gpu`` for another device, or ``no-openvino`` where the package is missing.
        """
        if device not in {"auto", "cpu"}:
            raise SettingsError("no-gpu", f"The engine openvino computes on CPUs, not on {device}; use --engine torch.")
        files = self.files["model.xml"], self.files["model.bin"]
        engine = OpenVinoEngine(*files, self.export.heatmap, threads or os.cpu_count() or 1)
        self._check(engine)
        return engine

    def cell_search(self, device: str = "cpu") -> CellSearch:
        """Return what finds and prepares the cells for the network.

        Args:
            device: Taken for the sake of other engines.
        """
        del device
        record = self.record.finder
        finder = record and OpenVinoFinder(record, self.files["finder.xml"], self.files["finder.bin"])
        return CellSearch(self.record.preprocessing, finder)

    def _check(self, engine: OpenVinoEngine) -> None:
        try:
            probe = load_arrays(self.files["probe.safetensors"])
            pixels, expected = probe["pixels"], probe["probabilities"]
        except (SafetensorError, KeyError) as error:
            raise BundleError("bundle-damaged", "The bundle's stored images for OpenVINO cannot be read.") from error
        found = self.record.confidence.probabilities(engine.answer(pixels, gradcam=False).logits)
        difference = float(np.abs(found - expected).max())
        if not difference <= LARGEST_DIFFERENCE[self.export.precision]:
            raise BundleError(
                "engine-differs",
                f"OpenVINO's answers differ from PyTorch's by up to {difference:.2g} on this machine; use --engine"
                " torch.",
            )


def load_exported(folder: Path) -> ExportedBundle:
    """Read and check a bundle for OpenVINO.

    Args:
        folder: Folder of the bundle.

    Raises:
        BundleError: With code ``bundle-missing``, ``bundle-foreign`` or ``bundle-damaged``, or ``not-exported`` where
            it has no network for OpenVINO.
    """
    read = read_bundle(folder)
    export = read.record.export
    if export is None:
        raise BundleError(
            "not-exported",
            f"{folder} has no network for OpenVINO; write it with: python pipelines/export.py {folder} --engine"
            " openvino",
        )
    files = {name: read_part(folder, f"{FOLDER}/{name}", sha256) for name, sha256 in export.files.items()}
    return ExportedBundle(replace(read, weights=b""), export, files)
