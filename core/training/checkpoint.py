"""The state of an unfinished training run: one safetensors file, replaced atomically, no pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from core.errors import DataError, SettingsError
from core.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

__all__ = ["Checkpoint", "load_checkpoint", "load_optimizer", "optimizer_record", "resumed", "save_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """A saved state.

    Attributes:
        network: Parameters and buffers by name.
        best: The same, of the best epoch so far.
        average: The running average of parameters and buffers; empty where none is kept.
        before_finish: Parameters and buffers that the last epochs began with; empty before.
        optimizer: Per parameter index, the optimizer's tensors by name.
        record: Everything that is not a tensor.
    """

    network: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor]
    before_finish: dict[str, torch.Tensor]
    optimizer: dict[int, dict[str, torch.Tensor]]
    record: dict[str, Any]


def save_checkpoint(
    path: Path,
    parts: Mapping[str, Mapping[str, torch.Tensor]],
    optimizer: Mapping[int, Mapping[str, torch.Tensor]],
    record: Mapping[str, Any],
) -> None:
    """Write a state in one step: a kill leaves the old file or the new one.

    Args:
        path: File of the checkpoint.
        parts: Parameters and buffers by name, by the names of `Checkpoint`'s attributes.
        optimizer: Per parameter index, the optimizer's tensors by name.
        record: Everything that is not a tensor, as JSON can hold it.

    Raises:
        OSError: The file cannot be written; the error names it.
    """
    tensors = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
    for index, state in optimizer.items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in state.items()}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # Not `save_file`, which reports a full disk as an error of safetensors' own that names no file.
    replace_file(path, save(plain, metadata={"format": "pt", "record": json.dumps(record)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote.

    Args:
        path: File of the checkpoint.

    Raises:
        DataError: With code ``checkpoint-damaged``.
    """
    checkpoint = Checkpoint({}, {}, {}, {}, {}, {})
    try:
        with safe_open(path, framework="pt") as file:
            checkpoint.record.update(json.loads(file.metadata()["record"]))
            for name in file.keys():  # noqa: SIM118 - not a dict
                part, _, rest = name.partition("/")
                if part == "optimizer":
                    index, _, slot = rest.partition("/")
                    checkpoint.optimizer.setdefault(int(index), {})[slot] = file.get_tensor(name)
                else:
                    getattr(checkpoint, part)[rest] = file.get_tensor(name)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError("checkpoint-damaged", f"The checkpoint {path} cannot be read: {error}") from error
    return checkpoint


def resumed(path: Path | None, identity: Mapping[str, object]) -> Checkpoint | None:
    """Return the checkpoint that a run continues from; None where there is none.

    Args:
        path: File of the checkpoint, if the run has one.
        identity: What the run is of; the record of its checkpoints holds it under ``config``.

    Raises:
        SettingsError: With code ``resume-mismatch`` where the checkpoint is of another run.
        DataError: With code ``checkpoint-damaged``.
    """
    if path is None or not path.exists():
        return None
    saved = load_checkpoint(path)
    if saved.record["config"] != identity:
        raise SettingsError(
            "resume-mismatch",
            f"{path} belongs to a run with other settings or other data; give the same ones again, or train without"
            " --resume.",
        )
    return saved


def optimizer_record(optimizer: Optimizer, schedule: LRScheduler) -> dict[str, Any]:
    """Return what a checkpoint's record says of an optimizer and its schedule; the tensors are stored beside it."""
    return {
        "param_groups": [
            {key: value for key, value in group.items() if key != "params"}
            for group in optimizer.state_dict()["param_groups"]
        ],
        "schedule": {key: value for key, value in schedule.state_dict().items() if not callable(value)},
    }


def load_optimizer(saved: Checkpoint, optimizer: Optimizer, schedule: LRScheduler) -> None:
    """Bring an optimizer and its schedule to the state of a checkpoint.

    Args:
        saved: Checkpoint whose record holds what `optimizer_record` gave.
        optimizer: Optimizer of the same parameters.
        schedule: Its schedule, with the same settings.
    """
    state = optimizer.state_dict()
    groups = zip(state["param_groups"], saved.record["param_groups"], strict=True)
    optimizer.load_state_dict({"state": saved.optimizer, "param_groups": [{**old, **new} for old, new in groups]})
    schedule.load_state_dict(saved.record["schedule"])
