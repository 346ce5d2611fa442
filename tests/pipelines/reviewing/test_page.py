"""A whole review in a real browser, by keyboard, mouse and touch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conftest import browsing
from finished_run import FinishedRun, write_run
from playwright.sync_api import expect
from review_server import TOKEN, Reviewing, reviewing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

SLIDES = ("smear 1", "<b>smear</b> & 2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return write_run(tmp_path_factory.mktemp("run"), 300, SLIDES)


@pytest.fixture
def server(run: FinishedRun, tmp_path: Path) -> Iterator[Reviewing]:
    with reviewing(run.path, "--further", "BASOPHIL", "--database", f"sqlite:///{tmp_path / 'log.sqlite'}") as server:
        yield server


@pytest.fixture
def page(server: Reviewing) -> Iterator[Page]:
    with browsing(server.address) as page:
        come_in(page, server, "Ann")
        yield page


def come_in(page: Page, server: Reviewing, name: str) -> None:
    page.goto(f"{server.address}/?token={TOKEN}")
    page.get_by_label("Name", exact=True).fill(name)
    page.keyboard.press("Enter")
    expect(page.locator("#who")).to_have_text(f"Reviewer: {name}")
    expect(page.locator(".tile.active")).to_be_visible()
    page.locator("#gallery").focus()


def entries(server: Reviewing) -> list[dict[str, str]]:
    """Everything in the log that is about cells, in order."""
    rows = {cell["row"] for cell in server.client.get("/api/changes", params={"after": 0}).json()["cells"]}
    told = [entry for row in rows for entry in server.client.get(f"/api/cells/{row}/history").json()]
    return sorted(told, key=lambda entry: entry["number"])


def test_a_whole_review_by_keyboard(page: Page, server: Reviewing) -> None:
    expect(page.locator("#count")).to_have_text("301 cells")
    page.locator("#slide").select_option(label=SLIDES[0])
    expect(page.locator("#count")).to_have_text("152 cells")
    page.locator("#gallery").focus()
    for number in range(40):
        page.keyboard.press("12345ux"[number % 7])
        if number % 5 == 4:
            page.keyboard.press("ArrowDown")
    expect(page.locator("#saved")).to_have_text("Everything is saved")
    assert len(entries(server)) == 40
    expect(page.locator("#differential")).to_contain_text("Reviewed")
    changed = sum(entry["before"] != entry["after"] for entry in entries(server))
    assert changed > 20
    for _ in range(3):
        page.keyboard.press("z")
    expect(page.locator("#saved")).to_have_text("Everything is saved")
    expect(page.locator("#said")).to_have_text("Taken back.")
    assert [entry["action"] for entry in entries(server)].count("undo") == 3
    page.keyboard.press("s")
    page.get_by_label("Note").last.fill("read in full")
    page.get_by_role("button", name="Sign off", exact=True).click()
    expect(page.locator("#signed")).to_contain_text("Signed off by Ann")
    page.locator("#gallery").focus()
    page.keyboard.press("2")
    expect(page.locator("#trouble")).to_contain_text("open it again first")
    page.locator("#reopen").click()
    page.get_by_label("Note").last.fill("one was overlooked")
    page.get_by_role("button", name="Open again", exact=True).click()
    expect(page.locator("#signed")).to_have_text("Not signed off.")
    assert len(entries(server)) == 43


def test_two_reviewers_see_each_other(page: Page, server: Reviewing) -> None:
    browser = page.context.browser
    assert browser is not None
    other = browser.new_context().new_page()
    come_in(other, server, "Bob <i>")
    first = page.locator(".tile.active").get_attribute("data-row")
    page.keyboard.press("5")
    mark = other.locator(f"#cell-{first}")
    expect(other.locator("#said")).to_have_text("Ann changed 1 cell.")
    other.locator("#label").select_option(label="Basophil")
    mark.click()
    expect(mark).to_have_attribute("aria-label", f"Basophil, {mark.get_attribute('aria-label').split(', ', 1)[1]}")
    other.keyboard.press("x")
    expect(page.locator("#said")).to_have_text("Bob <i> changed 1 cell.")
    page.locator("#only").select_option("contested")
    expect(page.locator("#count")).to_have_text("1 cell")
    expect(page.locator(".detail .words")).to_contain_text("Reviewers differ")
    expect(page.locator("#history")).to_contain_text("Bob <i>: Basophil → Not a cell")


def test_several_cells_are_chosen_and_moved(page: Page, server: Reviewing) -> None:
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator(".tile.chosen")).to_have_count(3)
    page.keyboard.press("5")
    expect(page.locator("#saved")).to_have_text("Everything is saved")
    assert [entry["after"] for entry in entries(server)] == ["BASOPHIL"] * 3
    assert len({entry["request"] for entry in entries(server)}) == 1
    page.locator(".tile").nth(0).click()
    page.locator(".tile").nth(2).click(modifiers=["Control"])
    expect(page.locator(".tile.chosen")).to_have_count(2)
    page.keyboard.press("Escape")
    page.keyboard.press("Control+a")
    assert page.locator(".tile.chosen").count() > 3


def test_a_missed_cell_is_drawn_and_a_false_one_removed(page: Page, server: Reviewing) -> None:
    page.keyboard.press("a")
    frame = page.locator(".field .new")
    expect(frame).to_be_visible()
    before = frame.bounding_box()
    page.keyboard.press("ArrowLeft")
    after = frame.bounding_box()
    assert before
    assert after
    assert after["x"] < before["x"]
    field = page.locator(".field").bounding_box()
    assert field is not None
    page.mouse.move(field["x"] + 10, field["y"] + 10)
    page.mouse.down()
    page.mouse.move(field["x"] + 40, field["y"] + 40, steps=4)
    page.mouse.up()
    page.keyboard.press("1")
    expect(page.locator("#count")).to_have_text("302 cells")
    (added,) = entries(server)
    assert (added["action"], added["after"]) == ("add", "EOSINOPHIL")
    assert 20 < float(added["right"]) - float(added["left"]) < 400
    page.keyboard.press("x")
    expect(page.locator("#saved")).to_have_text("Everything is saved")
    assert entries(server)[-1]["after"] == "no-cell"


def test_a_note_is_kept(page: Page, server: Reviewing) -> None:
    page.keyboard.press("n")
    page.keyboard.type("vacuoles <script>alert(1)</script>")
    page.get_by_role("button", name="Save note").click()
    expect(page.locator("#history")).to_contain_text("“vacuoles <script>alert(1)</script>”")
    page.locator("#only").select_option("noted")
    expect(page.locator("#count")).to_have_text("1 cell")


def test_what_cannot_be_saved_is_said_and_saved_later(page: Page, server: Reviewing) -> None:
    page.route("**/api/label", lambda route: route.abort())
    page.keyboard.press("5")
    expect(page.locator("#trouble")).to_contain_text("not saved yet")
    expect(page.locator("#saved")).to_have_text("Saving 1…")
    assert entries(server) == []
    page.unroute("**/api/label")
    expect(page.locator("#saved")).to_have_text("Everything is saved", timeout=10_000)
    assert [entry["after"] for entry in entries(server)] == ["BASOPHIL"]


def test_a_phone_shows_gallery_and_cell_without_sideways_scrolling(page: Page, server: Reviewing) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.reload()
    expect(page.locator(".tile.active")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.locator(".tile").nth(1).tap() if page.evaluate("'ontouchstart' in window") else page.locator(".tile").nth(
        1
    ).click()
    page.locator(".labels").get_by_role("button", name="Basophil").click()
    expect(page.locator("#saved")).to_have_text("Everything is saved")
    assert [entry["after"] for entry in entries(server)] == ["BASOPHIL"]


def test_a_blind_reading_tells_nothing_of_the_model(run: FinishedRun, server: Reviewing) -> None:
    with reviewing(run.path, "--reading", "second", "--reviewer", "Eve") as blind, browsing(blind.address) as page:
        page.goto(f"{blind.address}/?token={TOKEN}")
        expect(page.locator("#who")).to_have_text("Reviewer: Eve")
        expect(page.locator(".heading").first).to_contain_text("Not read yet")
        expect(page.locator("#differential")).to_be_hidden()
        expect(page.locator(".detail")).not_to_contain_text("Model")
        page.locator("#gallery").focus()
        page.keyboard.press("3")
        expect(page.locator("#saved")).to_have_text("Everything is saved")
        page.locator("#label").select_option(label="Monocyte")
        expect(page.locator("#count")).to_have_text("1 cell")
