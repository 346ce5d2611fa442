"""The reviewed differential: its numbers are those of the log, counted by hand."""

from __future__ import annotations

import csv
import io
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest
from finished_run import FinishedRun, write_run
from scipy.stats import binomtest

from core.images.cells import Box
from core.images.drawings import CLASS_NAMES
from pipelines.reviewing.cells import NO_CELL, UNIDENTIFIED
from pipelines.reviewing.differential import (
    Differential,
    ReviewedSlide,
    counted_labels,
    reviewed_slides,
    slides_reviewed_csv,
)
from pipelines.reviewing.review import Asked, ConflictError, RefusedError, Review

if TYPE_CHECKING:
    from pathlib import Path

SMALL_BOX = Box(1, 1, 9, 9)


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    return write_run(tmp_path, drawn=False)


@pytest.fixture
def review(run: FinishedRun) -> Review:
    return run.review(["BASOPHIL"])


_requests = iter(range(10**9))


def asked(review: Review, who: str = "Ann", reading: int = 1) -> Asked:
    return Asked(who, f"request-{next(_requests)}", review.state.last, reading)


def rows_of(review: Review, slide: int, label: str | None = None) -> list[int]:
    """Rows of a slide; with `label` those that the model calls so."""
    rows = np.flatnonzero(review.state.cells.slide == slide).tolist()
    return [row for row in rows if label is None or review.state.by_model(row) == label]


def table(review: Review) -> dict[str, dict[str, str]]:
    labels = counted_labels(review.state)
    text = slides_reviewed_csv(reviewed_slides(review.state), labels, CLASS_NAMES).decode()
    return {row["slide"]: row for row in csv.DictReader(io.StringIO(text))}


def test_without_a_word_it_is_the_models(review: Review) -> None:
    for slide in reviewed_slides(review.state):
        assert slide.reviewed == slide.by_model
        assert (slide.changed, slide.added, slide.removed, slide.confirmed, slide.said) == (0, 0, 0, 0, 0)
        assert slide.signed is None
        assert slide.told == slide.history == []
    assert counted_labels(review.state) == CLASS_NAMES


def test_every_kind_of_change_is_counted_once(review: Review) -> None:
    before = Counter(review.state.label(row) for row in rows_of(review, 0))
    unidentified = rows_of(review, 0, UNIDENTIFIED)[0]
    (common, _), *_ = Counter({name: before[name] for name in CLASS_NAMES}).most_common()
    first, second, third, fourth = rows_of(review, 0, common)[:4]
    (image_without,) = (row for row in range(41) if review.state.by_model(row) == NO_CELL)
    review.label(asked(review), [first, second], "BASOPHIL")
    review.label(asked(review), [third], NO_CELL)
    review.label(asked(review), [fourth], common)  # a confirmation
    review.label(asked(review), [unidentified], common)
    key = review.state.key(first)
    review.add(asked(review), 0, key.image, SMALL_BOX, "BASOPHIL")
    review.add(asked(review), 0, key.image, SMALL_BOX, common)
    review.undo(asked(review))
    slide = reviewed_slides(review.state)[0]
    assert slide.changes == {
        (common, "BASOPHIL"): 2,
        (common, NO_CELL): 1,
        (UNIDENTIFIED, common): 1,
        (NO_CELL, "BASOPHIL"): 1,
    }
    assert (slide.changed, slide.added, slide.removed, slide.confirmed) == (3, 1, 1, 1)
    assert slide.reviewed.counts == Counter(
        {name: before[name] for name in CLASS_NAMES if name != common and before[name]}
    ) + Counter({common: before[common] - 2, "BASOPHIL": 3})
    assert slide.reviewed.n_unidentified == before[UNIDENTIFIED] - 1
    assert slide.reviewed.n == slide.by_model.n + slide.added - slide.removed
    assert counted_labels(review.state) == (*CLASS_NAMES, "BASOPHIL")

    of_empty = review.state.slide_of(image_without)
    review.label(asked(review), [image_without], common)
    slide = reviewed_slides(review.state)[of_empty]
    assert slide.changes[NO_CELL, common] == 1
    assert slide.reviewed.n == slide.by_model.n + slide.added - slide.removed


def test_numbers_are_the_logs_after_many_words(review: Review) -> None:
    """Random words of three reviewers, taken back and overruled; then everything is counted anew, cell by cell."""
    rng = np.random.default_rng(5)
    labels = [*CLASS_NAMES, "BASOPHIL", UNIDENTIFIED, NO_CELL]
    for step in range(150):
        who = f"reviewer {rng.integers(3)}"
        rows = rng.choice(len(review.state), int(rng.integers(1, 4)), replace=False).tolist()
        if step % 7 == 3:
            key = review.state.key(rows[0])
            review.add(asked(review, who), review.state.slide_of(rows[0]), key.image, SMALL_BOX, CLASS_NAMES[step % 4])
        elif step % 9 == 5:
            with suppress(RefusedError, ConflictError):
                review.undo(asked(review, who))
        else:
            review.label(asked(review, who), rows, str(rng.choice(labels)))
    state = review.state
    for number, slide in enumerate(reviewed_slides(state)):
        rows = [row for row in range(len(state)) if state.slide_of(row) == number]
        now = Counter(state.label(row) for row in rows)
        pairs = [(state.by_model(row), state.label(row)) for row in rows]
        assert slide.reviewed == Differential.of(now)
        assert slide.changes == Counter(pair for pair in pairs if pair[0] != pair[1])
        assert slide.changes.total() == state.slides[number].changed
        assert slide.changed == sum(a != b and NO_CELL not in (a, b) for a, b in pairs)
        assert slide.confirmed == sum(
            a == b and bool(state.state(row).says) and (row < len(state.cells) or b != NO_CELL)
            for row, (a, b) in zip(rows, pairs, strict=True)
        )
        assert slide.reviewed.n == slide.by_model.n + slide.added - slide.removed
        assert sorted(slide.told) == [row for row, (a, b) in zip(rows, pairs, strict=True) if a != b]


