"""Early stopping that survives a restart."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import ASHAScheduler

from tuning.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ResumableASHA"]


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
