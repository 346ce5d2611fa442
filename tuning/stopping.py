"""What ends trials and the search early, and survives a restart."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ray.tune import Stopper
from ray.tune.schedulers import ASHAScheduler

from tuning.record import SearchRecord
from tuning.trials import read_trial

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ResumableASHA", "TimeBudget"]


class ResumableASHA(ASHAScheduler):
    """ASHA (Li et al. 2020, arXiv:1810.05934) that knows what earlier trials had reached when it was killed.

    Ray Tune saves its trials and its searcher, but not its scheduler: without this, a resumed search would
    compare only what it trains from then on.

    Args:
        keep: Weights of a trial that are kept, ``best`` or ``last``.
        spared: Values of the trial that is never stopped: the recipe's own, which the others are measured by.
        options: Options of `ASHAScheduler`; ``time_attr`` is ``epoch``.
    """

    def __init__(self, *, keep: str, spared: dict[str, Any], **options: Any) -> None:  # noqa: ANN401
        super().__init__(time_attr="epoch", **options)
        self._keep, self._spared = keep, spared

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:  # noqa: ANN401
        """Take in a trial, and what it had reached already where the search is continued."""
        super().on_trial_add(tune_controller, trial)
        for epoch, score in read_trial(trial).scores(self._keep):
            super().on_trial_result(tune_controller, trial, {"epoch": epoch, self.metric: score})

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ANN401
        """Decide whether a trial goes on."""
        action = super().on_trial_result(tune_controller, trial, result)
        return self.CONTINUE if trial.config == self._spared else action


class TimeBudget(Stopper):
    """Ends the search when its trials together have had their time; pauses of a killed search do not count.

    Ray Tune's own would go on with the budget that the search was begun with, whatever ``--resume`` is given.

    Args:
        out: Folder of the search, whose record holds the budget of this run, in seconds or none.
    """

    def __init__(self, out: Path) -> None:
        self._out, self._spent = out, 0.0
        self._checked: float | None = None
        self._seconds: float | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the clock of this process."""
        return {**vars(self), "_checked": None}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002 - Ray Tune's signature
        """End no trial for itself."""
        return False

    def stop_all(self) -> bool:
        """Whether the time is up."""
        now = time.monotonic()
        if self._checked is None:
            self._seconds = SearchRecord.load(self._out).settings.time_budget
        else:
            self._spent += now - self._checked
        self._checked = now
        return self._seconds is not None and self._spent >= self._seconds