def test_the_table_says_the_same_in_its_columns(review: Review) -> None:
    rows = rows_of(review, 1)
    review.label(asked(review), rows[:2], "BASOPHIL")
    review.sign(asked(review, 'Dr. "O\'Neil", MD'), 1, "first line\nsecond, with a comma")
    read = table(review)
    assert list(read) == ["first", "second", "third"]
    names = (*CLASS_NAMES, "BASOPHIL")
    assert list(read["first"]) == [
        "slide",
        "n",
        "n_identified",
        *(f"n_{name}" for name in names),
        *(f"pct_{name}" for name in names),
        *(f"pct_{name}_{end}" for name in names for end in ("low", "high")),
        *(f"model_pct_{name}" for name in CLASS_NAMES),
        *(f"n_{name}" for name in ("changed", "confirmed", "added", "removed", "unidentified")),
        "signed_by",
        "signed_at",
        "note",
    ]
    row, counts = read["second"], Counter(review.state.label(one) for one in rows)
    identified = sum(counts[name] for name in names)
    for name in names:
        exact = binomtest(counts[name], identified).proportion_ci(method="exact")
        assert int(row[f"n_{name}"]) == counts[name]
        assert float(row[f"pct_{name}"]) == pytest.approx(100 * counts[name] / identified, abs=0.005)
        assert float(row[f"pct_{name}_low"]) == pytest.approx(100 * exact.low, abs=0.005)
        assert float(row[f"pct_{name}_high"]) == pytest.approx(100 * exact.high, abs=0.005)
    by_model = Counter(review.state.by_model(one) for one in rows)
    for name in CLASS_NAMES:
        share = 100 * by_model[name] / sum(by_model[name] for name in CLASS_NAMES)
        assert float(row[f"model_pct_{name}"]) == pytest.approx(share, abs=0.005)
    assert (row["n_identified"], row["n_unidentified"]) == (str(identified), str(counts[UNIDENTIFIED]))
    assert (row["signed_by"], row["note"]) == ('Dr. "O\'Neil", MD', "first line\nsecond, with a comma")
    assert row["signed_at"] == review.state.entries[-1].at
    assert (read["first"]["signed_by"], read["first"]["signed_at"], read["first"]["note"]) == ("", "", "")


def test_sign_offs_and_reopenings_in_order(review: Review) -> None:
    review.sign(asked(review, "Ann"), 2, "fine")
    review.reopen(asked(review, "Bob"), 2, "a basophil")
    slide = reviewed_slides(review.state)[2]
    assert slide.signed is None
    assert [(entry.action, entry.reviewer, entry.note) for entry in slide.history] == [
        ("sign", "Ann", "fine"),
        ("reopen", "Bob", "a basophil"),
    ]
    review.sign(asked(review, "Bob"), 2, "")
    slide = reviewed_slides(review.state)[2]
    assert slide.signed is slide.history[-1]
    assert slide.signed.reviewer == "Bob"


def test_changes_of_a_kind_stand_together_and_notes_last(review: Review) -> None:
    rows = rows_of(review, 0)
    review.note(asked(review), rows[0], "smudged")
    common = Counter(review.state.label(row) for row in rows[1:]).most_common(1)[0][0]
    same = [row for row in rows[1:] if review.state.label(row) == common]
    review.label(asked(review), same, "BASOPHIL")
    other = next(row for row in rows[1:] if row not in same and review.state.label(row) != NO_CELL)
    review.label(asked(review), [other], NO_CELL)
    assert reviewed_slides(review.state)[0].told == [*same, other, rows[0]]


def test_a_blind_reading_changes_no_number(review: Review) -> None:
    before = table(review)
    review.label(asked(review, "Bob", reading=2), rows_of(review, 0), "MONOCYTE")
    assert table(review) == before


@pytest.mark.parametrize(("cells", "suffices"), [(0, False), (99, False), (100, True), (250, True)])
def test_what_a_count_is_worth(cells: int, suffices: bool) -> None:
    found = Differential.of({"NEUTROPHIL": cells, UNIDENTIFIED: 500, NO_CELL: 500})
    assert (found.n_identified, found.n, found.suffices) == (cells, cells + 500, suffices)
    assert ("too few" in found.worth) is not suffices
    slide = ReviewedSlide("s", found, found)
    assert "s" in slides_reviewed_csv([slide], ["NEUTROPHIL"], ["NEUTROPHIL"]).decode()
