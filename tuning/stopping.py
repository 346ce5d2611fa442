"""What ends trials and the search early, and survives a restart."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ray.tune import Stopper
from ray.tune.schedulers import ASHAScheduler

from tuning.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ResumableASHA", "TimeBudget"]


class ResumableASHA(ASHAScheduler):
    """ASHA (Li et al. 2020, arXiv:1810.05934) that knows what earlier trials had reached when it was killed.

    Ray Tune saves its trials and its searcher, but not its scheduler: without this, a resumed search would
    compare only what it trains from then on.

    Args:
        folder: Of the search; its ledger is told to ASHA before the first trial.
        keep: Which weights of a trial are kept, ``best`` or ``last``.
        spared: Values of the trial that is never stopped: the recipe's own, which the others are measured by.
        options: For `ASHAScheduler`; ``time_attr`` is ``epoch``.
    """

    def __init__(self, folder: Path, *, keep: str, spared: dict[str, Any], **options: Any) -> None:  # noqa: ANN401
        super().__init__(time_attr="epoch", **options)
        self._folder, self._keep, self._spared, self._told = folder, keep, spared, False

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:  # noqa: ANN401
        """Take in a trial; before the first one, what the ledger has."""
        if not self._told:
            self._told = True
            for record in Ledger(self._folder).ordered():
                earlier = SimpleNamespace(trial_id=record.id)
                super().on_trial_add(tune_controller, earlier)
                for epoch, score in record.scores(self._keep):
                    super().on_trial_result(tune_controller, earlier, {"epoch": epoch, self.metric: score})
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ANN401
        """Decide whether a trial goes on."""
        action = super().on_trial_result(tune_controller, trial, result)
        return self.CONTINUE if trial.config == self._spared else action


class TimeBudget(Stopper):
    """Ends the search when its trials together have had their time; pauses of a killed search do not count.

    Ray Tune's own would go on with the budget that the search was begun with, whatever ``--resume`` is given.

    Args:
        record: File of the search's record, whose settings hold the budget of this run, in seconds or null.
    """

    def __init__(self, record: Path) -> None:
        self._record, self._spent = record, 0.0
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
            self._seconds = json.loads(self._record.read_text(encoding="utf-8"))["settings"]["time_budget"]
        else:
            self._spent += now - self._checked
        self._checked = now
        return self._seconds is not None and self._spent >= self._seconds
