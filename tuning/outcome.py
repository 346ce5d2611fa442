"""What came out of a search: its counts, and the words that the command ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.progress import say
from tuning.record import Counts
from tuning.report import REPORT
from tuning.winner import BEST

if TYPE_CHECKING:
    from tuning.record import Result, SearchRecord
    from tuning.trials import Trials

__all__ = ["count", "say_result"]


def count(trials: Trials, epochs: int) -> Counts:
    """Count trials and epochs.

    Args:
        trials: The trials.
        epochs: Epochs of a whole trial.
    """
    return Counts(
        trials=len(trials.records),
        states=trials.states,
        unusable=len(trials.records) - len(trials.ranked),
        epochs=sum(len(trial.epochs) for trial in trials.records),
        epochs_possible=epochs * len(trials.records),
    )


def say_result(record: SearchRecord, trials: Trials) -> None:
    """Tell the user what a finished search has found, and which trials broke.

    Args:
        record: Its record.
        trials: Its trials.
    """
    if counts := record.counts:
        say(f"{counts.trials} trials, {counts.epochs} of {counts.epochs_possible} epochs trained")
    if record.result is None:
        say("no trial ended with weights that can be used")
    else:
        _say_best(record.result, nested=record.images.nested)
        print(f"bundle: {record.settings.out / BEST}")
    print(f"report: {record.settings.out / REPORT}", flush=True)
    for trial in trials.records:
        if trial.state in {"failed", "out-of-memory"}:
            say(f"trial {trial.number} {trial.state}: {trial.reason}")


def _say_best(result: Result, *, nested: bool) -> None:
    values = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in result.values.items()
    )
    say(f"best: trial {result.trial} ({values})")
    if result.comparison:
        gain = result.comparison.image_accuracy
        span = "" if gain.low is None or gain.high is None else f" ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
        on = "sources that no trial was chosen on" if nested else "the images that it was chosen on, which flatters it"
        say(f"accuracy of trial {result.rival} against trial 0: {100 * gain.value:+.1f} points{span} on {on}")
