"""``pipelines/train_finder.py``: from boxes to a bundle that finds."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from core.errors import DataError, SettingsError
from core.finding.torch_finder import TorchFinder
from core.images.drawings import CLASS_NAMES, draw_smear
from core.model.bundle import load_bundle
from pipelines.evaluate import EvaluateSettings, evaluate
from pipelines.evaluating.record import EvaluationRecord
from pipelines.train_finder import TrainFinderSettings, train_finder
from pipelines.training.finding import save_with_finder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight drawn fields of four slides, with their boxes beside them."""
    folder = tmp_path_factory.mktemp("fields")
    (folder / "images").mkdir()
    rng = np.random.default_rng(3)
    with (folder / "boxes.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image", "label", "left", "top", "right", "bottom"])
        for number in range(8):
            rgb, cells = draw_smear(rng.choice(CLASS_NAMES, 3).tolist(), rng)
            name = f"slide{number % 4}_{number}.png"
            cv2.imwrite(str(folder / "images" / name), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
            rows.writerows([name, cell.kind, *cell.box] for cell in cells)
            rows.writerow([name, "PLATELET", 5, 5, 15, 15])
    return folder


def settings(fields: Path, start: Path, out: Path, **options: object) -> TrainFinderSettings:
    given = {
        "data": fields / "images",
        "boxes": fields / "boxes.csv",
        "not_white": ["PLATELET"],
        "groups": "name:^(slide.)",
        "validation_share": 0.25,
        "start": start,
        "out": out,
        "steps": 2,
        "drawn": 4,
    }
    return TrainFinderSettings.model_validate(given | options)


def test_a_finder_is_trained_further_and_travels_in_the_bundle(
    fields: Path, field_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new"
    assert train_finder(settings(fields, field_bundle, out, learning_rate=1e-6)) == 0
    before, new = load_bundle(field_bundle), load_bundle(out)
    assert new.id != before.id
    assert new.record.weights_sha256 == before.record.weights_sha256
    found = new.record.finder
    assert found is not None
    assert found.training is not None
    assert found.training.held_out == 6
    assert (found.training.recall, found.training.precision) == (1.0, 1.0)
    assert found.training.laboratories == {"images": 6}
    assert not (tmp_path / ".new.training").exists()


def test_what_was_measured_with_another_finder_is_left_out(fields: Path, shipped: Path, tmp_path: Path) -> None:
    shipping = load_bundle(shipped, with_replay=True)
    assert shipping.finder is not None
    for cuts_out in (False, True):
        finder = TorchFinder(shipping.finder.network, shipping.finder.record.model_copy(update={"cuts_out": cuts_out}))
        shipping = replace(shipping, record=shipping.record.model_copy(update={"finder": finder.record}))
        first = save_with_finder(tmp_path / f"first-{cuts_out}", shipping, finder)
        assert (first.metrics is None) is cuts_out
        out = tmp_path / f"new-{cuts_out}"
        assert train_finder(settings(fields, tmp_path / f"first-{cuts_out}", out)) == 0
        new = load_bundle(out, with_replay=True)
        assert (new.metrics is None) is cuts_out
        assert ("Nothing was measured of its classes" in (out / "README.md").read_text()) is cuts_out
        assert new.finder is not None
        assert new.finder.record.cuts_out is cuts_out
        assert new.replay is not None, "images that were shown in training can still be shown again"


def test_a_bundle_without_a_finder_gets_its_first(fields: Path, small_bundle: Path, tmp_path: Path) -> None:
    assert train_finder(settings(fields, small_bundle, tmp_path / "new")) == 0
    assert load_bundle(tmp_path / "new").finder is not None


def test_a_file_of_laboratories_is_taken_too(fields: Path, field_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "fields.yaml"
    file.write_text(
        f"laboratories:\n  - name: drawn\n    path: {fields / 'images'}\n    boxes: {fields / 'boxes.csv'}\n"
        "    not_white: [PLATELET]\n"
    )
    plain = {"data": file, "boxes": None, "not_white": [], "groups": None}
    assert train_finder(settings(fields, field_bundle, tmp_path / "new", **plain)) == 0
    record = load_bundle(tmp_path / "new").record.finder
    assert record is not None
    assert record.training is not None
    assert list(record.training.laboratories) == ["drawn"]
    with pytest.raises(SettingsError, match="no laboratory elsewhere"):
        train_finder(settings(fields, field_bundle, tmp_path / "b", **plain | {"leave_out": ["elsewhere"]}))
    with pytest.raises(SettingsError, match="stand in"):
        train_finder(settings(fields, field_bundle, tmp_path / "b", data=file))


def test_a_folder_needs_boxes(fields: Path, field_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--boxes"):
        train_finder(settings(fields, field_bundle, tmp_path / "new", boxes=None))
    names = [*CLASS_NAMES, "PLATELET"]
    with pytest.raises(DataError, match="No image has a marked white cell"):
        train_finder(settings(fields, field_bundle, tmp_path / "new", not_white=names))


def test_boxes_are_the_truth_of_an_evaluation(fields: Path, field_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "fields.yaml"
    file.write_text(
        f"laboratories:\n  - name: drawn\n    path: {fields / 'images'}\n    boxes: {fields / 'boxes.csv'}\n"
        "    groups: name:^(slide.)\n    not_white: [PLATELET]\n"
    )
    given = {"bundle": field_bundle, "data": file, "out": tmp_path / "report", "resamples": 50}
    assert evaluate(EvaluateSettings.model_validate(given)) == 0
    record = EvaluationRecord.model_validate_json((tmp_path / "report" / "drawn" / "evaluation.json").read_text())
    finding = record.finding
    assert finding is not None
    assert (finding.fields, finding.slides, finding.marked, finding.found) == (8, 4, 24, 24)
    assert finding.recall.value == finding.precision.value == 1.0
    assert finding.recall.low is not None
    assert finding.average_precision.value > 0.9
    assert finding.differential_error is not None
    page = (tmp_path / "report" / "drawn" / "index.html").read_text()
    assert "24 white cells are marked in 8 fields of 4 slides" in page
