"""A bundle adapted to unlabelled slides: as a command, and within a run that is killed and continued."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
import torch

from core.errors import BundleError, DataError, SettingsError
from core.model.bundle import load_bundle
from pipelines.adapt import AdaptSettings, adapt
from pipelines.classification import adaptation as adaptation_module
from pipelines.classification.adaptation import choose_images
from pipelines.classification.record import RunRecord
from pipelines.classification.slides import Entry
from pipelines.classify import ClassifySettings, classify
from pipelines.demo import draw_slides

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides of twenty cells each, and one broken file."""
    root = tmp_path_factory.mktemp("adapt") / "slides"
    draw_slides(root, 20, broken=False)
    (next(root.iterdir()) / "broken.png").write_bytes(b"")
    return root


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation_module, "FEWEST_IMAGES", 20)


def settings(bundle: Path, slides: Path, out: Path, **options: object) -> AdaptSettings:
    return AdaptSettings.model_validate({"bundle": bundle, "slides": str(slides), "out": out} | options)


def run_settings(slides: Path, out: Path, model: Path, **options: object) -> ClassifySettings:
    return ClassifySettings.model_validate(
        {"slides": str(slides), "out": str(out), "model": model, "adapt": True, "gradcam": "none"} | options
    )


def rows(run: Path) -> pd.DataFrame:
    return pq.read_table(run / "predictions").to_pandas().sort_values(["slide", "image"], ignore_index=True)


def record(run: Path) -> RunRecord:
    return RunRecord.model_validate_json((run / "run.json").read_text())


def test_the_same_images_are_chosen_whatever_their_order() -> None:
    entries = [Entry(f"slide-{number % 3}", f"{number}.jpg", b"") for number in range(300)]
    entries[7] = Entry("slide-1", "7.jpg", b"", "unreadable", "It is broken.")
    chosen = choose_images(entries, 60)
    assert chosen == choose_images(reversed(entries), 60)
    assert entries[7] not in chosen
    counts = [sum(entry.slide == f"slide-{number}" for entry in chosen) for number in range(3)]
    assert min(counts) > 10
    assert choose_images(entries, 61)[:60] == chosen


def test_the_new_bundle_says_what_it_was_adapted_to(
    small_bundle: Path, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adapt(settings(small_bundle, slides, tmp_path / "new", images=50, share=0.25)) == 0
    before, after = load_bundle(small_bundle), load_bundle(tmp_path / "new")
    assert after.id != before.id
    assert after.class_names == before.class_names
    assert after.record.confidence == before.record.confidence
    adapted = after.record.adaptation
    assert adapted is not None
    assert (adapted.bundle, adapted.share, adapted.slides) == (before.id, 0.25, 3)
    assert 20 <= adapted.images <= 50
    assert after.metrics is None
    card = (tmp_path / "new" / "README.md").read_text()
    assert "Nothing was measured with these weights" in card
    assert before.id[:12] in card
    assert f"{adapted.images} images of 3 slides" in capsys.readouterr().err


def test_too_few_images_are_refused(small_bundle: Path, slides: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    one = next(path for path in slides.iterdir() if path.is_dir())
    few.mkdir()
    for path in sorted(one.glob("*.jpg"))[:5]:
        shutil.copy(path, few)
    with pytest.raises(DataError, match=r"White cells are found in [1-5] of the 5 images.*needs 20") as caught:
        adapt(settings(small_bundle, few, tmp_path / "new"))
    assert caught.value.code == "too-few-images"
    assert not (tmp_path / "new").exists()


def test_what_exists_is_not_overwritten(small_bundle: Path, slides: Path) -> None:
    with pytest.raises(SettingsError, match="exists already"):
        adapt(settings(small_bundle, slides, small_bundle))


@pytest.mark.usefixtures("in_this_process")
class TestRun:
    def test_a_run_keeps_its_bundle_and_a_resume_uses_it(
        self, small_bundle: Path, slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, original = tmp_path / "run", load_bundle(small_bundle)
        assert classify(run_settings(slides, out, small_bundle, part_size=20, max_error_rate=1)) == 0
        adapted, whole = load_bundle(out / "bundle"), rows(out)
        assert set(whole["bundle"]) == {adapted.id}
        state = record(out)
        assert state.bundle.id == original.id
        assert state.adapted is not None
        assert (state.adapted.id, state.adapted.path) == (adapted.id, str(out / "bundle"))
        assert state.adaptation == adapted.record.adaptation
        assert f"adapted to {state.adaptation.images}" in (out / "report" / "index.html").read_text()  # type: ignore[union-attr]
        (out / "predictions" / "part-00000001.parquet").unlink()  # as if the run had been killed before it
        (out / "run.json").write_text(state.model_copy(update={"state": "running"}).model_dump_json())
        monkeypatch.setattr(adaptation_module, "adapt_bundle", None)  # a resume must not adapt again
        assert classify(run_settings(slides, out, small_bundle, part_size=20, max_error_rate=1, resume=True)) == 0
        assert rows(out).equals(whole)

    def test_adapted_rows_and_others_are_never_mixed(self, small_bundle: Path, slides: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        assert classify(run_settings(slides, out, small_bundle, max_error_rate=1)) == 0
        with pytest.raises(SettingsError, match="adapt = True, not False"):
            classify(run_settings(slides, out, small_bundle, adapt=False, resume=True))

    def test_a_kept_bundle_that_was_changed_is_refused(self, small_bundle: Path, slides: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        assert classify(run_settings(slides, out, small_bundle, part_size=20, max_error_rate=1)) == 0
        (out / "predictions" / "part-00000001.parquet").unlink()
        state = record(out)
        (out / "run.json").write_text(state.model_copy(update={"state": "running"}).model_dump_json())
        (out / "bundle" / "model.safetensors").write_bytes(b"x")
        with pytest.raises(BundleError, match="is not the file"):
            classify(run_settings(slides, out, small_bundle, part_size=20, max_error_rate=1, resume=True))


def test_adapting_makes_the_statistics_those_of_the_slides(small_bundle: Path, slides: Path, tmp_path: Path) -> None:
    adapt(settings(small_bundle, slides, tmp_path / "new", share=1.0))
    before, after = load_bundle(small_bundle).network.state_dict(), load_bundle(tmp_path / "new").network.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"running_mean", "running_var"}
