"""What a search has tried, read from Ray Tune's own state."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from ray.tune import ExperimentAnalysis
from ray.tune.experiment import Trial

from core.settings import Settings
from tuning.trial import WORST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ray.tune import Checkpoint

__all__ = ["State", "TrialRecord", "Trials", "read_trial", "read_trials"]

State = Literal["pending", "running", "finished", "stopped", "diverged", "out-of-memory", "failed"]


class TrialRecord(Settings):
    """One trial."""

    number: int = Field(description="position in the order of proposal; 0 is the recipe's own values")
    id: str = Field(description="Ray Tune's name of the trial, and the name of its folder")
    state: State
    reason: str = Field("", description="why it ended")
    values: dict[str, Any] = Field(description="values of what is varied, by setting")
    epochs: list[dict[str, float]] = Field([], description="losses, accuracies, learning rate and seconds per epoch")
    score: float | None = Field(None, description="best validation loss, or the last where the last weights are kept")
    best_epoch: int | None = Field(None, description="number of the epoch whose weights are kept")
    first_step: float | None = Field(None, description="seconds from its process's start to its first training step")
    retries: int = Field(0, description="number of times that its process died")
    process: int | None = Field(None, description="id of the process that trained it last")

    @property
    def seconds(self) -> float:
        """Training time of all its epochs."""
        return sum(epoch["seconds"] for epoch in self.epochs)

    @property
    def usable(self) -> bool:
        """Whether its weights can become a bundle."""
        return self.state in {"finished", "stopped"} and self.score is not None

    def scores(self, keep: str) -> list[tuple[int, float]]:
        """Return what the trial reported as its score after each epoch.

        Args:
            keep: Weights that are kept: of the ``best`` epoch, whose loss is the score, or the ``last``.
        """
        losses = [epoch["validation_loss"] for epoch in self.epochs]
        numbers = [int(epoch["epoch"]) for epoch in self.epochs]
        return list(zip(numbers, accumulate(losses, min) if keep == "best" else losses, strict=True))

    def best(self, name: str) -> float | None:
        """Return what the epoch gave whose weights are kept, such as its ``validation_accuracy``."""
        found = [epoch[name] for epoch in self.epochs if epoch["epoch"] == self.best_epoch]
        return found[0] if found else None


@dataclass(frozen=True)
class Trials:
    """The trials of a search.

    Attributes:
        records: Every trial, in the order of proposal.
        checkpoints: Last checkpoint of each trial that has one, by the trial's name.
    """

    records: tuple[TrialRecord, ...]
    checkpoints: Mapping[str, Checkpoint]

    @property
    def ranked(self) -> list[TrialRecord]:
        """The trials whose weights can be used, the best first."""
        usable = (record for record in self.records if record.usable and record.id in self.checkpoints)
        return sorted(usable, key=lambda record: record.score or 0.0)

    @property
    def states(self) -> dict[str, int]:
        """Number of trials in each state that occurs."""
        return dict(sorted(Counter(record.state for record in self.records).items()))

    @property
    def names(self) -> list[str]:
        """Settings that are varied."""
        return sorted({name for record in self.records for name in record.values})


def read_trials(experiment: str) -> Trials:
    """Read the trials from what Ray Tune has saved.

    Args:
        experiment: Folder of Ray Tune's experiment, a path or a URI.
    """
    trials: Iterable[Trial] = ExperimentAnalysis(experiment).trials
    pairs = sorted(((read_trial(trial), trial) for trial in trials), key=lambda pair: pair[0].number)
    return Trials(
        tuple(record for record, _ in pairs),
        {record.id: trial.checkpoint for record, trial in pairs if trial.checkpoint is not None},
    )


def read_trial(trial: Trial, result: Mapping[str, Any] | None = None, *, ended: bool = False) -> TrialRecord:
    """Read one trial.

    Args:
        trial: Ray Tune's trial.
        result: Its latest report, where the trial itself does not hold it yet.
        ended: Whether it has ended, where the trial itself does not say so yet.
    """
    last = result if result is not None else trial.last_result or {}
    state, reason = _end(trial, last, ended=ended)
    return TrialRecord(
        number=_number(trial),
        id=trial.trial_id,
        state=state,
        reason=reason,
        values=dict(trial.config or {}),
        epochs=list(last.get("history", ())),
        score=last["score"] if last.get("score", WORST) < WORST else None,
        best_epoch=last.get("best_epoch"),
        first_step=last.get("first_step"),
        retries=trial.num_failures,  # not documented by Ray; test_names_of_ray says when it goes
        process=last.get("pid"),
    )


def _number(trial: Trial) -> int:
    """Return the trial's position in the order of proposal, from 0.

    Where all variants are drawn beforehand, Ray Tune numbers the trials' names from 0; where a searcher proposes, only
    the tags, from 1. The list of trials is no help: a search that continues sorts it by the time of the last report.
    """
    prefix, _, suffix = trial.trial_id.rpartition("_")
    return int(suffix) if prefix else int(trial.experiment_tag.partition("_")[0]) - 1


def _end(trial: Trial, last: Mapping[str, Any], *, ended: bool) -> tuple[State, str]:
    """Return the state of a trial and the reason for it."""
    if trial.status == Trial.ERROR:
        said = str(trial.get_error() or "the worker died")
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        return ("out-of-memory" if "OutOfMemoryError" in said else "failed"), lines[-1][:300]
    if trial.status != Trial.TERMINATED and not ended:
        return ("pending" if trial.status == Trial.PENDING else "running"), ""
    if last.get("ends"):
        return last["ends"], last["reason"]
    return "stopped", "early stopping" if last.get("done") else "time budget"
