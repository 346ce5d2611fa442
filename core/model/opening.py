"""A bundle for the engine that suits the machine."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from core.model.exported import ExportedBundle, load_exported
from core.model.record import read_bundle

if TYPE_CHECKING:
    from core.model.bundle import Bundle

__all__ = ["EngineName", "choose_engine", "has_nvidia_gpu", "open_bundle"]

EngineName: TypeAlias = Literal["auto", "torch", "openvino"]

_NVIDIA = Path("/dev/nvidiactl")


def has_nvidia_gpu() -> bool:
    """Whether this machine has a GPU of NVIDIA's, without asking PyTorch."""
    return _NVIDIA.exists()


def choose_engine(folder: Path, engine: EngineName, device: str = "auto") -> Literal["torch", "openvino"]:
    """Return the engine for a bundle: where none is named, OpenVINO on CPUs if the bundle has it.

    Args:
        folder: Folder of the bundle.
        engine: ``torch``, ``openvino``, or ``auto``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        BundleError: The bundle cannot be used.
    """
    if engine != "auto":
        return engine
    on_cpu = device == "cpu" or (device == "auto" and not has_nvidia_gpu())
    exported = read_bundle(folder).record.export is not None
    return "openvino" if on_cpu and exported and find_spec("openvino") else "torch"


def open_bundle(folder: Path, engine: EngineName = "auto", device: str = "auto") -> Bundle | ExportedBundle:
    """Read and check a bundle for an engine; PyTorch is loaded only where it is the one.

    Args:
        folder: Folder of the bundle.
        engine: ``torch``, ``openvino``, or ``auto``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        BundleError: The bundle cannot be used, or has no network for the engine.
    """
    if choose_engine(folder, engine, device) == "openvino":
        return load_exported(folder)
    from core.model.bundle import load_bundle  # noqa: PLC0415 - loads PyTorch

    return load_bundle(folder)
