"""A kill after any single write leaves a run that continues, and storage that fails leaves one that continues too."""

from __future__ import annotations

import errno
import shutil
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from core.errors import LeukorayError
from pipelines.classification import parts as parts_module
from pipelines.classification.record import RunRecord
from pipelines.classification.storage import Folder
from pipelines.classify import ClassifySettings, classify
from pipelines.demo import draw_slides

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    import pandas as pd


pytestmark = pytest.mark.usefixtures("in_this_process")


class Killed(BaseException):
    """Stands for the end of the process: nothing after it writes."""


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides, a loose image and a broken one: five files."""
    root = tmp_path_factory.mktemp("continue")
    draw_slides(root / "drawn", 20, broken=False)
    for number, path in enumerate(sorted((root / "drawn").glob("smear-[13]*/cell-000[01].jpg"))):
        target = root / "slides" / (path.parent.name if number else "") / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (root / "slides" / "smear-3-viral" / "broken.png").write_bytes(b"")
    return root / "slides"


def settings(slides: Path, out: Path, model: Path, **options: object) -> ClassifySettings:
    return ClassifySettings.model_validate(
        {"slides": str(slides), "out": str(out), "model": model, "part_size": 3, "max_error_rate": 1} | options
    )


def rows(run: Path, kind: str = "predictions") -> pd.DataFrame:
    return pq.read_table(run / kind).to_pandas().sort_values(["slide", "image"], ignore_index=True)


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


def record(run: Path) -> RunRecord:
    return RunRecord.model_validate_json((run / "run.json").read_text())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 kB."""
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(tmp_path / "disk")]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk is not permitted here")
    yield tmp_path / "disk"
    subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


@pytest.fixture
def undisturbed(slides: Path, small_bundle: Path, tmp_path: Path) -> Path:
    assert classify(settings(slides, tmp_path / "undisturbed", small_bundle)) == 0
    return tmp_path / "undisturbed"


def killing(patch: pytest.MonkeyPatch, after: int) -> list[str]:
    """Let so many calls that change a file succeed, and none after; return what was called."""
    done: list[str] = []
    for method in ("write", "write_plain", "delete"):
        original = getattr(Folder, method)

        def changed(self: Folder, name: str, *data: bytes, original: object = original) -> None:
            if len(done) == after:
                raise Killed
            original(self, name, *data)  # type: ignore[operator]
            done.append(name)

        patch.setattr(Folder, method, changed)
    return done


def test_a_kill_after_any_write_leaves_a_run_that_continues(
    slides: Path, small_bundle: Path, undisturbed: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        names = killing(patch, -1)
        assert classify(settings(slides, tmp_path / "all", small_bundle)) == 0
    assert len(names) > 20
    assert record(tmp_path / "all").counts == record(undisturbed).counts
    for after in range(len(names)):
        out = tmp_path / f"run-{after}"
        with pytest.MonkeyPatch.context() as patch:
            killing(patch, after)
            with pytest.raises(Killed):
                classify(settings(slides, out, small_bundle))
        assert classify(settings(slides, out, small_bundle, resume=True)) == 0, names[after]
        for kind in ("predictions", "errors"):
            assert rows(out, kind).equals(rows(undisturbed, kind)), names[after]
        assert files(out) == files(undisturbed), names[after]
        assert record(out).counts == record(undisturbed).counts, names[after]
        assert (out / "slides.csv").read_text() == (undisturbed / "slides.csv").read_text(), names[after]
        shutil.rmtree(out)


def test_storage_that_fails_in_the_middle_leaves_no_row_and_continues(
    slides: Path, small_bundle: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, reads = tmp_path / "run", []
    original = Folder._read

    def read(self: Folder, path: str | bytes, most: int | None) -> bytes:
        if most is not None and path.endswith(b"jpg"):  # an image, not a file of the run
            reads.append(path)
            if len(reads) > 3:
                raise OSError(errno.EIO, "Input/output error")
        return original(self, path, most)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "_read", read)
        with pytest.raises(LeukorayError, match="Input/output error") as caught:
            classify(settings(slides, out, small_bundle, patience=0.2))
    assert caught.value.code == "storage-fails"
    assert record(out).state == "failed"
    assert "Input/output error" in (record(out).error or "")
    assert len(rows(out)) + len(rows(out, "errors")) == 3
    assert classify(settings(slides, out, small_bundle, resume=True)) == 0
    assert rows(out).equals(rows(undisturbed))
    assert rows(out, "errors").equals(rows(undisturbed, "errors"))


def test_slides_that_are_moved_away_stop_the_run_until_they_are_back(
    slides: Path, small_bundle: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving, out = shutil.copytree(slides, tmp_path / "slides"), tmp_path / "run"
    inner = parts_module.part_rows

    def move_after_the_first(*arguments: object) -> Generator[dict]:
        with closing(inner(*arguments)) as coming:  # type: ignore[arg-type]
            yield next(coming)
            moving.rename(tmp_path / "elsewhere")
            if empty:
                moving.mkdir()  # what an unmounted disk leaves
            yield from coming

    for empty in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(parts_module, "part_rows", move_after_the_first)
            with pytest.raises(LeukorayError, match=r"is gone or empty now.*--resume") as caught:
                classify(settings(moving, out, small_bundle, part_size=2, resume=empty))
        assert caught.value.code == "slides-gone"
        assert record(out).state == "failed"
        assert not any(rows(out, "errors")["code"] == "not-found")
        if empty:
            moving.rmdir()
        (tmp_path / "elsewhere").rename(moving)
    assert classify(settings(moving, out, small_bundle, part_size=2, resume=True)) == 0
    assert len(rows(out)) == len(rows(undisturbed))
    assert set(rows(out, "errors")["code"]) == {"empty"}


def test_one_file_that_goes_missing_is_a_row(slides: Path, small_bundle: Path, tmp_path: Path) -> None:
    copy, out = shutil.copytree(slides, tmp_path / "slides"), tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        killing(patch, 5)
        with pytest.raises(Killed):
            classify(settings(copy, out, small_bundle))
    (copy / "smear-3-viral" / "cell-0001.jpg").unlink()
    assert classify(settings(copy, out, small_bundle, resume=True)) == 0
    assert set(rows(out, "errors")["code"]) == {"empty", "not-found"}


def test_a_full_disk_is_put_on_record_and_the_run_continues(
    slides: Path, small_bundle: Path, undisturbed: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small_disk / "run"
    (small_disk / "in-the-way").write_bytes(bytes(360_000))
    with pytest.raises(LeukorayError, match=r"the disk is full.*--resume") as caught:
        classify(settings(slides, out, small_bundle))
    assert caught.value.code == "disk-full"
    assert str(out) in caught.value.message
    assert record(out).state == "failed" or "cannot be written either" in capsys.readouterr().err
    (small_disk / "in-the-way").unlink()
    assert classify(settings(slides, out, small_bundle, resume=True)) == 0
    assert rows(out).equals(rows(undisturbed))
    assert files(out) == files(undisturbed)
