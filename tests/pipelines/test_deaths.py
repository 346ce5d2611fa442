"""Workers that die again and again: counted from their start, ended with a sentence, nothing lost."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from ray import cloudpickle

from core.errors import LeukorayError
from pipelines.classification import parts
from pipelines.classification.actor import PartActor
from pipelines.classification.attempts import MOST_DEATHS, PartAttempts, PartLedger, WorkerStarts
from pipelines.classification.storage import open_folder
from pipelines.classify import ClassifySettings, classify
from pipelines.demo import draw_slides

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import ray

    from pipelines.classification.worker_settings import WorkerSettings


class DiesWhileStarting(PartActor):
    """Dies while it loads the bundle, as for want of memory."""

    def _start(self, bundle: ray.ObjectRef, settings: WorkerSettings) -> None:
        super()._start(bundle, settings)
        os._exit(9)


class DiesInTheLastPart(PartActor):
    """Dies whenever it is given the last part."""

    def _row(self, part: int) -> dict[str, object]:
        if part == 2 and self._problem is None:
            os._exit(9)
        return super()._row(part)


@pytest.fixture
def sent_by_value() -> Iterator[None]:
    """Let workers get this module's classes, which they cannot import."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.slow
@pytest.mark.usefixtures("cluster", "sent_by_value")
@pytest.mark.parametrize("dying", [DiesInTheLastPart, DiesWhileStarting])
def test_a_worker_that_keeps_dying_ends_the_run(
    dying: type, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_slides(tmp_path / "slides", 20, broken=False)
    out = tmp_path / "run"
    settings = ClassifySettings(
        slides=str(tmp_path / "slides"), out=str(out), model=small_bundle, part_size=4, limit=12, workers=1, resume=True
    )
    with monkeypatch.context() as patch:
        patch.setattr(parts, "PartActor", dying)
        with pytest.raises(LeukorayError, match=f"ended {MOST_DEATHS} times in a row.*--resume") as caught:
            classify(settings)
    assert caught.value.code == "worker-dies"
    record = json.loads((out / "run.json").read_text())
    assert record["state"] == "failed"
    assert "memory" in record["error"]
    finished = len(list((out / "predictions").glob("*.parquet"))) if (out / "predictions").exists() else 0
    assert finished == (2 if dying is DiesInTheLastPart else 0)
    assert classify(settings) == 0
    assert len(pq.read_table(out / "predictions")) == 12
    assert not list((out / ".work" / "starts").glob("*"))


def test_deaths_in_a_row_are_counted_and_progress_begins_again(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path))
    for _ in range(2):
        for _ in range(MOST_DEATHS):
            worker = WorkerStarts(folder, "a")
        worker.achieve()
    for _ in range(MOST_DEATHS):
        WorkerStarts(folder, "a")
    with pytest.raises(LeukorayError) as caught:
        WorkerStarts(folder, "a")
    assert caught.value.code == "worker-dies"
    WorkerStarts(folder, "b")


def test_a_file_is_left_out_before_its_worker_has_died_too_often(tmp_path: Path) -> None:
    """The two ledgers together: two deaths, two careful ones, and then the file is known."""
    folder, deaths = open_folder(str(tmp_path)), 0
    while True:
        starts, attempts = WorkerStarts(folder, "a"), PartAttempts(folder, 0)
        if attempts.poison:
            break
        if attempts.careful:
            attempts.note(7)
        deaths += 1
    assert attempts.poison == {7}
    assert attempts.found_poison
    assert deaths < MOST_DEATHS
    starts.achieve()
    assert not PartAttempts(folder, 0).found_poison


def test_a_ledger_that_a_kill_damaged_counts_as_none(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path))
    folder.write(".work/attempts/part-00000000.json", b"{")
    folder.write(".work/starts/a.json", b"")
    assert not PartAttempts(folder, 0).poison
    WorkerStarts(folder, "a")
    assert PartLedger.model_validate_json(folder.read(".work/attempts/part-00000000.json")).number == 1
