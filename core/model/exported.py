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

_MOST_CALLERS = 4
"""Threads for which the finder computes at the same time, each on one core."""

_MOST_SIZES = 8
"""Sizes of pictures for each of which the finder is compiled; further ones share a slower network of any size."""


class _Network:
    """A compiled network; safe to call from several threads, which wait for each other where there are few cores."""

    def __init__(
        self,
        files: tuple[bytes, bytes],
        *,
        outputs: int,
        threads: int,
        streams: int = 1,
        shape: tuple[int, ...] | None = None,
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
            "NUM_STREAMS": streams,
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
        self._network = _Network((model, weights), outputs=3, threads=threads)

    def answer(self, pixels: NDArray[np.uint8], *, gradcam: bool) -> Answers:
        """Run the network once (`core.model.engine.Engine`)."""
        logits, class_maps, features = self._network(pixels)
        if not gradcam:
            return Answers(logits, features, None)
        maps = class_maps[np.arange(len(logits)), logits.argmax(axis=1)]
        return Answers(logits, features, normalise_maps(np.maximum(maps, 0)))


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
        self._networks: dict[tuple[int, ...] | None, _Network] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[OpenVinoFinder], tuple[FinderRecord, bytes, bytes]]:
        """Send the files, not what was compiled from them."""
        return OpenVinoFinder, (self.record, *self._files)

    def answer(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network once."""
        with self._lock:
            network = self._network_for((1, *pixels.shape))
        return network(pixels[None])[0][0]

    def _network_for(self, shape: tuple[int, ...]) -> _Network:
        chosen = shape if shape in self._networks or len(self._networks) < _MOST_SIZES else None
        if chosen not in self._networks:
            callers = min(_MOST_CALLERS, os.cpu_count() or 1)
            self._networks[chosen] = _Network(self._files, outputs=1, threads=callers, streams=callers, shape=chosen)
        return self._networks[chosen]


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
