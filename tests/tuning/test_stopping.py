"""The time budget over restarts."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING

from tuning import stopping
from tuning.stopping import TimeBudget

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_pauses_do_not_count_and_the_budget_last_given_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now)
    record = tmp_path / "search.json"

    def give(seconds: float | None) -> None:
        record.write_text(json.dumps({"settings": {"time_budget": seconds}}))

    give(60)
    budget = TimeBudget(record)
    assert not budget.stop_all()
    now += 59
    assert not budget.stop_all()
    saved = pickle.dumps(budget)
    now += 1
    assert budget.stop_all()

    now = 5.0  # another day, another process's clock
    for seconds, more in ((60, 1), (100, 41)):
        give(seconds)
        resumed = pickle.loads(saved)
        assert not resumed.stop_all()
        now += more - 0.5
        assert not resumed.stop_all()
        now += 0.5
        assert resumed.stop_all()

    give(None)
    resumed = pickle.loads(saved)
    assert not resumed.stop_all()
    now += 1e9
    assert not resumed.stop_all()
