"""Listening to Ray Tune: every report becomes part of the ledger and of the live table."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import ray
from ray.tune import Callback
from rich.console import Console
from rich.live import Live
from rich.table import Table

from runtime.progress import say
from tuning.ledger import Ledger, State, TrialRecord
from tuning.trial import WORST, keep_weights

if TYPE_CHECKING:
    from pathlib import Path

    from ray.tune.experiment import Trial

__all__ = ["Watch", "trial_table"]

_REPORTED = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate", "seconds")
_SHOWN = 20


class Watch(Callback):
    """Keeps the ledger of a search. Ray Tune pickles it with its own state, so it holds only names.

    Args:
        folder: Of the search.
        epochs: Of a whole trial.
        keep: Which weights of a trial are kept, ``best`` or ``last``.
    """

    def __init__(self, folder: Path, *, epochs: int, keep: str) -> None:
        self._folder, self._epochs, self._keep = folder, epochs, keep
        self._ledger: Ledger | None = None
        self._live: Live | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process."""
        return {**vars(self), "_ledger": None, "_live": None}

    def setup(self, **_info: object) -> None:
        """Start the table, on a terminal."""
        if sys.stderr.isatty():
            self._live = Live(console=Console(stderr=True), refresh_per_second=1, transient=True)
            self._live.start()

    def on_trial_start(self, trials: list[Trial], trial: Trial, **_info: object) -> None:
        """Note that a trial runs."""
        self._note(trials, trial, state="running", retries=trial.num_failures)

    def on_trial_result(self, trials: list[Trial], trial: Trial, result: dict[str, Any], **_info: object) -> None:
        """Note what an epoch gave."""
        before = self._note(trials, trial, state="running")
        known = {int(epoch["epoch"]): epoch for epoch in before.epochs}
        number = int(result["epoch"])
        repeated = before.repeated + (number in known and not result["repeats"])
        if number > 0 and "validation_loss" in result:
            known[number] = {"epoch": number, **{name: float(result[name]) for name in _REPORTED}}
        processes = before.processes + ([result["pid"]] if before.processes[-1:] != [result["pid"]] else [])
        self._note(
            trials,
            trial,
            epochs=[known[key] for key in sorted(known)],
            repeated=repeated,
            processes=processes,
            score=result["score"] if result["score"] < WORST else None,
            best_epoch=result.get("best_epoch"),
            first_step=before.first_step if before.first_step is not None else result.get("first_step"),
            reason="early stopping" if result.get("done") and not result.get("ends") else "",
        )
        self._tell(trial.trial_id)

    def on_trial_complete(self, trials: list[Trial], trial: Trial, **_info: object) -> None:
        """Note why a trial ended, and keep only what is needed of it."""
        last, before = trial.last_result or {}, self._note(trials, trial)
        state: State = last.get("ends") or "stopped"
        reason = last.get("reason") or before.reason or "time budget"
        record = self._note(trials, trial, state=state, reason=reason)
        folder = self._folder / "trials" / trial.trial_id
        keep_weights(folder, record.outcome(), usable=record.usable, keep=self._keep)
        self._tell(trial.trial_id)

    def on_trial_recover(self, trials: list[Trial], trial: Trial, **_info: object) -> None:
        """Note that a worker died and the trial goes on."""
        record = self._note(trials, trial, state="pending", retries=trial.num_failures)
        say(f"trial {record.number}: its worker died; it goes on from its last epoch")

    def on_trial_error(self, trials: list[Trial], trial: Trial, **_info: object) -> None:
        """Note what broke a trial for good."""
        error = trial.get_error()
        memory = isinstance(error, ray.exceptions.OutOfMemoryError) or "OutOfMemoryError" in str(error)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["the worker died"]
        state: State = "out-of-memory" if memory else "failed"
        self._note(trials, trial, state=state, reason=lines[-1][:300], retries=trial.num_failures)
        self._tell(trial.trial_id)

    def on_experiment_end(self, **_info: object) -> None:
        """Stop the table and leave its last state on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            Console(stderr=True).print(trial_table(self._records().ordered(), self._epochs))

    def _records(self) -> Ledger:
        if self._ledger is None:
            self._ledger = Ledger(self._folder)
        return self._ledger

    def _note(self, trials: list[Trial], trial: Trial, **changes: Any) -> TrialRecord:  # noqa: ANN401
        """Change what is known of a trial, and save."""
        ledger = self._records()
        for other in trials:  # in the order of their proposal, whichever starts first
            if other.trial_id not in ledger.trials:
                fresh = TrialRecord(
                    number=len(ledger.trials), id=other.trial_id, state="pending", values=dict(other.config)
                )
                ledger.put(fresh)
        before = ledger.trials[trial.trial_id]
        record = TrialRecord.model_validate(before.model_dump() | changes)
        if record != before:
            ledger.put(record)
            ledger.save()
        return record

    def _tell(self, name: str) -> None:
        """Bring the table up to date, or print a line where there is no terminal."""
        ledger = self._records()
        if self._live is not None:
            self._live.update(trial_table(ledger.ordered(), self._epochs))
            return
        record = ledger.trials[name]
        if record.state != "running":
            say(f"trial {record.number}: {record.state}, {record.reason}, after {len(record.epochs)} epochs")
        elif record.epochs:
            last = record.epochs[-1]
            say(
                f"trial {record.number}, epoch {last['epoch']:.0f} of {self._epochs}: loss {last['train_loss']:.4f},"
                f" validation loss {last['validation_loss']:.4f}, accuracy {last['validation_accuracy']:.4f}"
                f"{_leader(ledger)}"
            )


def _leader(ledger: Ledger) -> str:
    scored = [record for record in ledger.ordered() if record.score is not None and math.isfinite(record.score)]
    if not scored:
        return ""
    best = min(scored, key=lambda record: record.score or 0.0)
    return f" (best: trial {best.number}, {best.score:.4f})"


def trial_table(records: list[TrialRecord], epochs: int) -> Table:
    """Return the table that is shown while a search runs: running trials and the best of the others.

    Args:
        records: The trials.
        epochs: Of a whole trial.
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
        scores = [_number(record.best("validation_loss")), _number(record.best("validation_accuracy"))]
        values = [_number(record.values.get(name)) for name in names]
        table.add_row(str(record.number), record.state, done, *scores, *values, style=style)
    return table


def _summary(records: list[TrialRecord]) -> str:
    counts: dict[str, int] = {}
    for record in records:
        counts[record.state] = counts.get(record.state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "" if value is None else str(value)
