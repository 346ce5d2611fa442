"""The page, in a real browser, with real clicks."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import pytest
from conftest import browsing
from hostile import encoded, odd_contents, picture
from playwright.sync_api import expect

from core.model.card import RESEARCH_ONLY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

PASTE = """async (data) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const given = new DataTransfer();
    given.items.add(new File([bytes], "pasted.jpg", { type: "image/jpeg" }));
    document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: given, bubbles: true }));
    const dropped = new DataTransfer();
    dropped.items.add(new File([bytes], "dropped.jpg", { type: "image/jpeg" }));
    const target = document.getElementById("drop");
    target.dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true }));
}"""


@pytest.fixture
def site(served: str) -> Iterator[Page]:
    """The service's page, which may ask for nothing from elsewhere."""
    with browsing(served, "data:", "blob:") as page:
        page.goto(served)
        yield page


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = []
    for name, data in {
        "one.jpg": encoded(picture(0), "JPEG"),
        "turned.jpg": odd_contents()["turned.jpg"],
        "deep.tif": odd_contents()["sixteen-bit.tif"],
        "<b>bold.png": b"no image",
    }.items():
        (tmp_path / name).write_bytes(data)
        paths.append(tmp_path / name)
    return paths


def test_chosen_images_are_classified(site: Page, images: list[Path], tmp_path: Path) -> None:
    expect(site.locator(".banner")).to_have_text(RESEARCH_ONLY)
    expect(site.locator("#bundle")).to_contain_text("NEUTROPHIL")
    site.locator("#files").set_input_files(images)
    expect(site.locator("#status")).to_contain_text("3 classified", timeout=20_000)
    expect(site.locator("#status")).to_contain_text("1 failed")
    cards = site.locator(".card")
    assert cards.count() == 4
    for number in range(3):
        card = cards.nth(number)
        assert card.locator("meter").count() == 4
        assert card.locator(".photo").evaluate("image => image.naturalWidth") > 0
        assert card.locator(".heat").evaluate("image => image.naturalWidth") > 0
        assert "%" in (card.locator("h2").text_content() or "")
    failed = cards.nth(3)
    expect(failed).to_contain_text("not an image")
    expect(failed.locator("figcaption")).to_have_text("<b>bold.png")
    with site.expect_download() as download:
        site.get_by_role("button", name="Save as CSV").click()
    download.value.save_as(tmp_path / "saved.csv")
    rows = list(csv.DictReader((tmp_path / "saved.csv").open()))
    assert sorted(row["image"] for row in rows) == ["deep.tif", "one.jpg", "turned.jpg"]
    site.get_by_role("button", name="Clear").click()
    assert cards.count() == 0


def test_pasted_and_dropped_images_are_classified(site: Page) -> None:
    import base64

    site.evaluate(PASTE, base64.b64encode(encoded(picture(1), "JPEG")).decode())
    expect(site.locator("#status")).to_contain_text("2 classified", timeout=20_000)
    names = [text.partition(".jpg")[0] for text in site.locator("figcaption").all_text_contents()]
    assert names == ["pasted", "dropped"]


def test_the_keyboard_does_everything(site: Page, images: list[Path]) -> None:
    site.keyboard.press("Tab")
    assert site.evaluate("document.activeElement.name") == "cells"
    site.keyboard.press("Tab")
    assert site.evaluate("document.activeElement.id") == "files"
    site.locator("#files").set_input_files(images[:1])
    expect(site.locator("#status")).to_contain_text("1 classified", timeout=20_000)
    site.keyboard.press("Tab")
    assert site.evaluate("document.activeElement.id") == "strength"
    before = site.locator(".heat").evaluate("image => getComputedStyle(image).opacity")
    for _ in range(10):
        site.keyboard.press("ArrowRight")
    after = site.locator(".heat").evaluate("image => getComputedStyle(image).opacity")
    assert float(after) > float(before)
    site.keyboard.press("Tab")
    site.keyboard.press("Tab")
    assert site.evaluate("document.activeElement.id") == "clear"
    site.keyboard.press("Enter")
    assert site.locator(".card").count() == 0


def test_a_phone_needs_no_sideways_scrolling(site: Page, images: list[Path]) -> None:
    site.set_viewport_size({"width": 360, "height": 740})
    site.locator("#files").set_input_files(images)
    expect(site.locator("#status")).to_contain_text("3 classified", timeout=20_000)
    assert site.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_documentation_shows(site: Page, served: str) -> None:
    site.goto(f"{served}/docs")
    expect(site.locator("#swagger-ui")).to_contain_text("/v1/classify", timeout=20_000)
    assert site.locator(".opblock").count() >= 10


def test_a_field_has_a_box_for_each_cell(site: Page, images: list[Path], tmp_path: Path) -> None:
    site.get_by_label("a field with any number of them").check()
    site.locator("#files").set_input_files(images[:1])
    expect(site.locator("#status")).to_contain_text("1 classified", timeout=20_000)
    card = site.locator(".card.field")
    box = card.locator(".boxes button")
    assert box.count() == 1, "a bundle without a learned finder finds one cell"
    expect(box).to_have_attribute("aria-pressed", "true")
    expect(card.locator(".summary")).to_contain_text("1 white cell")
    photo, around = card.locator(".photo").bounding_box(), box.bounding_box()
    assert photo is not None
    assert around is not None
    assert photo["x"] <= around["x"] < around["x"] + around["width"] <= photo["x"] + photo["width"] + 1
    box.click()
    assert card.locator(".heat").count() == 1
    assert card.locator("meter").count() == 4
    with site.expect_download() as download:
        site.get_by_role("button", name="Save as CSV").click()
    download.value.save_as(tmp_path / "saved.csv")
    (row,) = csv.DictReader((tmp_path / "saved.csv").open())
    assert (row["image"], row["cell"]) == ("one.jpg", "1")
