"""Listening to Ray Tune: a live table, a line per epoch where there is no terminal, and the CSV files."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from ray.tune import Callback
from rich.console import Console
from rich.live import Live
from rich.table import Table

from runtime.progress import say
from tuning.checkpoints import release_trainer
from tuning.tables import write_tables
from tuning.trials import TrialRecord, read_trial

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ray.tune.experiment import Trial

__all__ = ["Watch", "trial_table"]

_SHOWN = 20


class Watch(Callback):
    """Shows a search while it runs. What it knows of the trials, it has from Ray Tune.

    Ray Tune pickles it with its own state, so it holds only names between two runs.

    Args:
        out: Folder of the search.
        epochs: Epochs of a whole trial.
    """

    def __init__(self, out: Path, *, epochs: int) -> None:
        self._out, self._epochs = out, epochs
        self._records: dict[str, TrialRecord] = {}
        self._live: Live | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process."""
        return {**vars(self), "_records": {}, "_live": None}

    def setup(self, **_info: object) -> None:
        """Start the table, on a terminal."""
        if sys.stderr.isatty():
            self._live = Live(console=Console(stderr=True), refresh_per_second=1, transient=True)
            self._live.start()

    def on_trial_start(self, trials: list[Trial], trial: Trial, **_info: object) -> None:
        """Show that a trial runs."""
        self._update(trials, trial)

    def on_trial_result(self, trials: list[Trial], trial: Trial, result: dict[str, Any], **_info: object) -> None:
        """Show what an epoch gave."""
        self._tell(self._update(trials, trial, read_trial(trial, result)))

    def on_trial_complete(self, trials: list[Trial], trial: Trial, **_info: object) -> None:
        """Show why a trial ended, and keep only the weights of its checkpoint."""
        record = self._update(trials, trial, read_trial(trial, ended=True))
        if trial.checkpoint is not None:
            release_trainer(trial.checkpoint, {"ends": record.state, "reason": record.reason})
        self._tell(record)

    def on_trial_recover(self, trials: list[Trial], trial: Trial, **_info: object) -> None:
        """Say that a worker died and the trial goes on."""
        record = self._update(trials, trial)
        say(f"trial {record.number}: its worker died; it goes on from its last epoch")

    def on_trial_error(self, trials: list[Trial], trial: Trial, **_info: object) -> None:
        """Show what broke a trial for good."""
        self._tell(self._update(trials, trial))

    def on_experiment_end(self, **_info: object) -> None:
        """Stop the table and leave its last state on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            Console(stderr=True).print(trial_table(self._ordered(), self._epochs))

    def _ordered(self) -> list[TrialRecord]:
        return sorted(self._records.values(), key=lambda record: record.number)

    def _update(self, trials: Sequence[Trial], trial: Trial, now: TrialRecord | None = None) -> TrialRecord:
        """Note what is known of a trial, and of those that nothing has been noted of yet."""
        for other in trials:
            if other.trial_id not in self._records:
                self._records[other.trial_id] = read_trial(other)
        record = self._records[trial.trial_id] = now or read_trial(trial)
        return record

    def _tell(self, record: TrialRecord) -> None:
        """Bring tables up to date, or print a line where there is no terminal."""
        records = self._ordered()
        write_tables(self._out, records)
        if self._live is not None:
            self._live.update(trial_table(records, self._epochs))
        elif record.state != "running":
            say(f"trial {record.number}: {record.state}, {record.reason}, after {len(record.epochs)} epochs")
        elif record.epochs:
            last = record.epochs[-1]
            say(
                f"trial {record.number}, epoch {last['epoch']:.0f} of {self._epochs}: loss {last['train_loss']:.4f},"
                f" validation loss {last['validation_loss']:.4f}, accuracy {last['validation_accuracy']:.4f}"
                f"{_leader(records)}"
            )


def _leader(records: Sequence[TrialRecord]) -> str:
    scored = [record for record in records if record.score is not None]
    if not scored:
        return ""
    best = min(scored, key=lambda record: record.score or 0.0)
    return f" (best: trial {best.number}, {best.score:.4f})"


def trial_table(records: Sequence[TrialRecord], epochs: int) -> Table:
    """Return the table that is shown while a search runs: running trials and the best of the others.

    Args:
        records: The trials.
        epochs: Epochs of a whole trial.
    """
    names = sorted({name for record in records for name in record.values})
    table = Table(title=_summary(records), title_justify="left")
    for name in ("trial", "state", "epoch", "validation loss", "accuracy", *names):
        table.add_column(name.replace("_", " "), justify="left" if name == "state" else "right")
    ranked = sorted(records, key=lambda record: (record.state != "running", record.score or math.inf))
    best = min((record.score for record in records if record.score is not None), default=None)
    for record in ranked[:_SHOWN]:
        style = "bold green" if best is not None and record.score == best else None
        done = f"{len(record.epochs)}/{epochs}"
        scores = [_cell(record.best("validation_loss")), _cell(record.best("validation_accuracy"))]
        values = [_cell(record.values.get(name)) for name in names]
        table.add_row(str(record.number), record.state, done, *scores, *values, style=style)
    return table


def _summary(records: Sequence[TrialRecord]) -> str:
    counts: dict[str, int] = {}
    for record in records:
        counts[record.state] = counts.get(record.state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "" if value is None else str(value)
