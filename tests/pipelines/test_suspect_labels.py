"""`audit --bundle`, whole: labels of drawn cells that were swapped are found, and shown with what looks like them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from drawn import draw_class_folders

from core.data.class_folders import read_class_folders
from core.errors import BundleError, DataError, SettingsError
from core.model.opening import open_bundle
from pipelines.audit import AuditSettings, audit
from pipelines.auditing.trained_on import find_seen_in_training
from runtime.command import run_command

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from core.model.record import DataRecord

SWAPPED = {"LYMPHOCYTE": "EOSINOPHIL", "NEUTROPHIL": "MONOCYTE"}
"""Label that both views of the first field of a class are given."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two views each of seven fields per class, two fields with wrong labels, one broken file."""
    root = tmp_path_factory.mktemp("suspects")
    draw_class_folders(root, 7, recipe="cell-crop", training={})
    for kind, wrong in SWAPPED.items():
        for view in (0, 1):
            (root / "cells" / kind / f"0-{view}.jpg").rename(root / "cells" / wrong / f"{kind}-{view}.jpg")
    (root / "cells" / "MONOCYTE" / "broken.jpg").write_bytes(b"nothing")
    return root


@pytest.fixture(scope="module")
def report(place: Path, shipped: Path) -> Path:
    settings = {"data": place / "cells", "out": place / "report", "bundle": shipped, "suspects": 3}
    assert audit(AuditSettings.model_validate(settings)) == 0
    return place / "report"


def rows(report: Path) -> list[dict[str, str]]:
    with (report / "suspects.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_swapped_labels_come_first(report: Path) -> None:
    expected = {f"{wrong}/{kind}-{view}.jpg": (wrong, kind) for kind, wrong in SWAPPED.items() for view in (0, 1)}
    first = rows(report)[:3]  # at least one view of each field, and both of one
    assert {row["path"]: (row["label"], row["suggested"]) for row in first}.items() <= expected.items()
    assert len({row["source"] for row in first}) == 2
    assert [row["rank"] for row in first] == ["1", "2", "3"]
    assert {row["other_views"] for row in first} == {"1"}
    assert "1" in {row["other_suspect_views"] for row in first}
    for row in first:
        assert float(row["margin"]) == pytest.approx(float(row["p_suggested"]) - float(row["p_label"]), abs=2e-4)
        assert row[f"p_{row['suggested']}"] == row["p_suggested"]


def test_the_record_counts_them(report: Path) -> None:
    labels = json.loads((report / "audit.json").read_text())["labels"]
    found = rows(report)
    assert (labels["cells"], labels["folds"], labels["grouped"]) == (56, 5, False)
    assert labels["suspects"] == len(found) == sum(pair["suspects"] for pair in labels["wrong"])
    assert labels["suspect_sources"] == len({(row["source"], row["label"]) for row in found})
    assert labels["evaluation"]["image"]["accuracy"]["value"] > 0.8
    assert labels["seen_in_training"] == []


def test_the_page_shows_pictures_and_look_alikes(report: Path, page: Page) -> None:
    page.goto((report / "index.html").as_uri())
    page.evaluate("for (const image of document.images) image.loading = 'eager'")
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth)")
    verdicts = page.locator(".verdict").all_inner_texts()
    assert [text.split() for text in verdicts[:2]] in (
        [["Eosinophil", "may", "be", "Lymphocyte"], ["Monocyte", "may", "be", "Neutrophil"]],
        [["Monocyte", "may", "be", "Neutrophil"], ["Eosinophil", "may", "be", "Lymphocyte"]],
    )
    first = page.locator(".suspect").first
    assert first.locator(".alike .strip:not(.own) .small").count() == 4
    assert first.locator(".alike .own .small").count() == 2
    assert "2 of 2 views" in first.inner_text()
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_training_on_the_same_images_is_said(place: Path, shipped: Path) -> None:
    bundle = open_bundle(shipped, "torch", "cpu")
    data = read_class_folders(place / "cells").with_sources(str(place / "groups.csv"))
    record = bundle.record.data
    assert record is not None
    assert find_seen_in_training(bundle, {"": data}) == []

    def seen(fingerprint: str, images: dict[str, int]) -> list[tuple[str, bool]]:
        one = record.laboratories[0].model_copy(update={"fingerprint": fingerprint, "images": images})
        trained: DataRecord = record.model_copy(update={"laboratories": [one]})
        changed = replace(bundle, record=bundle.record.model_copy(update={"data": trained}))
        return [(found.laboratory, found.exactly) for found in find_seen_in_training(changed, {"": data})]

    other = record.laboratories[0].images
    assert seen(data.with_prefix("bccd").fingerprint, other) == [("bccd", True)]
    assert seen(read_class_folders(place / "cells").fingerprint, other) == [("bccd", True)]
    assert seen("another", data.counts()) == [("bccd", False)]
    assert seen("another", data.counts() | {"MONOCYTE": 3}) == []


def test_labels_that_cannot_be_judged_leave_the_rest(place: Path, shipped: Path, tmp_path: Path) -> None:
    for kind, count in (("EOSINOPHIL", 3), ("NEUTROPHIL", 1)):
        (tmp_path / "few" / kind).mkdir(parents=True)
        for field in range(1, 1 + count):
            (tmp_path / "few" / kind / f"{field}.jpg").symlink_to(place / "cells" / kind / f"{field}-0.jpg")
    few = {"data": tmp_path / "few", "out": tmp_path / "report", "bundle": shipped}
    with pytest.raises(DataError, match=r"NEUTROPHIL has a single source.*\[too-few-sources\]"):
        audit(AuditSettings.model_validate(few))
    assert json.loads((tmp_path / "report" / "audit.json").read_text())["labels"] is None
    assert not (tmp_path / "report" / "suspects.csv").exists()


def test_options_that_cannot_be_used_are_refused_at_once(place: Path, shipped: Path, tmp_path: Path) -> None:
    plain = {"data": place / "cells", "out": tmp_path / "report"}
    with pytest.raises(SettingsError, match="groups-unused"):
        audit(AuditSettings.model_validate(plain | {"groups": "folder:1"}))
    with pytest.raises(BundleError, match="bundle-missing"):
        audit(AuditSettings.model_validate(plain | {"bundle": tmp_path / "nowhere"}))
    with pytest.raises(DataError, match="groups-unreadable"):
        audit(AuditSettings.model_validate(plain | {"bundle": shipped, "groups": "no.csv"}))
    assert run_command(AuditSettings, audit, [str(place / "cells"), "--out", str(tmp_path), "--folds", "1"]) == 2
    assert not (tmp_path / "report").exists()
