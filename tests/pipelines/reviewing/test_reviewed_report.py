"""The reviewed report: its numbers, its signatures, hostile names, on the screen and on paper."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pytest
from finished_run import FinishedRun, write_run

from core.images.cells import Box
from core.images.drawings import CLASS_NAMES
from core.model.card import RESEARCH_ONLY
from pipelines.reviewing.cells import NO_CELL, UNIDENTIFIED
from pipelines.reviewing.differential import reviewed_slides
from pipelines.reviewing.report import write_outcome
from pipelines.reviewing.review import Asked, Review

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

SLIDES = ("<script>document.title='broken'</script>", "a+b %41 #1? 'q' \"Q\" &amp;", "long " + "x" * 235)
ANN, BOB = "Dr. Ann <b>Größer</b>", "Bob \"O'Neil\" </p><script>document.title='broken'</script>"
LABEL = "<i onclick=1>BASOPHIL</i>"

_requests = iter(range(10**9))


class Rows(HTMLParser):
    """The text of every row of every table, cell by cell, and of the whole page."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text = ""
        self._open = False

    def handle_starttag(self, tag: str, _attributes: object) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"}:
            self._open = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open:
            self.rows[-1][-1] += data.strip()


def asked(review: Review, who: str, reading: int = 1) -> Asked:
    return Asked(who, f"request-{next(_requests)}", review.state.last, reading)


def rows_of(review: Review, slide: int) -> list[int]:
    return np.flatnonzero(review.state.cells.slide == slide).tolist()


def reviewed(run: FinishedRun) -> Review:
    """A review with every kind of entry in it, under hostile names."""
    review = run.review([LABEL])
    one, two = (rows_of(review, slide) for slide in (0, 1))
    review.label(asked(review, ANN), one[:3], LABEL)
    review.label(asked(review, BOB), [one[3]], NO_CELL)
    for row in one[4:7]:
        review.label(asked(review, ANN), [row], review.state.label(row))
    review.label(asked(review, BOB), [one[2]], UNIDENTIFIED)
    review.note(asked(review, BOB), one[0], "</li><script>document.title='broken'</script>\nsecond line")
    review.add(asked(review, ANN), 0, review.state.key(one[0]).image, Box(1, 2, 30, 40), CLASS_NAMES[0])
    review.sign(asked(review, BOB), 0, "too early")
    review.reopen(asked(review, ANN), 0, "one <b>more</b> look")
    review.sign(asked(review, ANN), 0, "agreed & filed")
    review.label(asked(review, BOB), two[:4], CLASS_NAMES[1])
    for row in one[:10] + two[:6]:
        review.label(asked(review, "Cem <u>", 2), [row], review.state.label(row) if row % 3 else CLASS_NAMES[2])
    return review


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("a run of <b>mine #1 %41 ä")
    return write_run(folder, 120, SLIDES, drawn=False)


@pytest.fixture(scope="module")
def review(run: FinishedRun) -> Review:
    review = reviewed(run)
    write_outcome(run.folder, run.record, review.state)
    return review


def read(run: FinishedRun, name: str = "report.html") -> str:
    return run.folder.folder.read(f"review/{name}").decode()


def test_the_numbers_are_those_of_the_review(run: FinishedRun, review: Review) -> None:
    parsed = Rows()
    parsed.feed(read(run))
    labels = [*(name.capitalize() for name in CLASS_NAMES), LABEL.capitalize()]
    for slide in reviewed_slides(review.state):
        start = next(i for i, row in enumerate(parsed.rows) if row[:3] == ["Class", "Reviewed", "Model"])
        rows = parsed.rows[start + 2 : start + 10]
        del parsed.rows[: start + 10]
        assert [row[0] for row in rows] == [*labels, "Identified", "Unidentified", "White cells"]
        for name, row in zip([*CLASS_NAMES, LABEL], rows, strict=False):
            part = slide.reviewed.share(name)
            assert row[1:4] == [
                str(slide.reviewed.counts[name]),
                f"{part.percent:.1f} %",
                f"{part.low:.1f} to {part.high:.1f}",
            ]
            model = slide.by_model.share(name)
            known = [str(slide.by_model.counts[name]), f"{model.percent:.1f} %", f"{model.low:.1f} to {model.high:.1f}"]
            assert row[4:7] == known if name != LABEL else row[4] == "not a class of the bundle"
        assert [row[1] for row in rows[5:]] == [
            str(number) for number in (slide.reviewed.n_identified, slide.reviewed.n_unidentified, slide.reviewed.n)
        ]
    assert RESEARCH_ONLY in parsed.text
    assert "drawn by a program" not in parsed.text


def test_who_signed_and_who_did_not(run: FinishedRun, review: Review) -> None:
    parsed = Rows()
    parsed.feed(read(run))
    text = re.sub(r"\s+", " ", parsed.text)
    signed = review.state.slides[0].signed
    assert signed is not None
    moment = signed.at[:19].replace("T", " ") + " UTC"
    assert f"Signed off by {ANN}{moment} agreed & filed" in text
    assert f"Signed off by {BOB}, " in text
    assert f"Reopened by {ANN}, " in text
    assert ": one <b>more</b> look" in text
    assert text.count("NOT SIGNEDNobody has signed this slide off") == 2
    assert "2 slides are NOT SIGNED." in text
    assert "Reviewers differ on 1 cell;" in text


