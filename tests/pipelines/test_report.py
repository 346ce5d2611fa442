"""The report in a real browser, opened from disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from without_ray import work_here

from pipelines.classification.record import RunRecord
from pipelines.classify import ClassifySettings, classify
from pipelines.demo import draw_slides

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def run(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    draw_slides(folder / "slides", 20)
    arguments = ClassifySettings(
        slides=str(folder / "slides"), out=str(folder / "run"), model=small_bundle, drawn=True, max_error_rate=1
    )
    with pytest.MonkeyPatch.context() as patch:
        work_here(patch)
        assert classify(arguments) == 0
    return folder / "run"


def test_from_the_overview_to_a_heatmap_and_back(run: Path, page: Page) -> None:
    page.goto((run / "report" / "index.html").as_uri())
    assert "For Research Use Only" in page.inner_text("body")
    assert "not photographs" in page.inner_text("body")
    assert page.locator("table tr").count() == 4
    page.get_by_role("link", name="smear-2-allergic").click()
    assert page.locator("button.cell").count() == 20
    confidences = [float(text) for text in page.locator(".cells").first.locator("button span").all_inner_texts()]
    assert confidences == sorted(confidences)
    page.locator("button.cell").first.click()
    viewer = page.locator("#viewer")
    assert viewer.is_visible()
    page.wait_for_function("document.querySelector('#viewer img').naturalWidth === 320")
    assert viewer.locator(".probability").count() == 4
    first = page.locator("#viewer-image").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-image").inner_text() != first
    page.keyboard.press("Escape")
    assert not viewer.is_visible()


def test_the_record_says_that_they_are_drawings(run: Path) -> None:
    assert RunRecord.model_validate_json((run / "run.json").read_bytes()).drawn


def test_unreadable_files_are_explained(run: Path, page: Page) -> None:
    page.goto((run / "report" / "slides" / "00003.html").as_uri())
    text = page.inner_text("body")
    assert "copy-interrupted.jpg" in text
    assert "The file is empty (0 bytes)." in text


def test_a_phone_needs_no_sideways_scrolling(run: Path, page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    for name in ("index.html", "slides/00001.html"):
        page.goto((run / "report" / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
