"""Prepare a training run and tell the user about it: cores, progress, warnings, images that are left out."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

import torch

from core.data.laboratories import TrainingData
from core.training.run import TrainingRun
from runtime.progress import Progress, say

if TYPE_CHECKING:
    from collections.abc import Collection

    from core.model.bundle import Bundle
    from core.training.run import TrainingSettings

__all__ = ["prepare_run", "take_cores"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's options (mallopt(3))."""


def take_cores(threads: int | None) -> int:
    """Let torch compute with so many threads in this process, and return how many.

    On Linux, memory that a step of training frees is kept for the next one. Otherwise the C library gives it back to
    the system and asks for it again, page by page.

    Args:
        threads: Number of threads; None: as many as torch has chosen.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    return torch.get_num_threads()


def prepare_run(
    settings: TrainingSettings,
    *,
    device: str,
    threads: int,
    start: Bundle | None = None,
    architectures: Collection[str] = (),
) -> TrainingRun:
    """Read and decode what a run learns from, and say what is there.

    Args:
        settings: Options of the command.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Number of threads that decode.
        start: Bundle that training starts from, with what it keeps of its own training images.
        architectures: Architectures that will be used beside the recipe's.

    Raises:
        LeukorayError: The recipe, the weights or the data cannot be used.
    """
    data = TrainingData.read(settings, start.class_names if start else None)
    if not data.grouped:
        say("warning: without --groups, views of one field can be on both sides of the split; see pipelines/audit.py")
    with Progress(data.size, "images decoded") as progress:
        run = TrainingRun.prepare(
            settings,
            device=device,
            threads=threads,
            data=data,
            start=start,
            architectures=architectures,
            on_image=progress.advance,
        )
    for bad in run.images.unreadable:
        say(f"left out: {bad.path}: {bad.message} [{bad.code}]")
    say(f"data: {len(run.images):,} images of {int(run.images.sources.max()) + 1:,} sources")
    return run
