"""What a trial keeps in its Ray Tune checkpoint, and how little of it stays once the trial has ended.

A checkpoint holds two files: the trainer's whole state, to go on from, and the weights that the trial would end with
now, an eighth of that size. Its metadata are the trial's report of that epoch.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow.fs
from ray.tune import Checkpoint
from safetensors.torch import load_file, save_file

from core.files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

__all__ = ["TRAINER", "WEIGHTS", "load_weights", "newest_first", "release_trainer", "save_weights"]

TRAINER, WEIGHTS = "trainer.safetensors", "weights.safetensors"


def save_weights(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write weights, rounded to 16 bits as in a bundle.

    Args:
        path: File to write.
        state: Parameters and buffers by name.
    """
    plain = {name: value.detach().cpu() for name, value in state.items()}
    rounded = {name: (value.half() if value.ndim > 1 else value).contiguous() for name, value in plain.items()}
    with replacing(path) as unfinished:
        save_file(rounded, unfinished, metadata={"format": "pt"})


def load_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return what `save_weights` wrote, float32 by name."""
    with checkpoint.as_directory() as folder:
        state = load_file(PurePosixPath(folder, WEIGHTS))
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def release_trainer(checkpoint: Checkpoint, ends: Mapping[str, Any]) -> None:
    """Delete the trainer's state of a trial that has ended, nine tenths of its checkpoint, and newer checkpoints.

    A trial that is stopped from outside may have written one that Ray Tune has not heard of.
    Should the search be killed before Ray Tune has saved that the trial has ended, the trial is started once more;
    the metadata then tell it to report the same end again.

    Args:
        checkpoint: The trial's last checkpoint.
        ends: State and reason of the end, as the trial would report them.
    """
    path = f"{checkpoint.path}/{TRAINER}"
    if checkpoint.filesystem.get_file_info(path).type == pyarrow.fs.FileType.File:
        checkpoint.update_metadata(dict(ends))
        checkpoint.filesystem.delete_file(path)
    paths = [other.path for other in newest_first(checkpoint)]
    if checkpoint.path in paths:
        for newer in paths[: paths.index(checkpoint.path)]:
            checkpoint.filesystem.delete_dir(newer)


def newest_first(checkpoint: Checkpoint) -> list[Checkpoint]:
    """Return the checkpoints that are in the folder of a trial, whichever of them Ray Tune has heard of.

    Where the search was killed, Ray Tune's own state can be a moment older than the trial's folder: it may name a
    checkpoint that has made room for the next.

    Args:
        checkpoint: The one that Ray Tune names.
    """
    folder = str(PurePosixPath(checkpoint.path).parent)
    entries = checkpoint.filesystem.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
    names = [entry.path for entry in entries if entry.base_name.startswith("checkpoint_")]
    return [Checkpoint(path, checkpoint.filesystem) for path in sorted(names, reverse=True)]
