"""What reviewers may do, and what the log says of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from finished_run import FinishedRun, write_run

from core.errors import DataError, SettingsError
from core.images.cells import Box
from core.images.drawings import CLASS_NAMES
from pipelines.reviewing.cells import NO_CELL, UNIDENTIFIED, read_cells
from pipelines.reviewing.log import NotSavedError, ReviewLog
from pipelines.reviewing.outcome import reviewed_cells
from pipelines.reviewing.review import Asked, ConflictError, RefusedError, Review

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    return write_run(tmp_path, drawn=False)


@pytest.fixture
def review(run: FinishedRun) -> Review:
    return run.review(["BASOPHIL"])


_requests = iter(range(10**9))


def asked(review: Review, who: str = "Ann", *, seen: int | None = None, reading: int = 1, request: str = "") -> Asked:
    return Asked(who, request or f"request-{next(_requests)}", review.state.last if seen is None else seen, reading)


def other_label(review: Review, row: int) -> str:
    return next(name for name in CLASS_NAMES if name != review.state.label(row))


def test_rows_are_the_models_until_somebody_says_something(review: Review) -> None:
    state = review.state
    assert len(state) == 41
    assert state.label(40) == NO_CELL
    assert UNIDENTIFIED in {state.label(row) for row in range(40)}
    assert all(slide.counts == slide.by_model for slide in state.slides)
    assert review.labels == (*CLASS_NAMES, "BASOPHIL", UNIDENTIFIED, NO_CELL)


def test_a_label_is_saved_counted_and_there_after_a_restart(run: FinishedRun, review: Review) -> None:
    before = review.state.label(0)
    entries = review.label(asked(review), [0, 3], "BASOPHIL")
    assert [(entry.number, entry.before, entry.after) for entry in entries] == [
        (1, before, "BASOPHIL"),
        (2, review.state.by_model(3), "BASOPHIL"),
    ]
    slide = review.state.slides[review.state.slide_of(0)]
    assert (slide.counts["BASOPHIL"], slide.changed, slide.said) == (2, 2, 2)
    assert slide.by_model["BASOPHIL"] == 0
    again = run.review()
    assert again.state.slides == review.state.slides
    assert again.state.touched == review.state.touched
    assert "BASOPHIL" in again.labels


def test_saying_what_the_model_said_confirms_it(review: Review) -> None:
    review.label(asked(review), [1], review.state.label(1))
    slide = review.state.slides[review.state.slide_of(1)]
    assert (slide.changed, slide.said) == (0, 1)
    assert [cell.key for cell in reviewed_cells(review.state, "reviewed")] == [review.state.key(1)]


def test_the_same_request_is_saved_once(review: Review) -> None:
    first = review.label(asked(review, request="once"), [0], "BASOPHIL")
    assert review.label(asked(review, request="once"), [0], "BASOPHIL") == first
    assert review.state.last == 1


def test_undo_goes_back_step_by_step_and_not_over_others(review: Review) -> None:
    model = review.state.label(0)
    review.label(asked(review), [0, 1], "BASOPHIL")
    review.label(asked(review), [0], UNIDENTIFIED)
    review.undo(asked(review))
    assert review.state.label(0) == "BASOPHIL"
    review.label(asked(review, "Bob"), [1], NO_CELL)
    with pytest.raises(ConflictError, match="Bob changed this cell"):
        review.undo(asked(review))
    review.undo(asked(review, "Bob"))
    review.undo(asked(review))
    assert review.state.label(0) == model
    assert all(slide.counts == slide.by_model and not slide.said for slide in review.state.slides)
    with pytest.raises(RefusedError, match="nothing"):
        review.undo(asked(review))


def test_what_was_not_seen_is_not_overruled(review: Review) -> None:
    view = review.state.last
    review.label(asked(review), [0], "BASOPHIL")
    with pytest.raises(ConflictError) as refused:
        review.label(asked(review, "Bob", seen=view), [0, 1], NO_CELL)
    assert refused.value.rows == (0,)
    assert review.state.label(1) == review.state.by_model(1)
    review.label(asked(review, "Bob"), [0], NO_CELL)
    assert review.state.state(0).contested


def test_a_missed_cell_is_added_and_taken_away(review: Review) -> None:
    state = review.state
    key = state.key(0)
    slide = state.slides[state.slide_of(0)]
    review.add(asked(review), state.slide_of(0), key.image, Box(1, 2, 30, 40), "MONOCYTE")
    row = len(state) - 1
    assert state.key(row) == (key.slide, key.image, 5)
    assert slide.counts["MONOCYTE"] == slide.by_model["MONOCYTE"] + 1
    assert state.box(row) == Box(1, 2, 30, 40)
    assert [cell.added for cell in reviewed_cells(state)].count(True) == 1
    review.undo(asked(review))
    assert +slide.counts == +slide.by_model
    assert not any(cell.added for cell in reviewed_cells(state))


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 5, 10**6), (float("nan"), 0, 5, 5)])
def test_a_box_lies_in_its_image(review: Review, box: tuple[float, float, float, float]) -> None:
    key = review.state.key(0)
    with pytest.raises(RefusedError, match="inside the image"):
        review.add(asked(review), review.state.slide_of(0), key.image, Box(*box), "MONOCYTE")


def test_a_signed_slide_is_closed_until_it_is_opened_again(review: Review) -> None:
    slide = review.state.slide_of(0)
    view = review.state.last
    review.label(asked(review, "Bob"), [0], "BASOPHIL")
    with pytest.raises(ConflictError, match="Bob changed this slide"):
        review.sign(asked(review, seen=view), slide, "")
    review.sign(asked(review), slide, "typical")
    for change in (
        lambda: review.label(asked(review), [0], NO_CELL),
        lambda: review.undo(asked(review, "Bob")),
        lambda: review.note(asked(review), 0, "odd"),
        lambda: review.sign(asked(review), slide, ""),
    ):
        with pytest.raises(RefusedError, match="signed off by Ann"):
            change()
    with pytest.raises(RefusedError, match="why"):
        review.reopen(asked(review), slide, "  ")
    review.reopen(asked(review), slide, "a cell was overlooked")
    review.label(asked(review), [0], NO_CELL)


def test_a_blind_reading_changes_nothing(review: Review) -> None:
    before = [slide.counts.copy() for slide in review.state.slides]
    review.label(asked(review, "Bob", reading=2), [0, 1], "MONOCYTE")
    assert [slide.counts for slide in review.state.slides] == before
    assert review.state.state(0).second == "MONOCYTE"
    assert not review.state.state(0).says
    review.undo(asked(review, "Bob", reading=2))
    assert review.state.state(0).second == ""
    for refused in (
        lambda: review.sign(asked(review, reading=2), 0, ""),
        lambda: review.add(asked(review, reading=2), 0, review.state.key(0).image, Box(0, 0, 5, 5), "MONOCYTE"),
    ):
        with pytest.raises(RefusedError):
            refused()


def test_what_does_not_exist_is_refused(review: Review) -> None:
    for refused in (
        lambda: review.label(asked(review), [41], "MONOCYTE"),
        lambda: review.label(asked(review), [-1], "MONOCYTE"),
        lambda: review.label(asked(review), [0], "<script>"),
        lambda: review.sign(asked(review), 3, ""),
        lambda: review.add(asked(review), 0, "none.jpg", Box(0, 0, 5, 5), "MONOCYTE"),
        lambda: review.reopen(asked(review), 0, "why"),
    ):
        with pytest.raises(RefusedError):
            refused()
    assert review.state.last == 0


def test_many_writers_lose_nothing(run: FinishedRun) -> None:
    reviews = [run.review() for _ in range(4)]  # each with connections of its own, as processes have

    def work(number: int) -> None:
        review = reviews[number]
        for step in range(25):
            row = number * 10 + step % 10
            review.catch_up()
            review.label(asked(review, f"reviewer {number}", request=f"{number}-{step}"), [row], "MONOCYTE")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = run.log().read_after(0)
    assert [entry.number for entry in entries] == list(range(1, 101))
    assert {entry.request for entry in entries} == {f"{number}-{step}" for number in range(4) for step in range(25)}
    states = [review.catch_up().slides for review in reviews]
    assert all(state == states[0] for state in states)


def test_a_database_that_fails_is_said_and_nothing_is_shown_as_saved(run: FinishedRun, tmp_path: Path) -> None:
    import sqlite3

    review = run.review()
    with sqlite3.connect(tmp_path / "run" / "review" / "review.sqlite") as connection:
        connection.execute("DROP TABLE review_log")
    with pytest.raises(NotSavedError, match="nothing was saved"):
        review.label(asked(review), [0], "MONOCYTE")
    assert review.state.label(0) == review.state.by_model(0)


@pytest.mark.parametrize("database", ["nonsense", "nosuch://host/db", "postgresql://localhost:1/none"])
def test_a_database_that_is_none_is_refused(database: str) -> None:
    with pytest.raises(SettingsError, match="database cannot be used"):
        ReviewLog(database, "run", "bundle")


def test_runs_share_a_database_without_mixing(run: FinishedRun, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'all.sqlite'}"
    first = run.review(database=database)
    second = Review(run.cells(), ReviewLog(database, "another run", "bundle"))
    first.label(asked(first), [0], "MONOCYTE")
    assert second.catch_up().last == 0


def test_a_run_that_is_not_finished_is_refused(run: FinishedRun) -> None:
    with pytest.raises(SettingsError, match="--resume"):
        read_cells(run.folder, run.record.model_copy(update={"state": "running"}))


def test_a_damaged_part_is_named(run: FinishedRun) -> None:
    run.folder.folder.write("predictions/part-00000000.parquet", b"nonsense")
    with pytest.raises(DataError, match="part-00000000"):
        run.cells()