def test_what_the_page_says_of_the_readers(run: FinishedRun, review: Review) -> None:
    parsed = Rows()
    parsed.feed(read(run))
    assert "wait for the first one and are not compared" in parsed.text
    head = next(i for i, row in enumerate(parsed.rows) if row[0] == "Slide" and "Cohen's kappa" in row)
    assert [row[:2] for row in parsed.rows[head + 1 : head + 4]] == [
        [SLIDES[0], "10"],
        [SLIDES[1], "4"],
        ["All slides", "14"],
    ]
    head = next(i for i, row in enumerate(parsed.rows) if row[0] == "Reviewers")
    assert parsed.rows[head + 1][:3] == [f"{BOB} and {ANN}", "1", "0.0 %"]


def test_cells_beyond_a_number_are_counted_and_not_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path, 40, ("one",), drawn=False)
    review = run.review(["BASOPHIL"])
    review.label(asked(review, "Ann"), list(range(30)), "BASOPHIL")
    write_outcome(run.folder, run.record, review.state, shown=4)
    page = read(run)
    assert "The first 4 of 30; all are in the review's log." in page
    assert page.count("<img ") == 4
    changed = reviewed_slides(review.state)[0].changed
    assert f"reviewers gave {changed} another label" in page
    again = read(run)
    write_outcome(run.folder, run.record, review.state, shown=4)
    assert read(run) == again


def test_a_run_of_drawings_says_so_and_one_without_a_word_is_not_signed(tmp_path: Path) -> None:
    run = write_run(tmp_path, 12, ("one",), drawn=False)
    write_outcome(run.folder, run.record.model_copy(update={"drawn": True}), run.review().state)
    page = read(run)
    assert "They are not photographs" in page
    assert "Nothing, and no answer of the model was confirmed one by one." in page
    assert "fewer than 100 identified cells: too few for a differential" in page
    assert "Agreement of readers" not in page
    assert read(run, "slides_reviewed.csv").splitlines()[1].startswith("one,12,")


def test_hostile_names_are_only_text(run: FinishedRun, review: Review, page: Page) -> None:
    page.goto((run.slides.parent / "run" / "review" / "report.html").as_uri())
    assert page.title() == "Reviewed differential of run · Leukoray"
    assert page.locator("script, main i[onclick], main u").count() == 0
    assert page.locator("section.slide > h2").all_inner_texts() == [*sorted(SLIDES), "Agreement of readers"]
    page.locator("table.slides a").first.click()
    assert page.evaluate("location.hash") == "#slide-1"
    pictures = page.locator("ul.cells img")
    assert pictures.count() > 4
    assert pictures.evaluate_all("all => all.every(one => one.naturalWidth > 96 && one.alt)")
    assert page.locator("ul.cells .none").inner_text() == "added by hand"
    unnamed = (
        "[...document.querySelectorAll('table')].filter(one => !one.caption || !one.querySelector('th[scope=col]'))"
    )
    assert page.evaluate(f"{unnamed}.length") == 0
    for link in page.locator("dl a").all():
        assert link.get_attribute("href") in {
            "slides_reviewed.csv",
            "../slides.csv",
            "../report/index.html",
            "../run.json",
        }


WIDER_THAN_PAPER = """
    [...document.querySelectorAll("table")].filter(one => one.getBoundingClientRect().right > innerWidth).length
"""


def on_paper(page: Page) -> None:
    """Lay a page out as the printer does, on A4 without its margins."""
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 695, "height": 983})


def test_a_table_of_many_labels_fits_on_paper(tmp_path: Path, page: Page) -> None:
    further = [f"{name} {kind}" for name in ("BAND", "REACTIVE", "SMUDGED", "EARLY") for kind in ("GRANULOCYTE", "X")]
    run = write_run(tmp_path, 120, ("one",), drawn=False)
    review = run.review(further)
    for number, name in enumerate(further):
        rows = list(range(5 * number, 5 * number + 5))
        review.label(asked(review, ANN), rows, name)
        review.label(asked(review, "Cem", 2), rows, further[number - 1])
    write_outcome(run.folder, run.record, review.state)
    page.goto((tmp_path / "run" / "review" / "report.html").as_uri())
    on_paper(page)
    assert page.evaluate(WIDER_THAN_PAPER) == 0
    assert page.locator("table.crossed").count() == 1


def test_a_phone_needs_no_sideways_scrolling_and_paper_has_a_page_per_slide(
    run: FinishedRun, review: Review, page: Page
) -> None:
    page.goto((run.slides.parent / "run" / "review" / "report.html").as_uri())
    paper = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type /Page\b(?!s)", paper)) >= 1 + len(SLIDES) + 1
    boxes = {tuple(map(float, box.split())) for box in re.findall(rb"/MediaBox \[([^\]]+)\]", paper)}
    assert {(round(box[2]), round(box[3])) for box in boxes} == {(595, 842)}
    on_paper(page)
    assert page.evaluate(WIDER_THAN_PAPER) == 0
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
