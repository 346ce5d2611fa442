"""What a search has tried: one record per trial, on disk after every epoch, as JSON and as tables."""

from __future__ import annotations

import json
import math
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from core.files import replace_file, write_table
from core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Ledger", "State", "TrialRecord", "write_json"]

State = Literal["pending", "running", "finished", "stopped", "diverged", "out-of-memory", "failed"]

TRIALS = "trials.json"
_EPOCH_COLUMNS = (
    *("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"),
    *("learning_rate", "seconds"),
)


class TrialRecord(Settings):
    """One trial."""

    number: int = Field(description="in the order of their proposal; 0 is the recipe's own values")
    id: str = Field(description="Ray Tune's, and the name of the trial's folder")
    state: State
    reason: str = Field("", description="why it stopped")
    values: dict[str, Any] = Field(description="what is varied")
    epochs: list[dict[str, float]] = Field([], description="what each epoch gave")
    score: float | None = Field(None, description="best validation loss, or the last where the last weights are kept")
    best_epoch: int | None = Field(None, description="whose weights are kept")
    first_step: float | None = Field(None, description="seconds from the trial's start to its first training step")
    repeated: int = Field(0, description="epochs that were trained again after a worker or the search had died")
    retries: int = Field(0, description="times that its worker died")
    processes: list[int] = Field([], description="that trained it, in this order")

    @property
    def seconds(self) -> float:
        """Training time."""
        return sum(epoch["seconds"] for epoch in self.epochs)

    @property
    def usable(self) -> bool:
        """Whether its weights can become a bundle."""
        return self.state in {"finished", "stopped"} and self.score is not None

    def scores(self, keep: str) -> list[tuple[int, float]]:
        """Return what the trial reported as its score after each epoch: the best loss so far, or the present one."""
        losses = [epoch["validation_loss"] for epoch in self.epochs]
        numbers = [int(epoch["epoch"]) for epoch in self.epochs]
        return list(zip(numbers, accumulate(losses, min) if keep == "best" else losses, strict=True))

    def outcome(self) -> dict[str, Any]:
        """Return the trial's last report."""
        last = self.epochs[-1] if self.epochs else {"epoch": 0}
        kept = {"score": self.score, "best_epoch": self.best_epoch, "first_step": self.first_step}
        return {**last, **kept, "ends": self.state, "reason": self.reason}

    def best(self, name: str) -> float | None:
        """Return what the kept epoch gave, such as ``validation_accuracy``."""
        found = [epoch[name] for epoch in self.epochs if epoch["epoch"] == self.best_epoch]
        return found[0] if found else None


class Ledger:
    """The trials of a search, in the order of their proposal.

    Args:
        folder: Of the search.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.trials: dict[str, TrialRecord] = {}
        path = folder / TRIALS
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            self.trials = {item["id"]: TrialRecord.model_validate(item) for item in content}

    def put(self, record: TrialRecord) -> None:
        """Add a trial, or replace what is known of it."""
        self.trials[record.id] = record

    def ordered(self) -> list[TrialRecord]:
        """Return the trials by number."""
        return sorted(self.trials.values(), key=lambda record: record.number)

    def ranked(self) -> list[TrialRecord]:
        """Return the trials whose weights can be used, the best first."""
        return sorted((record for record in self.ordered() if record.usable), key=lambda record: record.score or 0.0)

    def save(self) -> None:
        """Write ``trials.json``, ``trials.csv`` and ``epochs.csv``."""
        records = self.ordered()
        write_json(self._folder / TRIALS, [record.model_dump(mode="json") for record in records])
        names = sorted({name for record in records for name in record.values})
        write_table(self._folder / "trials.csv", *_trial_table(records, names))
        rows = [
            [record.number, record.id, *(_plain(epoch.get(column)) for column in _EPOCH_COLUMNS)]
            for record in records
            for epoch in record.epochs
        ]
        write_table(self._folder / "epochs.csv", ["trial", "id", *_EPOCH_COLUMNS], rows)


def _trial_table(records: Sequence[TrialRecord], names: Sequence[str]) -> tuple[list[str], list[list[object]]]:
    header = [
        *("trial", "id", "state", "reason", *names, "epochs", "best_epoch"),
        *("validation_loss", "validation_accuracy", "seconds", "first_step_seconds", "retries", "epochs_repeated"),
    ]
    rows: list[list[object]] = [
        [
            *(record.number, record.id, record.state, record.reason),
            *(record.values.get(name, "") for name in names),
            *(len(record.epochs), _plain(record.best_epoch)),
            *(_plain(record.best("validation_loss")), _plain(record.best("validation_accuracy"))),
            *(round(record.seconds, 2), _plain(record.first_step), record.retries, record.repeated),
        ]
        for record in records
    ]
    return header, rows


def _plain(value: float | None) -> object:
    return "" if value is None or not math.isfinite(value) else value


def write_json(path: Path, content: object) -> None:
    """Write JSON so that the file is the old one or the new one, never half of it."""
    replace_file(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
