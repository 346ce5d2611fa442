"""The tables of a search: ``trials.csv`` and ``epochs.csv``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from core.files import write_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tuning.trials import TrialRecord

__all__ = ["write_tables"]

_EPOCH_COLUMNS = (
    *("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"),
    *("learning_rate", "seconds"),
)


def write_tables(out: Path, records: Sequence[TrialRecord]) -> None:
    """Write one row per trial, and one per epoch of each.

    Args:
        out: Folder of the search.
        records: The trials, in the order of proposal.
    """
    names = sorted({name for record in records for name in record.values})
    header = [
        *("trial", "id", "state", "reason", *names, "epochs", "best_epoch"),
        *("validation_loss", "validation_accuracy", "seconds", "first_step_seconds", "retries"),
    ]
    write_table(out / "trials.csv", header, [_row(record, names) for record in records])
    rows = [
        [record.number, record.id, *(_plain(epoch.get(column)) for column in _EPOCH_COLUMNS)]
        for record in records
        for epoch in record.epochs
    ]
    write_table(out / "epochs.csv", ["trial", "id", *_EPOCH_COLUMNS], rows)


def _row(record: TrialRecord, names: Sequence[str]) -> list[object]:
    return [
        *(record.number, record.id, record.state, record.reason),
        *(record.values.get(name, "") for name in names),
        *(len(record.epochs), _plain(record.best_epoch)),
        *(_plain(record.best("validation_loss")), _plain(record.best("validation_accuracy"))),
        *(round(record.seconds, 2), _plain(record.first_step), record.retries),
    ]


def _plain(value: float | None) -> object:
    return "" if value is None or not math.isfinite(value) else value
