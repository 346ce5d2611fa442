"""The time budget over restarts, and what ASHA knows after one; no Ray process."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tuning import stopping
from tuning.stopping import ResumableASHA, TimeBudget

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_pauses_do_not_count_and_the_budget_last_given_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now)
    given: list[float | None] = []
    record = SimpleNamespace(load=lambda _out: SimpleNamespace(settings=SimpleNamespace(time_budget=given[-1])))
    monkeypatch.setattr(stopping, "SearchRecord", record)

    given.append(60)
    budget = TimeBudget(tmp_path)
    assert not budget.stop_all()
    now += 59
    assert not budget.stop_all()
    saved = pickle.dumps(budget)
    now += 1
    assert budget.stop_all()

    now = 5.0  # another day, another process's clock
    for seconds, more in ((60, 1), (100, 41)):
        given.append(seconds)
        resumed = pickle.loads(saved)
        assert not resumed.stop_all()
        now += more - 0.5
        assert not resumed.stop_all()
        now += 0.5
        assert resumed.stop_all()

    given.append(None)
    resumed = pickle.loads(saved)
    assert not resumed.stop_all()
    now += 1e9
    assert not resumed.stop_all()


def trial(name: str, losses: tuple[float, ...] = (), **config: float) -> Any:
    """What ASHA and the search read of a Ray Tune trial."""
    history = [{"epoch": number, "validation_loss": loss} for number, loss in enumerate(losses, start=1)]
    last = {"trial_id": name, "history": history} if losses else {"trial_id": name}
    return SimpleNamespace(
        trial_id=name,
        experiment_tag="1_x",
        status="PENDING",
        config=config,
        last_result=last,
        num_failures=0,
    )


def scheduler() -> ResumableASHA:
    asha = ResumableASHA(keep="best", spared={"x": 0.0}, max_t=9, grace_period=1, reduction_factor=3)
    asha.set_search_properties("score", "min")
    return asha


def test_asha_compares_with_what_earlier_trials_had_reached() -> None:
    """Without the restored trials the first to report would be the best of one, and go on."""
    for earlier, verdict in (((), "CONTINUE"), ((0.1, 0.2, 0.3), "STOP")):
        asha = scheduler()
        for number, loss in enumerate(earlier):
            asha.on_trial_add(None, trial(f"{number}", (loss,), x=1.0))
        new = trial("new", x=2.0)
        asha.on_trial_add(None, new)
        assert asha.on_trial_result(None, new, {"epoch": 1, "score": 0.9}) == verdict


def test_asha_never_stops_the_recipes_own_values() -> None:
    asha = scheduler()
    for number in range(3):
        asha.on_trial_add(None, trial(f"{number}", (0.1,), x=1.0))
    own = trial("own", x=0.0)
    asha.on_trial_add(None, own)
    assert asha.on_trial_result(None, own, {"epoch": 1, "score": 0.9}) == "CONTINUE"
