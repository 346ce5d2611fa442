"""What ``pipelines/review.py`` does with its options."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from finished_run import write_run

from core.errors import DataError, LeukorayError, SettingsError
from core.files import replace_file
from pipelines.review import ReviewSettings, review
from pipelines.reviewing.review import Asked

if TYPE_CHECKING:
    from pathlib import Path


def test_an_export_says_what_is_in_it_and_what_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, 16)
    next((run.slides / "first").iterdir()).unlink()
    assert review(ReviewSettings(run=run.path, only="all", export="boxes", out=tmp_path / "out")) == 1
    said = capsys.readouterr().err
    assert "12 cells of 3 images as boxes" in said
    assert "left_out.csv" in said
    with pytest.raises(DataError, match="does not exist"):
        review(ReviewSettings(run=run.path, only="all", export="folders", out=tmp_path / "b", slides="/nowhere"))
    assert not (tmp_path / "b").exists()
    moved = run.slides.rename(tmp_path / "moved")
    arguments = {"run": run.path, "only": "all", "export": "fiftyone", "slides": str(moved)}
    assert review(ReviewSettings.model_validate(arguments | {"out": tmp_path / "c"})) == 1


def test_what_was_reviewed_goes_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, 16, drawn=False)
    with pytest.raises(LeukorayError, match="Nobody has reviewed"):
        review(ReviewSettings(run=run.path, export="csv", out=tmp_path / "none"))
    run.review().label(Asked("Ann", "three-cells", 0), [0, 1, 2], "MONOCYTE")
    assert review(ReviewSettings(run=run.path, export="csv", out=tmp_path / "out")) == 0
    assert "3 cells of 1 images as csv" in capsys.readouterr().err
    with pytest.raises(SettingsError, match="exists already"):
        review(ReviewSettings(run=run.path, export="csv", out=tmp_path / "out"))


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="go together"):
        ReviewSettings(run="run", export="csv")
    with pytest.raises(ValueError, match="further"):
        ReviewSettings(run="run", further=["../up"])
    with pytest.raises(ValueError, match="token"):
        ReviewSettings(run="run", token="a b;c")
    with pytest.raises(SettingsError, match="holds no run"):
        review(ReviewSettings(run=str(tmp_path)))
    replace_file(tmp_path / "run.json", "{}")
    with pytest.raises(SettingsError, match="not the record"):
        review(ReviewSettings(run=str(tmp_path)))
